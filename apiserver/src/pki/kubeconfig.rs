//! The file that tells clients where the cluster is and who they are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Identity;

/// A kubeconfig with one cluster, one user and one context, all named after `name`.
pub fn kubeconfig(name: &str, server: &str, ca: &str, user: &Identity) -> String {
    let [ca, certificate, key] = [ca, &user.certificate, &user.key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
users:
- name: {name}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}
