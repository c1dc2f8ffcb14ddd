//! `$(NAME)` in commands, arguments, environments and `subPathExpr`, as upstream's `expansion` package reads it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// How much a container's variables, or its arguments, may be together: the kernel gives no program more than 6 MiB. Each
/// reference may be to what has grown by references already, so that a few lines could ask for any amount.
pub(crate) const MOST: usize = 8 << 20;

/// What a pod is told when it asks for more; in the kernel's words.
pub(crate) const TOO_LONG: &str = "argument list too long";

/// `$(NAME)` becomes its value, an unknown one stays, `$$` becomes `$`. `room` is what the result may have, and then what
/// is left of it.
pub(crate) fn expand(text: &str, env: &HashMap<String, String>, room: &mut usize) -> Result<String, String> {
    expand_with(text, room, |name| env.get(name).map_or_else(|| format!("$({name})").into(), |v| v.into()))
}

/// What has no value, or an empty one, is refused: so `subPathExpr` is read.
pub(crate) fn expand_strict(text: &str, env: &HashMap<String, String>) -> Result<String, String> {
    let mut missing = BTreeSet::new();
    let expanded = expand_with(text, &mut MOST.clone(), |name| {
        let value = env.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value.map(String::as_str).unwrap_or_default().into()
    })?;
    if missing.is_empty() {
        return Ok(expanded);
    }
    Err(format!("missing value for {}", Vec::from_iter(missing).join(", ")))
}

fn expand_with<'v>(
    text: &str,
    room: &mut usize,
    mut value: impl FnMut(&str) -> Cow<'v, str>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len().min(MOST));
    let mut add = |part: &str| -> Result<(), String> {
        *room = room.checked_sub(part.len()).ok_or(TOO_LONG)?;
        out.push_str(part);
        Ok(())
    };
    let mut rest = text;
    // Behind the last `)` no reference ends, and none is looked for.
    let last = text.rfind(')').map_or(usize::MAX, |at| text.len() - at);
    while let Some((before, after)) = rest.split_once('$') {
        add(before)?;
        let named = after.strip_prefix('(').filter(|_| after.len() >= last).and_then(|s| s.split_once(')'));
        if let Some(tail) = after.strip_prefix('$') {
            add("$")?;
            rest = tail;
        } else if let Some((name, tail)) = named {
            add(&value(name))?;
            rest = tail;
        } else {
            add("$")?;
            rest = after;
        }
    }
    add(rest)?;
    Ok(out)
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
            assert_eq!(expand(text, &env(), &mut MOST.clone()).as_deref(), Ok(expanded), "{text}");
        }
    }

    /// Each line ten times the one before it: a few of them would be more than there is memory.
    #[test]
    fn references_cannot_explode() {
        let mut env = HashMap::from([("A0".to_owned(), "x".repeat(100))]);
        let mut room = MOST;
        let grown = (1..20).map(|n| {
            let value = expand(&format!("$(A{})", n - 1).repeat(10), &env, &mut room)?;
            env.insert(format!("A{n}"), value);
            Ok(())
        });
        assert_eq!(grown.collect::<Result<Vec<()>, String>>(), Err(TOO_LONG.to_owned()));
    }

    /// With each looked for up to the end these would take minutes.
    #[test]
    fn references_that_do_not_end_are_looked_for_once() {
        for text in ["$(".repeat(1 << 20), format!("$(A){}", "$(".repeat(1 << 20))] {
            let expanded = expand(&text, &env(), &mut MOST.clone()).unwrap();
            assert!(expanded.ends_with("$($("));
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
