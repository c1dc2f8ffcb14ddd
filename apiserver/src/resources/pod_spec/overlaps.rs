//! Files of one volume that would lie over or within each other.

use serde_json::Value;

use super::validation::items;

/// A file of a volume, and what it is from where a volume has several sources.
struct File<'a> {
    path: &'a str,
    source: String,
}

impl File<'_> {
    fn shown(&self) -> String {
        match self.source.as_str() {
            "" => format!("{:?}", self.path),
            source => format!("{:?} ({source})", self.path),
        }
    }

    fn lies_over(&self, other: &File<'_>) -> bool {
        let within = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
        if self.path.is_empty() || other.path.is_empty() {
            return false;
        }
        self.path == other.path || within(self.path, other.path) || within(other.path, self.path)
    }
}

/// What there is to say about the files of a volume.
pub(super) fn warnings(volume: &Value, all: &mut Vec<String>) {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let name = text(volume, "name");
    let [map, secret] = [("configMap", "name"), ("secret", "secretName")].map(|(f, n)| text(&volume[f], n));
    for (source, what) in [
        ("configMap", format!("ConfigMap {map:?}")),
        ("secret", format!("Secret {secret:?}")),
        ("downwardAPI", "DownwardAPI".to_owned()),
    ] {
        let mut files = vec![];
        add(&name, &what, of_items(&volume[source], ""), &mut files, all);
    }
    let mut files = vec![];
    for source in items(&volume["projected"], "sources") {
        if source.as_object().is_none_or(|s| s.values().all(Value::is_null)) {
            all.push(format!("volume {name:?} (Projected) has no sources provided"));
            continue;
        }
        add(&name, "Projected", projected(source), &mut files, all);
    }
}

fn add<'a>(volume: &str, what: &str, new: Vec<File<'a>>, files: &mut Vec<File<'a>>, all: &mut Vec<String>) {
    for file in new {
        for other in files.iter().filter(|other| file.lies_over(other)) {
            let (file, other) = (file.shown(), other.shown());
            all.push(format!("volume {volume:?} ({what}): overlapping paths: {file} with {other}"));
        }
        files.push(file);
    }
}

fn of_items<'a>(of: &'a Value, source: &str) -> Vec<File<'a>> {
    items(of, "items").map(|item| file(&item["path"], source)).collect()
}

fn file<'a>(path: &'a Value, source: &str) -> File<'a> {
    File { path: path.as_str().unwrap_or_default().trim_end_matches('/'), source: source.to_owned() }
}

fn projected(source: &Value) -> Vec<File<'_>> {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let has = |field: &str| source[field].is_object();
    if source["configMap"]["items"].is_array() {
        let what = format!("ConfigMap {:?}", text(&source["configMap"], "name"));
        of_items(&source["configMap"], &what)
    } else if source["secret"]["items"].is_array() {
        of_items(&source["secret"], &format!("Secret {:?}", text(&source["secret"], "name")))
    } else if source["downwardAPI"]["items"].is_array() {
        of_items(&source["downwardAPI"], "DownwardAPI")
    } else if has("serviceAccountToken") {
        vec![file(&source["serviceAccountToken"]["path"], "ServiceAccountToken")]
    } else if has("clusterTrustBundle") {
        let bundle = &source["clusterTrustBundle"];
        let named = if bundle["name"].is_string() { "name" } else { "signerName" };
        vec![file(&bundle["path"], &format!("ClusterTrustBundle {:?}", text(bundle, named)))]
    } else {
        let certificate = &source["podCertificate"];
        [
            ("certificateChainPath", "PodCertificate chain"),
            ("keyPath", "PodCertificate key"),
            ("credentialBundlePath", "PodCertificate credential bundle"),
        ]
        .into_iter()
        .map(|(field, what)| file(&certificate[field], what))
        .filter(|file| !file.path.is_empty())
        .collect()
    }
}
