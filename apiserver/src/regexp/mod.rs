//! Regular expressions in the syntax and meaning of Go's `regexp` package, which the API promises wherever it takes one:
//! `pattern` in schemas, `matches`, `find` and `findAll` in CEL. [`parse`] reads Go's syntax, strictly; the engine is that
//! of the `regex` crate, which works in time linear in the text, as Go's does.

mod class;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod parse;

use std::fmt;

use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;

/// How large a compiled expression may be.
const MAX_BYTES: usize = 32 << 20;
/// How much memory a search may keep between texts; it gets slower, not wrong, where that is too little.
const MAX_CACHE_BYTES: usize = 512 << 10;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Regexp(meta::Regex);

/// Why a text is no expression, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {why}: `{part}`")]
pub struct Error {
    why: Reason,
    /// The part of the expression that is meant.
    part: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    CharRange,
    Escape,
    NamedCapture,
    PerlOp,
    RepeatOp,
    RepeatSize,
    MissingBracket,
    MissingParen,
    MissingRepeatArgument,
    TrailingBackslash,
    UnexpectedParen,
    NestingDepth,
    Large,
}

// === impl Regexp ===

impl Regexp {
    /// Reads and compiles an expression.
    ///
    /// # Errors
    /// Where Go's `regexp.Compile` has one, with its text; and where the compiled form were larger than 32 MiB.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        Self::within(pattern, MAX_BYTES)
    }

    /// The same with a bound of one's own for the size of the compiled form.
    pub fn within(pattern: &str, max_bytes: usize) -> Result<Self, Error> {
        let tree = parse::parse(pattern)?;
        let config = meta::Config::new()
            .nfa_size_limit(Some(max_bytes))
            .hybrid_cache_capacity(MAX_CACHE_BYTES)
            .onepass(false)
            .which_captures(WhichCaptures::Implicit);
        let built = meta::Regex::builder().configure(config).build_from_hir(&tree);
        built.map(Regexp).map_err(|_| Error { why: Reason::Large, part: pattern.to_owned() })
    }

    /// How much memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.0.memory_usage()
    }

    /// Whether it is found anywhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// What it finds in the text, from left to right.
    pub fn find_iter<'t>(&'t self, text: &'t str) -> impl Iterator<Item = &'t str> {
        self.0.find_iter(text).map(|found| &text[found.range()])
    }
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::CharRange => "invalid character class range",
            Reason::Escape => "invalid escape sequence",
            Reason::NamedCapture => "invalid named capture",
            Reason::PerlOp => "invalid or unsupported Perl syntax",
            Reason::RepeatOp => "invalid nested repetition operator",
            Reason::RepeatSize => "invalid repeat count",
            Reason::MissingBracket => "missing closing ]",
            Reason::MissingParen => "missing closing )",
            Reason::MissingRepeatArgument => "missing argument to repetition operator",
            Reason::TrailingBackslash => "trailing backslash at end of expression",
            Reason::UnexpectedParen => "unexpected )",
            Reason::NestingDepth => "expression nests too deeply",
            Reason::Large => "expression too large",
        })
    }
}

#[cfg(test)]
mod tests;
