//! Which of a pod's passwords are for which registry.

use sha2::{Digest as _, Sha256};

use super::reference::ImageName;
use crate::cri::RegistryCredential;

/// As many are tried for one image.
const MAX_TRIED: usize = 32;

/// The credentials for an image, the most specific first. Docker Hub has many names.
pub(super) fn matching<'a>(
    name: &ImageName,
    credentials: &'a [RegistryCredential],
) -> Vec<&'a RegistryCredential> {
    let whole = name.name();
    let mut found: Vec<(usize, &RegistryCredential)> = credentials
        .iter()
        .filter_map(|credential| {
            let key = credential.registry.trim_start_matches("https://").trim_start_matches("http://");
            let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            let key =
                if matches!(key, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { key };
            matches_registry(&whole, key).then_some((key.len(), credential))
        })
        .collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credential)| credential).take(MAX_TRIED).collect()
}

/// `*.example.com/team` matches `a.example.com/team/app`.
fn matches_registry(name: &str, key: &str) -> bool {
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let hosts: Vec<&str> = host.split('.').collect();
    let key_hosts: Vec<&str> = key_host.split('.').collect();
    hosts.len() == key_hosts.len()
        && hosts.iter().zip(&key_hosts).all(|(part, key)| *key == "*" || part == key)
        && path
            .strip_prefix(key_path)
            .is_some_and(|rest| key_path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// What is kept of user name and password, to know them again.
pub(super) fn hash(credential: &RegistryCredential) -> String {
    let mut state = Sha256::new();
    // The length keeps `a` + `bc` apart from `ab` + `c`.
    state.update((credential.username.len() as u64).to_le_bytes());
    state.update(&credential.username);
    state.update(&credential.password);
    hex::encode(state.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_match_hosts_and_paths_the_most_specific_first() {
        let credential = |registry: &str| RegistryCredential {
            registry: registry.to_owned(),
            username: "me".to_owned(),
            password: registry.to_owned(),
            secret: None,
        };
        let all: Vec<RegistryCredential> = [
            "https://index.docker.io/v1/",
            "r.example.com",
            "r.example.com/team",
            "*.example.com",
            "r.example.com:5000",
            "example.com",
        ]
        .into_iter()
        .map(credential)
        .collect();
        for (image, want) in [
            ("nginx", &["https://index.docker.io/v1/"][..]),
            ("r.example.com/team/app", &["r.example.com/team", "r.example.com", "*.example.com"]),
            ("r.example.com/teams/app", &["r.example.com", "*.example.com"]),
            ("r.example.com:5000/app", &["r.example.com:5000"]),
            ("evil.com/r.example.com/app", &[]),
            ("r.example.com.evil.com/app", &[]),
        ] {
            let name = ImageName::parse(image).unwrap();
            let found: Vec<&str> =
                matching(&name, &all).into_iter().map(|credential| credential.registry.as_str()).collect();
            assert_eq!(found, want, "{image}");
        }
        let many: Vec<RegistryCredential> = (0..100).map(|_| credential("r.example.com")).collect();
        assert_eq!(matching(&ImageName::parse("r.example.com/a").unwrap(), &many).len(), MAX_TRIED);
    }
}
