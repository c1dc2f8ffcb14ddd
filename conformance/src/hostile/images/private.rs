//! Images and passwords of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Result, ensure};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::layers::{Image, shell};
use super::registry::ADDRESS;
use super::{PULLED, Pod, ROW, image};
use crate::hostile::arena::base64;
use crate::hostile::book::{Attack, By, How};
use crate::hostile::pods::{self, Ends};
use crate::hostile::scene::Scene;
use crate::wire::JSON;

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "another's private image", findings: "security M12", by: By::Tenant, does: "runs an image from the node's cache that another pulled with a password", must: "refused: it has not shown the password", how: How::Tenant(|s| Box::pin(cached(s))), ..ROW },
    Attack { name: "a token server of the registry's choosing", findings: "CVE-2020-15157", does: "sends the puller, with the password, to a token server elsewhere", must: "the password stays", how: How::Tenant(|s| Box::pin(token_server(s))), ..ROW },
];

const WITH_PASSWORD: &str = r#"{"imagePullSecrets":[{"name":"registry"}]}"#;

async fn password(scene: &Scene<'_>) -> Result<String> {
    let basic = base64(b"me:secret");
    let config = json!({"auths": {ADDRESS: {"auth": basic}}});
    let secret = json!({"metadata": {"name": "registry"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config.to_string()}});
    let mut tenant = scene.connect(By::Tenant).await?;
    let made =
        scene.send(&mut tenant, Method::POST, &scene.path("secrets"), JSON, secret.to_string()).await?;
    ensure!(made.code == 201, "making the password: {}", made.code);
    Ok(format!("Basic {basic}"))
}

async fn cached(scene: &Scene<'_>) -> Result<String> {
    let shown = password(scene).await?;
    let mut repository = Image::of([shell()?]).repository();
    repository.guarded = Some((shown, "Basic realm=\"evil\"".to_owned()));
    scene.arena.shelf.put("private", repository);
    let owner = Pod {
        spec: WITH_PASSWORD,
        container: image!("private"),
        script: "sleep 1000",
        ends: Ends::Lasts(1),
        ..PULLED
    };
    let pods = pods::start(scene, &owner).await?;
    pods::end(&pods, std::time::Duration::from_secs(20)).await?;
    let thief = Pod { container: image!("private"), script: "held image true", ..PULLED };
    pods::play(scene, &thief).await
}

async fn token_server(scene: &Scene<'_>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let told = Arc::new(AtomicUsize::new(0));
    let counted = told.clone();
    let trap = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&head[..read]).to_lowercase();
            counted.fetch_add(usize::from(text.contains("authorization:")), Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"token\":\"a\"}").await;
        }
    });
    password(scene).await?;
    let mut repository = Image::of([shell()?]).repository();
    let challenge = format!("Bearer realm=\"http://localhost:{port}/token\",service=\"{ADDRESS}\"");
    repository.guarded = Some(("Bearer nothing is good".to_owned(), challenge));
    scene.arena.shelf.put("tokens", repository);
    let said = pods::play(scene, &Pod { spec: WITH_PASSWORD, container: image!("tokens"), ..PULLED }).await;
    trap.abort();
    let told = told.load(Relaxed);
    ensure!(told == 0, "the password was told {told} times");
    said
}
