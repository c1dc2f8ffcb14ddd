//! What a container tries with files: volumes, links, FIFOs, messages, names.

use super::{BASELINE, Ends, Pod, RESTRICTED};
use crate::hostile::book::{Attack, By, How};

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Pod,
    does: "",
    must: "nothing outside the pod is read, written or removed",
    quick: false,
    how: How::Asks(&[]),
};

/// A ConfigMap, a Secret, the downward API and a token, mounted without `readOnly`.
const MOUNTED: &str = r#"{"volumes":[
 {"name":"c","configMap":{"name":"m"}},{"name":"s","secret":{"secretName":"s"}},
 {"name":"d","downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.name"}}]}},
 {"name":"p","projected":{"sources":[{"configMap":{"name":"m"}},{"serviceAccountToken":{"path":"token"}}]}}],
 "securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}}}"#;
const AS_ROOT: &str = r#"{"volumes":[
 {"name":"c","configMap":{"name":"m"}},{"name":"s","secret":{"secretName":"s"}},
 {"name":"d","downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.name"}}]}},
 {"name":"p","projected":{"sources":[{"configMap":{"name":"m"}},{"serviceAccountToken":{"path":"token"}}]}}]}"#;
const MOUNTS: &str = r#"{"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}},"volumeMounts":[
 {"name":"c","mountPath":"/v/c"},{"name":"s","mountPath":"/v/s"},{"name":"d","mountPath":"/v/d"},{"name":"p","mountPath":"/v/p"}]}"#;
const ROOT_MOUNTS: &str = r#"{"volumeMounts":[
 {"name":"c","mountPath":"/v/c"},{"name":"s","mountPath":"/v/s"},{"name":"d","mountPath":"/v/d"},{"name":"p","mountPath":"/v/p"}]}"#;
const OBJECTS: &[(&str, &str)] = &[
    ("configmaps", r#"{"metadata":{"name":"m"},"data":{"k":"v"}}"#),
    ("secrets", r#"{"metadata":{"name":"s"},"stringData":{"k":"v"}}"#),
];

const SWAPS: &str = r#"
put() { echo x >"$1"; }
for v in c s d p; do
  held "$v link" ln -sfn {canary} /v/$v/..data
  held "$v move" mv /v/$v/..data /v/$v/..old
  held "$v remove" rm -rf /v/$v/..data
  held "$v make" mkdir /v/$v/..2026_01_01
  held "$v file" put /v/$v/new
  held "$v key" put /v/$v/k
  held "$v mode" chmod 777 /v/$v/
  held "$v remount" mount -o remount,rw /v/$v
done
sleep 3
echo done"#;

/// A volume of the pod's own.
const EMPTY: &str = r#"{"volumes":[{"name":"v","emptyDir":{}}],"securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}}}"#;
const AT_V: &str = r#"{"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#;

const LINKED_SUBPATH: &str = r#"{"volumes":[{"name":"v","emptyDir":{}}],"initContainers":[{"name":"i","image":"busybox:1.35",
 "command":["sh","-c","ln -s {canary} /v/x; ln -s ../../../../../../../../..{canary} /v/y"],"volumeMounts":[{"name":"v","mountPath":"/v"}]}]}"#;

/// One container swaps a directory for a link, the others mount it by a subPath, over and over.
const RACE: &str = r#"{"restartPolicy":"Always","volumes":[{"name":"v","emptyDir":{}}],"containers":[
 {"name":"r0","image":"busybox:1.35","command":["sh","-c","cat /m/secret /m/kept/one"],"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x"}]},
 {"name":"r1","image":"busybox:1.35","command":["sh","-c","cat /m/secret /m/kept/one"],"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x"}]},
 {"name":"r2","image":"busybox:1.35","command":["sh","-c","cat /m/one; echo x >/m/new"],"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x/kept"}]},
 {"name":"r3","image":"busybox:1.35","command":["sh","-c","cat /m/one; echo x >/m/new"],"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x/kept"}]},
 {"name":"r4","image":"busybox:1.35","command":["sh","-c","cat /m"],"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x/secret"}]},
 {"name":"r5","image":"busybox:1.35","command":["sh","-c","cat /m"],"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x/secret"}]}]}"#;
const SWAPPING: &str = r#"
mkdir -p /v/a/kept; echo own >/v/a/secret; echo own >/v/a/kept/one; ln -s {canary} /v/b; mkdir /v/x
while true; do mv -T /v/x /v/t; mv -T /v/b /v/x; mv -T /v/x /v/b; mv -T /v/t /v/x; rm -rf /v/x; ln -s {canary} /v/x; rm /v/x; mkdir -p /v/x/kept; done 2>/dev/null"#;

macro_rules! env_file {
    ($init:literal, $path:literal) => {
        concat!(
            r#"{"volumes":[{"name":"v","emptyDir":{}}],"initContainers":[{"name":"i","image":"busybox:1.35","command":["sh","-c",""#,
            $init,
            r#""],"volumeMounts":[{"name":"v","mountPath":"/v"}]}],"containers":[{"name":"f","image":"busybox:1.35","command":["env"],
 "env":[{"name":"A","valueFrom":{"fileKeyRef":{"volumeName":"v","path":""#,
            $path,
            r#"","key":"A"}}}]}]}"#
        )
    };
}

/// The row's own container waits, so that what its neighbour is given is seen.
const BESIDE: Pod = Pod { script: "sleep 8; echo held; echo done", ends: Ends::NeverOrHeld, ..BASELINE };

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "swaps in mounted objects", findings: "security B4; CVE-2017-1002102", quick: true, does: "as uid 1000: swaps ..data for a link, writes, renames and removes in all four kinds of volumes", must: "read-only, whatever the mount says", how: How::Pod(&Pod { spec: MOUNTED, container: MOUNTS, objects: OBJECTS, script: SWAPS, ..RESTRICTED }), ..ROW },
    Attack { name: "the same as root", findings: "security B4", does: "as root with default capabilities", must: "read-only, whatever the mount says", how: How::Pod(&Pod { spec: AS_ROOT, container: ROOT_MOUNTS, objects: OBJECTS, script: SWAPS, ..BASELINE }), ..ROW },
    Attack { name: "a subPath that is a link", findings: "CVE-2017-1002101", does: "an init container leaves links to the host's directories where subPaths are mounted", how: How::Pod(&Pod { spec: LINKED_SUBPATH, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"x"},{"name":"v","mountPath":"/n","subPath":"y/kept"}]}"#, script: "held canary cat /m/secret\nheld one cat /n/one\necho done", ends: Ends::NeverOrHeld, ..BASELINE }), ..ROW },
    Attack { name: "a subPath that changes", findings: "CVE-2021-25741", does: "swaps a directory for a link while six containers mount it by subPaths", how: How::Pod(&Pod { spec: RACE, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: SWAPPING, ends: Ends::Lasts(40), ..BASELINE }), ..ROW },
    Attack { name: "a subPath upwards", findings: "CVE-2017-1002101", does: "subPath ../../..", must: "422", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/m","subPath":"../../.."}]}"#, ends: Ends::Refused(&[422]), ..BASELINE }), ..ROW },
    Attack { name: "an environment file upwards", findings: "security B6", does: "fileKeyRef ../../{canary}/secret", must: "422", how: How::Pod(&Pod { spec: env_file!("true", "../../{canary}/secret"), ends: Ends::Refused(&[422]), ..BASELINE }), ..ROW },
    Attack { name: "an environment file that is a link", findings: "security B6", does: "fileKeyRef through a link to the host's file", how: How::Pod(&Pod { spec: env_file!("ln -s {canary}/secret /v/e", "e"), ..BESIDE }), ..ROW },
    Attack { name: "an environment file that is a FIFO", findings: "security B6", does: "fileKeyRef to a FIFO that nobody writes", must: "nobody waits for it", how: How::Pod(&Pod { spec: env_file!("mkfifo /v/e", "e"), ..BESIDE }), ..ROW },
    Attack { name: "an environment file without end", findings: "security B6", does: "fileKeyRef to a sparse file of 100 GB", must: "not read beyond a bound", how: How::Pod(&Pod { spec: env_file!("truncate -s 100G /v/e", "e"), ..BESIDE }), ..ROW },
    Attack { name: "a huge termination message", findings: "issue 11.9", does: "writes 300 MB as its termination message", must: "4096 bytes are kept", how: How::Pod(&Pod { script: "dd if=/dev/urandom of=/dev/termination-log bs=1M count=300; echo held; echo done", ..BASELINE }), ..ROW },
    Attack { name: "a termination message that is no file", findings: "issue 11.1", does: "replaces it by a link to the host's file, a FIFO and a directory, and ends", how: How::Pod(&Pod { script: "held replaced sh -c 'rm /dev/termination-log && ln -s {canary}/secret /dev/termination-log'\nheld moved mv -f /tmp /dev/termination-log\nheld fifo sh -c 'rm -f /dev/termination-log && mkfifo /dev/termination-log'\necho done; exit 1", ..BASELINE }), ..ROW },
    Attack { name: "messages in a volume", findings: "issue 11.1", does: "terminationMessagePath in a volume where a link to the host's file is", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}],"initContainers":[{"name":"i","image":"busybox:1.35","command":["ln","-s","{canary}/secret","/v/m"],"volumeMounts":[{"name":"v","mountPath":"/v"}]}]}"#, container: r#"{"terminationMessagePath":"/v/m","terminationMessagePolicy":"FallbackToLogsOnError","volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: "held read cat /v/m.none\necho done; exit 1", ends: Ends::NeverOrHeld, ..BASELINE }), ..ROW },
    Attack { name: "a volume that is deep", findings: "issue 11.1", does: "20,000 directories in each other, and 20,000 files with strange names", must: "removed with the pod", how: How::Pod(&Pod { spec: EMPTY, container: AT_V, script: "cd /v; i=0; while [ $i -lt 200 ]; do d=$(printf 'a/%.0s' $(seq 100)); mkdir -p $d && cd $d || break; i=$((i+1)); done; cd /v; mkdir s; cd s; mkfifo f; i=0; while [ $i -lt 20000 ]; do : >\"..$i\n*'\"; i=$((i+1)); done; echo held; echo done", ..RESTRICTED }), ..ROW },
    Attack { name: "links in a volume that goes", findings: "security B4", does: "leaves links, hard links and mount points to the host's directories in its volume, and ends", must: "the volume goes, what it points to stays", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: "ln -s {canary} /v/dir; ln -s {canary}/secret /v/file; ln -s / /v/root; ln -s .. /v/up; mkdir /v/d; ln -s ../../.. /v/d/..data; mknod /v/null c 1 3; chmod 000 /v/d; echo held; echo done", ..BASELINE }), ..ROW },
    Attack { name: "a git repository as a volume", findings: "CVE-2024-10220; CVE-2025-1767", does: "asks for a gitRepo volume of a local path with hooks", must: "never cloned", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"g","gitRepo":{"repository":"{canary}","directory":".git"}}]}"#, container: r#"{"volumeMounts":[{"name":"g","mountPath":"/g"}]}"#, ends: Ends::Never, ..BASELINE }), ..ROW },
    Attack { name: "the node's own files by name", findings: "issue 11.1", does: "keys of a ConfigMap with paths, items that lead upwards", must: "422", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"c","configMap":{"name":"m","items":[{"key":"k","path":"../../../../../../../..{canary}/kept/new"}]}}]}"#, objects: OBJECTS, ends: Ends::Refused(&[422]), ..BASELINE }), ..ROW },
];
