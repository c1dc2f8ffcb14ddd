//! The texts of a document: what k8s-openapi's types say of themselves, made only when a document is.

use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates,
    coordination, core, discovery, events, flowcontrol, networking, node, policy, rbac, resource, scheduling,
    storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

type Describe = fn(&mut SchemaGenerator);

/// What every group version's document may refer to.
const COMMON: &[Describe] = &[
    add::<meta::v1::DeleteOptions>,
    add::<meta::v1::ObjectMeta>,
    add::<meta::v1::Status>,
    add::<meta::v1::APIResourceList>,
    add::<autoscaling::v1::Scale>,
];

/// The kinds of each group version; all else is reached from them.
const KINDS: &[(&str, &[Describe])] = &[
    (
        "admissionregistration.k8s.io/v1",
        &[
            add::<admissionregistration::v1::MutatingAdmissionPolicy>,
            add::<admissionregistration::v1::MutatingAdmissionPolicyBinding>,
            add::<admissionregistration::v1::MutatingWebhookConfiguration>,
            add::<admissionregistration::v1::ValidatingAdmissionPolicy>,
            add::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>,
            add::<admissionregistration::v1::ValidatingWebhookConfiguration>,
        ],
    ),
    ("apiextensions.k8s.io/v1", &[add::<apiextensions::v1::CustomResourceDefinition>]),
    ("apiregistration.k8s.io/v1", &[add::<apiregistration::v1::APIService>]),
    (
        "apps/v1",
        &[
            add::<apps::v1::ControllerRevision>,
            add::<apps::v1::DaemonSet>,
            add::<apps::v1::Deployment>,
            add::<apps::v1::ReplicaSet>,
            add::<apps::v1::StatefulSet>,
        ],
    ),
    (
        "authentication.k8s.io/v1",
        &[
            add::<authentication::v1::SelfSubjectReview>,
            add::<authentication::v1::TokenRequest>,
            add::<authentication::v1::TokenReview>,
        ],
    ),
    (
        "authorization.k8s.io/v1",
        &[
            add::<authorization::v1::LocalSubjectAccessReview>,
            add::<authorization::v1::SelfSubjectAccessReview>,
            add::<authorization::v1::SelfSubjectRulesReview>,
            add::<authorization::v1::SubjectAccessReview>,
        ],
    ),
    ("autoscaling/v1", &[add::<autoscaling::v1::HorizontalPodAutoscaler>, add::<autoscaling::v1::Scale>]),
    ("autoscaling/v2", &[add::<autoscaling::v2::HorizontalPodAutoscaler>]),
    ("batch/v1", &[add::<batch::v1::CronJob>, add::<batch::v1::Job>]),
    ("certificates.k8s.io/v1", &[add::<certificates::v1::CertificateSigningRequest>]),
    ("coordination.k8s.io/v1", &[add::<coordination::v1::Lease>]),
    ("discovery.k8s.io/v1", &[add::<discovery::v1::EndpointSlice>]),
    ("events.k8s.io/v1", &[add::<events::v1::Event>]),
    (
        "flowcontrol.apiserver.k8s.io/v1",
        &[add::<flowcontrol::v1::FlowSchema>, add::<flowcontrol::v1::PriorityLevelConfiguration>],
    ),
    (
        "networking.k8s.io/v1",
        &[
            add::<networking::v1::IPAddress>,
            add::<networking::v1::Ingress>,
            add::<networking::v1::IngressClass>,
            add::<networking::v1::NetworkPolicy>,
            add::<networking::v1::ServiceCIDR>,
        ],
    ),
    ("node.k8s.io/v1", &[add::<node::v1::RuntimeClass>]),
    ("policy/v1", &[add::<policy::v1::Eviction>, add::<policy::v1::PodDisruptionBudget>]),
    (
        "rbac.authorization.k8s.io/v1",
        &[
            add::<rbac::v1::ClusterRole>,
            add::<rbac::v1::ClusterRoleBinding>,
            add::<rbac::v1::Role>,
            add::<rbac::v1::RoleBinding>,
        ],
    ),
    (
        "resource.k8s.io/v1",
        &[
            add::<resource::v1::DeviceClass>,
            add::<resource::v1::ResourceClaim>,
            add::<resource::v1::ResourceClaimTemplate>,
            add::<resource::v1::ResourceSlice>,
        ],
    ),
    ("scheduling.k8s.io/v1", &[add::<scheduling::v1::PriorityClass>]),
    (
        "storage.k8s.io/v1",
        &[
            add::<storage::v1::CSIDriver>,
            add::<storage::v1::CSINode>,
            add::<storage::v1::CSIStorageCapacity>,
            add::<storage::v1::StorageClass>,
            add::<storage::v1::VolumeAttachment>,
            add::<storage::v1::VolumeAttributesClass>,
        ],
    ),
    (
        "v1",
        &[
            add::<core::v1::Binding>,
            add::<core::v1::ComponentStatus>,
            add::<core::v1::ConfigMap>,
            add::<core::v1::Endpoints>,
            add::<core::v1::Event>,
            add::<core::v1::LimitRange>,
            add::<core::v1::Namespace>,
            add::<core::v1::Node>,
            add::<core::v1::PersistentVolume>,
            add::<core::v1::PersistentVolumeClaim>,
            add::<core::v1::Pod>,
            add::<core::v1::PodTemplate>,
            add::<core::v1::ReplicationController>,
            add::<core::v1::ResourceQuota>,
            add::<core::v1::Secret>,
            add::<core::v1::Service>,
            add::<core::v1::ServiceAccount>,
            add::<authentication::v1::TokenRequest>,
            add::<policy::v1::Eviction>,
        ],
    ),
];

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// Fills the descriptions of definitions and of their fields: of those that the kinds of one group version need, or of
/// all built-in kinds.
pub(super) fn fill(group_version: Option<&str>, schemas: &mut Map<String, Value>) {
    let mut generator = SchemaGenerator::default();
    let of_version = KINDS.iter().filter(|(gv, _)| group_version.is_none_or(|own| own == *gv));
    for describe in COMMON.iter().chain(of_version.flat_map(|(_, kinds)| *kinds)) {
        describe(&mut generator);
    }
    let definitions = generator.definitions();
    for (name, texts) in definitions {
        let Some(Value::Object(definition)) = schemas.get_mut(name) else { continue };
        describe(definition, texts);
        if let (Some(Value::Object(fields)), Some(Value::Object(texts))) =
            (definition.get_mut("properties"), texts.get("properties"))
        {
            for (field, texts) in texts {
                if let Some(Value::Object(field)) = fields.get_mut(field) {
                    describe(field, texts);
                }
            }
        }
    }
    if let Some(event) = schemas.get_mut("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent") {
        event["properties"]["object"]["description"] =
            "The object as it is (ADDED, MODIFIED), as it was last (DELETED), or what went wrong, as a Status (ERROR).".into();
    }
    schemas.values_mut().for_each(unwrap_references);
}

/// What an operation does, in upstream's words, which clients print and search. `part` is the subresource, if any; `method`
/// is that of the request; custom kinds (not `typed`) tell less of their lists.
pub(super) fn operation(action: &str, method: &str, part: &str, kind: &str, typed: bool) -> String {
    let of = |link: &str| if part.is_empty() { String::new() } else { format!("{part} of{link}") };
    let article = match kind {
        _ if kind.ends_with('s') && !kind.ends_with("ss") => "",
        _ if kind.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u']) => "an ",
        _ => "a ",
    };
    let instead = "deprecated: use the 'watch' parameter with a list operation instead";
    match action {
        "get" => format!("read {}the specified {kind}", of(" ")),
        "list" if typed => format!("list or watch {}objects of kind {kind}", of(" ")),
        "list" => format!("list objects of kind {kind}"),
        "put" => format!("replace {}the specified {kind}", of(" ")),
        "patch" => format!("partially update {}the specified {kind}", of(" ")),
        "post" => format!("create {}{article}{kind}", of(" ")),
        "delete" => format!("delete {}{article}{kind}", of(" ")),
        "deletecollection" => format!("delete collection of {kind}"),
        "watch" => format!(
            "watch changes to {}an object of kind {kind}. {instead}, filtered to a single item with the 'fieldSelector' \
             parameter.",
            of(" ")
        ),
        "watchlist" => format!("watch individual changes to a list of {}{kind}. {instead}.", of(" ")),
        _ => format!("connect {} requests to {}{kind}", method.to_uppercase(), of(" ")),
    }
}

/// A field of which nothing is said but its type refers to that directly.
fn unwrap_references(definition: &mut Value) {
    let Some(Value::Object(fields)) = definition.get_mut("properties") else { return };
    for field in fields.values_mut().filter_map(Value::as_object_mut) {
        let only = field.len() == 1;
        if let Some(Value::Array(all)) = field.get_mut("allOf").filter(|_| only)
            && let Some(Value::Object(reference)) = all.pop()
        {
            *field = reference;
        }
    }
}

fn describe(schema: &mut Map<String, Value>, texts: &Value) {
    if let Some(text) = texts.get("description") {
        schema.insert("description".to_owned(), text.clone());
    }
}
