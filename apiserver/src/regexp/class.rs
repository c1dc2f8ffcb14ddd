//! Sets of characters: escapes like `\d` and `\pL`, and what stands in brackets.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::parse::{Flags, Text};
use super::{Error, Reason};

/// The names that `\p{…}` takes, as Go looks them up: general categories, their aliases, and scripts of one word.
static UNICODE_NAMES: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("unicode-names.txt").split_whitespace().collect());

const DIGIT: &[(char, char)] = &[('0', '9')];
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// Classes that have a name in brackets.
const NAMED: &[(&str, &[(char, char)])] = &[
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("ascii", &[('\0', '\x7f')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit", DIGIT),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("word", WORD),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

/// A class in brackets, which the text begins with.
pub(super) fn bracketed(text: &mut Text<'_>, flags: Flags) -> Result<ClassUnicode, Error> {
    let whole = text.rest();
    text.skip(1);
    let negated = text.take("^");
    let mut class = ClassUnicode::empty();
    let mut first = true;
    while first || !text.rest().starts_with(']') {
        first = false;
        if let Some(named) = named(text, flags)? {
            class.union(&named);
            continue;
        }
        if let Some(group) = unicode(text, flags)?.or_else(|| perl(text, flags)) {
            class.union(&group);
            continue;
        }
        let start = text.rest();
        let low = character(text, whole)?;
        let mut high = low;
        let rest = text.rest();
        if rest.len() >= 2 && rest.starts_with('-') && !rest.starts_with("-]") {
            text.skip(1);
            high = character(text, whole)?;
            if high < low {
                return Err(text.error(Reason::CharRange, start));
            }
        }
        class.union(&folded(range(low, high), flags));
    }
    text.skip(1);
    if negated {
        class.negate();
    }
    Ok(class)
}

fn character(text: &mut Text<'_>, whole: &str) -> Result<u32, Error> {
    match text.peek() {
        None => Err(Error { why: Reason::MissingBracket, part: whole.to_owned() }),
        Some('\\') => text.escape(),
        Some(c) => {
            text.skip(c.len_utf8());
            Ok(c.into())
        }
    }
}

/// `[:alpha:]`
fn named(text: &mut Text<'_>, flags: Flags) -> Result<Option<ClassUnicode>, Error> {
    let rest = text.rest();
    let Some((name, _)) = rest.strip_prefix("[:").and_then(|r| r.split_once(":]")) else { return Ok(None) };
    text.skip(name.len() + 4);
    let (negated, known) = match name.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, name),
    };
    match NAMED.iter().find(|(own, _)| *own == known) {
        Some((_, ranges)) => Ok(Some(group(ranges, negated, flags))),
        None => Err(text.error(Reason::CharRange, rest)),
    }
}

/// `\d`, `\S` and their like: ASCII.
pub(super) fn perl(text: &mut Text<'_>, flags: Flags) -> Option<ClassUnicode> {
    let letter = text.rest().strip_prefix('\\')?.chars().next()?;
    let ranges = match letter.to_ascii_lowercase() {
        'd' => DIGIT,
        's' => SPACE,
        'w' => WORD,
        _ => return None,
    };
    text.skip(2);
    Some(group(ranges, letter.is_ascii_uppercase(), flags))
}

fn group(ranges: &[(char, char)], negated: bool, flags: Flags) -> ClassUnicode {
    let class = ClassUnicode::new(ranges.iter().map(|(from, to)| ClassUnicodeRange::new(*from, *to)));
    let mut class = folded(class, flags);
    if negated {
        class.negate();
    }
    class
}

/// `\pL`, `\p{Greek}`, `\P{^Lu}`
pub(super) fn unicode(text: &mut Text<'_>, flags: Flags) -> Result<Option<ClassUnicode>, Error> {
    let start = text.rest();
    let mut negated = match start.as_bytes() {
        [b'\\', b'p', ..] => false,
        [b'\\', b'P', ..] => true,
        _ => return Ok(None),
    };
    let after = &start[2..];
    let Some(first) = after.chars().next() else {
        return Err(Error { why: Reason::CharRange, part: start.to_owned() });
    };
    let name = if first == '{' {
        let Some(end) = after.find('}') else {
            return Err(Error { why: Reason::CharRange, part: start.to_owned() });
        };
        text.skip(2 + end + 1);
        &after[1..end]
    } else {
        text.skip(2 + first.len_utf8());
        &after[..first.len_utf8()]
    };
    let plain = name.strip_prefix('^').unwrap_or(name);
    negated ^= plain.len() != name.len();
    let name = canonical(plain);
    let table = if UNICODE_NAMES.contains(&*name) { table(&name) } else { None };
    let Some(class) = table else { return Err(text.error(Reason::CharRange, start)) };
    let mut class = folded(class, flags);
    if negated {
        class.negate();
    }
    Ok(Some(class))
}

/// A name as Go compares it: a capital, then small letters; spaces, hyphens and underscores do not count.
fn canonical(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')) {
        out.push(if out.is_empty() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
    }
    out
}

fn table(name: &str) -> Option<ClassUnicode> {
    // Code points that no text has.
    if matches!(name, "Cs" | "Surrogate") {
        return Some(ClassUnicode::empty());
    }
    match regex_syntax::parse(&format!(r"\p{{{name}}}")).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        _ => None,
    }
}

/// A range of code points, without those that no text has.
pub(super) fn range(low: u32, high: u32) -> ClassUnicode {
    let from = (low..=high.min(0xe000).max(low)).find_map(char::from_u32).filter(|c| u32::from(*c) <= high);
    let to = if (0xd800..=0xdfff).contains(&high) { Some('\u{d7ff}') } else { char::from_u32(high) };
    match (from, to) {
        (Some(from), Some(to)) if from <= to => ClassUnicode::new([ClassUnicodeRange::new(from, to)]),
        _ => ClassUnicode::empty(),
    }
}

/// With the other cases of all its letters, where case does not count.
pub(super) fn folded(mut class: ClassUnicode, flags: Flags) -> ClassUnicode {
    if flags.fold_case {
        class.case_fold_simple();
    }
    class
}
