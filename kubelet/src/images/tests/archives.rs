//! Archives of images, and what the store keeps of them.

use super::*;

/// What `docker save` writes.
fn docker_archive(tag: &str, diff_id: &str, layer: &[u8]) -> Vec<u8> {
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": [tag], "Layers": ["l.tar"]}]).to_string();
    let config = configuration(&[diff_id.to_owned()]);
    archive(&[
        Member { name: b"l.tar", data: layer, ..FILE },
        Member { name: b"c.json", data: config.as_bytes(), ..FILE },
        Member { name: b"manifest.json", data: manifest.as_bytes(), ..FILE },
    ])
}

async fn open(dir: &Path) -> Images {
    Images::open(ImagesConfig { dir: dir.join("images"), ..ImagesConfig::default() }).await.unwrap()
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn a_diff_id_is_no_path() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let pki = dir.path().join("pki");
    fs::create_dir(&pki).unwrap();
    fs::write(pki.join("ca.key"), "secret").unwrap();
    let layer = archive(&[Member { name: b"f", ..FILE }]);
    let path = dir.path().join("archive.tar");
    let bad = [
        "../../pki".to_owned(),
        "sha256:../../pki".to_owned(),
        format!("sha256:../../{}", "p".repeat(58)),
        "sha256:aaaaaaaaaaaaaaaé".to_owned(),
        format!("sha256:{}é", "a".repeat(62)),
        Digest::of(b"something else").to_string(),
        Digest::of(&layer).to_string().to_uppercase(),
        Digest::of(&layer).to_string()[..23].to_owned(),
    ];
    for diff_id in bad {
        fs::write(&path, docker_archive("a:1", &diff_id, &layer)).unwrap();
        assert!(images.import(&path, None).await.is_err(), "{diff_id}");
        assert!(images.list().is_empty(), "{diff_id}");
        for room in ["images/layers", "images/tmp"] {
            assert_eq!(entries_of(&dir.path().join(room)), 0, "{diff_id}: {room}");
        }
    }
    assert_eq!(fs::read_to_string(pki.join("ca.key")).unwrap(), "secret");
    for id in ["sha256:../../pki", "sha256:aaaaaaaaaaaaaaaé"] {
        assert!(images.config(id).is_none() && images.layers(id).is_none(), "{id}");
        let _ = images.remove(id).await;
    }
    fs::write(&path, docker_archive("a:1", &Digest::of(&layer).to_string(), &layer)).unwrap();
    let image = &images.import(&path, None).await.unwrap()[0];
    let expected = dir.path().join("images/layers").join(Digest::of(&layer).hex());
    assert_eq!(images.layers(&image.id).unwrap(), [expected], "the whole digest is the name");
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn archives_have_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let path = dir.path().join("archive.tar");
    let large = vec![b' '; (8 << 20) + 1];
    let far = {
        let mut bytes = header(&Member { name: b"manifest.json", ..FILE }, 1 << 40).as_bytes().to_vec();
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    };
    let nothing: &[Member<'_>] = &[];
    let cases = [
        ("a large document", archive(&[Member { name: b"manifest.json", data: &large, ..FILE }])),
        ("a document beyond the file", far),
        (
            "a document that is a link to nothing",
            archive(&[Member { name: b"manifest.json", link: b"/etc/passwd", ..SYMLINK }]),
        ),
        ("no document", archive(nothing)),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        assert!(images.import(&path, None).await.is_err(), "{what}");
    }
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn unused_images_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    let path = dir.path().join("archive.tar");
    for name in ["a", "b", "c"] {
        let layer = archive(&[Member { name: name.as_bytes(), ..FILE }]);
        fs::write(&path, docker_archive(name, &Digest::of(&layer).to_string(), &layer)).unwrap();
        images.import(&path, None).await.unwrap();
    }
    let id = |name: &str| images.get(name).unwrap().map(|image| image.id);
    let in_use = HashSet::from([id("b").unwrap()]);
    let young = images.collect_garbage(&in_use, Wanted::Bytes(u64::MAX), &GarbagePolicy::default()).await;
    assert_eq!(young.unwrap().images, 0, "they have just come");
    let at_once = GarbagePolicy { minimum_age: std::time::Duration::ZERO, ..GarbagePolicy::default() };
    let one = images.collect_garbage(&in_use, Wanted::Bytes(1), &at_once).await.unwrap();
    assert_eq!(one.images, 1, "no more than is wanted");
    assert!(one.bytes > 0);
    let rest = images.collect_garbage(&in_use, Wanted::Bytes(u64::MAX), &at_once).await.unwrap();
    assert_eq!(rest.images, 1);
    assert!(id("a").is_none() && id("b").is_some() && id("c").is_none());
    assert_eq!(entries_of(&dir.path().join("images/layers")), 1);
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn what_images_take_is_what_their_layers_take_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path()).await;
    assert_eq!(images.taken().await, Some(crate::beneath::Usage::default()));
    let path = dir.path().join("archive.tar");
    let data = vec![7; 1 << 20];
    let layer = |name: &str| archive(&[Member { name: name.as_bytes(), data: &data, ..FILE }]);
    let import = async |name: &str, layer: &[u8]| {
        fs::write(&path, docker_archive(name, &Digest::of(layer).to_string(), layer)).unwrap();
        images.import(&path, None).await.unwrap();
    };
    import("a", &layer("x")).await;
    let one = images.taken().await.unwrap();
    assert!(one.bytes >= 1 << 20 && one.bytes < 2 << 20 && one.inodes == 2, "{one:?}");
    import("same", &layer("x")).await;
    assert_eq!(images.taken().await, Some(one), "a layer is there once");
    // What others write there is no image's.
    fs::write(dir.path().join("images/layers/foreign"), &data).unwrap();
    import("b", &layer("y")).await;
    let two = images.taken().await.unwrap();
    assert_eq!((two.bytes, two.inodes), (2 * one.bytes, 2 * one.inodes));
    images.remove("b").await.unwrap();
    assert_eq!(images.taken().await, Some(one));
}
