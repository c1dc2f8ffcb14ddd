//! Hostile regular expressions: refused, or compiled within bounds and found in time linear in the text.

use super::Regexp;
use crate::fuzz::parts;

/// An expression and a text.
pub(crate) fn expression(bytes: &[u8]) {
    let [pattern, text] = parts(bytes);
    let (pattern, text) = (String::from_utf8_lossy(pattern), String::from_utf8_lossy(text));
    // A search takes at most the product of the two, as Go's does: of one size the other's length tells.
    if pattern.len() > 1000 {
        let _ = Regexp::within(&pattern, 1 << 20);
        return;
    }
    // Of the size that users may make many of.
    let Ok(regexp) = Regexp::within(&pattern, 1 << 20) else { return };
    let found = regexp.find_iter(&text).take(1000).count();
    assert_eq!(regexp.is_match(&text), found > 0);
}
