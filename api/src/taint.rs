//! Taints of nodes and the tolerations of pods that match them.

use serde_json::Value;

/// Whether a toleration lets a pod meet a taint: same effect (an empty one matches all), and the key exists or has the
/// value. An empty key with `Exists` tolerates everything. `Lt` and `Gt` match nothing: their gate,
/// `TaintTolerationComparisonOperators`, is off.
pub fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let (effect, key) = (text(toleration, "effect"), text(toleration, "key"));
    if !effect.is_empty() && effect != text(taint, "effect") {
        return false;
    }
    if !key.is_empty() && key != text(taint, "key") {
        return false;
    }
    let (wanted, value) = (text(toleration, "value"), text(taint, "value"));
    match toleration["operator"].as_str().unwrap_or_default() {
        "" | "Equal" => wanted == value,
        "Exists" => true,
        _ => false,
    }
}

/// The first taint of the given effects that no toleration covers.
pub fn first_untolerated<'a>(
    taints: &'a [Value],
    tolerations: &[Value],
    effects: &[&str],
) -> Option<&'a Value> {
    let matters = |t: &&Value| t["effect"].as_str().is_some_and(|e| effects.contains(&e));
    taints.iter().filter(matters).find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_match_by_effect_key_and_value() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoSchedule"});
        for (toleration, matches) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "a", "operator": "Exists"}), true),
            (json!({"key": "a", "value": "1"}), true),
            (json!({"key": "a", "operator": "Equal", "value": "2"}), false),
            (json!({"key": "b", "operator": "Exists"}), false),
            (json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "a", "operator": "Gt", "value": "0"}), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), matches, "{toleration}");
        }
    }
}
