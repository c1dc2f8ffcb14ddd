//! Having an image on the node, by its pull policy, for a container or for a volume.

use k8s_openapi::api::core::v1::{ObjectReference, Secret};

use super::{
    launch::LaunchInputs,
    node_context::NodeContext,
    view::{Waiting, namespace_of, spec_of},
};
use crate::cri::{ImageError, ImageInfo, RegistryCredential, SecretReference};

/// Why there is no image.
enum Refusal {
    InvalidName(ImageError),
    /// It is not there, or not for this pod, and must not be pulled.
    Never,
    Pull(ImageError),
}

impl Refusal {
    /// Upstream's words: events (reason and message) in their order, and what the container waits for.
    fn words(&self, image: &str) -> ([(&'static str, String); 2], Waiting) {
        let (reason, event, told, message) = match self {
            Refusal::InvalidName(error) => {
                let message = format!("Failed to apply default image tag {image:?}: {error}");
                ("InvalidImageName", "InspectFailed", message.clone(), message)
            }
            // The same words whether it is absent or only withheld: who may not have it need not know that it is here.
            Refusal::Never => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                ("ErrImageNeverPull", "ErrImageNeverPull", message.clone(), message)
            }
            Refusal::Pull(error) => {
                let reason = match error {
                    ImageError::InvalidName(_) => "InvalidImageName",
                    ImageError::Unavailable(_) => "RegistryUnavailable",
                    ImageError::Pull(_) => "ErrImagePull",
                };
                (reason, "Failed", format!("Failed to pull image {image:?}: {error}"), error.to_string())
            }
        };
        let waiting = Waiting { reason: reason.to_owned(), message, image: Some(image.to_owned()) };
        ([(event, told), ("Failed", format!("Error: {reason}"))], waiting)
    }
}

/// The image, pulled where `policy` asks for it, or where the pod has not shown the registry's password for one that is
/// here. What happens is told in events about `about`.
pub(crate) async fn ensure_image(
    node: &NodeContext,
    l: &LaunchInputs,
    image: &str,
    policy: Option<&str>,
    about: &ObjectReference,
) -> Result<ImageInfo, Waiting> {
    find_or_pull(node, l, image, policy, about).await.map_err(|refusal| {
        let (events, waiting) = refusal.words(image);
        for (reason, message) in events {
            node.recorder.warning(about.clone(), reason, message);
        }
        waiting
    })
}

async fn find_or_pull(
    node: &NodeContext,
    l: &LaunchInputs,
    image: &str,
    policy: Option<&str>,
    about: &ObjectReference,
) -> Result<ImageInfo, Refusal> {
    let present = node.images.get(image).map_err(Refusal::InvalidName)?;
    if let Some(info) = present.filter(|_| policy != Some("Always")) {
        let may = node.images.may_use(&info, image, async || credentials(node, l).await).await;
        if may.map_err(Refusal::Pull)? {
            let message = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            node.recorder.normal(about.clone(), "Pulled", message);
            return Ok(info);
        }
    }
    if policy == Some("Never") {
        return Err(Refusal::Never);
    }
    node.recorder.normal(about.clone(), "Pulling", format!("Pulling image {image:?}"));
    let begun = std::time::Instant::now();
    let credentials = credentials(node, l).await;
    let info = node.images.pull_for_pod(image, &credentials).await.map_err(Refusal::Pull)?;
    let ms = begun.elapsed().as_millis();
    let took = if ms < 1000 { format!("{ms}ms") } else { format!("{}.{:03}s", ms / 1000, ms % 1000) };
    let message = format!(
        "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.",
        info.size_bytes
    );
    node.recorder.normal(about.clone(), "Pulled", message);
    Ok(info)
}

async fn credentials(node: &NodeContext, l: &LaunchInputs) -> Vec<RegistryCredential> {
    let mut out = Vec::new();
    for r in spec_of(&l.pod).image_pull_secrets.iter().flatten() {
        if let Ok(Some(secret)) = node.sources.secret(namespace_of(&l.pod), &r.name, &l.wake).await {
            out.extend(parse_credentials(&secret));
        }
    }
    out
}

fn parse_credentials(secret: &Secret) -> Vec<RegistryCredential> {
    use base64::Engine as _;
    let data = secret.data.as_ref();
    let parse = |key: &str| serde_json::from_slice::<serde_json::Value>(&data?.get(key)?.0).ok();
    let auths =
        parse(".dockerconfigjson").and_then(|v| v.get("auths").cloned()).or_else(|| parse(".dockercfg"));
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let reference = SecretReference {
        uid: text(&secret.metadata.uid),
        namespace: text(&secret.metadata.namespace),
        name: text(&secret.metadata.name),
    };
    let entry = |(registry, v): (&String, &serde_json::Value)| {
        let text = |key: &str| v.get(key).and_then(|s| s.as_str()).map(str::to_owned);
        let decoded = text("auth")
            .and_then(|a| base64::engine::general_purpose::STANDARD.decode(a).ok())
            .and_then(|b| String::from_utf8(b).ok());
        let (username, password) = match decoded.as_deref().and_then(|d| d.split_once(':')) {
            Some((user, password)) => (user.to_owned(), password.to_owned()),
            None => (text("username")?, text("password")?),
        };
        Some(RegistryCredential {
            registry: registry.clone(),
            username,
            password,
            secret: Some(reference.clone()),
        })
    };
    auths.as_ref().and_then(|a| a.as_object()).into_iter().flatten().filter_map(entry).collect()
}

/// A Docker config of any making.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn hostile_credentials(bytes: &[u8]) {
    for key in [".dockerconfigjson", ".dockercfg"] {
        let data = [(key.to_owned(), k8s_openapi::ByteString(bytes.to_vec()))].into();
        parse_credentials(&Secret { data: Some(data), ..Secret::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_twice_in_upstreams_words() {
        let invalid = ImageError::InvalidName("couldn't parse image name \"A\": why".to_owned());
        let cases = [
            (
                Refusal::Never,
                "ErrImageNeverPull",
                "ErrImageNeverPull",
                "Container image \"A\" is not present with pull policy of Never",
            ),
            (
                Refusal::InvalidName(invalid),
                "InvalidImageName",
                "InspectFailed",
                "Failed to apply default image tag \"A\": couldn't parse image name \"A\": why",
            ),
            (
                Refusal::Pull(ImageError::Pull("denied".to_owned())),
                "ErrImagePull",
                "Failed",
                "Failed to pull image \"A\": denied",
            ),
            (
                Refusal::Pull(ImageError::Unavailable("away".to_owned())),
                "RegistryUnavailable",
                "Failed",
                "Failed to pull image \"A\": away",
            ),
        ];
        for (refusal, reason, first, message) in cases {
            let (events, waiting) = refusal.words("A");
            let second = ("Failed", format!("Error: {reason}"));
            assert_eq!(events, [(first, message.to_owned()), second], "{reason}");
            assert_eq!((waiting.reason.as_str(), waiting.image.as_deref()), (reason, Some("A")));
        }
    }

    #[test]
    fn credentials_remember_their_secret() {
        let config = r#"{"auths":{"r.example.com":{"auth":"bWU6cHc="},"other":{"username":"u","password":"p"},"none":{}}}"#;
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "pull", "namespace": "team", "uid": "u1"},
            "data": {".dockerconfigjson": k8s_openapi::ByteString(config.as_bytes().to_vec())},
        }))
        .unwrap();
        let found = parse_credentials(&secret);
        let of =
            SecretReference { uid: "u1".to_owned(), namespace: "team".to_owned(), name: "pull".to_owned() };
        assert!(found.iter().all(|credential| credential.secret.as_ref() == Some(&of)), "{found:?}");
        let mut names: Vec<(&str, &str)> =
            found.iter().map(|c| (c.registry.as_str(), c.password.as_str())).collect();
        names.sort_unstable();
        assert_eq!(names, [("other", "p"), ("r.example.com", "pw")]);
    }
}
