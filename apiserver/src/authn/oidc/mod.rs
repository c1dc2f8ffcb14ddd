//! Users of an OpenID Connect provider: who shows an ID token of it is who the token says, as far as the administrator has
//! chosen to believe it. Upstream's `--oidc-*` flags, without distributed claims.

mod keys;
mod provider;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::User;
use super::tokens::CREDENTIAL_ID;
pub use keys::Algorithm;
pub use provider::Provider;

/// How much later than ours the provider's clock may be.
const LEEWAY_SECONDS: f64 = 300.0;
/// A user name that is not the provider's mail address is told apart by its issuer, unless another beginning is chosen.
const EMAIL: &str = "email";

/// What of a provider's tokens is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The `https:` URL that the tokens name.
    pub issuer: String,
    /// Whom tokens must be for.
    pub client_id: String,
    /// The authorities, PEM, that the provider is believed by; the machine's own without.
    pub ca: Option<String>,
    pub username_claim: String,
    /// Before each user name. `None`: the issuer and `#`, unless names are mail addresses; `-`: nothing.
    pub username_prefix: Option<String>,
    /// A string or a list of strings; empty: users have no groups.
    pub groups_claim: String,
    pub groups_prefix: String,
    /// Claims that must have these values.
    pub required_claims: BTreeMap<String, String>,
    pub algorithms: Vec<Algorithm>,
}

/// A token, taken apart and not verified.
struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: String,
    key: Option<String>,
    claims: Map<String, Value>,
}

// === impl Token ===

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Map<String, Value> = serde_json::from_slice(&decoded(header)?).ok()?;
        let text = |key: &str| header.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Token {
            signed,
            signature: decoded(signature)?,
            algorithm: text("alg")?,
            key: text("kid"),
            claims: serde_json::from_slice(&decoded(claims)?).ok()?,
        })
    }

    fn issuer(&self) -> &str {
        self.claims.get("iss").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A hostile token, and hostile keys of a provider.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile(bytes: &[u8]) {
    if let Some(token) = Token::parse(&String::from_utf8_lossy(bytes)) {
        token.issuer();
    }
    keys::Keys::parse(bytes);
}

// === impl Options ===

impl Options {
    /// Only what is not the provider's to choose: for whom the token is, when, and how it is signed.
    fn check(&self, token: &Token<'_>, now: Timestamp) -> Result<Algorithm, String> {
        let claim = |name: &str| token.claims.get(name).unwrap_or(&Value::Null);
        let audiences = strings(claim("aud")).unwrap_or_default();
        if !audiences.contains(&self.client_id) {
            return Err(format!("oidc: expected audience {:?} got {audiences:?}", self.client_id));
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let now = now.as_second() as f64;
        if claim("exp").as_f64().is_none_or(|end| end <= now) {
            return Err("oidc: token is expired".to_owned());
        }
        if claim("nbf").as_f64().is_some_and(|begin| begin > now + LEEWAY_SECONDS) {
            return Err("oidc: current time is before the nbf (not before) time".to_owned());
        }
        let algorithm = self.algorithms.iter().find(|algorithm| algorithm.name() == token.algorithm);
        algorithm.copied().ok_or_else(|| {
            let names: Vec<&str> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            format!(
                "oidc: id token signed with unsupported algorithm, expected {names:?} got {:?}",
                token.algorithm
            )
        })
    }

    /// Who the claims of a verified token say it is.
    fn user(&self, claims: &Map<String, Value>) -> Result<User, String> {
        let named = claims.get(&self.username_claim).and_then(Value::as_str);
        let named = named.ok_or_else(|| {
            format!("oidc: parse username claims {:?}: claim not present", self.username_claim)
        })?;
        let unverified = claims.get("email_verified").is_some_and(|verified| *verified != Value::Bool(true));
        if self.username_claim == EMAIL && unverified {
            return Err("oidc: email not verified".to_owned());
        }
        for (claim, wanted) in &self.required_claims {
            match claims.get(claim) {
                None => return Err(format!("oidc: required claim {claim} not present in ID token")),
                Some(value) if value == wanted => {}
                Some(value) => {
                    let why = format!("value does not match. Got = {value}, want = {wanted}");
                    return Err(format!("oidc: required claim {claim} {why}"));
                }
            }
        }
        let groups = match claims.get(&self.groups_claim).filter(|_| !self.groups_claim.is_empty()) {
            Some(groups) => strings(groups)
                .ok_or_else(|| format!("oidc: parse groups claim {:?}: no strings", self.groups_claim))?,
            None => vec![],
        };
        let mut extra = BTreeMap::new();
        if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        let mut user = User {
            name: format!("{}{named}", self.prefix()),
            uid: String::new(),
            groups: groups.into_iter().map(|group| format!("{}{group}", self.groups_prefix)).collect(),
            extra,
        };
        user.add_authenticated();
        Ok(user)
    }

    fn prefix(&self) -> String {
        match self.username_prefix.as_deref() {
            None | Some("") if self.username_claim == EMAIL => String::new(),
            None | Some("") => format!("{}#", self.issuer),
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
        }
    }
}

/// A string, or a list of strings.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn options() -> Options {
        Options {
            issuer: "https://issuer.example".to_owned(),
            client_id: "coracle".to_owned(),
            ca: None,
            username_claim: "sub".to_owned(),
            username_prefix: None,
            groups_claim: String::new(),
            groups_prefix: String::new(),
            required_claims: BTreeMap::new(),
            algorithms: vec![Algorithm::RS256],
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "a literal reads best as the argument")]
    fn user(options: &Options, claims: Value) -> Result<(String, Vec<String>), String> {
        let user = options.user(claims.as_object().unwrap())?;
        let groups = user.groups.into_iter().filter(|group| group != "system:authenticated").collect();
        Ok((user.name, groups))
    }

    #[test]
    fn users_are_who_the_administrator_lets_them_be() {
        let plain = options();
        let is = |options: &Options, claims: Value, name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            assert_eq!(user(options, claims), Ok((name.to_owned(), groups)));
        };
        is(&plain, json!({"sub": "jane", "groups": ["a"]}), "https://issuer.example#jane", &[]);
        let with = |prefix: &str| Options { username_prefix: Some(prefix.to_owned()), ..options() };
        is(&with("-"), json!({"sub": "jane"}), "jane", &[]);
        is(&with("oidc:"), json!({"sub": "jane"}), "oidc:jane", &[]);
        let mail = Options { username_claim: "email".to_owned(), ..options() };
        is(&mail, json!({"email": "j@x", "email_verified": true}), "j@x", &[]);
        is(&mail, json!({"email": "j@x"}), "j@x", &[]);
        for verified in [json!(false), json!("true"), json!(1)] {
            let claims = json!({"email": "j@x", "email_verified": verified});
            assert_eq!(user(&mail, claims), Err("oidc: email not verified".to_owned()));
        }
        let groups =
            Options { groups_claim: "groups".to_owned(), groups_prefix: "o:".to_owned(), ..with("-") };
        is(
            &groups,
            json!({"sub": "jane", "groups": ["a", "system:masters"]}),
            "jane",
            &["o:a", "o:system:masters"],
        );
        is(&groups, json!({"sub": "jane", "groups": "a"}), "jane", &["o:a"]);
        is(&groups, json!({"sub": "jane"}), "jane", &[]);
        assert!(user(&groups, json!({"sub": "jane", "groups": ["a", 1]})).is_err());
        for nobody in [json!({}), json!({"sub": 1}), json!({"sub": null}), json!({"sub": ["jane"]})] {
            assert!(user(&plain, nobody).unwrap_err().starts_with("oidc: parse username claims \"sub\""));
        }
        let required = BTreeMap::from([("hd".to_owned(), "x".to_owned())]);
        let required = Options { required_claims: required, ..with("-") };
        is(&required, json!({"sub": "jane", "hd": "x"}), "jane", &[]);
        for other in
            [json!({"sub": "jane"}), json!({"sub": "jane", "hd": "y"}), json!({"sub": "jane", "hd": ["x"]})]
        {
            assert!(user(&required, other).unwrap_err().starts_with("oidc: required claim hd "));
        }
        let extra = plain.user(json!({"sub": "a", "jti": "7"}).as_object().unwrap()).unwrap().extra;
        assert_eq!(extra[CREDENTIAL_ID], ["JTI=7"]);
    }

    #[test]
    fn tokens_are_for_us_and_in_time() {
        let now = Timestamp::from_second(1_000).unwrap();
        let check = |claims: Value, algorithm: &str| {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm}).to_string());
            let token = format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode(claims.to_string()));
            options()
                .check(&Token::parse(&token).unwrap(), now)
                .map_err(|e| e.split(' ').nth(1).unwrap().to_owned())
        };
        let good = |more: Value| {
            let mut claims = json!({"aud": ["x", "coracle"], "exp": 1_001});
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            claims
        };
        assert_eq!(check(good(json!({})), "RS256"), Ok(Algorithm::RS256));
        assert_eq!(
            check(good(json!({"aud": "coracle", "nbf": 1_300, "exp": 1000.5})), "RS256"),
            Ok(Algorithm::RS256)
        );
        for (claims, algorithm, why) in [
            (good(json!({"aud": "x"})), "RS256", "expected"),
            (good(json!({"aud": null})), "RS256", "expected"),
            (good(json!({"aud": ["coracle", 1]})), "RS256", "expected"),
            (good(json!({"exp": 1_000})), "RS256", "token"),
            (good(json!({"exp": null})), "RS256", "token"),
            (good(json!({"exp": "2000"})), "RS256", "token"),
            (good(json!({"nbf": 1_301})), "RS256", "current"),
            (good(json!({})), "ES256", "id"),
            (good(json!({})), "none", "id"),
            (good(json!({})), "HS256", "id"),
        ] {
            assert_eq!(check(claims.clone(), algorithm), Err(why.to_owned()), "{claims} {algorithm}");
        }
        for junk in
            ["", ".", "..", "a.b.c", "e30.e30", "e30.e30.", "bnVsbA.e30.AAAA", "e30.W10.AAAA", "e30.e30.AAAA"]
        {
            assert!(Token::parse(junk).is_none(), "{junk}");
        }
    }
}
