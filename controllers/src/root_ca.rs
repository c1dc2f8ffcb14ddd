//! Publishes the cluster's CA bundle as the ConfigMap `kube-root-ca.crt` of every namespace: what a pod needs to
//! trust the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;

use crate::Config;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};
use crate::service_account::{is_active, on_active, unless_going};

const NAME: &str = "kube-root-ca.crt";
const DATA_KEY: &str = "ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

struct Controller {
    bundle: watch::Receiver<String>,
    namespaces: Arc<Cache<Namespace>>,
    maps: Arc<Cache<ConfigMap>>,
}

pub(crate) fn start(runtime: &mut Runtime, config: &Config) {
    let Some(bundle) = config.root_ca.clone() else { return };
    let (namespaces, maps) = (runtime.cache::<Namespace>(), runtime.cache::<ConfigMap>());
    let queue = Queue::default();
    on_active(&namespaces, queue.clone());
    let changed = queue.clone();
    maps.on_change(move |old, new| {
        if let Some(map) = new.or(old).filter(|m| m.metadata.name.as_deref() == Some(NAME)) {
            changed.add(Key::cluster(map.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    let (all, changed) = (namespaces.clone(), queue.clone());
    let another = bundle.clone();
    runtime.work(
        "root-ca-certificate-publisher-controller",
        queue,
        5,
        Controller { bundle, namespaces, maps },
    );
    runtime.on_another(another, move || all.list().iter().for_each(|n| changed.add(Key::of(&**n))));
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        if !self.namespaces.get(key).is_some_and(|n| is_active(&n)) {
            return Ok(Next::Done);
        }
        let data = BTreeMap::from([(DATA_KEY.to_owned(), self.bundle.borrow().clone())]);
        let annotation = (DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned());
        let Some(map) = self.maps.get(&Key::new(&key.name, NAME)) else {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(key.name.clone()),
                    annotations: Some(BTreeMap::from([annotation])),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..ConfigMap::default()
            };
            return unless_going(api.create(&map).await);
        };
        let described = map.metadata.annotations.as_ref().and_then(|a| a.get(DESCRIPTION_KEY));
        if map.data.as_ref() == Some(&data) && described.is_some_and(|d| d == DESCRIPTION) {
            return Ok(Next::Done);
        }
        let mut map = (*map).clone();
        map.data = Some(data);
        map.metadata.annotations.get_or_insert_default().extend([annotation]);
        unless_going(api.replace(&map).await)
    }
}
