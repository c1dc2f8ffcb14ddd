//! Volumes that a PersistentVolumeClaim stands for.

use std::path::PathBuf;

use coracle_api::owner::controller_of;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};

use super::{Place, host_path, ownership};
use crate::{
    beneath::{Dir, Found, Links, off_workers},
    pods::view::{name_of, namespace_of, uid_of},
};

/// Which claim a volume names, if it names one.
struct Claim {
    name: String,
    readonly: bool,
    /// It was made for one pod, and no other may use it.
    ephemeral: bool,
}

fn claim_of(pod: &Pod, v: &Volume) -> Option<Claim> {
    if let Some(source) = &v.persistent_volume_claim {
        let readonly = source.read_only == Some(true);
        return Some(Claim { name: source.claim_name.clone(), readonly, ephemeral: false });
    }
    let name = format!("{}-{}", name_of(pod), v.name);
    v.ephemeral.as_ref().map(|_| Claim { name, readonly: false, ephemeral: true })
}

/// The host or local volume behind the claim; `None` when the volume names none. The error is that of a FailedMount event.
pub(super) async fn mount(pod: &Pod, v: &Volume, client: &Client) -> Option<Result<Place, String>> {
    let claim = claim_of(pod, v)?;
    let about = format!("error processing PVC {}/{}", namespace_of(pod), claim.name);
    Some(match bound(pod, &claim, client).await {
        Ok(volume) => place(pod, volume, claim.readonly).await,
        Err(error) => Err(format!("{about}: {error}")),
    })
}

async fn bound(pod: &Pod, claim: &Claim, client: &Client) -> Result<PersistentVolume, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace_of(pod));
    let found = claims.get(&claim.name).await;
    let found = found.map_err(|error| format!("failed to fetch PVC from API server: {}", told(error)))?;
    let name = volume_name(pod, claim, &found)?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes.get(&name).await;
    let volume =
        volume.map_err(|error| format!("failed to fetch PV {name} from API server: {}", told(error)))?;
    belongs(&volume, &found)?;
    Ok(volume)
}

/// The name of the volume a claim has, if this pod may use it. Pure.
fn volume_name(pod: &Pod, claim: &Claim, found: &PersistentVolumeClaim) -> Result<String, String> {
    let owner = controller_of(&found.metadata);
    if claim.ephemeral && owner.is_none_or(|owner| owner.uid != uid_of(pod)) {
        let (namespace, pod) = (namespace_of(pod), name_of(pod));
        return Err(format!(
            "PVC {namespace}/{} was not created for pod {namespace}/{pod} (pod is not owner)",
            claim.name
        ));
    }
    let protected = found.metadata.finalizers.iter().flatten().any(|f| f == "kubernetes.io/pvc-protection");
    if found.metadata.deletion_timestamp.is_some() && !protected {
        return Err("PVC is being deleted".to_owned());
    }
    if found.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let name = found.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    name.ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".to_owned())
}

/// A volume is its claim's alone, whatever a claim says.
fn belongs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let (name, own) = (volume.metadata.name.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref());
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object {name} has nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid.as_deref() != own {
        return Err(format!(
            "found PV object {name} with unexpected pv.Spec.ClaimRef.UID ({}). Expected {}",
            reference.uid.as_deref().unwrap_or_default(),
            own.unwrap_or_default()
        ));
    }
    Ok(())
}

async fn place(pod: &Pod, volume: PersistentVolume, readonly: bool) -> Result<Place, String> {
    let name = volume.metadata.name.unwrap_or_default();
    let spec = volume.spec.unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!(
            "PersistentVolume {name} is a block device, which is not supported by this node"
        ));
    }
    let group = ownership::group_of(pod).filter(|_| !readonly);
    let made = if let Some(source) = spec.host_path {
        off_workers(move || host_path::make(source)).await
    } else if let Some(source) = spec.local {
        let path = PathBuf::from(&source.path);
        off_workers(move || {
            let found: Found = Dir::open("/")?.find(&path, Links::AsRoot)?;
            if let Some(group) = group.filter(|_| found.is_dir().is_ok_and(|is| is)) {
                ownership::give(&Dir::open(&path)?, group)?;
            }
            Ok(path)
        })
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                std::io::Error::other(format!("path {:?} does not exist", source.path))
            }
            _ => error,
        })
    } else {
        return Err(format!("volume source of PersistentVolume {name} is not supported by this node"));
    };
    made.map(|path| Place { path, readonly }).map_err(|error| error.to_string())
}

/// The API server's own words, where it has answered.
fn told(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_claim_must_be_bound_and_an_ephemeral_one_the_pods_own() {
        let pod: Pod = of(json!({"metadata": {"name": "p", "namespace": "n", "uid": "1"}}));
        let owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
        let bound = json!({"phase": "Bound"});
        let spec = json!({"volumeName": "pv"});
        let foreign = Err("PVC n/p-data was not created for pod n/p (pod is not owner)");
        for (ephemeral, claim, expected) in [
            (false, json!({"spec": spec, "status": bound}), Ok("pv")),
            (false, json!({"spec": spec, "status": {"phase": "Pending"}}), Err("PVC is not bound")),
            (false, json!({"spec": spec}), Err("PVC is not bound")),
            (false, json!({"spec": {}, "status": bound}), Err("PVC has empty pvc.Spec.VolumeName")),
            (
                false,
                json!({"metadata": {"deletionTimestamp": "2026-11-30T00:00:00Z"}, "spec": spec, "status": bound}),
                Err("PVC is being deleted"),
            ),
            (
                false,
                json!({"metadata": {"deletionTimestamp": "2026-11-30T00:00:00Z", "finalizers": ["kubernetes.io/pvc-protection"]}, "spec": spec, "status": bound}),
                Ok("pv"),
            ),
            (true, json!({"spec": spec, "status": bound}), foreign),
            (
                true,
                json!({"metadata": {"ownerReferences": owner("2")}, "spec": spec, "status": bound}),
                foreign,
            ),
            (
                true,
                json!({"metadata": {"ownerReferences": owner("1")}, "spec": spec, "status": bound}),
                Ok("pv"),
            ),
        ] {
            let wanted = Claim { name: "p-data".to_owned(), readonly: false, ephemeral };
            let got = volume_name(&pod, &wanted, &of(claim.clone()));
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{claim}");
        }
    }

    #[test]
    fn a_volume_is_its_claims_alone() {
        let claim: PersistentVolumeClaim = of(json!({"metadata": {"uid": "1"}}));
        for (reference, fine) in
            [(json!({"uid": "1"}), true), (json!({"uid": "2"}), false), (json!(null), false)]
        {
            let volume: PersistentVolume =
                of(json!({"metadata": {"name": "pv"}, "spec": {"claimRef": reference}}));
            assert_eq!(belongs(&volume, &claim).is_ok(), fine, "{reference}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let status: kube::core::Status = of(
            json!({"status": "Failure", "message": "persistentvolumeclaims \"x\" not found", "reason": "NotFound", "code": 404}),
        );
        assert_eq!(told(kube::Error::Api(Box::new(status))), "persistentvolumeclaims \"x\" not found");
    }
}
