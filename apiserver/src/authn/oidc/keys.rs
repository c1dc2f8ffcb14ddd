//! A provider's keys (JWKS), and the signatures that are believed by them.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde_json::Value;

/// A JOSE algorithm that tokens may be signed with. Upstream's, but for ES512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    PS256,
    PS384,
    PS512,
}

enum Kind {
    Rsa(&'static RsaParameters),
    /// With the name of the curve.
    Ec(&'static EcdsaVerificationAlgorithm, &'static str),
}

/// The public keys of a provider.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: String,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Ec {
        curve: String,
        /// Uncompressed.
        point: Vec<u8>,
    },
}

const ALL: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

// === impl Algorithm ===

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Algorithm::RS256 => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Kind::Rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Kind::Rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Kind::Rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Kind::Ec(&ECDSA_P256_SHA256_FIXED, "P-256"),
            Algorithm::ES384 => Kind::Ec(&ECDSA_P384_SHA384_FIXED, "P-384"),
        }
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = ALL.into_iter().find(|algorithm| algorithm.name() == name);
        found.ok_or_else(|| format!("oidc: unsupported signing alg: {name:?}"))
    }
}

// === impl Keys ===

impl Keys {
    /// Of a JWKS document; keys of other kinds are passed over. `None` where it is no such document.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        let document: Value = serde_json::from_slice(document).ok()?;
        Some(Keys(document["keys"].as_array()?.iter().filter_map(Key::parse).collect()))
    }

    /// Whether one of the keys, those of this id where there is one, has signed it.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let named = |key: &&Key| id.is_none_or(|id| id.is_empty() || key.id == id);
        self.0.iter().filter(named).any(|key| key.verify(algorithm, message, signature))
    }
}

// === impl Key ===

impl Key {
    fn parse(key: &Value) -> Option<Self> {
        let number = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
        let material = match key["kty"].as_str()? {
            "RSA" => Material::Rsa { modulus: unpadded(number("n")?), exponent: unpadded(number("e")?) },
            "EC" => {
                let point = [&[4][..], &number("x")?, &number("y")?].concat();
                Material::Ec { curve: key["crv"].as_str()?.to_owned(), point }
            }
            _ => return None,
        };
        Some(Key { id: key["kid"].as_str().unwrap_or_default().to_owned(), material })
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (algorithm.kind(), &self.material) {
            (Kind::Rsa(parameters), Material::Rsa { modulus, exponent }) => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, signature).is_ok()
            }
            (Kind::Ec(verifies, of), Material::Ec { curve, point }) => {
                of == curve && UnparsedPublicKey::new(verifies, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// A number without zeros before it.
fn unpadded(number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.into_iter().skip(zeros).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_that_openssl_made_are_believed_and_no_others() {
        let table = include_bytes!("signatures.json");
        let keys = Keys::parse(table).unwrap();
        let table: Value = serde_json::from_slice(table).unwrap();
        assert_eq!(keys.0.len(), 2, "others are passed over");
        let message = table["message"].as_str().unwrap().as_bytes();
        let signatures = table["signatures"].as_object().unwrap();
        for (name, signature) in signatures {
            let signature = URL_SAFE_NO_PAD.decode(signature.as_str().unwrap()).unwrap();
            let id = if name.starts_with('E') { "e" } else { "r" };
            let other = if name.starts_with('E') { "r" } else { "e" };
            for algorithm in ALL {
                let fits = algorithm.name() == name;
                for id in [Some(id), Some(""), None] {
                    assert_eq!(
                        keys.verify(algorithm, id, message, &signature),
                        fits,
                        "{name} {algorithm:?} {id:?}"
                    );
                }
                assert!(!keys.verify(algorithm, Some(other), message, &signature));
                assert!(!keys.verify(algorithm, None, b"e30.e31", &signature));
                assert!(!keys.verify(algorithm, None, message, &signature[1..]));
            }
        }
        assert_eq!(signatures.len(), ALL.len() - 1, "the provider in the server's tests signs with ES256");
        for junk in ["", "[]", "{}", "{\"keys\": {}}"] {
            assert!(Keys::parse(junk.as_bytes()).is_none(), "{junk}");
        }
        assert_eq!("none".parse::<Algorithm>(), Err("oidc: unsupported signing alg: \"none\"".to_owned()));
    }
}
