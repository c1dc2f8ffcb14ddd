//! The merged security contexts of a pod and one of its containers. Pure.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use crate::cri::{AppArmor, Seccomp, Security};

/// Fields of the container win over the pod's.
pub(crate) fn security(spec: &PodSpec, c: &Container) -> Security {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = c.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let mut groups = pod.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pod.fs_group);
    Security {
        run_as_user: own.run_as_user.or(pod.run_as_user),
        run_as_group: own.run_as_group.or(pod.run_as_group),
        supplemental_groups: groups,
        strict_groups: pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        run_as_non_root: own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false),
        privileged: own.privileged.unwrap_or(false),
        allow_privilege_escalation: own.allow_privilege_escalation,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        seccomp: seccomp(&pod, &own),
        apparmor: apparmor(&pod, &own),
        // Without a user namespace of its own the pod would have the host's kernel settings before it.
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked") && spec.host_users == Some(false),
    }
}

fn bare(names: Option<Vec<String>>) -> Vec<String> {
    let strip = |n: String| n.strip_prefix("CAP_").map(str::to_owned).unwrap_or(n);
    names.unwrap_or_default().into_iter().map(strip).collect()
}

fn apparmor(pod: &PodSecurityContext, own: &SecurityContext) -> AppArmor {
    let profile: Option<&AppArmorProfile> = own.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref());
    match profile {
        None => AppArmor::Default,
        Some(p) => match p.type_.as_str() {
            "Unconfined" => AppArmor::Unconfined,
            "Localhost" => AppArmor::Localhost(p.localhost_profile.clone().unwrap_or_default()),
            _ => AppArmor::RuntimeDefault,
        },
    }
}

fn seccomp(pod: &PodSecurityContext, own: &SecurityContext) -> Seccomp {
    let profile: Option<&SeccompProfile> = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    match profile {
        None => Seccomp::RuntimeDefault,
        Some(p) => match p.type_.as_str() {
            "Unconfined" => Seccomp::Unconfined,
            "Localhost" => Seccomp::Localhost(p.localhost_profile.clone().unwrap_or_default().into()),
            _ => Seccomp::RuntimeDefault,
        },
    }
}
