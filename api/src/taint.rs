//! Taints of nodes and the tolerations of pods that match them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration lets a pod meet a taint: same effect (an empty one matches all), and the key exists or has the
/// value. An empty key with `Exists` tolerates everything. `Lt` and `Gt` match nothing: their gate,
/// `TaintTolerationComparisonOperators`, is off.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any_or =
        |own: &Option<String>, wanted: &str| own.as_deref().is_none_or(|v| v.is_empty() || v == wanted);
    any_or(&toleration.effect, &taint.effect)
        && any_or(&toleration.key, &taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            "Exists" => true,
            _ => false,
        }
}

/// Whether any of the tolerations does.
pub fn tolerated(tolerations: Option<&[Toleration]>, taint: &Taint) -> bool {
    tolerations.into_iter().flatten().any(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_match_by_effect_key_and_value() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "a", "value": "1", "effect": "NoSchedule"})).unwrap();
        for (toleration, matches) in [
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "key": "", "effect": ""}), true),
            (json!({"key": "a", "operator": "Exists"}), true),
            (json!({"key": "a", "value": "1"}), true),
            (json!({"key": "a", "value": "1", "operator": ""}), true),
            (json!({"value": "1"}), true),
            (json!({"key": "a"}), false),
            (json!({"key": "a", "operator": "Equal", "value": "2"}), false),
            (json!({"key": "b", "operator": "Exists"}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "a", "operator": "Gt", "value": "0"}), false),
        ] {
            let shown = toleration.to_string();
            let toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), matches, "{shown}");
            assert_eq!(tolerated(Some(&[toleration]), &taint), matches, "{shown}");
        }
        assert!(!tolerated(None, &taint));
    }
}
