//! Layers that want more than their own directory, and root file systems that want more than their own container.

use anyhow::{Result, ensure};
use serde_json::json;

use super::layers::{DEVICE, DIRECTORY, FIFO, FILE, HARD_LINK, Image, LINK, entry, header, long, shell, tar};
use super::{PULLED, Pod, ROW, image, pull};
use crate::hostile::book::{Attack, How};
use crate::hostile::pods::{self, Ends};
use crate::hostile::scene::Scene;

/// May be refused or be inside; what it tells has been looked for.
const INSIDE: Pod = Pod {
    script: "held stolen cat /stolen\nheld key grep -q PRIVATE /stolen\necho done",
    ends: Ends::NeverOrHeld,
    ..PULLED
};

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "whiteouts upwards", findings: "security M3", quick: true, does: "whiteouts and opaque marks with absolute paths, dots, and through links", must: "nothing outside the layer changes", how: How::Tenant(|s| Box::pin(whiteouts(s))), ..ROW },
    Attack { name: "links in layers", findings: "security: held", does: "hard and symbolic links to the host's files, and files through them", must: "nothing outside the layer changes, or is read", how: How::Tenant(|s| Box::pin(links(s))), ..ROW },
    Attack { name: "device nodes in layers", findings: "security: held", does: "the host's memory and disk as entries, setuid and setgid files", must: "an empty file, a node that cannot be opened, or no image", how: How::Tenant(|s| Box::pin(devices(s))), ..ROW },
    Attack { name: "tar headers that lie", findings: "issue 11.5", does: "sizes of 8 exabytes and below zero, names of 1 MB, sums that are wrong, extensions of extensions", how: How::Tenant(|s| Box::pin(lies(s))), ..ROW },
    Attack { name: "a passwd file without end", findings: "security M7", does: "a sparse /etc/passwd of 100 GB, and a USER that is looked up in it", must: "refused, or read within a bound", how: How::Tenant(|s| Box::pin(sparse_passwd(s))), ..ROW },
    Attack { name: "a passwd file that is none", findings: "CVE-2022-23648", does: "/etc/passwd as FIFO and /etc/group as a link to the host's file; a USER that is looked up", must: "refused, and nobody waits", how: How::Tenant(|s| Box::pin(odd_passwd(s))), ..ROW },
    Attack { name: "a group file without end", findings: "CVE-2026-47262", does: "a sparse /etc/group of 100 GB, and a USER whose group is looked up in it", must: "refused, or read within a bound", how: How::Tenant(|s| Box::pin(sparse_group(s))), ..ROW },
    Attack { name: "an image that says it is more", findings: "CVE-2026-53488; CVE-2026-50195; CVE-2026-53489; CVE-2026-53492", does: "labels that name loggers and mounts, and the files and notes of a container that was frozen: a log that is a link, devices, another image's name", must: "an image like others: nothing of that is heeded", how: How::Tenant(|s| Box::pin(more(s))), ..ROW },
    Attack { name: "a /proc that is a link", findings: "CVE-2019-16884; CVE-2019-19921; CVE-2025-31133", does: "/proc, /sys and /dev as links to the host's directories, /dev/null and /dev/console as files of the image", must: "refused, or mounted inside", how: How::Tenant(|s| Box::pin(linked_proc(s))), ..ROW },
    Attack { name: "volumes of the image's choosing", findings: "CVE-2022-23648", does: "Volumes and WorkingDir with paths that lead upwards", must: "inside the container", how: How::Tenant(|s| Box::pin(image_volumes(s))), ..ROW },
    Attack { name: "root file systems seen by other users", findings: "security M5; CVE-2021-41103; CVE-2024-25621", does: "a setuid file of root's, and whoever else is on the machine", must: "no other user reaches it", how: How::Tenant(|s| Box::pin(seen_by_others(s))), ..ROW },
    Attack { name: "a hundred thousand files", findings: "issue 11.5", does: "a layer of 100,000 empty files", must: "unpacked in time, or refused", how: How::Tenant(|s| Box::pin(many_files(s))), ..ROW },
];

async fn whiteouts(scene: &Scene<'_>) -> Result<String> {
    let canary = scene.arena.canary.dir.display().to_string();
    let mut entries = vec![entry(LINK, "l", &canary, 0o777, &[])];
    for below in [
        format!("{canary}/"),
        format!("../../../../../../..{canary}/"),
        "l/".to_owned(),
        "./l/../l/".to_owned(),
    ] {
        for mark in ["kept/.wh..wh..opq", ".wh.kept", ".wh.secret", "kept/.wh.one", ".wh..", ".wh..."] {
            entries.push(entry(FILE, &format!("{below}{mark}"), "", 0o644, &[]));
        }
    }
    entries.push(entry(FILE, ".wh.", "", 0o644, &[]));
    entries.push(entry(FILE, ".wh..wh.", "", 0o644, &[]));
    let image = Image::of([shell()?, tar(entries)]);
    pull(scene, "whiteouts", Ok(image), &Pod { container: image!("whiteouts"), ..INSIDE }).await
}

async fn links(scene: &Scene<'_>) -> Result<String> {
    let canary = scene.arena.canary.dir.display().to_string();
    let secret = format!("{canary}/secret");
    let upwards = format!("../../../../../../../../..{secret}");
    let entries = [
        entry(LINK, "stolen", &secret, 0o777, &[]),
        entry(HARD_LINK, "hard", &secret, 0o644, &[]),
        entry(HARD_LINK, "hard2", &upwards, 0o644, &[]),
        entry(LINK, "d", &canary, 0o777, &[]),
        entry(FILE, "d/new", "", 0o644, b"x"),
        entry(FILE, "d/kept/one", "", 0o644, b"x"),
        entry(DIRECTORY, "d/kept", "", 0o777, &[]),
        entry(DIRECTORY, "d", "", 0o777, &[]),
        entry(FILE, &format!("{canary}/new2"), "", 0o644, b"x"),
        entry(FILE, &format!("../../../../../../../../..{canary}/new3"), "", 0o644, b"x"),
        entry(LINK, "e", "/", 0o777, &[]),
        entry(LINK, "f", "e/proc/self/root", 0o777, &[]),
        entry(FILE, &format!("f{canary}/new4"), "", 0o644, b"x"),
        entry(HARD_LINK, "hard3", &format!("f{secret}"), 0o644, &[]),
    ];
    // Each alone, too: the first that is refused would hide the others.
    let whole = Image::of([shell()?, tar(entries.clone())]);
    let row = Pod { container: image!("links"), ..INSIDE };
    let said = pull(scene, "links", Ok(whole), &row).await?;
    for (n, entry) in entries.into_iter().enumerate() {
        let link = super::layers::entry(LINK, "d", &canary, 0o777, &[]);
        let name = format!("link{n}");
        scene.arena.shelf.put(&name, Image::of([shell()?, tar([link, entry])]).repository());
    }
    let others: Vec<String> = (0..14).map(|n| format!("127.0.0.1:5001/link{n}:1")).collect();
    let pulled = each(scene, &others).await?;
    Ok(format!("{said}; alone: {pulled}"))
}

/// Starts a pod of each image, and waits until each has run or been refused.
async fn each(scene: &Scene<'_>, images: &[String]) -> Result<String> {
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(scene.arena.client.clone(), &scene.namespace);
    for (n, image) in images.iter().enumerate() {
        let script = "for f in /stolen /hard /hard2 /hard3 /d/secret; do cat $f; done";
        let pod = json!({"metadata": {"name": format!("each{n}")}, "spec": {"restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "command": ["sh", "-c", script]}]}});
        pods.create(&kube::api::PostParams::default(), &serde_json::from_value(pod)?).await?;
    }
    let mut said = vec![];
    for (n, image) in images.iter().enumerate() {
        let name = format!("each{n}");
        let decided = kube::runtime::wait::await_condition(
            pods.clone(),
            &name,
            |pod: Option<&k8s_openapi::api::core::v1::Pod>| {
                pod.and_then(|p| p.status.as_ref()?.container_statuses.as_ref()?.first()?.state.clone())
                    .is_some_and(|s| s.terminated.is_some() || s.waiting.is_some_and(|w| w.message.is_some()))
            },
        );
        tokio::time::timeout(std::time::Duration::from_secs(60), decided).await??;
        let log = pods.logs(&name, &kube::api::LogParams::default()).await.unwrap_or_default();
        ensure!(!scene.arena.canary.is_in(&log), "{image}: the host's file is in the image");
        said.push(if log.is_empty() { "refused".to_owned() } else { "inside".to_owned() });
    }
    Ok(crate::hostile::scene::tally(said))
}

async fn devices(scene: &Scene<'_>) -> Result<String> {
    let image = Image::of([
        shell()?,
        tar([
            entry(DEVICE, "mem", "", 0o666, &[]),
            entry(DEVICE, "dev/sda", "", 0o666, &[]),
            entry(FIFO, "fifo", "", 0o666, &[]),
            entry(FILE, "suid", "", 0o6755, b"#!/bin/sh\n"),
        ]),
    ]);
    let script = "held mem grep -q . /mem\nheld disk grep -q . /dev/sda\necho done";
    pull(scene, "devices", Ok(image), &Pod { container: image!("devices"), script, ..INSIDE }).await
}

async fn lies(scene: &Scene<'_>) -> Result<String> {
    let enormous = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let negative = [0xff; 12];
    let pax = |records: &str| entry(b'x', "pax", "", 0o644, records.as_bytes());
    let mut broken_sum = entry(FILE, "a", "", 0o644, b"x");
    broken_sum[148..154].copy_from_slice(b"777777");
    let mut cases = vec![
        vec![header(FILE, "a", "", 0o644, &enormous)],
        vec![header(FILE, "a", "", 0o644, &negative)],
        vec![header(b'L', "x", "", 0o644, &enormous)],
        vec![header(b'x', "x", "", 0o644, &enormous)],
        vec![long(b'L', &"a/".repeat(500_000)), entry(FILE, "a", "", 0o644, b"x")],
        vec![long(b'K', &"a/".repeat(500_000)), entry(LINK, "a", "x", 0o644, &[])],
        vec![broken_sum],
        vec![pax("999999999999999999999 path=a\n"), entry(FILE, "a", "", 0o644, b"x")],
        vec![pax("0 path=a\n"), entry(FILE, "a", "", 0o644, b"x")],
        vec![pax("28 size=9223372036854775807\n"), entry(FILE, "a", "", 0o644, b"x")],
        vec![pax("30 GNU.sparse.realsize=9999999\n"), entry(FILE, "a", "", 0o644, b"x")],
        vec![pax("20 path=/../../x\0y\n"), entry(FILE, "a", "", 0o644, b"x")],
        vec![entry(FILE, "a\0b/../../c", "", 0o644, b"x"), entry(200, "b", "", 0o644, b"x")],
        (0..3_000).map(|n| entry(DIRECTORY, &"d/".repeat(n % 50), "", 0o000, &[])).collect(),
    ];
    cases.push((0..10_000).map(|_| pax("10 path=a\n")).collect());
    let mut images = vec![];
    for (n, case) in cases.into_iter().enumerate() {
        let name = format!("lie{n}");
        scene.arena.shelf.put(&name, Image::of([shell()?, tar(case)]).repository());
        images.push(format!("127.0.0.1:5001/{name}:1"));
    }
    each(scene, &images).await
}

async fn sparse_passwd(scene: &Scene<'_>) -> Result<String> {
    let image = Image::of([shell()?, tar([sparse("etc/passwd")])]).config("User", json!("someone"));
    pull(scene, "sparse", Ok(image), &Pod { container: image!("sparse"), ..INSIDE }).await
}

async fn sparse_group(scene: &Scene<'_>) -> Result<String> {
    let image = Image::of([shell()?, tar([sparse("etc/group")])]).config("User", json!("0:somebody"));
    pull(scene, "groups", Ok(image), &Pod { container: image!("groups"), ..INSIDE }).await
}

async fn more(scene: &Scene<'_>) -> Result<String> {
    let canary = scene.arena.canary.dir.display().to_string();
    let secret = format!("{canary}/secret");
    let spec = json!({"annotations": {"cdi.k8s.io/x": "vendor.com/device=all"}, "linux": {"devices": [{"path": "/dev/sda",
        "type": "b", "major": 8, "minor": 0}]}, "mounts": [{"source": canary, "destination": "/stolen", "type": "bind"}]});
    let config = json!({"rootfsImage": "busybox:1.35", "rootfsImageRef": "busybox:1.35", "rootfsImageName": "busybox:1.35"});
    let layer = tar([
        entry(LINK, "container.log", &secret, 0o777, &[]),
        entry(FILE, "spec.dump", "", 0o644, spec.to_string().as_bytes()),
        entry(FILE, "config.dump", "", 0o644, config.to_string().as_bytes()),
        entry(DIRECTORY, "checkpoint", "", 0o755, &[]),
    ]);
    let logger = format!("binary:///bin/sh?-c=touch%20{canary}/kept/new");
    let labels = json!({"containerd.io/restart.status": "running", "containerd.io/restart.loguri": logger,
        "containerd.io/restart.logpath": format!("{canary}/kept/new"), "io.kubernetes.container.logpath": secret,
        "io.kubernetes.cri-o.annotations.checkpoint.name": "x", "org.criu.checkpoint.container.name": "x",
        "org.criu.checkpoint.rootfsImageName": "busybox:1.35", "cdi.k8s.io/x": "vendor.com/device=all"});
    let image = Image::of([shell()?, layer]).config("Labels", labels);
    let script = "held stolen ls /stolen\nheld log cat /container.log\nheld disk test -e /dev/sda\necho done";
    let said = pull(scene, "more", Ok(image), &Pod { container: image!("more"), script, ..INSIDE }).await?;
    // The name that it says it has is still the tests' image's.
    scene.arena.neighbour_is_well().await?;
    Ok(said)
}

/// A file of 64 GB of which four bytes are in the layer.
fn sparse(name: &str) -> Vec<u8> {
    // GNU's old form: one piece at the beginning, and a real size of 64 GB in its head.
    let mut head = header(b'S', name, "", 0o644, b"00000000004\0");
    head[386..398].copy_from_slice(b"00000000000\0");
    head[398..410].copy_from_slice(b"00000000004\0");
    head[483..495].copy_from_slice(b"777777777777");
    head[148..156].copy_from_slice(b"        ");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    head.extend(b"x:x:");
    head.resize(1024, 0);
    head
}

async fn odd_passwd(scene: &Scene<'_>) -> Result<String> {
    let secret = format!("{}/secret", scene.arena.canary.dir.display());
    let image = Image::of([
        shell()?,
        tar([entry(FIFO, "etc/passwd", "", 0o644, &[]), entry(LINK, "etc/group", &secret, 0o777, &[])]),
    ]);
    let image = image.config("User", json!("someone:somebody"));
    pull(scene, "odd", Ok(image), &Pod { container: image!("odd"), ..INSIDE }).await
}

async fn linked_proc(scene: &Scene<'_>) -> Result<String> {
    let canary = scene.arena.canary.dir.display().to_string();
    let busybox = std::fs::read("/bin/busybox")?;
    let mut entries = vec![
        entry(DIRECTORY, "bin", "", 0o755, &[]),
        entry(FILE, "bin/busybox", "", 0o755, &busybox),
        entry(LINK, "proc", &canary, 0o777, &[]),
        entry(LINK, "sys", &format!("../../../../../..{canary}"), 0o777, &[]),
        entry(LINK, "tmp", "proc/kept", 0o777, &[]),
        entry(LINK, "dev", &format!("{canary}/kept"), 0o777, &[]),
        entry(LINK, "etc", &canary, 0o777, &[]),
    ];
    for applet in ["sh", "cat", "head", "grep"] {
        entries.push(entry(LINK, &format!("bin/{applet}"), "busybox", 0o777, &[]));
    }
    let all = Image::of([tar(entries)]);
    let script = "cat /etc/secret; cat /proc/secret; echo x >/etc/new; echo held; echo done";
    let said = pull(scene, "linked", Ok(all), &Pod { container: image!("linked"), script, ..INSIDE }).await?;
    let devices = tar([
        entry(LINK, "dev/null", "/proc/sys/kernel/core_pattern", 0o777, &[]),
        entry(LINK, "dev/console", &format!("{canary}/kept/one"), 0o777, &[]),
        entry(LINK, "dev/pts", &canary, 0o777, &[]),
        entry(LINK, "dev/shm", &canary, 0o777, &[]),
    ]);
    scene.arena.shelf.put("nulls", Image::of([shell()?, devices]).repository());
    let alone = each(scene, &["127.0.0.1:5001/nulls:1".to_owned()]).await?;
    Ok(format!("{said}; {alone}"))
}

async fn image_volumes(scene: &Scene<'_>) -> Result<String> {
    let canary = scene.arena.canary.dir.display().to_string();
    let upwards = format!("/../../../../../../../../..{canary}");
    let mut image = Image::of([shell()?, tar([entry(LINK, "data", &canary, 0o777, &[])])]);
    image = image.config("Volumes", json!({&upwards: {}, "/data": {}, "/proc": {}, "/": {}}));
    image = image.config("WorkingDir", json!(format!("{upwards}/kept/made")));
    let script = "cat /data/secret; cat ../../secret; cat ../secret; echo held; echo done";
    pull(scene, "volumes", Ok(image), &Pod { container: image!("volumes"), script, ..INSIDE }).await
}

async fn seen_by_others(scene: &Scene<'_>) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let image = Image::of([shell()?, tar([entry(FILE, "suid", "", 0o4755, b"#!/bin/sh\nid\n")])]);
    let row = Pod { container: image!("suid"), script: "sleep 30", ends: Ends::Lasts(5), ..PULLED };
    scene.arena.shelf.put("suid", image.repository());
    let said = pods::play(scene, &row).await?;
    // Whoever may not pass one directory on the way does not come to what is below it.
    let (mut open, mut waiting) =
        (vec![], vec![scene.arena.layout.run.clone(), scene.arena.layout.data.clone()]);
    while let Some(path) = waiting.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if !meta.is_dir() || meta.mode() & 0o001 == 0 {
            continue;
        }
        if ["rootfs", "layers", "diff", "upper"].iter().any(|name| path.ends_with(name)) {
            open.push(path);
            continue;
        }
        waiting.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
    }
    ensure!(open.is_empty(), "other users reach {open:?}");
    Ok(format!("{said}; no way for other users"))
}

async fn many_files(scene: &Scene<'_>) -> Result<String> {
    let entries =
        (0..scene.amount(100_000, 5_000)).map(|n| entry(FILE, &format!("many/{n}"), "", 0o644, &[]));
    let image = Image::of([shell()?, tar(entries)]);
    pull(
        scene,
        "many",
        Ok(image),
        &Pod { container: image!("many"), script: "echo held; echo done", ..INSIDE },
    )
    .await
}
