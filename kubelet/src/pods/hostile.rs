//! Hostile texts of pods and their containers: env files, references to variables, resolver settings, last words.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::{env_file, expansion, naming, pull, termination};
use crate::fuzz::parts;

/// What stands between NULs: an env file, a text with references, a `resolv.conf`, a pod's spec.
pub(crate) fn environment(bytes: &[u8]) {
    let [file, text, resolver, spec] = parts(bytes).map(String::from_utf8_lossy);
    for key in ["K", "A", ""] {
        if let Ok(value) = env_file::value(&file, key)
            && !key.is_empty()
            && !value.contains('\'')
        {
            let again = env_file::value(&format!("{key}='{value}'"), key);
            let value = value.replace("\r\n", "\n");
            assert_eq!(again.map(|again| again.replace("\r\n", "\n")), Ok(value));
        }
    }
    let env: HashMap<String, String> =
        [("A", "a"), ("B", ""), ("", "$(A)")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let expanded = expansion::expand(&text, &env, &mut expansion::MOST.clone());
    if !text.contains('$') {
        assert_eq!(expanded.as_deref(), Ok(&*text));
    }
    let _ = expansion::expand_strict(&text, &env);
    let spec: PodSpec = serde_json::from_str(&spec).unwrap_or_default();
    let dns = Some([10, 96, 0, 10].into());
    let settings = naming::resolv_conf(&spec, "ns", dns, "cluster.local", &resolver);
    assert!(settings.lines().filter(|line| line.starts_with("nameserver ")).count() <= 3);
    let own = std::net::IpAddr::from([10, 96, 0, 10]);
    assert!(crate::dns::servers_of(&resolver, own).iter().all(|server| server.ip() != own));
    pull::hostile_credentials(bytes);
}

/// The end of a container's log.
pub(crate) fn last_words(bytes: &[u8]) {
    assert!(termination::log_end(&String::from_utf8_lossy(bytes)).len() <= 2048);
}
