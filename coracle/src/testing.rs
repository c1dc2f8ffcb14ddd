//! A whole control plane inside a test process: the real API server over an in-memory store, without a listener.
//!
//! Authentication is what it is in production; the client given out is the cluster's administrator.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use coracle_api::names;
use coracle_apiserver::pki::{self, Leaf, Pki, ServingCertificate};
use coracle_apiserver::{Config, Listen, Running, Server};
use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::up::{Controllers, in_process, start_loops};

/// A running control plane; nothing of it outlives `stop`.
pub struct ControlPlane {
    running: Running,
    stop: CancellationToken,
    loops: tokio::task::JoinSet<Result<()>>,
}

impl ControlPlane {
    /// The API server with scheduler and controllers.
    pub async fn start() -> Result<Self> {
        Self::of(Arc::new(Pki::ephemeral(Timestamp::now())?), None, true).await
    }

    /// The API server alone: nothing changes but by requests.
    pub async fn start_api() -> Result<Self> {
        Self::of(Arc::new(Pki::ephemeral(Timestamp::now())?), None, false).await
    }

    /// All of it with a listener, and with certificates that are there already.
    pub async fn start_on(pki: Arc<Pki>, addr: SocketAddr) -> Result<Self> {
        let leaf = Leaf::api_server("localhost", &[addr.ip()], names::CLUSTER_DOMAIN);
        let certificate = ServingCertificate::new(&pki.issue(&leaf, Timestamp::now())?)?;
        let listen = Listen { addr, tls: pki::server_config(&pki, certificate)? };
        Self::of(pki, Some(listen), true).await
    }

    async fn of(pki: Arc<Pki>, listen: Option<Listen>, loops_too: bool) -> Result<Self> {
        let stop = CancellationToken::new();
        let controllers = Controllers::trusted(&pki);
        let config = Config { pki: Some(pki), listen, ..Config::default() };
        let running = Server::start(config, CancellationToken::new()).await.context("API server")?;
        let mut loops = tokio::task::JoinSet::new();
        if loops_too {
            start_loops(&mut loops, &running, "testing", controllers, &[], &stop);
        }
        Ok(ControlPlane { running, stop, loops })
    }

    /// Where it listens, if it does.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.running.addr
    }

    /// A client with the rights of `system:masters`, in process. It does not say what program it is.
    pub fn client(&self) -> Client {
        in_process(&self.running, "", "kubernetes-admin", &[names::GROUP_MASTERS])
    }

    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.loops.join_next().await {
            ended.context("a component panicked")??;
        }
        self.running.stop().await;
        Ok(())
    }
}
