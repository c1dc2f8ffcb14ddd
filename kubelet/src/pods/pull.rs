//! Having an image on the node, by its pull policy, for a container or for a volume.

use k8s_openapi::api::core::v1::{ObjectReference, Secret};

use super::{
    launch::LaunchInputs,
    node_context::NodeContext,
    view::{Waiting, namespace_of, spec_of},
};
use crate::cri::{ImageError, ImageInfo, RegistryCredential};

/// The image, pulled where `policy` asks for it. What happens is told in events about `about`.
pub(super) async fn ensure_image(
    node: &NodeContext,
    l: &LaunchInputs,
    image: &str,
    policy: Option<&str>,
    about: &ObjectReference,
) -> Result<ImageInfo, Waiting> {
    let invalid = |error: ImageError| {
        let message = format!("Failed to apply default image tag {image:?}: {error}");
        node.recorder.warning(about.clone(), "InspectFailed", message.clone());
        failed("InvalidImageName", message, image)
    };
    let present = node.images.get(image).map_err(invalid)?;
    match (policy.unwrap_or("IfNotPresent"), present) {
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            node.recorder.warning(about.clone(), "ErrImageNeverPull", message.clone());
            Err(failed("ErrImageNeverPull", message, image))
        }
        ("Never" | "IfNotPresent", Some(info)) => {
            let message = format!("Container image {image:?} already present on machine");
            node.recorder.normal(about.clone(), "Pulled", message);
            Ok(info)
        }
        _ => pull(node, l, image, about).await,
    }
}

fn failed(reason: &str, message: impl Into<String>, image: &str) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into(), image: Some(image.to_owned()) }
}

async fn pull(
    node: &NodeContext,
    l: &LaunchInputs,
    image: &str,
    about: &ObjectReference,
) -> Result<ImageInfo, Waiting> {
    node.recorder.normal(about.clone(), "Pulling", format!("Pulling image {image:?}"));
    let begun = std::time::Instant::now();
    let credentials = credentials(node, l).await;
    match node.images.pull(image, &credentials, None).await {
        Ok(info) => {
            let ms = begun.elapsed().as_millis();
            let took = if ms < 1000 { format!("{ms}ms") } else { format!("{}.{:03}s", ms / 1000, ms % 1000) };
            let message = format!(
                "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {} bytes.",
                info.size_bytes
            );
            node.recorder.normal(about.clone(), "Pulled", message);
            Ok(info)
        }
        Err(error) => {
            let message = format!("Failed to pull image {image:?}: {error}");
            node.recorder.warning(about.clone(), "Failed", message);
            let reason = match error {
                ImageError::InvalidName(_) => "InvalidImageName",
                ImageError::Unavailable(_) => "RegistryUnavailable",
                ImageError::Pull(_) => "ErrImagePull",
            };
            node.recorder.warning(about.clone(), "Failed", format!("Error: {reason}"));
            Err(failed(reason, error.to_string(), image))
        }
    }
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
    let entry = |(registry, v): (&String, &serde_json::Value)| {
        let text = |key: &str| v.get(key).and_then(|s| s.as_str()).map(str::to_owned);
        let decoded = text("auth")
            .and_then(|a| base64::engine::general_purpose::STANDARD.decode(a).ok())
            .and_then(|b| String::from_utf8(b).ok());
        let (username, password) = match decoded.as_deref().and_then(|d| d.split_once(':')) {
            Some((user, password)) => (user.to_owned(), password.to_owned()),
            None => (text("username")?, text("password")?),
        };
        Some(RegistryCredential { registry: registry.clone(), username, password })
    };
    auths.as_ref().and_then(|a| a.as_object()).into_iter().flatten().filter_map(entry).collect()
}
