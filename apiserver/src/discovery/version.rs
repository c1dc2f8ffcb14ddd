//! `GET /version`.

use serde_json::{Value, json};

/// The release of Kubernetes whose behaviour is served. With build metadata, which is no pre-release: ranges of versions as
/// Helm's `kubeVersion` has them (`>=1.36.0`) take it for the release itself.
const GIT_VERSION: &str = concat!("v1.36.0+coracle-", env!("CARGO_PKG_VERSION"));

/// What upstream's `version.Info` says, for the Kubernetes version served here.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Semantic versioning: three numbers, no pre-release, build metadata of dotted identifiers.
    #[test]
    fn the_version_is_in_every_range_that_the_release_is_in() {
        let version = version();
        let text = version["gitVersion"].as_str().unwrap().strip_prefix('v').unwrap();
        let (core, build) = text.split_once('+').unwrap();
        let numbers: Vec<u32> = core.split('.').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 3);
        assert_eq!(
            [&numbers[0].to_string(), &numbers[1].to_string()],
            [&version["major"], &version["minor"]]
        );
        let identifier = |i: &str| !i.is_empty() && i.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        assert!(build.split('.').all(identifier), "{build}");
    }
}
