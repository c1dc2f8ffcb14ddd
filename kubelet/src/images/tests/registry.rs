//! Pulls from a registry that lies, stalls, floods and asks for passwords.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::digest::Digest;
use super::super::{Images, ImagesConfig};
use super::{FILE, Member, archive, configuration, entries_of};
use crate::cri::{RegistryCredential, SecretReference};

/// What a request looked like.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    path: String,
    authorization: Option<String>,
}

#[derive(Clone)]
enum Reply {
    Ok(Vec<u8>),
    Status(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Says that there are so many bytes, sends these and hangs up.
    Cut(u64, Vec<u8>),
    /// Sends these again and again, and never says how many there are.
    Endless(Vec<u8>),
    /// Takes the request and says nothing.
    Silence,
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// `answer` is told the server's own address first.
    async fn start(answer: impl FnOnce(&str) -> Box<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, all): (Arc<Answer>, _) = (answer(&address).into(), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), all.clone()));
            }
        });
        Server { address, seen, task }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

async fn serve(mut stream: tokio::net::TcpStream, answer: Arc<Answer>, all: Arc<Mutex<Vec<Seen>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let authorization = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
    });
    let seen = Seen { path: head.split(' ').nth(1).unwrap_or_default().to_owned(), authorization };
    all.lock().push(seen.clone());
    let head = |status: u16, length: u64, headers: &[(&str, String)]| {
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n")
            .into_bytes()
    };
    // The client may have hung up: that is its right.
    match answer(&seen) {
        Reply::Ok(body) => {
            let lie = [("docker-content-digest", Digest::of(b"a lie").to_string())];
            let _ = stream.write_all(&[head(200, body.len() as u64, &lie), body].concat()).await;
        }
        Reply::Status(status, headers, body) => {
            let _ = stream.write_all(&[head(status, body.len() as u64, &headers), body].concat()).await;
        }
        Reply::Cut(length, body) => {
            let _ = stream.write_all(&[head(200, length, &[]), body].concat()).await;
        }
        Reply::Endless(body) => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {}
        }
        Reply::Silence => std::future::pending().await,
    }
}

/// A whole image, as a registry has it.
struct Image {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Image {
    fn new(content: &[u8]) -> Image {
        let layer = archive(&[Member { name: b"file", data: content, ..FILE }]);
        let config = configuration(&[Digest::of(&layer).to_string()]).into_bytes();
        let manifest = manifest(&config, &layer);
        Image { manifest, config, layer }
    }

    fn parts(&self) -> BTreeMap<String, Reply> {
        let manifest = Digest::of(&self.manifest);
        BTreeMap::from([
            ("/v2/app/manifests/1".to_owned(), Reply::Ok(self.manifest.clone())),
            (format!("/v2/app/manifests/{manifest}"), Reply::Ok(self.manifest.clone())),
            (blob(&self.config), Reply::Ok(self.config.clone())),
            (blob(&self.layer), Reply::Ok(self.layer.clone())),
        ])
    }
}

fn manifest(config: &[u8], layer: &[u8]) -> Vec<u8> {
    let part =
        |bytes: &[u8]| serde_json::json!({"digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    serde_json::json!({"schemaVersion": 2, "config": part(config), "layers": [part(layer)]})
        .to_string()
        .into_bytes()
}

fn blob(bytes: &[u8]) -> String {
    format!("/v2/app/blobs/{}", Digest::of(bytes))
}

fn parts(parts: BTreeMap<String, Reply>) -> impl FnOnce(&str) -> Box<Answer> {
    move |_| {
        Box::new(move |seen: &Seen| {
            parts.get(&seen.path).cloned().unwrap_or_else(|| Reply::Status(404, Vec::new(), Vec::new()))
        })
    }
}

async fn node(dir: &Path, registries: &[&Server]) -> Images {
    let config = ImagesConfig {
        dir: dir.join("images"),
        plain_http: registries.iter().map(|server| server.address.clone()).collect(),
        ..ImagesConfig::default()
    };
    Images::open(config).await.unwrap()
}

fn credential(registry: &str, namespace: &str, password: &str) -> RegistryCredential {
    RegistryCredential {
        registry: registry.to_owned(),
        username: "me".to_owned(),
        password: password.to_owned(),
        secret: Some(SecretReference {
            uid: format!("uid-{namespace}"),
            namespace: namespace.to_owned(),
            name: "pull".to_owned(),
        }),
    }
}

fn basic(password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{password}")))
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn the_repo_digest_is_that_of_what_was_read() {
    let image = Image::new(b"good");
    let server = Server::start(parts(image.parts())).await;
    let dir = tempfile::tempdir().unwrap();
    let images = node(dir.path(), &[&server]).await;
    let digest = Digest::of(&image.manifest);
    let by_tag = images.pull(&format!("{}/app:1", server.address), &[], None).await.unwrap();
    assert_eq!(by_tag.digests, [format!("{}/app@{digest}", server.address)], "headers lie");
    assert_eq!(by_tag.id, Digest::of(&image.config).to_string());
    assert_eq!(by_tag.user, "7");
    let by_digest = images.pull(&format!("{}/app@{digest}", server.address), &[], None).await.unwrap();
    assert_eq!(by_digest.id, by_tag.id);
    assert_eq!(fs::read(images.layers(&by_tag.id).unwrap()[0].join("file")).unwrap(), b"good");
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn what_is_not_what_was_asked_for_is_refused() {
    let image = Image::new(b"good");
    let (layer, config) = (blob(&image.layer), blob(&image.config));
    let pinned = format!("@{}", Digest::of(&image.manifest));
    let one = "/v2/app/manifests/1".to_owned();
    let other = Image::new(b"evil");
    let flood = vec![b' '; 1 << 20];
    let index = |digest: Digest| {
        let platforms = ["amd64", "arm64"].map(|architecture| {
            serde_json::json!({"digest": digest.to_string(), "size": 1,
                "platform": {"os": "linux", "architecture": architecture}})
        });
        serde_json::json!({"schemaVersion": 2, "manifests": platforms}).to_string().into_bytes()
    };
    let nested = index(Digest::of(&image.manifest));
    let many = {
        let part = serde_json::json!({"digest": Digest::of(b"").to_string(), "size": 0});
        let layers = vec![part.clone(); 1000];
        serde_json::json!({"schemaVersion": 2, "config": part, "layers": layers}).to_string().into_bytes()
    };
    let huge = {
        let part = serde_json::json!({"digest": Digest::of(b"").to_string(), "size": 1_u64 << 40});
        serde_json::json!({"schemaVersion": 2, "config": part, "layers": []}).to_string().into_bytes()
    };
    let petabytes = {
        let config: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        let layer = serde_json::json!({"digest": Digest::of(&image.layer).to_string(), "size": 1_u64 << 50});
        serde_json::json!({"schemaVersion": 2, "config": config["config"], "layers": [layer]})
            .to_string()
            .into_bytes()
    };
    let redirect = |to: &str| Reply::Status(307, vec![("location", to.to_owned())], Vec::new());
    let longer = [&image.layer[..], b"more"].concat();
    let cases: Vec<(&str, &str, Vec<(String, Reply)>)> = vec![
        (
            "another manifest for a digest",
            &pinned,
            vec![(
                format!("/v2/app/manifests/{}", Digest::of(&image.manifest)),
                Reply::Ok(other.manifest.clone()),
            )],
        ),
        ("a manifest of 800 MB", ":1", vec![(one.clone(), Reply::Cut(800 << 20, flood.clone()))]),
        ("a manifest without end", ":1", vec![(one.clone(), Reply::Endless(flood.clone()))]),
        ("a cut manifest", ":1", vec![(one.clone(), Reply::Cut(10_000, image.manifest.clone()))]),
        ("no manifest", ":1", vec![(one.clone(), Reply::Ok(b"[[[[".to_vec()))]),
        (
            "an index that leads to an index",
            ":1",
            vec![
                (one.clone(), Reply::Ok(index(Digest::of(&nested)))),
                (format!("/v2/app/manifests/{}", Digest::of(&nested)), Reply::Ok(nested.clone())),
            ],
        ),
        (
            "an index that lies",
            ":1",
            vec![
                (one.clone(), Reply::Ok(index(Digest::of(&image.manifest)))),
                (
                    format!("/v2/app/manifests/{}", Digest::of(&image.manifest)),
                    Reply::Ok(other.manifest.clone()),
                ),
            ],
        ),
        ("a thousand layers", ":1", vec![(one.clone(), Reply::Ok(many))]),
        ("a configuration of a terabyte", ":1", vec![(one.clone(), Reply::Ok(huge))]),
        ("a layer that no disk holds", ":1", vec![(one.clone(), Reply::Ok(petabytes))]),
        ("another configuration", ":1", vec![(config.clone(), Reply::Ok(other.config.clone()))]),
        ("a configuration without end", ":1", vec![(config.clone(), Reply::Endless(flood.clone()))]),
        ("another layer", ":1", vec![(layer.clone(), Reply::Ok(other.layer.clone()))]),
        ("more of a layer", ":1", vec![(layer.clone(), Reply::Ok(longer))]),
        ("a layer without end", ":1", vec![(layer.clone(), Reply::Endless(flood.clone()))]),
        ("less of a layer", ":1", vec![(layer.clone(), Reply::Ok(image.layer[..512].to_vec()))]),
        ("a cut layer", ":1", vec![(layer.clone(), Reply::Cut(image.layer.len() as u64, vec![0; 10]))]),
        ("a redirect to itself", ":1", vec![(one.clone(), redirect(&one))]),
        ("a redirect to a file", ":1", vec![(one.clone(), redirect("file:///etc/passwd"))]),
        ("a redirect to plain HTTP elsewhere", ":1", vec![(one.clone(), redirect("http://192.0.2.1/x"))]),
        ("a redirect to nowhere", ":1", vec![(one.clone(), Reply::Status(302, Vec::new(), Vec::new()))]),
        ("an error that is long", ":1", vec![(one.clone(), Reply::Status(500, Vec::new(), flood.clone()))]),
        ("nothing", ":2", vec![]),
    ];
    for (what, name, changes) in cases {
        let mut all = image.parts();
        all.extend(changes);
        let server = Server::start(parts(all)).await;
        let dir = tempfile::tempdir().unwrap();
        let images = node(dir.path(), &[&server]).await;
        let error = images.pull(&format!("{}/app{name}", server.address), &[], None).await.unwrap_err();
        assert!(error.to_string().len() < 2000, "{what}: {error}");
        assert!(server.seen().len() < 10, "{what}: attempts have an end");
        assert!(images.list().is_empty(), "{what}");
        for room in ["images/layers", "images/tmp"] {
            assert_eq!(entries_of(&dir.path().join(room)), 0, "{what}: {room}");
        }
    }
}

#[tokio::test]
async fn a_silent_registry_is_left() {
    let server = Server::start(|_| Box::new(|_: &Seen| Reply::Silence)).await;
    let dir = tempfile::tempdir().unwrap();
    let images = node(dir.path(), &[&server]).await;
    let name = format!("{}/app:1", server.address);
    tokio::time::pause();
    let error = images.pull(&name, &[], None).await.unwrap_err().to_string();
    assert!(error.contains("in time") || error.contains("timed out"), "{error}");
    assert!(images.pulls.lock().is_empty());
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_is_forgotten() {
    let server = Server::start(|_| Box::new(|_: &Seen| Reply::Silence)).await;
    let dir = tempfile::tempdir().unwrap();
    let images = node(dir.path(), &[&server]).await;
    let name = format!("{}/app:1", server.address);
    let (mut one, mut two) =
        (Box::pin(images.pull(&name, &[], None)), Box::pin(images.pull(&name, &[], None)));
    assert!(futures::poll!(&mut one).is_pending() && futures::poll!(&mut two).is_pending());
    assert_eq!(images.pulls.lock().len(), 1, "they are joined");
    drop(one);
    assert_eq!(images.pulls.lock().len(), 1);
    drop(two);
    assert!(images.pulls.lock().is_empty());
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn passwords_stay_with_their_registry() {
    let image = Arc::new(Image::new(b"private"));
    let elsewhere = Server::start(|_| {
        Box::new(|_| {
            Reply::Status(401, vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], Vec::new())
        })
    })
    .await;
    let realm = |address: &str| format!("Bearer realm=\"http://{address}/token\",service=\"s\"");
    let challenged = |challenge: String| {
        move |_: &Seen| Reply::Status(401, vec![("www-authenticate", challenge.clone())], Vec::new())
    };
    // A token server at another address, and redirects to one.
    let other = elsewhere.address.clone();
    let token = Server::start(|_| Box::new(challenged(realm(&other)))).await;
    let to = format!("http://{other}/v2/app/manifests/1");
    let redirecting = Server::start(|_| {
        Box::new(move |seen: &Seen| match &seen.authorization {
            Some(_) => Reply::Status(307, vec![("location", to.clone())], Vec::new()),
            None => {
                Reply::Status(401, vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], Vec::new())
            }
        })
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = node(dir.path(), &[&token, &redirecting]).await;
    for server in [&token, &redirecting] {
        let credentials = [credential(&server.address, "a", "secret")];
        let name = format!("{}/app:1", server.address);
        assert!(images.pull_for_pod(&name, &credentials).await.is_err());
    }
    assert!(redirecting.seen().iter().any(|seen| seen.authorization == Some(basic("secret"))));
    assert!(elsewhere.seen().iter().all(|seen| seen.authorization.is_none()), "{:?}", elsewhere.seen());

    // Its own token server gets it, and the token goes where it is for.
    let all = image.parts();
    let own = Server::start(|address| {
        let challenge = challenged(realm(address));
        Box::new(move |seen: &Seen| match seen.authorization.as_deref() {
            Some(have) if seen.path.starts_with("/token?") && have == basic("secret") => {
                Reply::Ok(br#"{"access_token":"t"}"#.to_vec())
            }
            Some("Bearer t") => all.get(&seen.path).cloned().unwrap_or(Reply::Silence),
            _ => challenge(seen),
        })
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = node(dir.path(), &[&own]).await;
    let name = format!("{}/app:1", own.address);
    assert!(images.pull_for_pod(&name, &[credential(&own.address, "a", "wrong")]).await.is_err());
    let both = [credential(&own.address, "a", "wrong"), credential(&own.address, "b", "secret")];
    images.pull_for_pod(&name, &both).await.unwrap();
    let asked: Vec<Seen> = own.seen().into_iter().filter(|seen| seen.path.starts_with("/token")).collect();
    assert_eq!(asked.last().unwrap().path, "/token?scope=repository%3Aapp%3Apull&service=s");
}

#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn a_private_image_is_for_those_who_showed_the_password() {
    let image = Arc::new(Image::new(b"private"));
    let all = image.parts();
    let server = Server::start(|_| {
        Box::new(move |seen: &Seen| {
            let public = seen.path.contains("/open/");
            match &seen.authorization {
                _ if public => {
                    all.get(&seen.path.replace("/open/", "/app/")).cloned().unwrap_or(Reply::Silence)
                }
                Some(have) if *have == basic("secret") => {
                    all.get(&seen.path).cloned().unwrap_or(Reply::Silence)
                }
                _ => {
                    Reply::Status(401, vec![("www-authenticate", "Basic realm=\"r\"".to_owned())], Vec::new())
                }
            }
        })
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let images = node(dir.path(), &[&server]).await;
    let (private, open) = (format!("{}/app:1", server.address), format!("{}/open:1", server.address));
    let owner = credential(&server.address, "owner", "secret");
    images.pull_for_pod(&private, std::slice::from_ref(&owner)).await.unwrap();
    let may = async |images: &Images, name: &str, credentials: &[RegistryCredential]| {
        let image = images.get(name).unwrap().unwrap();
        images.may_use(&image, name, async || credentials.to_vec()).await.unwrap()
    };
    let thief = credential(&server.address, "thief", "guess");
    let colleague = credential(&server.address, "colleague", "secret");
    let foreign = credential("other.example.com", "owner", "secret");
    assert!(may(&images, &private, std::slice::from_ref(&owner)).await);
    for credentials in [&[][..], std::slice::from_ref(&thief), &[foreign]] {
        assert!(!may(&images, &private, credentials).await, "{credentials:?}");
        assert!(images.pull_for_pod(&private, credentials).await.is_err(), "the registry decides");
    }
    let id = images.get(&private).unwrap().unwrap().id;
    assert!(!may(&images, &id, std::slice::from_ref(&owner)).await, "an id names no registry");
    assert!(may(&images, &private, &[colleague]).await, "the password is known");
    // Known again with a changed password, and by another process.
    let changed = credential(&server.address, "owner", "new");
    assert!(may(&images, &private, std::slice::from_ref(&changed)).await);
    let later = node(dir.path(), &[&server]).await;
    assert!(may(&later, &private, &[changed]).await);
    assert!(!may(&later, &private, &[thief]).await);
    let index = fs::read_to_string(dir.path().join("images/index.json")).unwrap();
    assert!(!index.contains("secret\"") && !index.contains(&basic("secret")), "no password is kept");

    // The same content below a public name opens that name only.
    images.pull_for_pod(&open, &[]).await.unwrap();
    assert!(may(&images, &open, &[]).await);
    assert!(!may(&images, &private, &[]).await);
    // An import does not make it everybody's.
    images.pull(&private, &[owner], None).await.unwrap();
    assert!(!may(&images, &private, &[]).await);
}
