//! Every component acts as itself: none is an administrator, and each has the rights it needs, upstream's roles alone.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle::testing::ControlPlane;
use coracle_conformance::suite::Accounts;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);
const NAMESPACE: &str = "shop";

trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}
impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

async fn create<K: Kind>(api: &Api<K>, object: Value) -> Result<K> {
    let object = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object).await.with_context(|| K::kind(&()).into_owned())
}

async fn until<K: Kind>(
    api: &Api<K>,
    name: &str,
    what: &str,
    done: impl Fn(Option<&K>) -> bool,
) -> Result<()> {
    let seen = await_condition(api.clone(), name, |object: Option<&K>| done(object));
    tokio::time::timeout(SOON, seen).await.with_context(|| format!("{what}: {name}"))??;
    Ok(())
}

fn of<K: Kind + Resource<Scope = NamespaceResourceScope>>(client: &Client) -> Api<K> {
    Api::namespaced(client.clone(), NAMESPACE)
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "nginx"}],
        "terminationGracePeriodSeconds": 0}})
}

fn selector(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_and_scheduler_do_their_work_as_themselves() -> Result<()> {
    let server = ControlPlane::start().await?;
    let client = server.client();
    refuse_administrators(&client).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": NAMESPACE}})).await?;
    until(&of::<ServiceAccount>(&client), "default", "account", |a| a.is_some()).await?;
    until(&of::<ConfigMap>(&client), "kube-root-ca.crt", "trust", |m| m.is_some()).await?;
    workloads(&client).await?;
    batch(&client).await?;
    services(&client).await?;
    policies(&client).await?;
    credentials(&client).await?;
    storage(&client).await?;
    garbage(&client).await?;
    let uid = namespaces.get(NAMESPACE).await?.uid().context("a uid")?;
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    let gone = |n: Option<&Namespace>| n.is_none_or(|n| n.uid().as_ref() != Some(&uid));
    until(&namespaces, NAMESPACE, "the namespace goes", gone).await?;

    let metrics = client.request_text(http::Request::get("/metrics").body(vec![])?).await?;
    // Admission, not access, refuses what is made in a namespace that ends.
    let ending = |line: &str| line.contains("verb=\"CREATE\"") && line.contains("scope=\"namespace\"");
    let refused: Vec<&str> = metrics.lines().filter(|l| l.contains("code=\"403\"") && !ending(l)).collect();
    ensure!(refused.is_empty(), "refused: {refused:#?}");
    ensure!(metrics.contains("code=\"201\""), "the metrics tell codes");
    server.stop().await
}

/// What was logged so far.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_tells_who_asks_and_an_administrator_of_ours_is_found() -> Result<()> {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("coracle_apiserver::requests=debug")
        .with_writer(move || written.clone())
        .with_ansi(false);
    // The runtime has but this thread.
    let _logs = tracing::subscriber::set_default(subscriber.finish());
    let read = || Accounts::read(&log.0.lock().expect("nobody panicked")[..]);
    let server = ControlPlane::start_api().await?;
    let client = server.client();
    let ask = |agent: &str| {
        let request = http::Request::get("/api/v1/namespaces/default").header("user-agent", agent);
        client
            .request::<Namespace>(request.header("impersonate-user", "jane").body(vec![]).expect("a request"))
    };
    // Jane may nothing; who asked is told all the same.
    ensure!(ask("e2e.test/v1.36.3 (linux) -- \"a\" \\").await.is_err());
    let accounts = read()?;
    accounts.judge()?;
    let told = "1  system:masters  kubernetes-admin as jane by e2e.test";
    ensure!(accounts.to_string().contains(told), "{accounts}");
    ensure!(ask("kube-scheduler/v1.36.0+coracle-0.1.0").await.is_err());
    let why = read()?.judge().err().context("an administrator of ours")?.to_string();
    ensure!(why.ends_with(": kubernetes-admin as jane by kube-scheduler"), "{why}");
    server.stop().await
}

/// Whoever writes with the group of administrators and is not the one who asked for it here is refused from now on.
async fn refuse_administrators(client: &Client) -> Result<()> {
    use k8s_openapi::api::admissionregistration::v1::{
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    };
    let own = "!('system:masters' in request.userInfo.groups) || request.userInfo.username in \
        ['kubernetes-admin', 'system:apiserver']";
    create(
        &Api::<ValidatingAdmissionPolicy>::all(client.clone()),
        json!({"metadata": {"name": "no-administrators"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["*/*"]}]},
            "validations": [{"expression": own}]}}),
    )
    .await?;
    create(
        &Api::<ValidatingAdmissionPolicyBinding>::all(client.clone()),
        json!({"metadata": {"name": "no-administrators"},
            "spec": {"policyName": "no-administrators", "validationActions": ["Deny"]}}),
    )
    .await?;
    Ok(())
}

async fn workloads(client: &Client) -> Result<()> {
    let deployments = of::<Deployment>(client);
    let spec = json!({"replicas": 2, "selector": selector("web"), "template": template("web")});
    create(&deployments, json!({"metadata": {"name": "web"}, "spec": spec})).await?;
    let made = |d: Option<&Deployment>| {
        d.and_then(|d| d.status.as_ref()).is_some_and(|s| s.updated_replicas == Some(2))
            && d.is_some_and(|d| d.annotations().contains_key("deployment.kubernetes.io/revision"))
    };
    until(&deployments, "web", "deployment", made).await?;
    let controllers = of::<ReplicationController>(client);
    let spec = json!({"replicas": 1, "selector": {"app": "rc"}, "template": template("rc")});
    create(&controllers, json!({"metadata": {"name": "rc"}, "spec": spec})).await?;
    let made = |r: Option<&ReplicationController>| {
        r.and_then(|r| r.status.as_ref()).is_some_and(|s| s.replicas == 1)
    };
    until(&controllers, "rc", "replication controller", made).await?;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"replicas": 1, "serviceName": "set", "selector": selector("set"), "template": template("set"),
        "podManagementPolicy": "Parallel", "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}});
    create(&of::<StatefulSet>(client), json!({"metadata": {"name": "set"}, "spec": spec})).await?;
    let owned = |c: Option<&PersistentVolumeClaim>| c.is_some_and(|c| !c.owner_references().is_empty());
    until(&of::<PersistentVolumeClaim>(client), "data-set-0", "claim with an owner", owned).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    create(&nodes, json!({"metadata": {"name": "n1"}})).await?;
    let tainted = |n: Option<&Node>| {
        let taints = n.and_then(|n| n.spec.as_ref()?.taints.as_ref());
        taints.is_some_and(|t| t.iter().any(|t| t.effect == "NoExecute"))
    };
    // Nobody else reports for this node.
    let sick = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}],
        "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "100"}}});
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(sick)).await?;
    until(&nodes, "n1", "a node that is not ready is tainted", tainted).await?;
    let pods = of::<Pod>(client);
    let mut bound = template("bound");
    bound["metadata"]["name"] = json!("bound");
    bound["spec"]["nodeName"] = json!("n1");
    bound["spec"]["terminationGracePeriodSeconds"] = json!(30);
    create(&pods, bound).await?;
    let mut taints = nodes.get("n1").await?.spec.and_then(|s| s.taints).unwrap_or_default();
    taints.push(serde_json::from_value(json!({"key": "leave", "effect": "NoExecute"}))?);
    let leave = Patch::Merge(json!({"spec": {"taints": taints}}));
    nodes.patch("n1", &PatchParams::default(), &leave).await?;
    let leaving = |p: Option<&Pod>| p.is_none_or(|p| p.metadata.deletion_timestamp.is_some());
    until(&pods, "bound", "a pod that does not tolerate its node leaves", leaving).await?;
    // It has no kubelet that would end it.
    pods.delete("bound", &DeleteParams::default().grace_period(0)).await?;
    let mut everywhere = template("each");
    everywhere["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let spec = json!({"selector": selector("each"), "template": everywhere});
    create(&of::<DaemonSet>(client), json!({"metadata": {"name": "each"}, "spec": spec})).await?;
    let counted = |d: Option<&DaemonSet>| {
        d.and_then(|d| d.status.as_ref()).is_some_and(|s| s.current_number_scheduled == 1)
    };
    until(&of::<DaemonSet>(client), "each", "daemon set", counted).await
}

async fn batch(client: &Client) -> Result<()> {
    let jobs = of::<Job>(client);
    let mut template = template("job");
    template["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({"template": template, "backoffLimit": 0});
    create(&jobs, json!({"metadata": {"name": "work"}, "spec": spec})).await?;
    let active = |count| {
        move |j: Option<&Job>| {
            j.and_then(|j| j.status.as_ref()).is_some_and(|s| s.active.unwrap_or(0) == count)
        }
    };
    until(&jobs, "work", "a job's pod", active(1)).await?;
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    jobs.patch("work", &PatchParams::default(), &suspend).await?;
    until(&jobs, "work", "a suspended job", |j: Option<&Job>| {
        let suspended = |s: &k8s_openapi::api::batch::v1::JobStatus| {
            s.conditions.iter().flatten().any(|c| c.type_ == "Suspended" && c.status == "True")
        };
        j.and_then(|j| j.status.as_ref()).is_some_and(suspended)
    })
    .await?;
    // Its pod, which never ran, is gone with its finalizer, and was no failure.
    let pods = of::<Pod>(client).list(&ListParams::default().labels("app=job")).await?.items;
    ensure!(pods.is_empty() || pods.iter().all(|p| p.finalizers().is_empty()), "{pods:?}");
    ensure!(jobs.get("work").await?.status.and_then(|s| s.failed).unwrap_or(0) == 0);

    for (name, propagation) in
        [("dropped", PropagationPolicy::Background), ("left", PropagationPolicy::Orphan)]
    {
        let mut template = template.clone();
        template["metadata"]["labels"] = json!({"app": name});
        create(&jobs, json!({"metadata": {"name": name}, "spec": {"template": template}})).await?;
        until(&jobs, name, "a job's pod", active(1)).await?;
        let pods = of::<Pod>(client);
        let pod = pods.list(&ListParams::default().labels(&format!("app={name}"))).await?.items[0].name_any();
        let how = DeleteParams { propagation_policy: Some(propagation), ..DeleteParams::default() };
        jobs.delete(name, &how).await?;
        until(&pods, &pod, "nothing holds the pod of a job that is gone", |p: Option<&Pod>| {
            p.is_none_or(|p| p.finalizers().is_empty())
        })
        .await?;
    }

    let schedule = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template,
        "ttlSecondsAfterFinished": 0}}});
    let crons = of::<CronJob>(client);
    create(&crons, json!({"metadata": {"name": "tick"}, "spec": schedule})).await?;
    let past = Patch::Merge(json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}}));
    crons.patch_status("tick", &PatchParams::default(), &past).await?;
    let started = |c: Option<&CronJob>| {
        c.and_then(|c| c.status.as_ref()?.active.as_ref()).is_some_and(|active| !active.is_empty())
    };
    until(&crons, "tick", "a job of the schedule", started).await?;
    let active = crons.get("tick").await?.status.and_then(|s| s.active).unwrap_or_default();
    let job = active.first().and_then(|r| r.name.clone()).context("an active job")?;
    // What has no more to do ends at once, and its time to live is over.
    jobs.patch(&job, &PatchParams::default(), &Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 1}})))
        .await?;
    until(&jobs, &job, "the finished job goes", |j| j.is_none()).await
}

async fn services(client: &Client) -> Result<()> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    create(&of::<Service>(client), json!({"metadata": {"name": "web"}, "spec": spec})).await?;
    until(&of::<Endpoints>(client), "web", "endpoints", |e| e.is_some()).await?;
    create(&of::<Service>(client), json!({"metadata": {"name": "far"}, "spec": {"ports": [{"port": 80}]}}))
        .await?;
    let subsets = json!([{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]);
    create(&of::<Endpoints>(client), json!({"metadata": {"name": "far"}, "subsets": subsets})).await?;
    for service in ["web", "far"] {
        let label = format!("kubernetes.io/service-name={service}");
        let slices = of::<EndpointSlice>(client);
        let found = async {
            let stream =
                kube::runtime::watcher(slices, kube::runtime::watcher::Config::default().labels(&label));
            let stream = kube::runtime::WatchStreamExt::applied_objects(stream);
            futures::pin_mut!(stream);
            futures::StreamExt::next(&mut stream).await
        };
        tokio::time::timeout(SOON, found).await.with_context(|| format!("slices of {service}"))?;
    }
    Ok(())
}

async fn policies(client: &Client) -> Result<()> {
    let budgets = of::<PodDisruptionBudget>(client);
    let spec = json!({"minAvailable": 1, "selector": selector("web")});
    create(&budgets, json!({"metadata": {"name": "web"}, "spec": spec})).await?;
    let counted = |b: Option<&PodDisruptionBudget>| {
        b.and_then(|b| b.status.as_ref()).is_some_and(|s| s.expected_pods == Some(2))
    };
    until(&budgets, "web", "budget", counted).await?;
    let quotas = of::<ResourceQuota>(client);
    create(&quotas, json!({"metadata": {"name": "most"}, "spec": {"hard": {"configmaps": "100"}}})).await?;
    let counted = |q: Option<&ResourceQuota>| q.and_then(|q| q.status.as_ref()?.used.as_ref()).is_some();
    until(&quotas, "most", "quota", counted).await?;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let labels = json!({"rbac.example.com/to-all": "true"});
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    create(&roles, json!({"metadata": {"name": "part", "labels": labels}, "rules": rules})).await?;
    let rule = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    create(&roles, json!({"metadata": {"name": "all"}, "aggregationRule": rule, "rules": []})).await?;
    let whole =
        |r: Option<&ClusterRole>| r.and_then(|r| r.rules.as_ref()).is_some_and(|rules| !rules.is_empty());
    until(&roles, "all", "aggregated role", whole).await?;
    let schemas: Api<FlowSchema> = Api::all(client.clone());
    let spec = json!({"priorityLevelConfiguration": {"name": "nowhere"}});
    create(&schemas, json!({"metadata": {"name": "dangling"}, "spec": spec})).await?;
    let told = |s: Option<&FlowSchema>| {
        s.and_then(|s| s.status.as_ref()?.conditions.as_ref()).is_some_and(|all| !all.is_empty())
    };
    until(&schemas, "dangling", "flow schema", told).await
}

async fn credentials(client: &Client) -> Result<()> {
    let request = |user: &str, group: &str| -> Result<String> {
        use base64::Engine;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, user);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let pem = params.serialize_request(&rcgen::KeyPair::generate()?)?.pem()?;
        Ok(base64::engine::general_purpose::STANDARD.encode(pem))
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    // The administrator may ask for nodes: such a request is approved by itself.
    let spec = json!({"request": request("system:node:n9", "system:nodes")?,
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", "client auth"]});
    create(&requests, json!({"metadata": {"name": "node"}, "spec": spec})).await?;
    let issued = |r: Option<&CertificateSigningRequest>| {
        r.and_then(|r| r.status.as_ref()?.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
    };
    until(&requests, "node", "a certificate for a node", issued).await?;
    let secrets = of::<Secret>(client);
    let annotations = json!({"kubernetes.io/service-account.name": "default"});
    create(
        &secrets,
        json!({"metadata": {"name": "token", "annotations": annotations}, "type": "kubernetes.io/service-account-token"}),
    )
    .await?;
    let filled = |s: Option<&Secret>| {
        let data = s.and_then(|s| s.data.as_ref());
        data.is_some_and(|d| ["token", "ca.crt", "namespace"].iter().all(|key| d.contains_key(*key)))
    };
    until(&secrets, "token", "a token", filled).await?;
    let accounts = of::<ServiceAccount>(client);
    create(&accounts, json!({"metadata": {"name": "short"}})).await?;
    let annotations = json!({"kubernetes.io/service-account.name": "short"});
    create(
        &secrets,
        json!({"metadata": {"name": "gone", "annotations": annotations}, "type": "kubernetes.io/service-account-token"}),
    )
    .await?;
    until(&secrets, "gone", "a token", filled).await?;
    accounts.delete("short", &DeleteParams::default()).await?;
    until(&secrets, "gone", "the token of an account that is gone", |s| s.is_none()).await
}

async fn storage(client: &Client) -> Result<()> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let spec =
        json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}});
    let volume = create(&volumes, json!({"metadata": {"name": "v"}, "spec": spec})).await?;
    let classes: Api<VolumeAttributesClass> = Api::all(client.clone());
    let class =
        create(&classes, json!({"metadata": {"name": "fast"}, "driverName": "d", "parameters": {"a": "b"}}))
            .await?;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claims = of::<PersistentVolumeClaim>(client);
    let claim = create(&claims, json!({"metadata": {"name": "c"}, "spec": spec})).await?;
    let held = [volume.finalizers(), class.finalizers(), claim.finalizers()];
    ensure!(held.iter().all(|f| f.len() == 1), "{held:?}");
    volumes.delete("v", &DeleteParams::default()).await?;
    until(&volumes, "v", "a volume that nobody uses goes", |v| v.is_none()).await?;
    classes.delete("fast", &DeleteParams::default()).await?;
    until(&classes, "fast", "a class that nobody uses goes", |c| c.is_none()).await?;
    claims.delete("c", &DeleteParams::default()).await?;
    until(&claims, "c", "a claim that nobody uses goes", |c| c.is_none()).await
}

async fn garbage(client: &Client) -> Result<()> {
    let maps = of::<ConfigMap>(client);
    let owner = create(&maps, json!({"metadata": {"name": "owner"}})).await?.uid();
    let owned = |name: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner}]);
    create(&maps, json!({"metadata": {"name": "child", "ownerReferences": owned("owner")}})).await?;
    create(&maps, json!({"metadata": {"name": "stray", "ownerReferences": owned("other")}})).await?;
    until(&maps, "stray", "a right uid under a wrong name is no owner", |m| m.is_none()).await?;
    maps.delete("owner", &DeleteParams::default()).await?;
    until(&maps, "child", "a child goes with its owner", |m| m.is_none()).await?;
    // A pod that never had a node, and that somebody holds, has failed once it is deleted.
    let pods = of::<Pod>(client);
    let mut pod = template("held");
    pod["metadata"]["name"] = json!("held");
    pod["metadata"]["finalizers"] = json!(["example.com/hold"]);
    pod["spec"]["nodeSelector"] = json!({"no": "where"});
    create(&pods, pod).await?;
    pods.delete("held", &DeleteParams::default()).await?;
    let failed = |p: Option<&Pod>| {
        p.and_then(|p| p.status.as_ref()?.phase.as_deref()).is_some_and(|phase| phase == "Failed")
    };
    until(&pods, "held", "an unscheduled pod that is deleted fails", failed).await?;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("held", &PatchParams::default(), &free).await?;
    until(&pods, "held", "and goes", |p| p.is_none()).await
}
