//! Documents and blobs that are not what they are said to be.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::Api;
use serde_json::json;

use super::layers::{Image, digest, gzip, shell, tar};
use super::registry::Served;
use super::{PULLED, Pod, ROW, image, pull};
use crate::hostile::book::{Attack, How};
use crate::hostile::cost::disk;
use crate::hostile::pods::{self, Ends};
use crate::hostile::scene::Scene;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "diff_ids that are paths", findings: "security B3", quick: true, does: "diff_ids that lead to the cluster's keys", how: How::Tenant(|s| Box::pin(pull(s, "paths", diff_id("../../pki"), &Pod { container: image!("paths"), script: "held key cat /ca.key", ends: Ends::NeverOrHeld, ..PULLED }))), ..ROW },
    Attack { name: "diff_ids that are no text", findings: "security B3, M16", does: "a character of three bytes where a digest would be cut", must: "refused; no worker panics", how: How::Tenant(|s| Box::pin(pull(s, "letters", diff_id("sha256:aaaaaaaa\u{20ac}\u{20ac}\u{20ac}"), &Pod { container: image!("letters"), ..PULLED }))), ..ROW },
    Attack { name: "a manifest for another digest", findings: "security M13", does: "answers a pod that pins a digest with another manifest, and says in the header that it is right", how: How::Tenant(|s| Box::pin(pinned(s))), ..ROW },
    Attack { name: "a gigantic manifest", findings: "security M7", does: "a manifest of 800 MB", how: How::Tenant(|s| Box::pin(gigantic(s, true))), ..ROW },
    Attack { name: "a gigantic configuration", findings: "security M7", does: "a configuration of 800 MB", how: How::Tenant(|s| Box::pin(gigantic(s, false))), ..ROW },
    Attack { name: "documents full of small things", findings: "security M7", does: "20,000 layers; 300,000 variables; 100,000 brackets", how: How::Tenant(|s| Box::pin(full(s))), ..ROW },
    Attack { name: "a layer of another digest", findings: "security M13", does: "a blob, and what is in it, that have other digests", how: How::Tenant(|s| Box::pin(other(s))), ..ROW },
    Attack { name: "a layer without end", findings: "security M7", does: "100 GB where 1 KB was promised", how: How::Tenant(|s| Box::pin(pull(s, "endless", blob(Served::Zeros(100 << 30)), &Pod { container: image!("endless"), ..PULLED }))), ..ROW },
    Attack { name: "a registry that is slow", findings: "issue 11.5", does: "a byte a second for three pods; a fourth has a good image", must: "the good image is not kept waiting, the pods can be deleted", how: How::Tenant(|s| Box::pin(slow(s))), ..ROW },
    Attack { name: "a registry that sends in circles", findings: "issue 11.5", does: "redirects to itself", how: How::Tenant(|s| Box::pin(pull(s, "circles", blob(Served::Redirected), &Pod { container: image!("circles"), ..PULLED }))), ..ROW },
    Attack { name: "a layer that is a bomb", findings: "security M7", does: "2 MB that unpack to 1 GB, with the digest of something else", must: "refused, and the room is given back", how: How::Tenant(|s| Box::pin(bomb(s))), ..ROW },
    Attack { name: "a million empty members", findings: "security M7", does: "a gzip stream of a million members without content", how: How::Tenant(|s| Box::pin(pull(s, "members", Ok(members()), &Pod { container: image!("members"), ..PULLED }))), ..ROW },
    Attack { name: "uids out of range", findings: "security M2; CVE-2024-40635", does: "USER 4294967295 under runAsNonRoot", must: "refused, never uid 0", how: How::Tenant(|s| Box::pin(pull(s, "user1", user("4294967295"), &Pod { spec: NON_ROOT, container: image!("user1"), script: "held root test $(id -u) = 0", ..PULLED }))), ..ROW },
    Attack { name: "uids that are none", findings: "CVE-2024-40635", does: "USER -1:4294967296 under runAsNonRoot", must: "refused, never uid 0", how: How::Tenant(|s| Box::pin(pull(s, "user2", user("-1:4294967296"), &Pod { spec: NON_ROOT, container: image!("user2"), ..PULLED }))), ..ROW },
    Attack { name: "a root by another name", findings: "security M2", does: "USER admin, uid 0 in the image's passwd, under runAsNonRoot", must: "refused", how: How::Tenant(|s| Box::pin(pull(s, "user3", user("admin"), &Pod { spec: NON_ROOT, container: image!("user3"), ..PULLED }))), ..ROW },
];

const NON_ROOT: &str = r#"{"securityContext":{"runAsNonRoot":true}}"#;

fn diff_id(id: &str) -> Result<Image> {
    let mut image = Image::of([shell()?]);
    id.clone_into(&mut image.layers[0].1);
    Ok(image)
}

fn blob(served: Served) -> Result<Image> {
    // No other image has this layer: what is unpacked already is not asked for.
    let file = super::layers::entry(super::layers::FILE, "asked-for", "", 0o644, b"x");
    let mut image = Image::of([tar([file])]);
    image.layers[0].0 = served;
    // What is promised has the right length for a small layer, and the digest of nothing that comes.
    image.said = Some((digest(b"promised"), 1024));
    Ok(image)
}

fn user(name: &str) -> Result<Image> {
    let passwd =
        super::layers::entry(super::layers::FILE, "etc/passwd", "", 0o644, b"admin:x:0:0::/:/bin/sh\n");
    Ok(Image::of([shell()?, tar([passwd])]).config("User", json!(name)))
}

fn members() -> Image {
    let mut image = Image::of([tar([])]);
    image.layers[0].0 = Served::Bytes(gzip(b"").repeat(1_000_000).into());
    image
}

async fn pinned(scene: &Scene<'_>) -> Result<String> {
    const PINNED: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    let mut repository = Image::of([shell()?]).repository();
    repository.claimed = Some(PINNED.to_owned());
    scene.arena.shelf.put("pinned", repository);
    let container = r#"{"image":"127.0.0.1:5001/pinned@sha256:1111111111111111111111111111111111111111111111111111111111111111"}"#;
    pods::play(scene, &Pod { container, ..PULLED }).await
}

async fn gigantic(scene: &Scene<'_>, manifest: bool) -> Result<String> {
    let mut image = Image::of([shell()?]);
    let zeros = Served::Zeros(800_000_000);
    if !manifest {
        image.config_as = Some(zeros.clone());
    }
    let mut repository = image.repository();
    if manifest {
        repository.manifest = zeros;
    }
    scene.arena.shelf.put("gigantic", repository);
    pods::play(scene, &Pod { container: image!("gigantic"), ..PULLED }).await
}

async fn full(scene: &Scene<'_>) -> Result<String> {
    let mut many = Image::of([tar([])]);
    many.layers = vec![many.layers.remove(0); 20_000];
    scene.arena.shelf.put("full", many.repository());
    let variables: Vec<String> = (0..300_000).map(|n| format!("V{n}=x")).collect();
    scene.arena.shelf.put("variables", Image::of([shell()?]).config("Env", json!(variables)).repository());
    let mut deep = Image::of([shell()?]);
    deep.config_as = Some(Served::Bytes("[".repeat(100_000).into()));
    scene.arena.shelf.put("deep", deep.repository());
    let mut nested = Image::of([shell()?]).repository();
    nested.manifest = Served::Bytes("{\"a\":".repeat(100_000).into());
    scene.arena.shelf.put("nested", nested);
    let spec = r#"{"containers":[{"name":"v","image":"127.0.0.1:5001/variables:1"},{"name":"d","image":"127.0.0.1:5001/deep:1"},
        {"name":"n","image":"127.0.0.1:5001/nested:1"}]}"#;
    pods::play(scene, &Pod { spec, container: image!("full"), ..PULLED }).await
}

async fn other(scene: &Scene<'_>) -> Result<String> {
    let mut image = Image::of([shell()?]);
    image.layers[0].1 = digest(b"other");
    pull(scene, "unpacked-to-other", Ok(image), &Pod { container: image!("unpacked-to-other"), ..PULLED })
        .await
}

async fn slow(scene: &Scene<'_>) -> Result<String> {
    scene.arena.shelf.put("slow", blob(Served::Slow)?.repository());
    let spec = r#"{"containers":[{"name":"a","image":"127.0.0.1:5001/slow:1"},{"name":"b","image":"127.0.0.1:5001/slow:1"}]}"#;
    let row = Pod { spec, container: image!("slow"), ..PULLED };
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(scene.arena.client.clone(), &scene.namespace);
    let mut slow = pods::manifest(scene, &row)?;
    for n in 0..3 {
        slow["metadata"]["name"] = json!(format!("slow{n}"));
        pods.create(&kube::api::PostParams::default(), &serde_json::from_value(slow.clone())?).await?;
    }
    scene.arena.shelf.put("good", Image::of([shell()?]).repository());
    let good = Pod { spec: "{}", container: image!("good"), script: "echo held", ends: Ends::Held, ..PULLED };
    let begun = std::time::Instant::now();
    let said = pods::play(scene, &good).await?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(30), "the good image took {took:?}");
    Ok(format!("{said} in {:.1} s", took.as_secs_f64()))
}

async fn bomb(scene: &Scene<'_>) -> Result<String> {
    let head = super::layers::header(super::layers::FILE, "zeros", "", 0o644, b"07777777777\0");
    let compressed = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        let _ = encoder.write_all(&head);
        for _ in 0..1024 {
            let _ = encoder.write_all(&[0; 1 << 20]);
        }
        encoder.finish().unwrap_or_default()
    });
    let mut image = Image::of([tar([])]);
    image.layers[0] = (Served::Bytes(compressed.await?.into()), digest(b"other"));
    let images = scene.arena.layout.images();
    let before = disk(&images);
    let said = pull(scene, "bomb", Ok(image), &Pod { container: image!("bomb"), ..PULLED }).await?;
    // The failed try's room is given back before the next one begins.
    for _ in 0..100 {
        if disk(&images) < before + (50 << 20) {
            return Ok(said);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("{} MB of a refused image are kept", (disk(&images) - before) >> 20)
}
