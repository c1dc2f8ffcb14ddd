//! What names may look like: upstream's DNS-1123, DNS-1035, qualified-name and label-value rules, in upstream's words.

/// `a lowercase RFC 1123 subdomain must consist of ...`; empty where the name is fine.
pub fn dns1123_subdomain(_name: &str) -> Vec<String> {
    vec![]
}
