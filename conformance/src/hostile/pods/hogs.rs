//! Containers that take as much of the machine as they can get.

use super::{BASELINE, Ends, Pod};
use crate::hostile::book::{Attack, By, How};

const ROW: Attack = Attack {
    name: "",
    findings: "",
    by: By::Pod,
    does: "",
    must: "its own limits hold, the node and its neighbours go on",
    quick: false,
    how: How::Asks(&[]),
};

const LASTS: Pod = Pod { spec: "{}", ends: Ends::Lasts(15), ..BASELINE };
const LIMITED: &str = r#"{"resources":{"limits":{"memory":"64Mi"}}}"#;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "a fork bomb", findings: "machines", does: "processes that start two of themselves", must: "at most 4,096 processes", how: How::Pod(&Pod { script: "b() { b | b & }; b; while true; do b; sleep 1; done 2>/dev/null", ..LASTS }), ..ROW },
    Attack { name: "a memory hog", findings: "machines 8", quick: true, does: "takes memory beyond its limit of 64 MiB", must: "OOMKilled", how: How::Pod(&Pod { container: LIMITED, script: "tail /dev/zero", ends: Ends::Killed("OOMKilled"), ..LASTS }), ..ROW },
    Attack { name: "children that take memory", findings: "machines 8, 9", does: "50 children that take memory beyond the container's limit", must: "the container is killed whole, or goes on; its shim does not end first", how: How::Pod(&Pod { container: LIMITED, script: "while true; do i=0; while [ $i -lt 50 ]; do tail /dev/zero & i=$((i+1)); done; wait; done", ..LASTS }), ..ROW },
    Attack { name: "a volume in memory that fills", findings: "machines 3", does: "writes 1 GB to a Memory emptyDir of 64Mi", must: "no more room, or evicted", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{"medium":"Memory","sizeLimit":"64Mi"}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: "held fill dd if=/dev/zero of=/v/x bs=1M count=1024; echo done", ends: Ends::Held, ..LASTS }), ..ROW },
    Attack { name: "a volume in memory within a limit", findings: "machines 3", does: "writes 1 GB to a Memory emptyDir in a container of 64Mi", must: "OOMKilled, or no more room", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{"medium":"Memory"}}]}"#, container: r#"{"resources":{"limits":{"memory":"64Mi"}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: "dd if=/dev/zero of=/v/x bs=1M count=1024; sleep 100", ..LASTS }), ..ROW },
    Attack { name: "/dev/shm that fills", findings: "machines 3", does: "writes 1 GB to /dev/shm", must: "no more than 64 MiB", how: How::Pod(&Pod { script: "held fill dd if=/dev/zero of=/dev/shm/x bs=1M count=1024; echo done", ends: Ends::Held, ..LASTS }), ..ROW },
    Attack { name: "a volume beyond its size", findings: "machines 3", does: "writes 500 MB to an emptyDir of 50Mi", must: "Evicted", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{"sizeLimit":"50Mi"}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: "dd if=/dev/zero of=/v/x bs=1M count=500; sleep 1000", ends: Ends::Killed("Evicted"), ..LASTS }), ..ROW },
    Attack { name: "a log flood", findings: "issue 11.9", does: "writes lines as fast as it can", must: "rotated: no more than upstream keeps", how: How::Pod(&Pod { script: "yes", ..LASTS }), ..ROW },
    Attack { name: "a log line without end", findings: "issue 11.9", does: "writes bytes without a line feed", must: "cut into pieces, rotated", how: How::Pod(&Pod { script: "cat /dev/zero", ..LASTS }), ..ROW },
    Attack { name: "a log of noise", findings: "issue 11.9", does: "writes random bytes, to both streams", must: "rotated", how: How::Pod(&Pod { script: "cat /dev/urandom >&2 & cat /dev/urandom", ..LASTS }), ..ROW },
    Attack { name: "a descriptor hog", findings: "issue 11.9", does: "40 processes with 1,000 open files each", how: How::Pod(&Pod { script: "mkdir /tmp/f; cd /tmp/f; i=0; while [ $i -lt 1000 ]; do : >$i; i=$((i+1)); done; i=0; while [ $i -lt 40 ]; do tail -f * >/dev/null 2>&1 & i=$((i+1)); done; wait", ..LASTS }), ..ROW },
    Attack { name: "a CPU hog", findings: "machines 4", does: "16 endless loops without a request", must: "the program's own share is not touched", how: How::Pod(&Pod { script: "i=0; while [ $i -lt 16 ]; do (while :; do :; done) & i=$((i+1)); done; wait", ..LASTS }), ..ROW },
    Attack { name: "many files", findings: "issue 11.9", does: "50,000 files in its root file system and volume", must: "gone with the pod", how: How::Pod(&Pod { spec: r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#, container: r#"{"volumeMounts":[{"name":"v","mountPath":"/v"}]}"#, script: "for d in /v /tmp; do cd $d; i=0; while [ $i -lt 25000 ]; do : >$i; i=$((i+1)); done; done; sleep 1000", ends: Ends::Lasts(20), ..LASTS }), ..ROW },
    Attack { name: "connections from a pod", findings: "security B12", does: "500 connections to the API server's Service that say nothing", how: How::Pod(&Pod { script: "i=0; while [ $i -lt 500 ]; do (sleep 1000 | nc $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT) & i=$((i+1)); done; wait", ends: Ends::Lasts(20), ..LASTS }), ..ROW },
    Attack { name: "a sync without end", findings: "issue 11.9", does: "writes and syncs small files in a loop", how: How::Pod(&Pod { script: "i=0; while [ $i -lt 4 ]; do (while :; do dd if=/dev/zero of=/tmp/$$ bs=4k count=100 conv=fsync 2>/dev/null; sync; done) & i=$((i+1)); done; wait", ..LASTS }), ..ROW },
    Attack { name: "a crash loop of many", findings: "issue 11.9", does: "11 containers that end at once, and are started again", how: How::Pod(&Pod { spec: CRASHING, script: "exit 1", ends: Ends::Lasts(20), ..LASTS }), ..ROW },
];

const CRASHING: &str = r#"{"restartPolicy":"Always","containers":[
 {"name":"x0","image":"busybox:1.35","command":["false"]},{"name":"x1","image":"busybox:1.35","command":["false"]},
 {"name":"x2","image":"busybox:1.35","command":["false"]},{"name":"x3","image":"busybox:1.35","command":["false"]},
 {"name":"x4","image":"busybox:1.35","command":["false"]},{"name":"x5","image":"busybox:1.35","command":["false"]},
 {"name":"x6","image":"busybox:1.35","command":["false"]},{"name":"x7","image":"busybox:1.35","command":["false"]},
 {"name":"x8","image":"busybox:1.35","command":["false"]},{"name":"x9","image":"busybox:1.35","command":["false"]}]}"#;
