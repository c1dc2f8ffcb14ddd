//! `$(NAME)` in commands, arguments, environments and `subPathExpr`, as upstream's `expansion` package reads it.

use std::collections::{BTreeSet, HashMap};

/// `$(NAME)` becomes its value, an unknown one stays, `$$` becomes `$`.
pub(crate) fn expand(text: &str, env: &HashMap<String, String>) -> String {
    expand_with(text, |name| env.get(name).cloned().unwrap_or_else(|| format!("$({name})")))
}

/// What has no value, or an empty one, is refused: so `subPathExpr` is read.
pub(crate) fn expand_strict(text: &str, env: &HashMap<String, String>) -> Result<String, String> {
    let mut missing = BTreeSet::new();
    let expanded = expand_with(text, |name| {
        let value = env.get(name).filter(|value| !value.is_empty()).cloned();
        value.unwrap_or_else(|| {
            missing.insert(name.to_owned());
            String::new()
        })
    });
    if missing.is_empty() {
        return Ok(expanded);
    }
    Err(format!("missing value for {}", Vec::from_iter(missing).join(", ")))
}

fn expand_with(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|s| s.split_once(')')) {
            out.push_str(&value(name));
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> HashMap<String, String> {
        [("A", "a"), ("B", "b"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn references_are_replaced_and_what_is_none_stays() {
        for (text, expanded) in [
            ("$(A)-$(B)$(EMPTY)", "a-b"),
            ("$$(A) $$$(A) $$$$", "$(A) $a $$"),
            ("$(NONE) $A $ $(A", "$(NONE) $A $ $(A"),
            ("$($(A))", "$($(A))"),
        ] {
            assert_eq!(expand(text, &env()), expanded, "{text}");
        }
    }

    #[test]
    fn a_sub_path_needs_all_its_values() {
        for (text, expanded) in [
            ("$(A)/x", Ok("a/x")),
            ("$$(NONE)", Ok("$(NONE)")),
            ("$(EMPTY)/x", Err("missing value for EMPTY")),
            ("$(Z)$(A)$(Y)$(Z)", Err("missing value for Y, Z")),
        ] {
            assert_eq!(expand_strict(text, &env()).as_deref().map_err(String::as_str), expanded, "{text}");
        }
    }
}
