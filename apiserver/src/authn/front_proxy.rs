//! Front proxies: servers that have authenticated a request and pass it on, with headers that say who asks. This server
//! is one towards aggregated servers, and believes one that shows a certificate of the front proxy's authority.

use coracle_api::query::percent_decoded;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Peer, User};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// The front proxy's certificate, which has been verified; `None` where it has a name that is not believed.
pub(super) fn peer(der: &[u8]) -> Option<Peer> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = Some(certificate.subject()).filter(|s| super::is_whole(s)).and_then(super::common_name)?;
    let not_after = certificate.validity().not_after.timestamp();
    (name == crate::pki::FRONT_PROXY_CLIENT).then_some(Peer::FrontProxy { not_after })
}

/// Whom the headers of a front proxy name; nobody where one of them is no text, for two names must not become one.
pub(super) fn user(headers: &HeaderMap) -> Option<User> {
    let is_text = |v: &HeaderValue| std::str::from_utf8(v.as_bytes()).is_ok();
    if !headers.iter().filter(|(name, _)| is_identity(name)).all(|(_, value)| is_text(value)) {
        return None;
    }
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let first = |name| headers.get(name).map(text).filter(|v| !v.is_empty());
    let groups = headers.get_all(GROUP).iter().map(text).filter(|g| !g.is_empty()).collect();
    let uid = first(UID).unwrap_or_default();
    let mut user = User { name: first(USER)?, uid, groups, ..User::default() };
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            user.extra.entry(unescaped(key)).or_default().push(text(value));
        }
    }
    user.add_authenticated();
    Some(user)
}

/// Whether a header says who asks. Clients' own never go on to another server.
pub fn is_identity(name: &HeaderName) -> bool {
    [USER, UID, GROUP].contains(name) || name.as_str().starts_with(EXTRA)
}

/// Says in a request's headers who asks; answers what cannot be said.
pub fn name(user: &User, headers: &mut HeaderMap) -> Result<(), http::Error> {
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes());
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::try_from(format!("{EXTRA}{}", escaped(key)))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// A key as a part of a header's name: what may not be in one is percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.to_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|'
            | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unescaped(key: &str) -> String {
    percent_decoded(key).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_travels_in_headers() {
        let mut sent = User { name: "jané".into(), uid: "u".into(), ..User::default() };
        sent.groups = vec!["g1".into(), "system:authenticated".into()];
        sent.extra.insert("example.org/scopes%".into(), vec!["a".into(), "b".into()]);
        let mut headers = HeaderMap::new();
        name(&sent, &mut headers).unwrap();
        assert_eq!(headers["x-remote-extra-example.org%2fscopes%25"], "a");
        assert!(headers.keys().all(is_identity));
        assert_eq!(user(&headers), Some(sent));
        // A proxy that names nobody is not believed; a user without a word of groups is authenticated all the same.
        assert_eq!(user(&HeaderMap::new()), None);
        let mut headers = HeaderMap::new();
        headers.insert(USER, HeaderValue::from_static("x"));
        assert_eq!(user(&headers), Some(User::component("x", &[])));
        headers.insert(GROUP, HeaderValue::from_bytes(b"g\xff").unwrap());
        assert_eq!(user(&headers), None, "what is no text names nobody");
        let bad = User::component("a\nb", &[]);
        assert!(name(&bad, &mut headers).is_err(), "no header is split in two");
    }
}
