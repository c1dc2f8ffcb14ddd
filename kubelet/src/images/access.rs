//! Who may use an image that is on the node: those that have shown the registry's password for it
//! (upstream's KubeletEnsureSecretPulledImages).
//!
//! An image remembers with which Secrets it was pulled, by repository. Another pod may use it when it has one of these
//! Secrets or the same user name and password, or when the registry gave the image to anybody. Else it is pulled anew, so
//! that the registry decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::credentials;
use super::reference::ImageName;
use crate::cri::{RegistryCredential, SecretReference};

/// Which images are looked at: upstream's `imagePullCredentialsVerificationPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VerificationPolicy {
    /// Whatever is on the node may be used by every pod.
    NeverVerify,
    /// As above for images that the node agent has not pulled itself.
    #[default]
    NeverVerifyPreloadedImages,
    /// As above for these repositories, `*` for all below one: upstream's `preloadedImagesVerificationAllowlist`.
    NeverVerifyAllowlistedImages(Vec<String>),
    AlwaysVerify,
}

/// How an image came to the node, by repository (`docker.io/library/nginx`).
pub(super) type Pulls = BTreeMap<String, Shown>;

/// What a registry was shown for a repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Shown {
    /// The registry gave the image to anybody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<Secret>,
}

/// A Secret, and the hash of the password it had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    #[serde(flatten)]
    secret: SecretReference,
    credential_hash: String,
}

/// Beyond this the registry is always asked.
const MAX_REPOSITORIES: usize = 1000;
/// Beyond this a Secret that matches is not remembered: namespaces come and go.
const MAX_SECRETS: usize = 100;

#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    Use,
    /// The pod's Secrets decide: ask again with them.
    Ask,
    Pull,
}

/// What can be decided without the pod's Secrets.
pub(super) fn decide(policy: &VerificationPolicy, pulls: Option<&Pulls>, repository: &str) -> Decision {
    let verify = match policy {
        VerificationPolicy::NeverVerify => false,
        VerificationPolicy::NeverVerifyPreloadedImages => pulls.is_some(),
        VerificationPolicy::NeverVerifyAllowlistedImages(list) => {
            !list.iter().any(|pattern| matches_allowlist(pattern, repository))
        }
        VerificationPolicy::AlwaysVerify => true,
    };
    match pulls.and_then(|pulls| pulls.get(repository)) {
        _ if !verify => Decision::Use,
        Some(shown) if shown.node_pods_accessible => Decision::Use,
        Some(shown) if !shown.kubernetes_secrets.is_empty() => Decision::Ask,
        Some(_) | None => Decision::Pull,
    }
}

impl VerificationPolicy {
    /// The policy with its list as it is compared: repositories without tag or digest, `*` only for all below one.
    pub(super) fn checked(&self) -> Result<VerificationPolicy, String> {
        let VerificationPolicy::NeverVerifyAllowlistedImages(list) = self else { return Ok(self.clone()) };
        let list = list.iter().map(|pattern| normal(pattern)).collect::<Result<_, _>>()?;
        Ok(VerificationPolicy::NeverVerifyAllowlistedImages(list))
    }
}

fn normal(pattern: &str) -> Result<String, String> {
    let (whole, all_below) = pattern.strip_suffix("/*").map_or((pattern, false), |start| (start, true));
    let wrong = |why: &str| format!("{pattern:?} in the list of images that are not verified: {why}");
    if whole.contains(['*', '@']) || whole.is_empty() {
        return Err(wrong("want a repository without tag or digest, or one with /* at its end"));
    }
    if all_below {
        // A registry, or a part of one.
        return ImageName::parse(&format!("{whole}/any"))
            .map(|_| format!("{whole}/*"))
            .map_err(|error| wrong(&error.to_string()));
    }
    let name = ImageName::parse(whole).map_err(|error| wrong(&error.to_string()))?;
    if whole.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/')) {
        return Err(wrong("it has a tag"));
    }
    Ok(name.name())
}

fn matches_allowlist(pattern: &str, repository: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => prefix.ends_with('/') && prefix.len() > 1 && repository.starts_with(prefix),
        None => pattern == repository,
    }
}

/// Whether one of the pod's credentials for the image is known, and what is new of it.
pub(super) fn knows(pulls: &Pulls, repository: &str, have: &[&RegistryCredential]) -> Option<Option<Shown>> {
    let known = &pulls.get(repository)?.kubernetes_secrets;
    have.iter().filter_map(|credential| secret(credential)).find_map(|have| {
        let same = known
            .iter()
            .find(|known| known.credential_hash == have.credential_hash || known.secret == have.secret)?;
        let new = *same != have && !known.contains(&have) && known.len() < MAX_SECRETS;
        Some(new.then(|| Shown { kubernetes_secrets: vec![have], ..Shown::default() }))
    })
}

fn secret(credential: &RegistryCredential) -> Option<Secret> {
    let secret = credential.secret.clone()?;
    Some(Secret { secret, credential_hash: credentials::hash(credential) })
}

/// What is remembered of a pull for a pod.
pub(super) fn shown(credential: Option<&RegistryCredential>) -> Shown {
    match credential {
        None => Shown { node_pods_accessible: true, ..Shown::default() },
        // Without a Secret nobody can show it again.
        Some(credential) => {
            Shown { kubernetes_secrets: secret(credential).into_iter().collect(), ..Shown::default() }
        }
    }
}

/// Adds what was shown for a repository. A Secret has one entry, with its newest password.
pub(super) fn merge(pulls: &mut Pulls, repository: &str, new: Shown) {
    if pulls.len() >= MAX_REPOSITORIES && !pulls.contains_key(repository) {
        return;
    }
    let shown = pulls.entry(repository.to_owned()).or_default();
    if new.node_pods_accessible || shown.node_pods_accessible {
        *shown = Shown { node_pods_accessible: true, ..Shown::default() };
        return;
    }
    for secret in new.kubernetes_secrets {
        shown.kubernetes_secrets.retain(|known| known.secret != secret.secret);
        if shown.kubernetes_secrets.len() >= MAX_SECRETS {
            shown.kubernetes_secrets.remove(0);
        }
        shown.kubernetes_secrets.push(secret);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: &str = "r.example.com/app";

    fn credential(namespace: &str, password: &str) -> RegistryCredential {
        RegistryCredential {
            registry: "r.example.com".to_owned(),
            username: "me".to_owned(),
            password: password.to_owned(),
            secret: Some(SecretReference {
                uid: format!("uid-{namespace}"),
                namespace: namespace.to_owned(),
                name: "pull".to_owned(),
            }),
        }
    }

    fn pulled(all: &[Option<&RegistryCredential>]) -> Pulls {
        let mut pulls = Pulls::new();
        for one in all {
            merge(&mut pulls, REPOSITORY, shown(*one));
        }
        pulls
    }

    #[test]
    fn policies_decide_which_images_are_looked_at() {
        let (preloaded, public) = (None, Some(pulled(&[None])));
        let private = Some(pulled(&[Some(&credential("a", "x"))]));
        let elsewhere = Some(Pulls::from([("other.example.com/app".to_owned(), shown(None))]));
        let allow =
            |pattern: &str| VerificationPolicy::NeverVerifyAllowlistedImages(vec![pattern.to_owned()]);
        use Decision::{Ask, Pull, Use};
        let cases = [
            (VerificationPolicy::NeverVerify, &private, Use),
            (VerificationPolicy::default(), &preloaded, Use),
            (VerificationPolicy::default(), &public, Use),
            (VerificationPolicy::default(), &private, Ask),
            // The same content below a name that nobody has shown anything for.
            (VerificationPolicy::default(), &elsewhere, Pull),
            (VerificationPolicy::AlwaysVerify, &preloaded, Pull),
            (VerificationPolicy::AlwaysVerify, &public, Use),
            (VerificationPolicy::AlwaysVerify, &private, Ask),
            (allow("r.example.com/app"), &preloaded, Use),
            (allow("r.example.com/app"), &private, Use),
            (allow("r.example.com/*"), &private, Use),
            (allow("r.example.com/a"), &preloaded, Pull),
            (allow("r.example.*"), &preloaded, Pull),
            (allow("*"), &preloaded, Pull),
        ];
        for (policy, pulls, want) in cases {
            assert_eq!(decide(&policy, pulls.as_ref(), REPOSITORY), want, "{policy:?} {pulls:?}");
        }
    }

    #[test]
    fn lists_of_images_are_checked() {
        for (pattern, want) in [
            ("nginx", Some("docker.io/library/nginx")),
            ("r.example.com/app", Some("r.example.com/app")),
            ("r.example.com:5000/app", Some("r.example.com:5000/app")),
            ("r.example.com/*", Some("r.example.com/*")),
            ("r.example.com/team/*", Some("r.example.com/team/*")),
            ("r.example.com/app:1", None),
            ("r.example.com/app@sha256:12", None),
            ("r.example.com/a*", None),
            ("*", None),
            ("/*", None),
            ("", None),
            (" r.example.com/app", None),
        ] {
            let policy = VerificationPolicy::NeverVerifyAllowlistedImages(vec![pattern.to_owned()]);
            let got = policy.checked().ok();
            let want = want.map(|w| VerificationPolicy::NeverVerifyAllowlistedImages(vec![w.to_owned()]));
            assert_eq!(got, want, "{pattern:?}");
        }
    }

    #[test]
    fn a_secret_or_a_password_is_known_again() {
        let first = credential("a", "x");
        let pulls = pulled(&[Some(&first)]);
        let anonymous = RegistryCredential { secret: None, ..first.clone() };
        let recreated = {
            let mut other = credential("a", "y");
            other.secret.as_mut().unwrap().uid = "uid-2".to_owned();
            other
        };
        let cases = [
            ("the Secret itself", vec![&first], Some(false)),
            ("with a new password", vec![&credential("a", "y")], Some(true)),
            ("another Secret with the password", vec![&credential("b", "x")], Some(true)),
            ("another with another", vec![&credential("b", "y")], None),
            ("one of many", vec![&credential("b", "y"), &first], Some(false)),
            ("no Secret behind it", vec![&anonymous], None),
            ("the same name, made again", vec![&recreated], None),
            ("none", vec![], None),
        ]
        .map(|(what, have, want)| (what, have.into_iter().cloned().collect::<Vec<_>>(), want));
        for (what, have, want) in cases {
            let have: Vec<&RegistryCredential> = have.iter().collect();
            let got = knows(&pulls, REPOSITORY, &have).map(|new| new.is_some());
            assert_eq!(got, want, "{what}");
        }
        assert_eq!(knows(&pulls, "r.example.com/other", &[&first]), None);
    }

    #[test]
    fn what_was_shown_grows_within_bounds() {
        let mut pulls = pulled(&[Some(&credential("a", "x")), Some(&credential("a", "y"))]);
        assert_eq!(pulls[REPOSITORY].kubernetes_secrets.len(), 1, "one entry a Secret");
        for n in 0..2 * MAX_SECRETS {
            merge(&mut pulls, REPOSITORY, shown(Some(&credential(&n.to_string(), "x"))));
        }
        assert_eq!(pulls[REPOSITORY].kubernetes_secrets.len(), MAX_SECRETS);
        let written = serde_json::to_string(&pulls).unwrap();
        assert_eq!(serde_json::from_str::<Pulls>(&written).unwrap(), pulls);
        assert!(!written.contains("\"x\""), "no password is kept");
        merge(&mut pulls, REPOSITORY, shown(None));
        assert_eq!(
            serde_json::to_string(&pulls).unwrap(),
            r#"{"r.example.com/app":{"nodePodsAccessible":true}}"#
        );
        merge(&mut pulls, REPOSITORY, shown(Some(&credential("a", "x"))));
        assert!(pulls[REPOSITORY].node_pods_accessible, "what anybody may have stays so");
    }
}
