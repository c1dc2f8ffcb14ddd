//! Faults of other container runtimes, tried on this one: mounts that others shape, and what programs are given.

use super::{BASELINE, Ends, Pod};
use crate::hostile::book::{Attack, By, How};

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Pod,
    does: "",
    must: "refused, or nothing outside the pod is read or changed",
    quick: false,
    how: How::Asks(&[]),
};

/// Containers that start over and over with a /dev that their neighbour changes meanwhile. A mask that were bound from it
/// would be what it points to.
const SHARED_DEV: &str = r#"{"restartPolicy":"Always","volumes":[{"name":"v","emptyDir":{}}],"containers":[
 {"name":"m0","image":"busybox:1.35","command":["sh","-c","for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do echo '|/evil' >$f; cat $f; done 2>/dev/null | grep -v '^$' | sed 's/^/BROKE /'"],"volumeMounts":[{"name":"v","mountPath":"/dev"}]},
 {"name":"m1","image":"busybox:1.35","command":["sh","-c","for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do echo '|/evil' >$f; cat $f; done 2>/dev/null | grep -v '^$' | sed 's/^/BROKE /'"],"volumeMounts":[{"name":"v","mountPath":"/dev"}]},
 {"name":"t0","image":"busybox:1.35","tty":true,"command":["sh","-c","cat /dev/console; echo x >/dev/console"],"volumeMounts":[{"name":"v","mountPath":"/dev"}]},
 {"name":"t1","image":"busybox:1.35","tty":true,"command":["sh","-c","cat /dev/console; echo x >/dev/console"],"volumeMounts":[{"name":"v","mountPath":"/dev"}]}]}"#;
const SWAPS_DEV: &str = r#"
while true; do
  for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger {canary}/kept/one; do
    for n in null console ptmx pts/0 pts/1; do ln -sfn $f /v/$n; done
  done
  rm -rf /v/null /v/console /v/pts; mkdir -p /v/pts
done 2>/dev/null"#;

/// Mounts that go on one below another in a volume where their neighbour swaps directories for links.
const MOUNT_POINTS: &str = r#"{"restartPolicy":"Always","volumes":[{"name":"v","emptyDir":{}},{"name":"w","emptyDir":{}},{"name":"c","configMap":{"name":"m"}}],"containers":[
 {"name":"r0","image":"busybox:1.35","command":["cat","/m/x/secret"],"volumeMounts":[{"name":"v","mountPath":"/m"},{"name":"w","mountPath":"/m/x/kept/new"}]},
 {"name":"r1","image":"busybox:1.35","command":["cat","/m/x/secret"],"volumeMounts":[{"name":"v","mountPath":"/m"},{"name":"w","mountPath":"/m/x/new"}]},
 {"name":"r2","image":"busybox:1.35","command":["cat","/m/x/secret"],"volumeMounts":[{"name":"v","mountPath":"/m"},{"name":"c","mountPath":"/m/x/kept/one","subPath":"k"}]},
 {"name":"r3","image":"busybox:1.35","command":["cat","/m/x/secret"],"volumeMounts":[{"name":"v","mountPath":"/m"},{"name":"c","mountPath":"/m/x/file","subPath":"k"}]}]}"#;
const OBJECTS: &[(&str, &str)] = &[("configmaps", r#"{"metadata":{"name":"m"},"data":{"k":"v"}}"#)];
const SWAPS: &str =
    "while true; do mkdir -p /v/x/kept; rm -rf /v/x; ln -s {canary} /v/x; rm /v/x; done 2>/dev/null";

/// An emptyDir where the kernel's own files would be.
macro_rules! over {
    ($path:literal) => {
        concat!(r#"{"volumeMounts":[{"name":"v","mountPath":""#, $path, r#""}]}"#)
    };
}
const EMPTY: &str = r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#;
const CONFINED: &str = r#"
held pattern sh -c 'echo x >/proc/sys/kernel/core_pattern'
held cgroup mkdir /sys/fs/cgroup/made
held filter grep -qE '^Seccomp:[[:space:]]*0' /proc/1/status
echo done"#;
const OVER: Pod = Pod {
    spec: r#"{"volumes":[{"name":"v","emptyDir":{}}],"securityContext":{"seccompProfile":{"type":"RuntimeDefault"}}}"#,
    script: CONFINED,
    ends: Ends::NeverOrHeld,
    ..BASELINE
};

/// What loaders and libraries look for in their surroundings; none of it is for a program that is not the pod's.
const SURROUNDINGS: &str = r#"{"env":[{"name":"LD_PRELOAD","value":"{canary}/kept/evil.so"},{"name":"LD_AUDIT","value":"{canary}/kept/evil.so"},
 {"name":"LD_LIBRARY_PATH","value":"/v"},{"name":"RUST_LOG","value":"trace"},{"name":"RUST_BACKTRACE","value":"full"},
 {"name":"NOTIFY_SOCKET","value":"/v/notify"},{"name":"LISTEN_FDS","value":"7"},{"name":"_LIBCONTAINER_LOGPIPE","value":"3"},
 {"name":"_LIBCONTAINER_STATEDIR","value":"{canary}"},{"name":"PATH","value":"{canary}:/v:/bin:/usr/bin"}]}"#;

const UNCONFINED: Pod = Pod { spec: "{}", ..BASELINE };
const TOOL: &[(&str, &str)] =
    &[("configmaps", r#"{"metadata":{"name":"t"},"binaryData":{"call":"{call}"}}"#)];
const WITH_TOOL: &str = r#"{"volumeMounts":[{"name":"t","mountPath":"/t"}]}"#;

/// The calls that containerd's default filter keeps from a container without further capabilities.
const CALLS: &str = r#"
/t/call {sys:openat} -100 x2f 0 || echo BROKE the tool: $?
held add_key /t/call {sys:add_key} x75736572 x61 x62 1 -2
held request_key /t/call {sys:request_key} x75736572 x61 0 -2
held keyctl /t/call {sys:keyctl} 0 -3 1
held bpf /t/call {sys:bpf} 0 x02000000040000000400000001000000000000000000000000000000000000000000000000000000 40
held perf /t/call {sys:perf_event_open} x0000000040000000 0 -1 -1 0
held userfaultfd /t/call {sys:userfaultfd} 0
held io_uring /t/call {sys:io_uring_setup} 8 x$(printf %0240d 0)
held handle /t/call {sys:openat} -100 x2f6574632f686f737473 0 + {sys:open_by_handle_at} % x08000000010000000200000000000000 0
held mount /t/call {sys:mount} x78 x2f6d6e74 x746d706673 0 0
held fsopen /t/call {sys:fsopen} x746d706673 0
held open_tree /t/call {sys:open_tree} -100 x2f 1
held mount_setattr /t/call {sys:mount_setattr} -100 x2f 0 x$(printf %064d 0) 32
held umount /t/call {sys:umount2} x2f70726f63 2
held pivot_root /t/call {sys:pivot_root} x2f x2f
held setns /t/call {sys:openat} -100 x2f70726f632f73656c662f6e732f6e6574 0 + {sys:setns} % 0
held unshare-user /t/call {sys:unshare} 268435456
held unshare-mount /t/call {sys:unshare} 131072
held init_module /t/call {sys:init_module} x00 0 x00
held finit_module /t/call {sys:finit_module} 0 x00 0
held delete_module /t/call {sys:delete_module} x6578743400 0
held kexec /t/call {sys:kexec_load} 0 0 0 0
held swapon /t/call {sys:swapon} x2f746d702f73 0
held acct /t/call {sys:acct} 0
held quotactl /t/call {sys:quotactl} 8388865 0 0 0
held syslog /t/call {sys:syslog} 10 0 0
held fanotify /t/call {sys:fanotify_init} 0 0
held vsock /t/call {sys:socket} 40 1 0
echo done"#;

/// Each container has a session of its own for its keys: what one leaves, no other finds.
const KEYS: &str = r#"{"securityContext":{"seccompProfile":{"type":"Unconfined"}},"volumes":[{"name":"t","configMap":{"name":"t","defaultMode":493}}],"initContainers":[{"name":"i","image":"busybox:1.35",
 "command":["/t/call","{sys:add_key}","x75736572","x7365637265742d6b6579","x76","1","-3"],"volumeMounts":[{"name":"t","mountPath":"/t"}]}]}"#;
const SEARCH: &str = r#"
held search /t/call {sys:keyctl} 10 -3 x75736572 x7365637265742d6b6579 0
held request /t/call {sys:request_key} x75736572 x7365637265742d6b6579 0 0
echo done"#;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "a /dev that others change", findings: "CVE-2025-31133; CVE-2025-52565", does: "a volume at /dev of four containers, two with a terminal, in which null, console and pts become links to core_pattern, sysrq and the host's file while they start", how: How::Pod(&Pod { spec: SHARED_DEV, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: SWAPS_DEV, ends: Ends::Lasts(30), ..BASELINE }), ..ROW },
    Attack { name: "mount points that change", findings: "CVE-2024-45310", does: "swaps the directory of a volume for a link while four containers have mounts made below it", must: "no directory or file is made outside", how: How::Pod(&Pod { spec: MOUNT_POINTS, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, objects: OBJECTS, script: SWAPS, ends: Ends::Lasts(30), ..BASELINE }), ..ROW },
    Attack { name: "a volume at /proc/self/attr", findings: "CVE-2025-52881", does: "mounts an emptyDir where labels are written", must: "refused, or confined all the same", how: How::Pod(&Pod { container: over!("/proc/self/attr"), ..OVER }), ..ROW },
    Attack { name: "a volume at /proc/sys", findings: "CVE-2025-52881", does: "mounts an emptyDir where sysctls are written", must: "refused, or confined all the same", how: How::Pod(&Pod { container: over!("/proc/sys"), ..OVER }), ..ROW },
    Attack { name: "a volume at /sys/fs/cgroup", findings: "CVE-2025-52881's kin", does: "mounts an emptyDir where limits are written", must: "refused, or confined all the same", how: How::Pod(&Pod { spec: EMPTY, container: over!("/sys/fs/cgroup"), script: "held pattern sh -c 'echo x >/proc/sys/kernel/core_pattern'\ngrep -q . /proc/self/cgroup && echo held group\necho done", ends: Ends::NeverOrHeld, ..BASELINE }), ..ROW },
    Attack { name: "surroundings for other programs", findings: "CVE-2025-23266", does: "an environment with LD_PRELOAD, NOTIFY_SOCKET, LISTEN_FDS and a PATH to the host's directories", must: "only the pod's own program sees it", how: How::Pod(&Pod { container: SURROUNDINGS, script: "held canary cat {canary}/secret\nheld descriptor sh -c 'cat <&3'\necho done", ends: Ends::NeverOrHeld, ..UNCONFINED }), ..ROW },
    Attack { name: "a seccomp profile without a name", findings: "CVE-2023-2431", does: "Localhost with an empty localhostProfile", must: "refused by the node, never unconfined", how: How::Pod(&Pod { spec: r#"{"securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":""}}}"#, ends: Ends::Never, ..BASELINE }), ..ROW },
    Attack { name: "system calls that are not for containers", findings: "CVE-2024-21626's kin; open_by_handle_at (shocker)", does: "31 calls as root with default capabilities: keys, modules, mounts, namespaces, bpf, io_uring, file handles, vsock", must: "each fails", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"t","configMap":{"name":"t","defaultMode":493}}],"securityContext":{"seccompProfile":{"type":"RuntimeDefault"}}}"#, container: WITH_TOOL, objects: TOOL, script: CALLS, ..BASELINE }), ..ROW },
    Attack { name: "keys of another container", findings: "keyrings are no namespace", does: "without a filter: looks for a key that another container of root's has put in its session", must: "not found: each container has a session of its own", how: How::Pod(&Pod { level: "privileged", spec: KEYS, container: WITH_TOOL, objects: TOOL, script: SEARCH, ..UNCONFINED }), ..ROW },
    Attack { name: "limits with users of its own", findings: "CVE-2025-47291", does: "hostUsers: false, and more memory than its limit of 64 MiB", must: "refused, or OOMKilled as others are", how: How::Pod(&Pod { spec: r#"{"hostUsers":false}"#, container: r#"{"resources":{"limits":{"memory":"64Mi"}}}"#, script: "exec tail /dev/zero", ends: Ends::NeverOrKilled("OOMKilled"), ..UNCONFINED }), ..ROW },
];
