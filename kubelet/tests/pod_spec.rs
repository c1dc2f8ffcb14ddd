//! No field of a pod is passed over in silence: every leaf of `PodSpec` has its row here, and a field of a later version
//! that has none fails the test.
//!
//! `<container>` stands for the three lists of containers, `<probe>`, `<hook>` and `<podAffinity>` for fields of the same
//! type; `.**` for all below of what is refused as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use By::{Elsewhere, Honoured, Meaningless, Refused};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The module that does as the field says.
    Honoured,
    /// The module that refuses a pod that sets it, where this node cannot do as it says.
    Refused,
    /// It is for others than the node: the scheduler, a controller, an admission plugin.
    Elsewhere,
    /// It says nothing on Linux, upstream neither.
    Meaningless,
}

const TABLE: &[(By, &str, &[&str])] = &[
    (
        Honoured,
        "node/admission",
        &[
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].key",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].operator",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchExpressions[].values[]",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].key",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].operator",
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].values[]",
            "nodeSelector{}",
            "os.name",
            "tolerations[].effect",
            "tolerations[].key",
            "tolerations[].operator",
            "tolerations[].tolerationSeconds",
            "tolerations[].value",
        ],
    ),
    (Honoured, "pods/act", &["<container>.lifecycle.stopSignal"]),
    (Honoured, "pods/conditions", &["readinessGates[].conditionType"]),
    (Honoured, "pods/enforceable", &["securityContext.sysctls[].name", "securityContext.sysctls[].value"]),
    (
        Honoured,
        "pods/env",
        &[
            "<container>.env[].name",
            "<container>.env[].value",
            "<container>.env[].valueFrom.configMapKeyRef.key",
            "<container>.env[].valueFrom.configMapKeyRef.name",
            "<container>.env[].valueFrom.configMapKeyRef.optional",
            "<container>.env[].valueFrom.fieldRef.apiVersion",
            "<container>.env[].valueFrom.fieldRef.fieldPath",
            "<container>.env[].valueFrom.fileKeyRef.key",
            "<container>.env[].valueFrom.fileKeyRef.optional",
            "<container>.env[].valueFrom.fileKeyRef.path",
            "<container>.env[].valueFrom.fileKeyRef.volumeName",
            "<container>.env[].valueFrom.resourceFieldRef.containerName",
            "<container>.env[].valueFrom.resourceFieldRef.divisor",
            "<container>.env[].valueFrom.resourceFieldRef.resource",
            "<container>.env[].valueFrom.secretKeyRef.key",
            "<container>.env[].valueFrom.secretKeyRef.name",
            "<container>.env[].valueFrom.secretKeyRef.optional",
            "<container>.envFrom[].configMapRef.name",
            "<container>.envFrom[].configMapRef.optional",
            "<container>.envFrom[].prefix",
            "<container>.envFrom[].secretRef.name",
            "<container>.envFrom[].secretRef.optional",
            "enableServiceLinks",
        ],
    ),
    (
        Honoured,
        "pods/hooks",
        &[
            "<container>.lifecycle.<hook>.exec.command[]",
            "<container>.lifecycle.<hook>.httpGet.host",
            "<container>.lifecycle.<hook>.httpGet.httpHeaders[].name",
            "<container>.lifecycle.<hook>.httpGet.httpHeaders[].value",
            "<container>.lifecycle.<hook>.httpGet.path",
            "<container>.lifecycle.<hook>.httpGet.port",
            "<container>.lifecycle.<hook>.httpGet.scheme",
            "<container>.lifecycle.<hook>.sleep.seconds",
        ],
    ),
    (
        Honoured,
        "pods/launch",
        &[
            "<container>.args[]",
            "<container>.command[]",
            "<container>.image",
            "<container>.name",
            "<container>.stdin",
            "<container>.stdinOnce",
            "<container>.terminationMessagePath",
            "<container>.tty",
            "<container>.volumeMounts[].mountPath",
            "<container>.volumeMounts[].mountPropagation",
            "<container>.volumeMounts[].name",
            "<container>.volumeMounts[].readOnly",
            "<container>.volumeMounts[].recursiveReadOnly",
            "<container>.volumeMounts[].subPath",
            "<container>.volumeMounts[].subPathExpr",
            "<container>.workingDir",
            "<container>.targetContainerName",
        ],
    ),
    (
        Honoured,
        "pods/naming",
        &[
            "dnsConfig.nameservers[]",
            "dnsConfig.options[].name",
            "dnsConfig.options[].value",
            "dnsConfig.searches[]",
            "dnsPolicy",
            "hostAliases[].hostnames[]",
            "hostAliases[].ip",
            "hostname",
            "hostnameOverride",
            "setHostnameAsFQDN",
            "subdomain",
        ],
    ),
    (
        Honoured,
        "pods/plan",
        &[
            "<container>.restartPolicy",
            "<container>.restartPolicyRules[].action",
            "<container>.restartPolicyRules[].exitCodes.operator",
            "<container>.restartPolicyRules[].exitCodes.values[]",
            "restartPolicy",
            "terminationGracePeriodSeconds",
        ],
    ),
    (Honoured, "pods/pull", &["<container>.imagePullPolicy"]),
    (
        Honoured,
        "pods/resize",
        &["<container>.resizePolicy[].resourceName", "<container>.resizePolicy[].restartPolicy"],
    ),
    (
        Honoured,
        "pods/resources",
        &[
            "<container>.resources.limits{}",
            "<container>.resources.requests{}",
            "overhead{}",
            "resources.limits{}",
            "resources.requests{}",
        ],
    ),
    (
        Honoured,
        "pods/security",
        &[
            "<container>.securityContext.allowPrivilegeEscalation",
            "<container>.securityContext.appArmorProfile.localhostProfile",
            "<container>.securityContext.appArmorProfile.type",
            "<container>.securityContext.capabilities.add[]",
            "<container>.securityContext.capabilities.drop[]",
            "<container>.securityContext.privileged",
            "<container>.securityContext.procMount",
            "<container>.securityContext.readOnlyRootFilesystem",
            "<container>.securityContext.runAsGroup",
            "<container>.securityContext.runAsNonRoot",
            "<container>.securityContext.runAsUser",
            "<container>.securityContext.seccompProfile.localhostProfile",
            "<container>.securityContext.seccompProfile.type",
            "securityContext.appArmorProfile.localhostProfile",
            "securityContext.appArmorProfile.type",
            "securityContext.runAsGroup",
            "securityContext.runAsNonRoot",
            "securityContext.runAsUser",
            "securityContext.seccompProfile.localhostProfile",
            "securityContext.seccompProfile.type",
            "securityContext.supplementalGroups[]",
            "securityContext.supplementalGroupsPolicy",
        ],
    ),
    (
        Honoured,
        "pods/set_up",
        &[
            "<container>.ports[].containerPort",
            "<container>.ports[].hostIP",
            "<container>.ports[].hostPort",
            "<container>.ports[].name",
            "<container>.ports[].protocol",
            "hostUsers",
        ],
    ),
    (Honoured, "pods/worker", &["activeDeadlineSeconds", "<container>.terminationMessagePolicy"]),
    (Honoured, "probes/dial", &["<container>.<probe>.tcpSocket.host", "<container>.<probe>.tcpSocket.port"]),
    (Honoured, "probes/grpc", &["<container>.<probe>.grpc.port", "<container>.<probe>.grpc.service"]),
    (Honoured, "probes/handler", &["<container>.<probe>.exec.command[]"]),
    (
        Honoured,
        "probes/http",
        &[
            "<container>.<probe>.httpGet.host",
            "<container>.<probe>.httpGet.httpHeaders[].name",
            "<container>.<probe>.httpGet.httpHeaders[].value",
            "<container>.<probe>.httpGet.path",
            "<container>.<probe>.httpGet.port",
            "<container>.<probe>.httpGet.scheme",
        ],
    ),
    (
        Honoured,
        "probes/mod",
        &[
            "<container>.<probe>.failureThreshold",
            "<container>.<probe>.initialDelaySeconds",
            "<container>.<probe>.periodSeconds",
            "<container>.<probe>.successThreshold",
            "<container>.<probe>.terminationGracePeriodSeconds",
            "<container>.<probe>.timeoutSeconds",
        ],
    ),
    (Honoured, "runtime/sandbox", &["hostIPC", "hostNetwork", "hostPID", "shareProcessNamespace"]),
    (Honoured, "volumes/host_path", &["volumes[].hostPath.path", "volumes[].hostPath.type"]),
    (Honoured, "volumes/image", &["volumes[].image.pullPolicy", "volumes[].image.reference"]),
    (
        Honoured,
        "volumes/mod",
        &[
            "securityContext.fsGroup",
            "securityContext.fsGroupChangePolicy",
            "volumes[].emptyDir.medium",
            "volumes[].emptyDir.sizeLimit",
            "volumes[].name",
            "volumes[].persistentVolumeClaim.claimName",
            "volumes[].persistentVolumeClaim.readOnly",
        ],
    ),
    (
        Honoured,
        "volumes/projection",
        &[
            "volumes[].configMap.defaultMode",
            "volumes[].configMap.items[].key",
            "volumes[].configMap.items[].mode",
            "volumes[].configMap.items[].path",
            "volumes[].configMap.name",
            "volumes[].configMap.optional",
            "volumes[].downwardAPI.defaultMode",
            "volumes[].downwardAPI.items[].fieldRef.apiVersion",
            "volumes[].downwardAPI.items[].fieldRef.fieldPath",
            "volumes[].downwardAPI.items[].mode",
            "volumes[].downwardAPI.items[].path",
            "volumes[].downwardAPI.items[].resourceFieldRef.containerName",
            "volumes[].downwardAPI.items[].resourceFieldRef.divisor",
            "volumes[].downwardAPI.items[].resourceFieldRef.resource",
            "volumes[].projected.defaultMode",
            "volumes[].projected.sources[].configMap.items[].key",
            "volumes[].projected.sources[].configMap.items[].mode",
            "volumes[].projected.sources[].configMap.items[].path",
            "volumes[].projected.sources[].configMap.name",
            "volumes[].projected.sources[].configMap.optional",
            "volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion",
            "volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath",
            "volumes[].projected.sources[].downwardAPI.items[].mode",
            "volumes[].projected.sources[].downwardAPI.items[].path",
            "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.containerName",
            "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.divisor",
            "volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.resource",
            "volumes[].projected.sources[].secret.items[].key",
            "volumes[].projected.sources[].secret.items[].mode",
            "volumes[].projected.sources[].secret.items[].path",
            "volumes[].projected.sources[].secret.name",
            "volumes[].projected.sources[].secret.optional",
            "volumes[].projected.sources[].serviceAccountToken.audience",
            "volumes[].projected.sources[].serviceAccountToken.expirationSeconds",
            "volumes[].projected.sources[].serviceAccountToken.path",
            "volumes[].secret.defaultMode",
            "volumes[].secret.items[].key",
            "volumes[].secret.items[].mode",
            "volumes[].secret.items[].path",
            "volumes[].secret.optional",
            "volumes[].secret.secretName",
        ],
    ),
    (
        Refused,
        "pods/enforceable",
        &[
            "<container>.resources.claims[].name",
            "<container>.resources.claims[].request",
            "<container>.securityContext.seLinuxOptions.level",
            "<container>.securityContext.seLinuxOptions.role",
            "<container>.securityContext.seLinuxOptions.type",
            "<container>.securityContext.seLinuxOptions.user",
            "<container>.volumeDevices[].devicePath",
            "<container>.volumeDevices[].name",
            "resourceClaims[].name",
            "resourceClaims[].resourceClaimName",
            "resourceClaims[].resourceClaimTemplateName",
            "resources.claims[].name",
            "resources.claims[].request",
            "securityContext.seLinuxChangePolicy",
            "securityContext.seLinuxOptions.level",
            "securityContext.seLinuxOptions.role",
            "securityContext.seLinuxOptions.type",
            "securityContext.seLinuxOptions.user",
        ],
    ),
    (Refused, "pods/set_up", &["runtimeClassName"]),
    (
        Refused,
        "volumes/mod",
        &[
            "volumes[].awsElasticBlockStore.**",
            "volumes[].azureDisk.**",
            "volumes[].azureFile.**",
            "volumes[].cephfs.**",
            "volumes[].cinder.**",
            "volumes[].csi.**",
            "volumes[].fc.**",
            "volumes[].flexVolume.**",
            "volumes[].flocker.**",
            "volumes[].gcePersistentDisk.**",
            "volumes[].gitRepo.**",
            "volumes[].glusterfs.**",
            "volumes[].iscsi.**",
            "volumes[].nfs.**",
            "volumes[].photonPersistentDisk.**",
            "volumes[].portworxVolume.**",
            "volumes[].quobyte.**",
            "volumes[].rbd.**",
            "volumes[].scaleIO.**",
            "volumes[].storageos.**",
            "volumes[].vsphereVolume.**",
        ],
    ),
    (
        Refused,
        "volumes/projection",
        &[
            "volumes[].projected.sources[].clusterTrustBundle.labelSelector.matchExpressions[].key",
            "volumes[].projected.sources[].clusterTrustBundle.labelSelector.matchExpressions[].operator",
            "volumes[].projected.sources[].clusterTrustBundle.labelSelector.matchExpressions[].values[]",
            "volumes[].projected.sources[].clusterTrustBundle.labelSelector.matchLabels{}",
            "volumes[].projected.sources[].clusterTrustBundle.name",
            "volumes[].projected.sources[].clusterTrustBundle.optional",
            "volumes[].projected.sources[].clusterTrustBundle.path",
            "volumes[].projected.sources[].clusterTrustBundle.signerName",
            "volumes[].projected.sources[].podCertificate.certificateChainPath",
            "volumes[].projected.sources[].podCertificate.credentialBundlePath",
            "volumes[].projected.sources[].podCertificate.keyPath",
            "volumes[].projected.sources[].podCertificate.keyType",
            "volumes[].projected.sources[].podCertificate.maxExpirationSeconds",
            "volumes[].projected.sources[].podCertificate.signerName",
            "volumes[].projected.sources[].podCertificate.userAnnotations{}",
        ],
    ),
    (
        Elsewhere,
        "admission",
        &[
            "automountServiceAccountToken",
            "imagePullSecrets[].name",
            "priorityClassName",
            "serviceAccount",
            "serviceAccountName",
        ],
    ),
    (Elsewhere, "controllers", &["volumes[].ephemeral.**"]),
    (
        Elsewhere,
        "scheduler",
        &[
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchExpressions[].key",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchExpressions[].operator",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchExpressions[].values[]",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].key",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].operator",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].values[]",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.labelSelector.matchExpressions[].key",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.labelSelector.matchExpressions[].operator",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.labelSelector.matchExpressions[].values[]",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.labelSelector.matchLabels{}",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.matchLabelKeys[]",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.mismatchLabelKeys[]",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector.matchExpressions[].key",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector.matchExpressions[].operator",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector.matchExpressions[].values[]",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector.matchLabels{}",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaces[]",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.topologyKey",
            "affinity.<podAffinity>.preferredDuringSchedulingIgnoredDuringExecution[].weight",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector.matchExpressions[].key",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector.matchExpressions[].operator",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector.matchExpressions[].values[]",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector.matchLabels{}",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].matchLabelKeys[]",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].mismatchLabelKeys[]",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector.matchExpressions[].key",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector.matchExpressions[].operator",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector.matchExpressions[].values[]",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector.matchLabels{}",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].namespaces[]",
            "affinity.<podAffinity>.requiredDuringSchedulingIgnoredDuringExecution[].topologyKey",
            "nodeName",
            "preemptionPolicy",
            "priority",
            "schedulerName",
            "schedulingGates[].name",
            "schedulingGroup.podGroupName",
            "topologySpreadConstraints[].labelSelector.matchExpressions[].key",
            "topologySpreadConstraints[].labelSelector.matchExpressions[].operator",
            "topologySpreadConstraints[].labelSelector.matchExpressions[].values[]",
            "topologySpreadConstraints[].labelSelector.matchLabels{}",
            "topologySpreadConstraints[].matchLabelKeys[]",
            "topologySpreadConstraints[].maxSkew",
            "topologySpreadConstraints[].minDomains",
            "topologySpreadConstraints[].nodeAffinityPolicy",
            "topologySpreadConstraints[].nodeTaintsPolicy",
            "topologySpreadConstraints[].topologyKey",
            "topologySpreadConstraints[].whenUnsatisfiable",
        ],
    ),
    (
        Meaningless,
        "node/admission",
        &[
            "<container>.securityContext.windowsOptions.gmsaCredentialSpec",
            "<container>.securityContext.windowsOptions.gmsaCredentialSpecName",
            "<container>.securityContext.windowsOptions.hostProcess",
            "<container>.securityContext.windowsOptions.runAsUserName",
            "securityContext.windowsOptions.gmsaCredentialSpec",
            "securityContext.windowsOptions.gmsaCredentialSpecName",
            "securityContext.windowsOptions.hostProcess",
            "securityContext.windowsOptions.runAsUserName",
        ],
    ),
    (
        Meaningless,
        "pods/hooks",
        &["<container>.lifecycle.<hook>.tcpSocket.host", "<container>.lifecycle.<hook>.tcpSocket.port"],
    ),
];

/// The paths of all leaves below a schema.
fn leaves(definitions: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        let name = name.replace("~1", "/");
        return leaves(definitions, &definitions[&name], path, found);
    }
    // An optional struct is said to be one of two.
    for list in ["anyOf", "allOf", "oneOf"] {
        let inner = schema[list].as_array().into_iter().flatten().find(|s| s["$ref"].is_string());
        if let Some(inner) = inner {
            return leaves(definitions, inner, path, found);
        }
    }
    let step = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (schema["properties"].as_object(), &schema["items"], &schema["additionalProperties"]) {
        (Some(fields), _, _) => {
            for (name, field) in fields {
                leaves(definitions, field, &step(name), found);
            }
        }
        (None, items, _) if items.is_object() => leaves(definitions, items, &format!("{path}[]"), found),
        (None, _, values) if values.is_object() => leaves(definitions, values, &format!("{path}{{}}"), found),
        _ => {
            found.insert(path.to_owned());
        }
    }
}

fn normal(path: &str) -> String {
    const CONTAINERS: [&str; 3] = ["containers[]", "initContainers[]", "ephemeralContainers[]"];
    const ALIKE: [(&str, &[&str]); 3] = [
        ("<probe>", &["livenessProbe", "readinessProbe", "startupProbe"]),
        ("<hook>", &["postStart", "preStop"]),
        ("<podAffinity>", &["podAffinity", "podAntiAffinity"]),
    ];
    let parts = path.split('.').enumerate().map(|(at, part)| match part {
        list if at == 0 && CONTAINERS.contains(&list) => "<container>",
        part => ALIKE.iter().find(|(_, names)| names.contains(&part)).map_or(part, |(common, _)| common),
    });
    parts.collect::<Vec<_>>().join(".")
}

#[test]
fn every_field_of_a_pod_is_accounted_for() {
    let schema = serde_json::to_value(schemars::schema_for!(PodSpec)).expect("a schema");
    let definitions = ["$defs", "definitions"].into_iter().find(|key| schema[*key].is_object());
    let definitions = definitions.map_or(Value::Null, |key| schema[key].clone());
    let mut found = BTreeSet::new();
    leaves(&definitions, &schema, "", &mut found);
    let found: BTreeSet<String> = found.iter().map(|path| normal(path)).collect();
    assert!(found.len() > 300, "the walk goes deep: {}", found.len());
    let mut rows: BTreeMap<&str, By> = BTreeMap::new();
    for (by, module, paths) in TABLE {
        if matches!(by, Honoured | Refused | Meaningless) {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(format!("{module}.rs"));
            assert!(file.exists(), "{module} is no module of the kubelet");
        }
        for path in *paths {
            assert!(rows.insert(path, *by).is_none(), "{path} has two rows");
            assert!(!path.ends_with(".**") || matches!(by, Refused | Elsewhere), "{path} names no leaf");
        }
    }
    let covers =
        |row: &str, leaf: &str| row.strip_suffix("**").map_or(row == leaf, |prefix| leaf.starts_with(prefix));
    let unknown: Vec<&String> =
        found.iter().filter(|leaf| !rows.keys().any(|row| covers(row, leaf))).collect();
    assert!(unknown.is_empty(), "fields without a row: {unknown:#?}");
    let idle: Vec<&&str> = rows.keys().filter(|row| !found.iter().any(|leaf| covers(row, leaf))).collect();
    assert!(idle.is_empty(), "rows without a field: {idle:#?}");
}
