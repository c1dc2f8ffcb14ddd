//! Liveness, readiness and startup probes: one task per probe of a running container.

use std::{net::IpAddr, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::{api::core::v1::{Container, HTTPGetAction, Probe}, apimachinery::pkg::util::intstr::IntOrString};
use tokio::{net::TcpStream, sync::mpsc};

use crate::runtime::Runtime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// A probe's threshold was reached, or (with `settled` false) one try failed.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) ok: bool,
    pub(crate) settled: bool,
    pub(crate) message: String,
    pub(crate) grace: Option<i64>,
}

pub(crate) struct Target {
    pub(crate) runtime: Runtime,
    pub(crate) container: Container,
    pub(crate) id: String,
    pub(crate) ip: IpAddr,
}

/// Probes until the receiver is gone; a startup probe ends with its first success.
pub(crate) async fn run(target: Target, kind: Kind, probe: Probe, verdicts: mpsc::Sender<Verdict>) {
    let seconds = |v: Option<i32>, default: u64| Duration::from_secs(v.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(default));
    tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0))).await;
    let mut ticks = tokio::time::interval(seconds(probe.period_seconds, 10));
    let limit = seconds(probe.timeout_seconds, 1);
    let (mut row, mut last) = (0, None);
    loop {
        ticks.tick().await;
        let result = tokio::time::timeout(limit, check(&target, &probe, limit)).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        let ok = result.is_ok();
        row = if last == Some(ok) { row + 1 } else { 1 };
        last = Some(ok);
        let threshold = if ok { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        let settled = row >= threshold;
        let verdict = Verdict {
            container: target.container.name.clone(),
            id: target.id.clone(),
            kind,
            ok,
            settled,
            message: result.err().unwrap_or_default(),
            grace: probe.termination_grace_period_seconds,
        };
        let news = !ok || row == threshold;
        if news && verdicts.send(verdict).await.is_err() || ok && settled && kind == Kind::Startup {
            return;
        }
    }
}

async fn check(target: &Target, probe: &Probe, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let done = target.runtime.exec_sync(&target.id, exec.command.as_deref().unwrap_or_default(), limit).await;
        let done = done.map_err(|e| e.to_string())?;
        return if done.code == 0 { Ok(()) } else { Err(String::from_utf8_lossy(&done.output).into_owned()) };
    }
    if let Some(action) = &probe.http_get {
        return http_get(target, action).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.to_string());
        return TcpStream::connect((host.as_str(), port(&action.port, &target.container)?)).await.map(drop).map_err(|e| e.to_string());
    }
    Err("this kind of probe is not supported by this node".to_owned())
}

async fn http_get(target: &Target, action: &HTTPGetAction) -> Result<(), String> {
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err("HTTPS probes are not supported by this node".to_owned());
    }
    let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.to_string());
    let port = port(&action.port, &target.container)?;
    let path = action.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
    let url = format!("http://{host}:{port}{path}");
    let failed = |e: String| format!("Get {url:?}: {e}");
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| failed(e.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::get(&path).header("User-Agent", "kube-probe/1.36").header("Accept", "*/*");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    if !headers.iter().any(|h| h.name.eq_ignore_ascii_case("host")) {
        request = request.header("Host", format!("{host}:{port}"));
    }
    for h in headers {
        request = request.header(&h.name, &h.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await;
    driver.abort();
    let code = answer.map_err(|e| failed(e.to_string()))?.status().as_u16();
    if (200..400).contains(&code) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {code}")) }
}

fn port(port: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => c.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port).or_else(|| name.parse().ok()),
    };
    number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("couldn't find port {port:?} in container {:?}", c.name))
}
