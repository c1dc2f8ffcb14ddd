//! What resources the server has, for the controllers that treat all kinds alike.

use kube::core::ApiResource;

/// A resource, in the preferred version of its group.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) api: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

/// All resources, and the groups that did not answer.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) served: Vec<Served>,
    pub(crate) failures: Vec<String>,
}

// === impl Served ===

impl Served {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// `deployments.apps`, as upstream names a resource in messages; the core group ends in a bare dot.
    pub(crate) fn message_name(&self) -> String {
        format!("{}.{}", self.api.plural, self.api.group)
    }

    /// The path of the collection, or of the part of it in one namespace.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let base = if self.api.group.is_empty() { "/api" } else { "/apis" };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => {
                format!("{base}/{}/namespaces/{namespace}/{}", self.api.api_version, self.api.plural)
            }
            None => format!("{base}/{}/{}", self.api.api_version, self.api.plural),
        }
    }
}

pub(crate) async fn discover(client: &kube::Client) -> Result<Discovered, kube::Error> {
    let mut found = Discovered::default();
    add(&mut found, "", "v1", client.list_core_api_resources("v1").await?);
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.or_else(|| group.versions.into_iter().next());
        let Some(preferred) = preferred else { continue };
        match client.list_api_group_resources(&preferred.group_version).await {
            Ok(list) => add(&mut found, &group.name, &preferred.version, list),
            // An aggregated server that cannot be asked, as upstream's clients put it.
            Err(kube::Error::Api(status)) if status.code == 503 => {
                let version = preferred.group_version;
                found.failures.push(format!("{version}: stale GroupVersion discovery: {version}"));
            }
            Err(error) => found.failures.push(format!("{}: {error}", preferred.group_version)),
        }
    }
    Ok(found)
}

fn add(
    found: &mut Discovered,
    group: &str,
    version: &str,
    list: k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList,
) {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let main = list.resources.into_iter().filter(|r| !r.name.contains('/'));
    found.served.extend(main.map(|r| Served {
        api: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.clone(),
            kind: r.kind,
            plural: r.name,
        },
        namespaced: r.namespaced,
        verbs: r.verbs,
    }));
}
