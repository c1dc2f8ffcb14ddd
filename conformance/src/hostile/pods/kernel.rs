//! What a container tries on the kernel: devices, `/proc`, namespaces, signals.

use super::{BASELINE, Ends, Pod, RESTRICTED};
use crate::hostile::book::{Attack, By, How};

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Pod,
    does: "",
    must: "every deed fails, nothing outside the pod changes",
    quick: false,
    how: How::Asks(&[]),
};

const DEVICES: &str = r#"
set -- $(awk 'NR>2 && $4 !~ /loop/ {print $1, $2; exit}' /proc/partitions)
disk() { mknod /tmp/disk b $1 $2 && dd if=/tmp/disk of=/dev/null bs=512 count=1; }
node() { rm -f /tmp/node; mknod /tmp/node c $1 $2 && dd if=/tmp/node of=/dev/null count=0; }
writes() { rm -f /tmp/node; mknod /tmp/node c $1 $2 && echo x >/tmp/node; }
held disk disk ${1:-254} ${2:-0}
held mem node 1 1
held kmem node 1 2
held port node 1 4
held kmsg writes 1 11
held fuse node 10 229
held kvm node 10 232
held loop-control node 10 237
held mapper node 10 236
held vfio node 10 196
held snapshot node 10 231
held tty0 writes 4 0
held given-disk dd if=/dev/vda of=/dev/null bs=512 count=1
echo done"#;

const WRITES: &str = r#"
put() { echo x >"$1"; }
for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug /proc/sys/vm/panic_on_oom \
  /proc/sys/kernel/panic /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger /proc/irq/default_smp_affinity /proc/bus/x \
  /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state /sys/class/net/lo/mtu \
  /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/hostname /proc/sys/user/max_user_namespaces; do held "$f" put "$f"; done
for d in /sys/fs/cgroup /sys/fs/cgroup/*; do held "$d/release_agent" put "$d/release_agent"; held "$d/made" mkdir "$d/made"; done
for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/scsi/scsi /sys/firmware/dmi/tables/DMI \
  /sys/devices/virtual/powercap/x /proc/1/mem; do held "read $f" sh -c "head -c 64 $f | grep -q ."; done
held dmesg dmesg
held swapoff swapoff -a
held hostname hostname evil
held insmod insmod /bin/busybox
held reboot reboot -f
echo done"#;

const NAMESPACES: &str = r#"
held mount-proc mount -t proc proc /mnt
held mount-tmpfs mount -t tmpfs x /mnt
held mount-bind mount --bind / /mnt
held mount-cgroup mount -t cgroup -o memory x /mnt
held mount-overlay mount -t overlay x /mnt -o lowerdir=/,upperdir=/tmp,workdir=/var
held remount mount -o remount,rw /sys
held umount-proc umount /proc
held umount-masked umount /proc/kcore
held unshare-user unshare -U true
held unshare-user-mount unshare -U -m -r true
held unshare-mount unshare -m true
held unshare-net unshare -n true
held nsenter nsenter -t 1 -m -u -n -i true
held chroot-out chroot /proc/1/root/../../.. cat {canary}/secret
held raw-canary cat {canary}/secret
held parent cat ../../../../../../../..{canary}/secret
for p in /proc/[0-9]*; do held "root of $p" cat $p/root{canary}/secret; held "cwd of $p" cat $p/cwd{canary}/secret; done
for f in /proc/self/fd/*; do held "$f" cat $f/../../../../..{canary}/secret; done
held fds sh -c 'ls /proc/self/fd | grep -qE "^([4-9]|[1-9][0-9])"'
held route ip route add 203.0.113.0/24 dev eth0
held address ip addr add 192.0.2.1/32 dev eth0
held link ip link set eth0 down
echo done"#;

const SHARED: &str = r#"
for p in /proc/[0-9]*; do
  held "root of $p" cat $p/root{canary}/secret
  held "key by $p" cat $p/root{pki}/ca.key
  held "host of $p" ls $p/root/sys/fs/cgroup/memory/kubepods
  held "write by $p" sh -c "echo x >$p/root{canary}/kept/new"
done
kill -9 -1
kill -9 {canary-pid}
kill -STOP {canary-pid}
echo held signals
echo done"#;

const USER_NAMESPACE: &str = r#"
put() { echo x >"$1"; }
held identity grep -qE '^ *0 +0 ' /proc/self/uid_map
held core_pattern put /proc/sys/kernel/core_pattern
held mount-host mount -t sysfs x /mnt
held canary cat {canary}/secret
echo done"#;

const MAPPED: Pod = Pod { script: USER_NAMESPACE, ends: Ends::NeverOrHeld, ..BASELINE };

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "device nodes", findings: "security B2; machines 1", quick: true, does: "with default capabilities: makes nodes of the host's disk, memory, kmsg, fuse, kvm, and reads and writes them", how: How::Pod(&Pod { spec: "{}", script: DEVICES, ..BASELINE }), ..ROW },
    Attack { name: "writes to /proc and /sys", findings: "security B5; CVE-2025-31133; CVE-2025-52881", does: "as root with default capabilities: core_pattern, sysrq, release_agent, uevent_helper, masked files", how: How::Pod(&Pod { script: WRITES, ..BASELINE }), ..ROW },
    Attack { name: "ways out of the namespaces", findings: "CVE-2024-21626; CVE-2022-0492", does: "mounts, namespaces, chroots, descriptors left open, routes and links", how: How::Pod(&Pod { script: NAMESPACES, ..BASELINE }), ..ROW },
    Attack { name: "the same with nothing granted", findings: "security: restricted", does: "mounts, namespaces, chroots, descriptors, as uid 1000", how: How::Pod(&Pod { script: NAMESPACES, ..RESTRICTED }), ..ROW },
    Attack { name: "shared process namespace", findings: "security B13", quick: true, does: "with SYS_PTRACE: roots of all processes, the pause too; signals to everything", how: How::Pod(&Pod { level: "privileged", spec: r#"{"shareProcessNamespace":true}"#, container: r#"{"securityContext":{"capabilities":{"add":["SYS_PTRACE"]}}}"#, script: SHARED, ..BASELINE }), ..ROW },
    Attack { name: "a user namespace that is none", findings: "security B5", does: "hostUsers: false with uid 0", must: "refused, or root inside is nobody outside", how: How::Pod(&Pod { spec: r#"{"hostUsers":false}"#, ..MAPPED }), ..ROW },
    Attack { name: "an unmasked /proc", findings: "security B5", does: "hostUsers: false with procMount Unmasked", must: "refused, or core_pattern is not writable", how: How::Pod(&Pod { spec: r#"{"hostUsers":false}"#, container: r#"{"securityContext":{"procMount":"Unmasked"}}"#, ..MAPPED }), ..ROW },
    Attack { name: "an unmasked /proc of the host's users", findings: "security B5", does: "procMount Unmasked without hostUsers: false", must: "refused", how: How::Pod(&Pod { level: "privileged", container: r#"{"securityContext":{"procMount":"Unmasked"}}"#, ends: Ends::Refused(&[403, 422]), ..BASELINE }), ..ROW },
    Attack { name: "host namespaces", findings: "Pod Security", does: "hostPID, hostNetwork, hostIPC and a hostPath in a restricted namespace", must: "403", how: How::Pod(&Pod { spec: r#"{"hostPID":true,"hostIPC":true,"hostNetwork":true,"volumes":[{"name":"h","hostPath":{"path":"/"}}]}"#, ends: Ends::Refused(&[403]), ..BASELINE }), ..ROW },
    Attack { name: "unsafe sysctls", findings: "security minor; machines", does: "sets kernel.msgmax and net.core.somaxconn", must: "SysctlForbidden", how: How::Pod(&Pod { level: "privileged", spec: r#"{"securityContext":{"sysctls":[{"name":"kernel.msgmax","value":"1"},{"name":"net.core.somaxconn","value":"1"}]}}"#, ends: Ends::Never, ..BASELINE }), ..ROW },
    Attack { name: "a sysctl of the host's", findings: "security minor", does: "sets vm.panic_on_oom", must: "refused", how: How::Pod(&Pod { level: "privileged", spec: r#"{"securityContext":{"sysctls":[{"name":"vm.panic_on_oom","value":"1"}]}}"#, ends: Ends::Never, ..BASELINE }), ..ROW },
    Attack { name: "an AppArmor profile that is not there", findings: "security M11; machines 7", does: "asks for Localhost profile `none`", must: "refused, never unconfined", how: How::Pod(&Pod { level: "baseline", spec: r#"{"securityContext":{"appArmorProfile":{"type":"Localhost","localhostProfile":"none"}}}"#, ends: Ends::Never, ..BASELINE }), ..ROW },
    Attack { name: "a seccomp profile of the host's files", findings: "CVE path tricks", does: "asks for Localhost profile ../../../etc/passwd", must: "refused", how: How::Pod(&Pod { spec: r#"{"securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"../../../etc/passwd"}}}"#, ends: Ends::Refused(&[422]), ..BASELINE }), ..ROW },
    Attack { name: "a working directory in /proc", findings: "CVE-2024-21626", does: "starts in /proc/self/fd/7, and in what is open there", must: "refused, or nothing of the host is seen", how: How::Pod(&Pod { container: r#"{"workingDir":"/proc/self/fd/7"}"#, script: "held canary cat ../../../../../../..{canary}/secret\nheld pki cat ../../../../../../..{pki}/ca.key\necho done", ends: Ends::NeverOrHeld, ..BASELINE }), ..ROW },
    Attack { name: "mounts over /proc and /dev", findings: "CVE-2019-16884; CVE-2023-27561", does: "mounts an emptyDir at /proc, where masks would be", must: "refused, or the masks hold", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/proc"}]}"#, script: "held pattern sh -c 'echo x >/proc/sys/kernel/core_pattern'\nheld canary cat {canary}/secret\necho done", ends: Ends::NeverOrHeld, ..BASELINE }), ..ROW },
    Attack { name: "mounts that lead upwards", findings: "CVE-2021-30465", does: "mountPath /x/../../../{canary}", must: "refused, or inside the container", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/x/../../../../../../{canary}"}]}"#, script: "held canary cat {canary}/secret\necho x >{canary}/kept/new\necho held own\necho done", ends: Ends::NeverOrHeld, ..BASELINE }), ..ROW },
    Attack { name: "propagation to the host", findings: "CVE-2017-1002101's kin", does: "Bidirectional propagation without privilege", must: "422", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v","mountPropagation":"Bidirectional"}]}"#, ends: Ends::Refused(&[422]), ..BASELINE }), ..ROW },
];
