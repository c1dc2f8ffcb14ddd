//! YAML as upstream answers with it: the bytes of Go's yaml.v2, keys sorted, lines folded after eighty characters. What is
//! written can be taken away at any time, so that a list never is in memory as a whole.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::scalar::{Scalar, Style, is_break, is_printable};
use super::tree::Tree;

/// The column after which the next space becomes a break.
const WIDTH: usize = 80;
const STEP: usize = 2;
const BOM: char = '\u{feff}';

/// A document as it is being written.
pub(crate) struct Writer {
    out: String,
    /// `None` outside of everything.
    indent: Option<usize>,
    /// In characters.
    column: usize,
    /// Whether what was written last separates already.
    spaced: bool,
    /// Whether the line holds nothing but indentation and indicators.
    indenting: bool,
}

/// Where the block was that a block is in.
type Outer = Option<usize>;

/// The YAML of one value.
pub(crate) fn text(value: &Value) -> String {
    let mut writer = Writer::new();
    writer.value(value);
    writer.end();
    writer.take()
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new() -> Self {
        Writer { out: String::new(), indent: None, column: 0, spaced: true, indenting: true }
    }

    /// What has been written since the last call.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// Ends the document.
    pub(crate) fn end(&mut self) {
        self.new_line();
    }

    pub(crate) fn value(&mut self, value: &Value) {
        match Tree::deserialize(value) {
            Ok(tree) => self.tree(&tree),
            Err(_) => self.scalar(Scalar::verbatim("null")),
        }
    }

    /// Begins the outermost map.
    pub(crate) fn begin_map(&mut self) {
        self.indent = Some(0);
    }

    /// A key of the map that is written now, and its value.
    pub(crate) fn entry(&mut self, key: &str, value: &Value) {
        self.key(key);
        self.value(value);
    }

    /// A key whose value is a list; its items follow, and none of them may be missing.
    pub(crate) fn begin_list(&mut self, key: &str) {
        self.key(key);
    }

    /// An item of the list that is written now.
    pub(crate) fn item(&mut self, item: &Tree<'_>) {
        self.new_line();
        self.indicator("-", false, true);
        self.tree(item);
    }

    pub(crate) fn value_item(&mut self, item: &Value) {
        self.new_line();
        self.indicator("-", false, true);
        self.value(item);
    }

    fn key(&mut self, key: &str) {
        self.new_line();
        let scalar = Scalar::of(key, true);
        if scalar.simple_key {
            self.scalar(scalar);
            self.out.push(':');
            self.column += 1;
            self.spaced = false;
            self.indenting = false;
            return;
        }
        self.indicator("?", false, true);
        self.scalar(scalar);
        self.new_line();
        self.indicator(":", false, true);
    }

    fn tree(&mut self, tree: &Tree<'_>) {
        match tree {
            Tree::Null => self.scalar(Scalar::verbatim("null")),
            Tree::Bool(b) => self.scalar(Scalar::verbatim(if *b { "true" } else { "false" })),
            Tree::Signed(n) => self.scalar(Scalar::verbatim(&n.to_string())),
            Tree::Unsigned(n) => self.scalar(Scalar::verbatim(&n.to_string())),
            Tree::Float(f) => self.scalar(Scalar::verbatim(&float(*f))),
            Tree::Text(text) => self.scalar(Scalar::of(text, false)),
            Tree::List(items) if items.is_empty() => self.empty("[", "]"),
            Tree::Map(entries) if entries.is_empty() => self.empty("{", "}"),
            Tree::List(items) => {
                // Behind a key and its colon, a list stands no deeper than the key.
                let outer = if self.indenting { self.deeper() } else { self.indent };
                for item in items {
                    self.item(item);
                }
                self.indent = outer;
            }
            Tree::Map(entries) => {
                let outer = self.deeper();
                for (key, value) in entries {
                    self.key(key);
                    self.tree(value);
                }
                self.indent = outer;
            }
        }
    }

    fn deeper(&mut self) -> Outer {
        let outer = self.indent;
        self.indent = Some(outer.map_or(0, |indent| indent + STEP));
        outer
    }

    fn empty(&mut self, open: &str, close: &str) {
        self.indicator(open, true, false);
        self.out.push_str(close);
        self.column += 1;
        self.spaced = false;
    }

    fn put(&mut self, c: char) {
        self.out.push(c);
        self.column += 1;
    }

    fn put_break(&mut self, c: char) {
        self.out.push(c);
        self.column = 0;
    }

    /// A character that stands apart from what is before it.
    fn indicator(&mut self, text: &str, spaced: bool, indents: bool) {
        self.space();
        self.out.push_str(text);
        self.column += text.len();
        self.spaced = spaced;
        self.indenting &= indents;
    }

    fn space(&mut self) {
        if !self.spaced {
            self.put(' ');
        }
    }

    /// Moves to the indentation, on a new line if need be.
    fn new_line(&mut self) {
        let indent = self.indent.unwrap_or(0);
        if !self.indenting || self.column > indent || (self.column == indent && !self.spaced) {
            self.put_break('\n');
        }
        while self.column < indent {
            self.put(' ');
        }
        self.spaced = true;
        self.indenting = true;
    }

    fn scalar(&mut self, scalar: Scalar<'_>) {
        let outer = self.indent;
        self.indent = Some(outer.map_or(STEP, |indent| indent + STEP));
        match scalar.style {
            Style::Plain => {
                self.space();
                self.folded(scalar);
            }
            Style::Single => self.quoted('\'', |writer| writer.folded(scalar)),
            Style::Double => self.quoted('"', |writer| writer.escaped(scalar)),
            Style::Literal => self.literal(scalar.text),
        }
        self.indent = outer;
    }

    fn quoted(&mut self, quote: char, inner: impl FnOnce(&mut Self)) {
        self.space();
        self.put(quote);
        inner(self);
        self.put(quote);
        self.spaced = false;
        self.indenting = false;
    }

    /// A plain or single-quoted text.
    fn folded(&mut self, scalar: Scalar<'_>) {
        let (text, quoted) = (scalar.text, scalar.style == Style::Single);
        if scalar.solid {
            self.out.push_str(text);
            self.column += text.len();
        } else {
            let (mut spaces, mut breaks) = (false, false);
            for (at, c) in text.char_indices() {
                let next = text[at + c.len_utf8()..].chars().next();
                if c == ' ' {
                    let inside = !quoted || at > 0 && next.is_some();
                    let fold = !scalar.simple_key && !spaces && self.column > WIDTH && inside;
                    match fold && next != Some(' ') {
                        true => self.new_line(),
                        false => self.put(c),
                    }
                    spaces = true;
                } else if is_break(c) {
                    self.put_break(c);
                    self.indenting = true;
                    breaks = true;
                } else {
                    if breaks {
                        self.new_line();
                    }
                    if quoted && c == '\'' {
                        self.put(c);
                    }
                    self.put(c);
                    self.indenting = false;
                    (spaces, breaks) = (false, false);
                }
            }
        }
        self.spaced = false;
        self.indenting = false;
    }

    /// A double-quoted text.
    fn escaped(&mut self, scalar: Scalar<'_>) {
        let text = scalar.text;
        // Go's library takes every character of such a text for the mark.
        let marked = text.starts_with(BOM);
        let mut spaces = false;
        for (at, c) in text.char_indices() {
            if marked || !is_printable(c) || is_break(c) || matches!(c, '"' | '\\') {
                self.escape(c);
                spaces = false;
            } else if c == ' ' {
                let next = text[at + 1..].chars().next();
                let inside = at > 0 && next.is_some();
                if !scalar.simple_key && !spaces && self.column > WIDTH && inside {
                    self.new_line();
                    if next == Some(' ') {
                        self.put('\\');
                    }
                } else {
                    self.put(c);
                }
                spaces = true;
            } else {
                self.put(c);
                spaces = false;
            }
        }
    }

    fn escape(&mut self, c: char) {
        self.put('\\');
        let short = match c {
            '\0' => '0',
            '\u{7}' => 'a',
            '\u{8}' => 'b',
            '\t' => 't',
            '\n' => 'n',
            '\u{b}' => 'v',
            '\u{c}' => 'f',
            '\r' => 'r',
            '\u{1b}' => 'e',
            '"' | '\\' => c,
            '\u{85}' => 'N',
            '\u{a0}' => '_',
            '\u{2028}' => 'L',
            '\u{2029}' => 'P',
            _ => {
                let code = u32::from(c);
                let before = self.out.len();
                let written = match code {
                    ..0x100 => write!(self.out, "x{code:02X}"),
                    0x100..0x1_0000 => write!(self.out, "u{code:04X}"),
                    _ => write!(self.out, "U{code:08X}"),
                };
                written.expect("a String takes everything");
                self.column += self.out.len() - before;
                return;
            }
        };
        self.put(short);
    }

    /// A block of lines, as they are.
    fn literal(&mut self, text: &str) {
        self.indicator("|", false, false);
        if text.starts_with(|c: char| c == ' ' || is_break(c)) {
            self.put('2');
        }
        let mut from_end = text.chars().rev().map(is_break);
        match (from_end.next(), from_end.next()) {
            (Some(false) | None, _) => self.put('-'),
            (Some(true), None | Some(true)) => self.put('+'),
            (Some(true), Some(false)) => {}
        }
        self.put_break('\n');
        self.indenting = true;
        self.spaced = true;
        let mut breaks = true;
        for c in text.chars() {
            if is_break(c) {
                self.put_break(c);
                self.indenting = true;
                breaks = true;
            } else {
                if breaks {
                    self.new_line();
                }
                self.put(c);
                self.indenting = false;
                breaks = false;
            }
        }
    }
}

/// A number as Go's `%g` prints it.
fn float(f: f64) -> String {
    let scientific = format!("{f:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        -4..6 => f.to_string(),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", i32::abs(exponent))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What Go's library makes of the same JSON.
    const VECTORS: &str = include_str!("../../../tests/data/yaml.json");

    #[test]
    fn yaml_is_what_gos_library_writes() {
        let vectors: Vec<(Value, String)> = serde_json::from_str(VECTORS).unwrap();
        assert!(vectors.len() > 100);
        for (value, wanted) in vectors {
            assert_eq!(text(&value), wanted, "{value}");
        }
    }

    #[test]
    fn a_list_in_pieces_is_the_list() {
        let items = json!([{"b": [1, {"x": "y"}], "a": "line\n"}, "text", [], [[1]], {"k": {}}]);
        let list =
            json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"z": "1", "a": ""}});
        let mut writer = Writer::new();
        let mut pieces = String::new();
        writer.begin_map();
        writer.entry("apiVersion", &list["apiVersion"]);
        writer.begin_list("items");
        for item in items.as_array().unwrap() {
            writer.value_item(item);
            pieces.push_str(&writer.take());
        }
        writer.entry("kind", &list["kind"]);
        writer.entry("metadata", &list["metadata"]);
        writer.end();
        pieces.push_str(&writer.take());
        assert_eq!(pieces, text(&list));
    }
}
