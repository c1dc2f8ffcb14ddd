//! Admission plugins that are off unless an administrator wants them, as upstream's.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Instant;

use coracle_api::Object;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::status::{Result, Status};

const ALWAYS: &str = "Always";
/// Events a second and namespace, and at once, that [`Plugin::EventRateLimit`] lets through: upstream's example.
const EVENT_RATE: f64 = 50.0;
const EVENT_BURST: f64 = 100.0;
/// Namespaces whose events are counted; the one that was quiet the longest gives way.
const COUNTED: usize = 2000;

/// Plugins of upstream that are always on here; naming one changes nothing.
const ALWAYS_ON: &[&str] = &[
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceLifecycle",
    "NodeRestriction",
    "PodSecurity",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "TaintNodesByCondition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

/// A plugin that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Every start of a container asks its registry, with the pod's own credentials.
    AlwaysPullImages,
    /// No Service gets external IPs that it has not.
    DenyServiceExternalIPs,
    /// Events of a namespace beyond a rate are refused.
    EventRateLimit,
    /// One that is always on.
    Present,
}

/// The plugins that are wanted, with what they remember.
#[derive(Default)]
pub(super) struct Optional {
    wanted: Vec<Plugin>,
    events: Mutex<HashMap<String, Bucket>>,
}

/// What is left of a namespace's events, and since when.
struct Bucket {
    tokens: f64,
    at: Instant,
}

// === impl Plugin ===

impl FromStr for Plugin {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "AlwaysPullImages" => Ok(Plugin::AlwaysPullImages),
            "DenyServiceExternalIPs" => Ok(Plugin::DenyServiceExternalIPs),
            "EventRateLimit" => Ok(Plugin::EventRateLimit),
            name if ALWAYS_ON.contains(&name) => Ok(Plugin::Present),
            name => Err(format!("unknown admission plugin {name:?}")),
        }
    }
}

// === impl Optional ===

impl Optional {
    pub(super) fn new(wanted: &[Plugin]) -> Self {
        Optional { wanted: wanted.to_vec(), events: Mutex::default() }
    }

    /// Changes what is about to be written.
    pub(super) fn mutate(&self, what: &Attributes<'_>, new: &mut Object, old: Option<&Object>) {
        if self.wants(Plugin::AlwaysPullImages) && what.is("", "pods") && brings_images(new, old) {
            each_image(&mut new.0, &mut |image, policy| image[policy] = ALWAYS.into());
        }
    }

    /// Refuses what must not be written; `now` is a moment of the process' clock.
    pub(super) fn validate(
        &self,
        what: &Attributes<'_>,
        new: &Object,
        old: Option<&Object>,
        now: Instant,
    ) -> Result<()> {
        if self.wants(Plugin::AlwaysPullImages) && what.is("", "pods") && brings_images(new, old) {
            let mut copy = new.0.clone();
            let mut other = None;
            each_image(&mut copy, &mut |image, policy| {
                if image[policy] != ALWAYS {
                    other.get_or_insert_with(|| image[policy].clone());
                }
            });
            if let Some(other) = other {
                return Err(what.refuse(format!(
                    "spec.containers.imagePullPolicy: Unsupported value: {other}: supported values: {ALWAYS:?}"
                )));
            }
        }
        if self.wants(Plugin::DenyServiceExternalIPs) && what.is("", "services") {
            let known = old.map(|o| o.items_at(&["spec", "externalIPs"])).unwrap_or_default();
            if !new.items_at(&["spec", "externalIPs"]).iter().all(|ip| known.contains(ip)) {
                return Err(what.refuse("Use of external IPs is denied by admission control"));
            }
        }
        let is_event = what.is("", "events") || what.is("events.k8s.io", "events");
        if self.wants(Plugin::EventRateLimit) && is_event && !what.dry_run {
            return self.count_event(what, now);
        }
        Ok(())
    }

    fn wants(&self, plugin: Plugin) -> bool {
        self.wanted.contains(&plugin)
    }

    fn count_event(&self, what: &Attributes<'_>, now: Instant) -> Result<()> {
        if !matches!(what.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let mut events = self.events.lock();
        if events.len() >= COUNTED && !events.contains_key(what.namespace) {
            let quiet = events.iter().min_by_key(|(_, bucket)| bucket.at).map(|(name, _)| name.clone());
            quiet.and_then(|name| events.remove(&name));
        }
        let full = Bucket { tokens: EVENT_BURST, at: now };
        let bucket = events.entry(what.namespace.to_owned()).or_insert(full);
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * EVENT_RATE;
        bucket.tokens = (bucket.tokens + earned).min(EVENT_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            let why = format!("limit reached on type Namespace for key {}", what.namespace);
            return Err(Status::too_many_requests(&why, 1));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

/// Whether a write names an image that the old object does not.
fn brings_images(new: &Object, old: Option<&Object>) -> bool {
    let images = |pod: &Object| -> Vec<Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.iter().flat_map(|list| pod.items_at(&["spec", list])).map(|c| c["image"].clone()).collect()
    };
    old.is_none_or(|old| {
        let known = images(old);
        images(new).iter().any(|image| !known.contains(image))
    })
}

/// Calls `visit` with everything of a pod that is made from an image, and the name of its pull policy.
fn each_image(pod: &mut Value, visit: &mut dyn FnMut(&mut Value, &str)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            visit(container, "imagePullPolicy");
        }
    }
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
            visit(image, "pullPolicy");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authn::User;
    use crate::registry::Registry;
    use crate::resources;
    use coracle_api::Gvr;
    use serde_json::json;

    /// The outcome of writing an object with all optional plugins on.
    fn write(
        optional: &Optional,
        plural: &str,
        namespace: &str,
        new: &Object,
        old: Option<&Object>,
        now: Instant,
    ) -> Result<Object> {
        let registry = Registry::new(resources::builtins());
        let resource = registry.lookup(&Gvr::new("", "v1", plural)).unwrap();
        let what = Attributes {
            user: &User::default(),
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            resource: &resource,
            subresource: "",
            namespace,
            name: "x",
            dry_run: false,
        };
        let mut new = new.clone();
        optional.mutate(&what, &mut new, old);
        optional.validate(&what, &new, old, now)?;
        Ok(new)
    }

    fn all() -> Optional {
        Optional::new(&[Plugin::AlwaysPullImages, Plugin::DenyServiceExternalIPs, Plugin::EventRateLimit])
    }

    #[test]
    fn names_are_upstreams() {
        assert_eq!("EventRateLimit".parse(), Ok(Plugin::EventRateLimit));
        assert_eq!("NodeRestriction".parse(), Ok(Plugin::Present));
        assert_eq!(
            "AlwaysAdmit".parse::<Plugin>(),
            Err("unknown admission plugin \"AlwaysAdmit\"".to_owned())
        );
    }

    #[test]
    fn new_images_are_always_pulled() {
        let pod = Object(json!({"spec": {
            "initContainers": [{"image": "a", "imagePullPolicy": "Never"}], "containers": [{"image": "b"}],
            "volumes": [{"name": "v", "image": {"reference": "c"}}, {"name": "w", "emptyDir": {}}]}}));
        let now = Instant::now();
        let written = write(&all(), "pods", "n", &pod, None, now).unwrap();
        assert_eq!(written.0["spec"]["initContainers"][0]["imagePullPolicy"], ALWAYS);
        assert_eq!(written.0["spec"]["containers"][0]["imagePullPolicy"], ALWAYS);
        assert_eq!(written.0["spec"]["volumes"][0]["image"]["pullPolicy"], ALWAYS);
        let untouched = write(&all(), "pods", "n", &pod, Some(&pod), now).unwrap();
        assert_eq!(untouched, pod, "an update without new images");
        assert_eq!(write(&Optional::default(), "pods", "n", &pod, None, now).unwrap(), pod);
    }

    #[test]
    fn services_get_no_new_external_ips() {
        let service = |ips: &[&str]| Object(json!({"spec": {"externalIPs": ips}}));
        let now = Instant::now();
        let write = |new: &[&str], old: Option<&[&str]>| {
            write(&all(), "services", "n", &service(new), old.map(service).as_ref(), now).is_ok()
        };
        assert!(write(&[], None) && write(&["1.2.3.4"], Some(&["1.2.3.4", "1.2.3.5"])));
        assert!(!write(&["1.2.3.4"], None) && !write(&["1.2.3.4"], Some(&["1.2.3.5"])));
    }

    #[test]
    fn events_of_a_namespace_have_a_rate() {
        let (optional, event, start) = (all(), Object(json!({})), Instant::now());
        let write = |namespace: &str, now: Instant| {
            write(&optional, "events", namespace, &event, None, now).map_or_else(|e| e.code(), |_| 201)
        };
        assert!((0..100).all(|_| write("n", start) == 201));
        assert_eq!(write("n", start), 429);
        assert_eq!(write("m", start), 201, "another namespace");
        assert_eq!(write("n", start + Duration::from_millis(20)), 201, "a fiftieth of a second later");
        assert_eq!(write("n", start + Duration::from_millis(20)), 429);
        for i in 0..2 * COUNTED {
            write(&format!("n{i}"), start + Duration::from_secs(1));
        }
        assert!(optional.events.lock().len() <= COUNTED);
    }
}
