//! Upstream's own control plane, started beside Coracle: etcd, kube-apiserver and, when asked, its controllers and scheduler.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

use crate::kubectl::{pause, upstream_programs};

/// A running control plane of upstream's on loopback; it ends with this value.
pub struct Upstream {
    programs: PathBuf,
    /// Certificates, kubeconfigs, logs and etcd's data.
    pub dir: PathBuf,
    children: Vec<(&'static str, Child)>,
    pub port: u16,
    /// The API server that controllers and scheduler work for, and the CA of its certificate.
    kubeconfig: PathBuf,
    root_ca: PathBuf,
}

const CLUSTER_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";

// === impl Upstream ===

impl Upstream {
    /// Starts etcd and kube-apiserver and waits until it is ready.
    pub fn start(dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let (kubeconfig, root_ca) = (dir.join("admin.kubeconfig"), dir.join("ca.crt"));
        let mut upstream = Self::beside(dir, &kubeconfig, &root_ca)?;
        upstream.port = port;
        for needed in ["etcd", "kube-apiserver"] {
            let built = upstream.programs.join(needed).is_file();
            ensure!(built, "{needed} is not built: conformance/upstream/build all");
        }
        certificates(dir, port)?;
        let (client, peer) = (free_port()?, free_port()?);
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        upstream.spawn(
            "etcd",
            &[
                "--data-dir=etcd",
                &format!("--listen-client-urls={client}"),
                &format!("--advertise-client-urls={client}"),
                &format!("--listen-peer-urls={peer}"),
                &format!("--initial-advertise-peer-urls={peer}"),
                &format!("--initial-cluster=default={peer}"),
            ],
        )?;
        upstream.spawn(
            "kube-apiserver",
            &[
                &format!("--etcd-servers={client}"),
                "--bind-address=127.0.0.1",
                &format!("--secure-port={port}"),
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                "--tls-cert-file=server.crt",
                "--tls-private-key-file=server.key",
                "--client-ca-file=ca.crt",
                "--kubelet-client-certificate=admin.crt",
                "--kubelet-client-key=admin.key",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--service-account-key-file=sa.pub",
                "--service-account-signing-key-file=sa.key",
                &format!("--service-cluster-ip-range={SERVICE_CIDR}"),
                "--allow-privileged=true",
            ],
        )?;
        upstream.wait_until_ready()?;
        Ok(upstream)
    }

    /// Nothing yet: a place for upstream's controllers and scheduler to work for another API server.
    pub fn beside(dir: &Path, kubeconfig: &Path, root_ca: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Upstream {
            programs: upstream_programs().context("no cache directory: set CORACLE_CACHE")?,
            dir: dir.to_owned(),
            children: vec![],
            port: 0,
            kubeconfig: kubeconfig.to_owned(),
            root_ca: root_ca.to_owned(),
        })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    pub fn controllers(&mut self) -> Result<()> {
        let mut args = vec![
            format!("--root-ca-file={}", self.root_ca.display()),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            "--allocate-node-cidrs=true".to_owned(),
            format!("--cluster-cidr={CLUSTER_CIDR}"),
            "--use-service-account-credentials=true".to_owned(),
        ];
        if self.dir.join("sa.key").is_file() {
            args.push("--service-account-private-key-file=sa.key".to_owned());
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.client_program("kube-controller-manager", &args)
    }

    pub fn scheduler(&mut self) -> Result<()> {
        self.client_program("kube-scheduler", &[])
    }

    fn client_program(&mut self, name: &'static str, more: &[&str]) -> Result<()> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let mut args =
            vec![kubeconfig.as_str(), "--bind-address=127.0.0.1", "--secure-port=0", "--leader-elect=false"];
        args.extend(more);
        self.spawn(name, &args)
    }

    /// Process ids by program, for measuring.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        self.children.iter().map(|(name, child)| (*name, child.id())).collect()
    }

    fn spawn(&mut self, name: &'static str, args: &[&str]) -> Result<()> {
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        let child = Command::new(self.programs.join(name))
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.children.push((name, child));
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let url = format!("https://127.0.0.1:{}/readyz", self.port);
        let curl = ["-s", "--cacert", "ca.crt", "--cert", "admin.crt", "--key", "admin.key", &url];
        loop {
            let answer =
                Command::new("curl").args(curl).current_dir(&self.dir).output().context("running curl")?;
            if answer.stdout == b"ok" {
                return Ok(());
            }
            let ended =
                self.children.iter_mut().find_map(|(name, child)| child.try_wait().ok()?.map(|_| *name));
            if let Some(name) = ended.or_else(|| (Instant::now() > deadline).then_some("kube-apiserver")) {
                let log = fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(8).collect();
                bail!(
                    "upstream's {name} is not ready; its log ends with (last line first):\n{}",
                    end.join("\n")
                );
            }
            pause(Duration::from_millis(100));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            // Already gone is fine.
            let _ = i32::try_from(child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
            let _ = child.wait();
        }
    }
}

/// A port nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A CA, the server's pair, an administrator's pair with its kubeconfig, and the key for service-account tokens.
fn certificates(dir: &Path, port: u16) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "kubernetes-ca");
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(dir.join("ca.crt"), ca.pem())?;
    let accounts = KeyPair::generate()?;
    fs::write(dir.join("sa.key"), accounts.serialize_pem())?;
    fs::write(dir.join("sa.pub"), accounts.public_key_pem())?;

    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut admin = CertificateParams::default();
    admin.distinguished_name = DistinguishedName::new();
    admin.distinguished_name.push(DnType::CommonName, "kubernetes-admin");
    admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (name, params) in [("server", server), ("admin", admin)] {
        let key = KeyPair::generate()?;
        fs::write(dir.join(format!("{name}.crt")), params.signed_by(&key, &ca)?.pem())?;
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
    }
    let at = dir.display();
    fs::write(
        dir.join("admin.kubeconfig"),
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: upstream\n\
             clusters: [{{name: upstream, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: '{at}/ca.crt'}}}}]\n\
             users: [{{name: admin, user: {{client-certificate: '{at}/admin.crt', client-key: '{at}/admin.key'}}}}]\n\
             contexts: [{{name: upstream, context: {{cluster: upstream, user: admin}}}}]\n"
        ),
    )?;
    Ok(())
}
