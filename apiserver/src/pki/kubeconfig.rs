//! The file that tells clients where the cluster is and who they are; also one that holds what is of other clusters.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Identity, PkiError, write_private};
use crate::codec::yaml;

/// Why a kubeconfig was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("{path} is no kubeconfig: {why}")]
    Unreadable { path: PathBuf, why: String },
    #[error(transparent)]
    File(#[from] PkiError),
}

/// A kubeconfig on disk, in which entries of ours are kept up to date. All else in it stays as it is.
pub struct KubeconfigFile {
    path: PathBuf,
    /// Several write to it, each its own user.
    writing: Mutex<()>,
}

/// One cluster under one name, with what an installer has to say about it.
pub struct ClusterEntry<'a> {
    pub name: &'a str,
    pub server: &'a str,
    /// PEM of the authority that clients trust.
    pub ca: &'a str,
    /// Name and value of an extension of the cluster entry, for our own programs.
    pub extension: Option<(&'a str, serde_json::Value)>,
}

/// A kubeconfig with one cluster, and a user and a context of the same name for each identity; the first one is in use.
pub fn kubeconfig(cluster: &ClusterEntry<'_>, users: &[(&str, &Identity)]) -> String {
    let ClusterEntry { name, server, ca, extension } = cluster;
    let current = users.first().map_or("", |(user, _)| *user);
    let ca = STANDARD.encode(ca);
    // JSON is YAML, too.
    let extensions = extension.as_ref().map_or_else(String::new, |(name, value)| {
        format!("    extensions:\n    - name: {name}\n      extension: {value}\n")
    });
    let (mut contexts, mut entries) = (String::new(), String::new());
    for (user, identity) in users {
        let [certificate, key] = [&identity.certificate, &identity.key].map(|pem| STANDARD.encode(pem));
        write!(contexts, "- name: {user}\n  context:\n    cluster: {name}\n    user: {user}\n")
            .and_then(|()| {
                write!(
                    entries,
                    "- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
                )
            })
            .expect("writing to a String does not fail");
    }
    format!(
        "apiVersion: v1
kind: Config
current-context: {current}
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
{extensions}contexts:
{contexts}users:
{entries}"
    )
}

// === impl KubeconfigFile ===

impl KubeconfigFile {
    pub fn new(path: &Path) -> Self {
        KubeconfigFile { path: path.to_owned(), writing: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the entries of another kubeconfig in, in place of those of the same names. The context in use changes only
    /// where there is none, or this cluster is new to the file.
    pub fn merge(&self, ours: &str) -> Result<(), KubeconfigError> {
        self.change(|file| {
            let Some(file) = file else { return Ok(ours.to_owned()) };
            let ours = parse(ours)?;
            let known = named(file, "clusters", &ours["clusters"][0]["name"]).is_some();
            if !known || file["current-context"].as_str().is_none_or(str::is_empty) {
                file["current-context"] = ours["current-context"].clone();
            }
            for list in ["clusters", "contexts", "users"] {
                for entry in ours[list].as_array().into_iter().flatten() {
                    match named(file, list, &entry["name"]) {
                        Some(there) => *there = entry.clone(),
                        None => match file[list].as_array_mut() {
                            Some(all) => all.push(entry.clone()),
                            None => file[list] = json!([entry]),
                        },
                    }
                }
            }
            Ok(yaml::text(file))
        })
    }

    /// Gives one of its users another certificate and key.
    pub fn replace(&self, user: &str, identity: &Identity) -> Result<(), KubeconfigError> {
        self.change(|file| {
            let file = file.ok_or("it is gone")?;
            let entry =
                named(file, "users", &json!(user)).ok_or_else(|| format!("it has no user {user:?}"))?;
            let Some(entry) = entry["user"].as_object_mut() else {
                return Err(format!("user {user:?} is empty"));
            };
            for (field, pem) in [("client-certificate", &identity.certificate), ("client-key", &identity.key)]
            {
                entry.remove(field);
                entry.insert(format!("{field}-data"), json!(STANDARD.encode(pem)));
            }
            Ok(yaml::text(file))
        })
    }

    /// The certificate and key that it holds for a user.
    pub fn identity(&self, user: &str) -> Option<Identity> {
        let mut file = parse(&std::fs::read_to_string(&self.path).ok()?).ok()?;
        let entry = named(&mut file, "users", &json!(user))?;
        let pem = |field: &str| String::from_utf8(STANDARD.decode(entry["user"][field].as_str()?).ok()?).ok();
        Some(Identity { certificate: pem("client-certificate-data")?, key: pem("client-key-data")? })
    }

    fn change(
        &self,
        change: impl FnOnce(Option<&mut Value>) -> Result<String, String>,
    ) -> Result<(), KubeconfigError> {
        let _writing = self.writing.lock();
        let unreadable = |why: String| KubeconfigError::Unreadable { path: self.path.clone(), why };
        let mut found = match std::fs::read_to_string(&self.path) {
            // As `mktemp` leaves it.
            Ok(text) if text.trim().is_empty() => None,
            Ok(text) => Some(parse(&text).map_err(unreadable)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(super::file_error(&self.path, e).into()),
        };
        let text = change(found.as_mut()).map_err(unreadable)?;
        Ok(write_private(&self.path, &text)?)
    }
}

fn parse(text: &str) -> Result<Value, String> {
    match yaml::parse(text.as_bytes())? {
        (file, _) if file["kind"] == "Config" => Ok(file),
        _ => Err("its kind is not Config".to_owned()),
    }
}

fn named<'a>(file: &'a mut Value, list: &str, name: &Value) -> Option<&'a mut Value> {
    file[list].as_array_mut()?.iter_mut().find(|entry| entry["name"] == *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        Identity { certificate: format!("certificate {text}"), key: format!("key {text}") }
    }

    fn ours(text: &str) -> String {
        let cluster =
            ClusterEntry { name: "coracle", server: "https://192.0.2.1:6443", ca: text, extension: None };
        kubeconfig(&cluster, &[("coracle", &identity(text))])
    }

    const OTHERS: &str = "
apiVersion: v1
kind: Config
current-context: work
preferences: {colors: true}
clusters: [{name: work, cluster: {server: 'https://work.example.com'}}]
contexts: [{name: work, context: {cluster: work, user: jane, namespace: shop}}]
users: [{name: jane, user: {exec: {command: login, apiVersion: client.authentication.k8s.io/v1}}}]
";

    #[test]
    fn a_users_own_kubeconfig_keeps_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = KubeconfigFile::new(&dir.path().join("config"));
        std::fs::write(file.path(), OTHERS).unwrap();
        let read = || parse(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
        file.merge(&ours("one")).unwrap();
        let first = read();
        assert_eq!(first["current-context"], "coracle");
        assert_eq!(first["users"].as_array().unwrap().len(), 2);
        assert_eq!(first["users"][0], parse(OTHERS).unwrap()["users"][0]);
        assert_eq!(first["preferences"], json!({"colors": true}));
        // The user goes on to another context, and stays there.
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text.replace("current-context: coracle", "current-context: work"))
            .unwrap();
        file.merge(&ours("two")).unwrap();
        file.replace("coracle", &identity("three")).unwrap();
        let later = read();
        assert_eq!(later["current-context"], "work");
        assert_eq!(file.identity("coracle").unwrap().key, "key three");
        assert_eq!(later["contexts"], first["contexts"]);
        assert!(file.identity("jane").is_none());
    }

    #[test]
    fn what_is_no_kubeconfig_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = KubeconfigFile::new(&dir.path().join("config"));
        for text in ["apiVersion: v1\nkind: Pod\n", "[", "hello"] {
            std::fs::write(file.path(), text).unwrap();
            let why = file.merge(&ours("one")).unwrap_err().to_string();
            assert!(why.contains("is no kubeconfig"), "{why}");
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
        }
        std::fs::write(file.path(), "\n").unwrap();
        file.merge(&ours("one")).unwrap();
        assert!(file.replace("other", &identity("two")).is_err());
        assert_eq!(file.identity("coracle").unwrap().key, "key one");
    }
}
