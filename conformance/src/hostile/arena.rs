//! Where attacks are played: the cluster, who is on it, and what is kept there for the tenant.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle::data_dir::Layout;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions::is_pod_running};
use kube::{Api, Client, Config};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::book::By;
use super::calls;
use super::canary::Canary;
use super::images::Shelf;
use crate::cluster::Cluster;
use crate::wire::{Connection, Endpoint, JSON};

/// The namespaces of the two parties.
pub(super) const SHOP: &str = "shop";
pub(super) const EVIL: &str = "evil";
/// The tenant's pod.
const NEIGHBOUR: &str = "neighbour";
/// A node that exists as an identity only.
pub(super) const EVIL_NODE: &str = "evil";
/// What its certificates say of its address, which no machine has.
pub(super) const EVIL_NODE_IP: &str = "192.0.2.66";
/// A kind of which nothing is known: namespaced `things` and cluster-wide `worlds`.
pub(super) const CUSTOM: &str = "hostile.example";

pub(super) struct Arena {
    pub(super) admin: Endpoint,
    /// The tenant's own.
    pub(super) customer: Endpoint,
    viewer: Endpoint,
    tenant: Endpoint,
    owner: Endpoint,
    node: Endpoint,
    /// The cluster's administrator, as a client of kube's.
    pub(super) client: Client,
    pub(super) kubeconfig: PathBuf,
    /// Where the program's data is, and more.
    pub(super) scratch: PathBuf,
    pub(super) node_kubeconfig: PathBuf,
    pub(super) layout: Layout,
    pub(super) pid: Pid,
    pub(super) canary: Canary,
    /// What the hostile registry serves.
    pub(super) shelf: Shelf,
    pub(super) quick: bool,
    /// The program that makes system calls, in base64; rows that need it fail where there is none.
    pub(super) call: String,
}

/// Which role each account is given in a namespace of the attackers'.
const ACCOUNTS: [(&str, &str); 3] = [("viewer", "view"), ("tenant", "admin"), ("owner", "cluster-admin")];

// === impl Arena ===

impl Arena {
    /// Makes the parties' namespaces, accounts and possessions.
    pub(super) async fn furnish(
        cluster: &Cluster,
        layout: Layout,
        scratch: &Path,
        shelf: Shelf,
        quick: bool,
    ) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig();
        let admin = Endpoint::of(&kubeconfig)?;
        let canary = Canary::place(scratch, &layout.pki())?;
        let mut c = admin.connect().await?;
        make(&mut c, "/api/v1/namespaces", &namespace(SHOP, "restricted")).await?;
        make(&mut c, "/api/v1/namespaces", &namespace(EVIL, "restricted")).await?;
        let treasure = json!({"metadata": {"name": "treasure"}, "stringData": {"text": canary.text}});
        make(&mut c, &format!("/api/v1/namespaces/{SHOP}/secrets"), &treasure).await?;
        let page = json!({"metadata": {"name": "page"}, "data": {"text": "x".repeat(1000)}});
        make(&mut c, &format!("/api/v1/namespaces/{SHOP}/configmaps"), &page).await?;
        custom_kinds(&mut c).await?;

        let customer = account(&mut c, SHOP, "customer").await?;
        bind(&mut c, SHOP, SHOP, "customer", "admin").await?;
        let client = client(&kubeconfig, None).await?;
        neighbour(&mut c, &client).await?;
        let mut tokens = vec![];
        for (name, role) in ACCOUNTS {
            tokens.push(account(&mut c, EVIL, name).await?);
            bind(&mut c, EVIL, EVIL, name, role).await?;
        }
        let [viewer, tenant, owner] = &tokens[..] else { unreachable!("one token for each account") };
        let call = calls::program(scratch).unwrap_or_else(|error| {
            println!("no pod makes system calls by number: {error:#}");
            "none".to_owned()
        });
        Ok(Arena {
            customer: admin.bearing(Some(&customer))?,
            viewer: admin.bearing(Some(viewer))?,
            tenant: admin.bearing(Some(tenant))?,
            owner: admin.bearing(Some(owner))?,
            node: node(cluster, scratch)?,
            client,
            kubeconfig,
            scratch: scratch.to_owned(),
            node_kubeconfig: node_kubeconfig(scratch),
            layout,
            pid: cluster.pid()?,
            canary,
            shelf,
            quick,
            call,
            admin,
        })
    }

    pub(super) fn endpoint(&self, by: By) -> Result<Endpoint> {
        Ok(match by {
            By::Viewer => self.viewer.clone(),
            By::Tenant | By::Pod | By::Registry => self.tenant.clone(),
            By::Owner => self.owner.clone(),
            By::Node => self.node.clone(),
            By::Operator => self.admin.clone(),
            By::Peer => self.admin.bearing(None)?,
        })
    }

    /// The tenant's pod has run all the time.
    pub(super) async fn neighbour_is_well(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SHOP);
        let status = pods.get(NEIGHBOUR).await?.status.context("a status")?;
        let restarts: i32 = status.container_statuses.iter().flatten().map(|c| c.restart_count).sum();
        ensure!(restarts == 0 && status.phase.as_deref() == Some("Running"), "the tenant's pod: {status:?}");
        Ok(())
    }

    /// A kube client with somebody's token.
    pub(super) async fn client_of(&self, by: By) -> Result<Client> {
        client(&self.kubeconfig, self.endpoint(by)?.token()).await
    }

    /// A namespace for one attack, in which the attackers' accounts have their roles.
    pub(super) async fn space(&self, name: &str, level: &str) -> Result<()> {
        let mut c = self.admin.connect().await?;
        make(&mut c, "/api/v1/namespaces", &namespace(name, level)).await?;
        for (account, role) in ACCOUNTS {
            bind(&mut c, name, EVIL, account, role).await?;
        }
        // Pods are refused before.
        found(&mut c, &format!("/api/v1/namespaces/{name}/serviceaccounts/default")).await
    }
}

/// A pod beside the attackers'; before it there are no cgroups of pods, and no image.
async fn neighbour(c: &mut Connection, client: &Client) -> Result<()> {
    found(c, &format!("/api/v1/namespaces/{SHOP}/serviceaccounts/default")).await?;
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000000"],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let pod = json!({"metadata": {"name": NEIGHBOUR}, "spec": {"terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 2000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container]}});
    make(c, &format!("/api/v1/namespaces/{SHOP}/pods"), &pod).await?;
    let running = await_condition(Api::<Pod>::namespaced(client.clone(), SHOP), NEIGHBOUR, is_pod_running());
    tokio::time::timeout(Duration::from_secs(60), running)
        .await
        .context("the tenant's pod does not run")??;
    Ok(())
}

/// Waits for what a controller makes.
async fn found(c: &mut Connection, path: &str) -> Result<()> {
    for _ in 0..600 {
        if c.call(Method::GET, path, JSON, Bytes::new()).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{path} is not there after 30 s")
}

async fn make(c: &mut Connection, path: &str, object: &Value) -> Result<Value> {
    let made = c.call(Method::POST, path, JSON, Bytes::from(object.to_string())).await?;
    Ok(serde_json::from_slice(&made)?)
}

fn namespace(name: &str, level: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}})
}

/// Makes a service account; its token.
async fn account(c: &mut Connection, namespace: &str, name: &str) -> Result<String> {
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    make(c, &accounts, &json!({"metadata": {"name": name}})).await?;
    let asked = json!({"spec": {"expirationSeconds": 86400}});
    let token = make(c, &format!("{accounts}/{name}/token"), &asked).await?;
    Ok(token["status"]["token"].as_str().context("a token")?.to_owned())
}

async fn bind(c: &mut Connection, namespace: &str, of: &str, account: &str, role: &str) -> Result<()> {
    let binding = json!({
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": of}],
    });
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    make(c, &path, &binding).await.map(drop)
}

async fn custom_kinds(c: &mut Connection) -> Result<()> {
    for (plural, kind, scope) in [("things", "Thing", "Namespaced"), ("worlds", "World", "Cluster")] {
        let schema =
            json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let definition = json!({
            "metadata": {"name": format!("{plural}.{CUSTOM}")},
            "spec": {"group": CUSTOM, "scope": scope, "names": {"plural": plural, "kind": kind},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]},
        });
        make(c, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
    }
    let role = json!({
        "metadata": {"name": "things", "labels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}},
        "rules": [{"apiGroups": [CUSTOM], "resources": ["things"], "verbs": ["*"]}],
    });
    make(c, "/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await?;
    found(c, &format!("/apis/{CUSTOM}/v1/namespaces/{EVIL}/things")).await?;
    let world = json!({"apiVersion": format!("{CUSTOM}/v1"), "kind": "World", "metadata": {"name": "one"}});
    make(c, &format!("/apis/{CUSTOM}/v1/worlds"), &world).await.map(drop)
}

fn node_kubeconfig(scratch: &Path) -> PathBuf {
    scratch.join("evil-node.kubeconfig")
}

/// An identity for a node that is no machine.
fn node(cluster: &Cluster, scratch: &Path) -> Result<Endpoint> {
    let output = cluster.coracle(&["kubeconfig", "--node", EVIL_NODE, "--node-ip", EVIL_NODE_IP]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "coracle kubeconfig --node {EVIL_NODE}: {said}");
    let file = node_kubeconfig(scratch);
    std::fs::write(&file, output.stdout)?;
    Endpoint::of(&file)
}

/// The server of a kubeconfig: as who is in it, or with a token instead.
async fn client(kubeconfig: &Path, token: Option<&str>) -> Result<Client> {
    let mut file = Kubeconfig::read_from(kubeconfig)?;
    if let Some(token) = token {
        for user in &mut file.auth_infos {
            let auth = serde_json::from_value(json!({"token": token}))?;
            user.auth_info = Some(auth);
        }
    }
    // A second installation is refused, and means that the first one is in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Base64 as objects have it.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
