//! Who we are to a registry: challenges, tokens, and to whom a password may go.
//!
//! A password goes to the host it was given for, and to a token server that the host names and that belongs to it.
//! Nothing else a registry answers (a redirect, a realm elsewhere) makes us tell it to anybody (CVE-2020-15157).

use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use reqwest::Url;
use serde::Deserialize;

use super::{Error, read_bounded};
use crate::cri::RegistryCredential;

/// Headers of one answer that are looked at.
const MAX_CHALLENGES: usize = 10;
const MAX_TOKEN: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// The first challenge that can be met; tokens before passwords, for they say less.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for header in headers.get_all(WWW_AUTHENTICATE).iter().take(MAX_CHALLENGES) {
        let Ok(text) = header.to_str() else { continue };
        let Ok(challenges) = http_auth::parse_challenges(text) else { continue };
        for found in challenges {
            if found.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if !found.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let parameter = |name: &str| {
                let (_, value) = found.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(value.to_unescaped())
            };
            if let Some(realm) = parameter("realm").and_then(|realm| Url::parse(&realm).ok()) {
                return Some(Challenge::Bearer { realm, service: parameter("service") });
            }
        }
    }
    basic
}

/// Why a realm gets no password, or may not be asked at all.
fn check_realm(registry: &Url, realm: &Url, password: bool, trusted: &[String]) -> Result<(), Error> {
    let host = realm.host_str().unwrap_or_default();
    let refuse = |why: &str| Err(Error::Denied(format!("token server {host:?} of {registry}: {why}")));
    let plain = realm.scheme() == "http" && registry.scheme() == "http" && super::is_loopback(host);
    if realm.scheme() != "https" && !plain {
        return refuse("is not reached by https");
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return refuse("its address has a user name");
    }
    if password && !same_origin(registry, realm) && !same_site(registry, realm) {
        let named = trusted.iter().any(|trusted| trusted == &super::authority(realm));
        if !named {
            return refuse(
                "is another's, so it gets no password; name it under tokenServers in the registries file",
            );
        }
    }
    Ok(())
}

pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// `registry.example.com` and `auth.example.com`, both by https. Addresses have no sites.
fn same_site(a: &Url, b: &Url) -> bool {
    let site = |url: &Url| match (url.scheme(), url.domain()) {
        ("https", Some(domain)) => {
            let labels: Vec<&str> = domain.split('.').collect();
            // Below `co.uk` and its kin everybody may have a name.
            let shared = matches!(labels[..], [.., second, top] if top.len() == 2 && second.len() <= 3);
            let count = if shared { 3 } else { 2 };
            (labels.len() >= count).then(|| labels[labels.len() - count..].join("."))
        }
        _ => None,
    };
    site(a).is_some_and(|site_of_a| site(b) == Some(site_of_a))
}

/// A password goes to nobody's server but the registry's own.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_challenge(challenge: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(challenge) else { return };
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]);
    let Some(self::Challenge::Bearer { realm, .. }) = self::challenge(&headers) else { return };
    let Ok(registry) = Url::parse("https://registry.example.com/v2/") else { return };
    if check_realm(&registry, &realm, true, &[]).is_ok() {
        assert!(realm.host_str().is_some_and(|h| h == "example.com" || h.ends_with(".example.com")));
        assert!(realm.scheme() == "https" && realm.username().is_empty());
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The `Authorization` that answers the challenges in `headers`; `None` when there is nothing to say.
pub(super) async fn answer(
    http: &reqwest::Client,
    registry: &Url,
    repository: &str,
    headers: &HeaderMap,
    credential: Option<&RegistryCredential>,
    trusted: &[String],
) -> Result<Option<HeaderValue>, Error> {
    let (realm, service) = match (challenge(headers), credential) {
        (Some(Challenge::Bearer { realm, service }), _) => (realm, service),
        (Some(Challenge::Basic), Some(credential)) => return basic(credential).map(Some),
        (Some(Challenge::Basic) | None, _) => return Ok(None),
    };
    check_realm(registry, &realm, credential.is_some(), trusted)?;
    let mut url = realm;
    url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
    if let Some(service) = service {
        url.query_pairs_mut().append_pair("service", &service);
    }
    let mut request = http.get(url);
    if let Some(credential) = credential {
        request = request.header(AUTHORIZATION, basic(credential)?);
    }
    let response = super::within(super::ANSWER, request.send()).await??;
    let status = response.status();
    let body = super::within(super::DOCUMENT, read_bounded(response, MAX_TOKEN)).await??;
    if !status.is_success() {
        return Err(Error::Denied(format!("token server: {}", super::told(status, &body))));
    }
    let token: Token = serde_json::from_slice(&body)
        .map_err(|error| Error::Denied(format!("token server: unreadable answer: {error}")))?;
    let token = token.token.or(token.access_token).unwrap_or_default();
    secret(format!("Bearer {token}")).map(Some)
}

fn basic(credential: &RegistryCredential) -> Result<HeaderValue, Error> {
    use base64::Engine as _;
    let pair = format!("{}:{}", credential.username, credential.password);
    secret(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn secret(text: String) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::Denied("token server: the token is no text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_to_the_registry_and_its_own_token_server() {
        let cases = [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            ("https://registry.example.com:5050", "https://gitlab.example.com/jwt/auth", true),
            ("https://a.example.co.uk", "https://b.example.co.uk/", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token", true),
            ("http://localhost:5000", "http://localhost:5000/token", true),
            ("https://r.example.com", "https://trusted.example.net:8443/t", true),
            ("https://r.example.com", "https://trusted.example.net/t", false),
            ("https://a.co.uk", "https://b.co.uk/", false),
            ("https://r.example.com", "https://example.net/", false),
            ("https://r.example.com", "http://r.example.com/token", false),
            ("https://r.example.com", "http://127.0.0.1/token", false),
            ("https://r.example.com", "https://me:pw@r.example.com/token", false),
            ("https://r.example.com", "ftp://r.example.com/token", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:6000/token", false),
            ("http://127.0.0.1:5000", "http://10.0.0.1:5000/token", false),
            ("https://10.0.0.1", "https://10.1.0.1/token", false),
            ("https://com", "https://evil.com/token", false),
        ];
        let trusted = ["trusted.example.net:8443".to_owned()];
        for (registry, realm, want) in cases {
            let (registry, realm) = (Url::parse(registry).unwrap(), Url::parse(realm).unwrap());
            let got = check_realm(&registry, &realm, true, &trusted);
            assert_eq!(got.is_ok(), want, "{registry} {realm}: {got:?}");
        }
        let elsewhere = Url::parse("https://example.net/token").unwrap();
        let registry = Url::parse("https://r.example.com").unwrap();
        assert!(
            check_realm(&registry, &elsewhere, false, &[]).is_ok(),
            "without a password anybody may be asked"
        );
    }

    #[test]
    fn challenges_are_read_as_they_come() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: Url::parse(realm).unwrap(), service: service.map(str::to_owned) })
        };
        let cases: [(&[&str], Option<Challenge>); 7] = [
            (&[], None),
            (&["Basic realm=\"r\""], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a.example/t\",service=\"s\",scope=\"x\""],
                bearer("https://a.example/t", Some("s")),
            ),
            (
                &["Basic realm=\"r\"", "Bearer realm=\"https://a.example/t\""],
                bearer("https://a.example/t", None),
            ),
            (&["Bearer realm=\"no url\""], None),
            (&["Bearer"], None),
            (&["\u{7f}=,,,"], None),
        ];
        for (values, want) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.append(WWW_AUTHENTICATE, value);
                }
            }
            assert_eq!(challenge(&headers), want, "{values:?}");
        }
    }
}
