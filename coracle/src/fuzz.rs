//! What fuzzing calls, and tests call with the corpus of `fuzz/`: the command line, and kubeconfigs of anybody's making.

use clap::Parser;
use coracle_api::fuzz::{Place, first_line, parts};
use coracle_apiserver::pki::{self, ClusterEntry, Identity, KubeconfigFile, ServingCertificate, Validity};
use coracle_kubelet::eviction::thresholds::Amount;
use kube::config::Kubeconfig;

use crate::cli::{Cli, Command, Component};
use crate::{flags, node};

/// Arguments, each a line. What is taken can be run with: thresholds are parts of a whole, ranges are apart.
pub fn flags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(cli) = Cli::try_parse_from(std::iter::once("coracle").chain(text.lines().take(64))) else {
        return;
    };
    let options = match cli.command {
        Some(Command::Up(up)) => up.node,
        Some(Command::Component(Component::Kubelet(kubelet))) => kubelet.node,
        _ => return,
    };
    if flags::check(&options).is_err() {
        return;
    }
    let eviction = flags::eviction(&options).expect("it was checked");
    for threshold in &eviction.thresholds {
        for amount in [Some(threshold.value), threshold.minimum_reclaim].into_iter().flatten() {
            if let Amount::Fraction(part) = amount {
                assert!((0.0..=1.0).contains(&part), "{part}");
            }
        }
    }
    let range = |text: &str| text.parse::<coracle_api::Cidr>().expect("it was checked");
    assert!(!range(&options.cluster_cidr).overlaps(&range(&options.service_cidr)));
}

/// A user's name, and after the line a kubeconfig, which gets another cluster and another certificate of the user's.
pub fn kubeconfigs(bytes: &[u8]) {
    let (user, file) = first_line(bytes);
    let [text, pem] = parts(file).map(String::from_utf8_lossy);
    if let Ok(read) = Kubeconfig::from_yaml(&text) {
        let facts = node::facts(&read);
        let told = serde_json::to_value(&read).expect("it can be written");
        if let Ok(Some(facts)) = &facts {
            assert!(told.to_string().contains(&facts.cluster_domain));
        }
        for cluster in read.clusters.iter().filter_map(|c| c.cluster.as_ref()) {
            let _ = cluster.certificate_authority_data.as_deref().map(node::decoded);
        }
    }
    let _ = Validity::of(&pem);
    let foreign = Identity { certificate: pem.clone().into_owned(), key: pem.into_owned() };
    assert!(!foreign.is_whole() || ServingCertificate::new(&foreign).is_ok());
    let place = Place::new();
    let path = place.0.join("config");
    std::fs::write(&path, &*text).expect("a file in memory");
    let kept = KubeconfigFile::new(&path);
    if let Some(own) = kept.identity(&user) {
        let _ = own.is_whole();
    }
    let new = Identity { certificate: "certificate".to_owned(), key: "key".to_owned() };
    if kept.replace(&user, &new).is_ok() {
        let now = kept.identity(&user).expect("it was put there");
        assert_eq!((now.certificate, now.key), (new.certificate.clone(), new.key.clone()));
    }
    let cluster = ClusterEntry { name: "ours", server: "https://192.0.2.1", ca: "ca", extension: None };
    let ours = pki::kubeconfig(&cluster, &[("us", &new)]);
    if kept.merge(&ours).is_ok() {
        let now = kept.identity("us").expect("it was put there");
        assert_eq!((now.certificate, now.key), (new.certificate, new.key));
        let once = std::fs::read(&path).expect("it was written");
        kept.merge(&ours).expect("it can be read again");
        assert_eq!(std::fs::read(&path).expect("it was written"), once, "nothing changes the second time");
    }
}

#[cfg(test)]
mod tests {
    coracle_api::replayed! { flags kubeconfigs }
}
