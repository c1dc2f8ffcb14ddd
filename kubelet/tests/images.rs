//! Real pulls from Debian's docker-registry on loopback, which `hack/images` fills.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_kubelet::cri::RegistryCredential;
use coracle_kubelet::images::{Images, ImagesConfig};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn registry() -> (Server, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/images");
    let mut child = Command::new(script).args(["serve", &address]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line}");
    (Server(child), address)
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs the packages of `hack/deps tests`")]
async fn pulls_through_a_mirror_by_tag_and_digest() {
    let (_server, address) = registry();
    let dir = tempfile::tempdir().unwrap();
    let mirrors = dir.path().join("registries.yaml");
    std::fs::write(&mirrors, format!("mirrors:\n  docker.io: [\"http://{address}\"]\n")).unwrap();
    let config = ImagesConfig {
        dir: dir.path().join("images"),
        mirrors_file: Some(mirrors),
        plain_http: vec![address.clone()],
        ..ImagesConfig::default()
    };
    let images = Images::open(config).await.unwrap();

    let bytes = Arc::new(AtomicU64::new(0));
    let seen = bytes.clone();
    let progress = Arc::new(move |progress: coracle_kubelet::images::Progress| {
        seen.fetch_max(progress.done_bytes, Ordering::Relaxed);
    });
    // Two at once are one pull.
    let (one, two) = tokio::join!(
        images.pull("nginx:1.22", &[], Some(progress)),
        images.pull("docker.io/library/nginx:1.22", &[], None)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!(one.tags, ["docker.io/library/nginx:1.22"]);
    assert!(one.digests[0].starts_with("docker.io/library/nginx@sha256:"), "{:?}", one.digests);
    assert!(bytes.load(Ordering::Relaxed) > 1 << 20, "progress is told");
    assert_eq!(
        std::fs::read_dir(dir.path().join("images/tmp")).unwrap().count(),
        0,
        "nothing unfinished is left"
    );

    let by_digest = images.pull(&one.digests[0], &[], None).await.unwrap();
    assert_eq!(by_digest.id, one.id);
    let plain = images.pull(&format!("{address}/library/busybox:1.35"), &[], None).await.unwrap();
    assert_eq!(plain.tags, [format!("{address}/library/busybox:1.35")]);

    let name = "docker.io/library/nginx:no-such-tag";
    let error = images.pull("nginx:no-such-tag", &[], None).await.unwrap_err().to_string();
    let want = format!(
        "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: {name}: not found"
    );
    assert_eq!(error, want, "containerd's words");
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs the packages of `hack/deps tests`")]
async fn credentials_reach_only_the_registry_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    // bcrypt of "secret", with the lowest cost
    std::fs::write(
        dir.path().join("users"),
        "me:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n",
    )
    .unwrap();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{inmemory: {{}}}}\nhttp: {{addr: \"{address}\"}}\nauth: {{htpasswd: {{realm: r, path: {}}}}}\n",
        dir.path().join("users").display()
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(dir.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Server(command.spawn().unwrap());
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mirrors = dir.path().join("registries.yaml");
    std::fs::write(&mirrors, format!("mirrors:\n  127.0.0.1:1: [\"http://{address}\"]\n")).unwrap();
    let config = ImagesConfig {
        dir: dir.path().join("images"),
        mirrors_file: Some(mirrors),
        plain_http: vec![address.clone(), "127.0.0.1:1".to_owned()],
        ..ImagesConfig::default()
    };
    let images = Images::open(config).await.unwrap();
    let credential = |registry: &str, password: &str| {
        [RegistryCredential {
            registry: registry.to_owned(),
            username: "me".to_owned(),
            password: password.to_owned(),
            secret: None,
        }]
    };
    let pull = async |name: String, credentials: &[RegistryCredential]| {
        images.pull(&name, credentials, None).await.unwrap_err().to_string()
    };
    // The registry holds nothing: who gets in is told so.
    let error = pull(format!("{address}/app:1"), &credential(&address, "secret")).await;
    assert!(error.ends_with("/app:1: not found"), "{error}");
    let denied = "pull access denied, repository does not exist or may require authorization";
    for credentials in [&credential(&address, "wrong")[..], &credential("other.example.com", "secret"), &[]] {
        let error = pull(format!("{address}/app:1"), credentials).await;
        assert!(error.contains(denied), "{error}");
    }
    // 127.0.0.1:1's password does not go to its mirror, which therefore does not say "not found".
    let error = pull("127.0.0.1:1/app:1".to_owned(), &credential("127.0.0.1:1", "secret")).await;
    assert!(!error.ends_with("not found"), "{error}");
    let error = pull("127.0.0.1:1/app:1".to_owned(), &credential(&address, "secret")).await;
    assert!(error.ends_with("not found"), "{error}");
}
