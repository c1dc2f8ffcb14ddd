//! Probes against real sockets on loopback.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, HTTPHeader},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::Instant,
};

use super::{
    Outcome, grpc,
    http::{Get, Purpose},
};

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Answers one request: `/silent` never, `/closed` by hanging up, the others by their table.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = vec![0; 4096];
    let n = stream.read(&mut request).await.unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..n]).into_owned();
    let reply = match request.split(' ').nth(1).unwrap_or_default() {
        "/silent" => std::future::pending().await,
        "/closed" => return,
        "/teapot" => "418 I'm a teapot\r\n".to_owned(),
        "/here" => "302 Found\r\nLocation: /teapot\r\n".to_owned(),
        "/elsewhere" => "302 Found\r\nLocation: http://192.0.2.7/\r\n".to_owned(),
        "/loop" => "302 Found\r\nLocation: /loop\r\n".to_owned(),
        "/echo%20me" => {
            let body = request.to_lowercase().replace("\r\n", "|");
            format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        _ => "200 OK\r\n".to_owned(),
    };
    let end = if reply.contains("\r\n\r\n") { "" } else { "Content-Length: 0\r\n\r\n" };
    let _ = stream.write_all(format!("HTTP/1.1 {reply}{end}").as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn get(scheme: &str, port: u16, path: &str) -> Get {
    let action = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(i32::from(port)),
        scheme: Some(scheme.to_owned()),
        http_headers: Some(vec![HTTPHeader { name: "X-Own".into(), value: "yes".into() }]),
        ..HTTPGetAction::default()
    };
    Get::new(&action, &Container::default(), Ipv4Addr::LOCALHOST.into(), Purpose::Probe).unwrap()
}

async fn told(get: &Get) -> String {
    match get.send(Instant::now() + Duration::from_millis(300)).await {
        Ok(reply) => format!("{} {}", reply.status, reply.body),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn http_probes_answer_in_the_words_of_gos_client() {
    let (listener, port) = listener().await;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer(stream));
        }
    });
    let url = format!("http://127.0.0.1:{port}");
    for (path, want) in [
        ("/", "200 ".to_owned()),
        ("/teapot", "418 ".to_owned()),
        ("/here", "418 ".to_owned()),
        ("/elsewhere", "302 ".to_owned()),
        ("/loop", format!("Get \"{url}/loop\": stopped after 10 redirects")),
        ("/closed", format!("Get \"{url}/closed\": EOF")),
        (
            "/silent",
            format!(
                "Get \"{url}/silent\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ),
        ),
    ] {
        assert_eq!(told(&get("HTTP", port, path)).await, want, "{path}");
    }
    let echo = told(&get("HTTP", port, "echo me")).await;
    for part in [
        "get /echo%20me http/1.1|",
        "|x-own: yes|",
        "|user-agent: kube-probe/1.36|",
        "|accept: */*|",
        "|connection: close|",
    ] {
        assert!(echo.contains(part), "{part} in {echo}");
    }
    let plain = get("HTTPS", port, "/");
    let error = plain.send(Instant::now() + Duration::from_secs(2)).await.err().expect("no TLS there");
    assert!(error.is_plain_reply() || error.to_string().ends_with("EOF"), "{error}");
}

#[tokio::test]
async fn https_probes_take_any_certificate() {
    let (listener, port) = listener().await;
    let pair = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![pair.cert.der().clone()], key).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer(tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap()).await;
    });
    assert_eq!(told(&get("HTTPS", port, "/teapot")).await, "418 ");
}

#[tokio::test]
async fn connections_fail_in_the_words_of_gos_dialer() {
    let (listener, port) = listener().await;
    drop(listener);
    let want =
        format!("Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(told(&get("HTTP", port, "/")).await, want);
    let want = format!(
        "timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded"
    );
    assert_eq!(grpc::check("127.0.0.1", port, "", Duration::from_secs(1)).await, Outcome::Failure(want));
}

/// A health server: the state of "up" and "down", the code of every other service.
async fn health(
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    use http_body_util::BodyExt as _;
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let service = String::from_utf8_lossy(body.get(7..).unwrap_or_default()).into_owned();
    let mut trailers = http::HeaderMap::new();
    let (data, code, message) = match service.as_str() {
        "up" => (vec![0, 0, 0, 0, 2, 8, 1], "0", ""),
        "down" => (vec![0, 0, 0, 0, 2, 8, 2], "0", ""),
        "old" => (vec![], "12", "no%20such method"),
        "slow" => std::future::pending().await,
        _ => (vec![], "5", "unknown service"),
    };
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers.insert("grpc-message", message.parse().unwrap());
    let frames = [Frame::data(Bytes::from(data)), Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(frames).map(Ok));
    Ok(http::Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

#[tokio::test]
async fn grpc_probes_speak_the_health_checking_protocol() {
    let (listener, port) = listener().await;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            connections
                .spawn(builder.serve_connection(TokioIo::new(stream), hyper::service::service_fn(health)));
        }
    });
    for (service, want) in [
        ("up", None),
        ("down", Some("service unhealthy (responded with \"NOT_SERVING\")")),
        ("what", Some("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service")),
        (
            "old",
            Some(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): no such method",
            ),
        ),
        ("slow", Some("timeout: health rpc did not complete within 1s")),
    ] {
        let want = want.map_or(Outcome::Success, |why| Outcome::Failure(why.to_owned()));
        assert_eq!(grpc::check("127.0.0.1", port, service, Duration::from_secs(1)).await, want, "{service}");
    }
}
