//! JSON over several lines, as Go's `MarshalIndent` writes it with two spaces: for people who ask with `curl` or a browser.

/// Spreads compact JSON over lines, piece by piece: a long answer is never held whole.
#[derive(Default)]
pub(crate) struct Indent {
    depth: usize,
    quoted: bool,
    escaped: bool,
    /// A list or an object has been opened, and nothing has come of it yet.
    opened: bool,
}

// === impl Indent ===

impl Indent {
    /// Appends a piece of a JSON text.
    pub(crate) fn piece(&mut self, json: &[u8], out: &mut Vec<u8>) {
        out.reserve(json.len() * 2);
        for &byte in json {
            if self.quoted {
                out.push(byte);
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.quoted = false,
                    _ => {}
                }
                continue;
            }
            if byte.is_ascii_whitespace() {
                continue;
            }
            let closes = matches!(byte, b'}' | b']');
            if closes {
                self.depth = self.depth.saturating_sub(1);
            }
            // Nothing stands between the brackets of what is empty.
            if std::mem::take(&mut self.opened) != closes {
                self.line(out);
            }
            out.push(byte);
            match byte {
                b'{' | b'[' => (self.depth, self.opened) = (self.depth + 1, true),
                b',' => self.line(out),
                b':' => out.push(b' '),
                b'"' => self.quoted = true,
                _ => {}
            }
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

/// A whole text.
pub(crate) fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    Indent::default().piece(json, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_spread_as_go_spreads_them() {
        let compact = r#"{"a":[1,{"b":"x,{\"y\\"},[]],"c":{},"d":null}"#;
        let value: serde_json::Value = serde_json::from_str(compact).unwrap();
        let whole = indented(compact.as_bytes());
        assert_eq!(String::from_utf8(whole.clone()).unwrap(), serde_json::to_string_pretty(&value).unwrap());
        let (mut indent, mut pieces) = (Indent::default(), vec![]);
        compact.as_bytes().chunks(1).for_each(|piece| indent.piece(piece, &mut pieces));
        assert_eq!(pieces, whole);
    }
}
