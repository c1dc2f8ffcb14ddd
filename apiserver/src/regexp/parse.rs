//! Go's syntax of regular expressions to a tree of the engine's. Without recursion: what is open stands on a stack.

use regex_syntax::hir::{Class, ClassUnicode, Hir, Look, Repetition};

use super::class;
use super::{Error, Reason};

/// How deep parts may nest.
const MAX_HEIGHT: u32 = 1000;
/// How many steps the compiled form may have, by Go's count.
const MAX_SIZE: u64 = (128 << 20) / 40;
/// How many ranges all classes may have together.
const MAX_RANGES: usize = 2_000_000;
/// How often a part may be repeated, its own repetitions multiplied.
const MAX_REPEAT: i32 = 1000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// `i`
    pub(super) fold_case: bool,
    /// `m`
    multi_line: bool,
    /// `s`
    dot_newline: bool,
    /// `U`
    swap_greed: bool,
}

/// A finished part.
struct Part {
    tree: Hir,
    size: u64,
    height: u32,
    is_literal: bool,
    /// How often the most repeated of what it holds is: `(a{10}){3}` has 30.
    repeats: i32,
}

/// A group that is open, or the whole.
#[derive(Default)]
struct Open {
    /// What holds again once it is closed.
    flags: Flags,
    captures: bool,
    /// What stands before each `|`.
    before: Vec<Part>,
    parts: Vec<Part>,
}

/// The text, and how far it is read.
pub(super) struct Text<'a> {
    all: &'a str,
    at: usize,
}

struct Parser<'a> {
    text: Text<'a>,
    flags: Flags,
    open: Vec<Open>,
    here: Open,
    ranges: usize,
}

/// Reads a whole expression.
pub(super) fn parse(pattern: &str) -> Result<Hir, Error> {
    let text = Text { all: pattern, at: 0 };
    let mut parser = Parser { text, flags: Flags::default(), open: vec![], here: Open::default(), ranges: 0 };
    parser.run()?;
    if !parser.open.is_empty() {
        return Err(parser.text.whole(Reason::MissingParen));
    }
    let whole = std::mem::take(&mut parser.here);
    Ok(parser.alternatives(whole)?.tree)
}

// === impl Text ===

impl<'a> Text<'a> {
    pub(super) fn rest(&self) -> &'a str {
        &self.all[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    pub(super) fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        self.at += if found { prefix.len() } else { 0 };
        found
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// An error about what has been read since `start` was the rest.
    pub(super) fn error(&self, why: Reason, start: &str) -> Error {
        let read = start.len() - self.rest().len();
        Error { why, part: start[..read].to_owned() }
    }

    fn whole(&self, why: Reason) -> Error {
        Error { why, part: self.all.to_owned() }
    }

    /// The code point that an escape stands for.
    pub(super) fn escape(&mut self) -> Result<u32, Error> {
        let start = self.rest();
        self.skip(1);
        let Some(c) = self.next() else {
            return Err(Error { why: Reason::TrailingBackslash, part: String::new() });
        };
        let found = match c {
            '0' => Some(self.octal(0)),
            '1'..='7' if matches!(self.peek(), Some('0'..='7')) => Some(self.octal(u32::from(c) - 48)),
            'x' => self.hexadecimal(),
            'a' => Some(7),
            'f' => Some(12),
            'n' => Some(10),
            'r' => Some(13),
            't' => Some(9),
            'v' => Some(11),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c.into()),
            _ => None,
        };
        found.ok_or_else(|| self.error(Reason::Escape, start))
    }

    /// Up to two further digits.
    fn octal(&mut self, first: u32) -> u32 {
        let mut code = first;
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
            self.skip(1);
            code = code * 8 + digit;
        }
        code
    }

    /// `41` or `{1F600}`
    fn hexadecimal(&mut self) -> Option<u32> {
        let first = self.next()?;
        if first != '{' {
            let second = self.next();
            return Some(first.to_digit(16)? * 16 + second?.to_digit(16)?);
        }
        let mut code = None;
        loop {
            match self.next()? {
                '}' => return code,
                c => {
                    let next = code.unwrap_or(0) * 16 + c.to_digit(16)?;
                    code = Some(next).filter(|c| *c <= u32::from(char::MAX));
                    code?;
                }
            }
        }
    }
}

// === impl Parser ===

impl Parser<'_> {
    fn run(&mut self) -> Result<(), Error> {
        // The operator before, where it was one of repetition.
        let mut last: Option<&str> = None;
        while let Some(c) = self.text.peek() {
            let start = self.text.rest();
            let mut repeated = None;
            match c {
                '(' if start.starts_with("(?") => self.flags_or_name()?,
                '(' => {
                    self.text.skip(1);
                    self.begin(true, self.flags);
                }
                '|' => {
                    self.text.skip(1);
                    let parts = std::mem::take(&mut self.here.parts);
                    let part = self.sequence(parts)?;
                    self.here.before.push(part);
                }
                ')' => {
                    self.text.skip(1);
                    self.end()?;
                }
                '^' if self.flags.multi_line => self.look(1, Look::StartLF)?,
                '^' => self.look(1, Look::Start)?,
                '$' if self.flags.multi_line => self.look(1, Look::EndLF)?,
                '$' => self.look(1, Look::End)?,
                '.' => {
                    self.text.skip(1);
                    let mut class = match self.flags.dot_newline {
                        true => ClassUnicode::empty(),
                        false => class::range(10, 10),
                    };
                    class.negate();
                    self.class(class)?;
                }
                '[' => {
                    let class = class::bracketed(&mut self.text, self.flags)?;
                    self.class(class)?;
                }
                '*' | '+' | '?' => {
                    self.text.skip(1);
                    let (least, most) = match c {
                        '*' => (0, -1),
                        '+' => (1, -1),
                        _ => (0, 1),
                    };
                    self.repeat((least, most), start, last, false)?;
                    repeated = Some(start);
                }
                '{' => match self.counts() {
                    None => {
                        self.text.skip(1);
                        self.literal(c.into())?;
                    }
                    Some((least, most)) => {
                        if !(0..=MAX_REPEAT).contains(&least)
                            || most > MAX_REPEAT
                            || (most >= 0 && least > most)
                        {
                            return Err(self.text.error(Reason::RepeatSize, start));
                        }
                        self.repeat((least, most), start, last, true)?;
                        repeated = Some(start);
                    }
                },
                '\\' => self.escaped()?,
                c => {
                    self.text.skip(c.len_utf8());
                    self.literal(c.into())?;
                }
            }
            last = repeated;
        }
        Ok(())
    }

    fn begin(&mut self, captures: bool, outer: Flags) {
        let inner = Open { flags: outer, captures, ..Open::default() };
        self.open.push(std::mem::replace(&mut self.here, inner));
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(outer) = self.open.pop() else { return Err(self.text.whole(Reason::UnexpectedParen)) };
        let inner = std::mem::replace(&mut self.here, outer);
        let (flags, captures) = (inner.flags, inner.captures);
        let mut part = self.alternatives(inner)?;
        self.flags = flags;
        if captures {
            part = Part { size: part.size + 2, height: part.height + 1, is_literal: false, ..part };
        }
        self.push(part)
    }

    fn alternatives(&self, open: Open) -> Result<Part, Error> {
        let last = self.sequence(open.parts)?;
        let mut all = open.before;
        if all.is_empty() {
            return Ok(last);
        }
        all.push(last);
        let size = all.iter().map(|p| p.size).sum::<u64>() + all.len() as u64 - 1;
        self.combined(all, size, Hir::alternation)
    }

    fn sequence(&self, mut parts: Vec<Part>) -> Result<Part, Error> {
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return Ok(only);
        }
        let is_literal = !parts.is_empty() && parts.iter().all(|p| p.is_literal);
        let size = parts.iter().map(|p| p.size).sum::<u64>().max(1);
        let whole = self.combined(parts, size, Hir::concat)?;
        // A word is one part.
        Ok(if is_literal { Part { height: 1, is_literal, ..whole } } else { whole })
    }

    fn combined(&self, all: Vec<Part>, size: u64, combine: fn(Vec<Hir>) -> Hir) -> Result<Part, Error> {
        let height = 1 + all.iter().map(|p| p.height).max().unwrap_or(0);
        let repeats = all.iter().map(|p| p.repeats).max().unwrap_or(1);
        let tree = combine(all.into_iter().map(|p| p.tree).collect());
        self.limited(Part { tree, size, height, is_literal: false, repeats })
    }

    fn limited(&self, part: Part) -> Result<Part, Error> {
        match part {
            part if part.size > MAX_SIZE => Err(self.text.whole(Reason::Large)),
            part if part.height > MAX_HEIGHT => Err(self.text.whole(Reason::NestingDepth)),
            part => Ok(part),
        }
    }

    fn push(&mut self, part: Part) -> Result<(), Error> {
        let part = self.limited(part)?;
        self.here.parts.push(part);
        Ok(())
    }

    fn simple(&mut self, tree: Hir, is_literal: bool) -> Result<(), Error> {
        self.push(Part { tree, size: 1, height: 1, is_literal, repeats: 1 })
    }

    fn look(&mut self, skip: usize, look: Look) -> Result<(), Error> {
        self.text.skip(skip);
        self.simple(Hir::look(look), false)
    }

    fn class(&mut self, class: ClassUnicode) -> Result<(), Error> {
        self.ranges += class.ranges().len();
        if self.ranges > MAX_RANGES {
            return Err(self.text.whole(Reason::Large));
        }
        self.simple(Hir::class(Class::Unicode(class)), false)
    }

    fn literal(&mut self, code: u32) -> Result<(), Error> {
        let tree = match char::from_u32(code) {
            Some(c) if !self.flags.fold_case => Hir::literal(c.encode_utf8(&mut [0; 4]).as_bytes()),
            _ => Hir::class(Class::Unicode(class::folded(class::range(code, code), self.flags))),
        };
        self.simple(tree, true)
    }

    /// Repeats the part before; `start` begins with the operator, which is read but for a mark of its greed.
    fn repeat(
        &mut self,
        (least, most): (i32, i32),
        start: &str,
        last: Option<&str>,
        counted: bool,
    ) -> Result<(), Error> {
        let lazy = self.text.take("?");
        if let Some(last) = last {
            return Err(self.text.error(Reason::RepeatOp, last));
        }
        let Some(part) = self.here.parts.pop() else {
            return Err(self.text.error(Reason::MissingRepeatArgument, start));
        };
        let (times, open_end) = (u64::from(most.max(0).unsigned_abs()), most < 0);
        let from = u64::from(least.unsigned_abs());
        let size = match (counted, open_end) {
            (false, true) => part.size + if least == 0 { 2 } else { 1 },
            (false, false) => part.size + 1,
            (true, true) if least == 0 => part.size + 2,
            (true, true) => 1 + from * part.size,
            (true, false) => times * part.size + (times - from),
        };
        let own = if open_end { least } else { most };
        let repeats = match (counted, own) {
            (true, 0) if !open_end => 1,
            (true, own) => own.max(1).saturating_mul(part.repeats),
            (false, _) => part.repeats,
        };
        let repetition = Repetition {
            min: least.unsigned_abs(),
            max: if open_end { None } else { Some(most.unsigned_abs()) },
            greedy: lazy == self.flags.swap_greed,
            sub: Box::new(part.tree),
        };
        let tree = Hir::repetition(repetition);
        let height = part.height + 1;
        let whole = self.limited(Part { tree, size: size.max(1), height, is_literal: false, repeats })?;
        if counted && (least >= 2 || most >= 2) && repeats > MAX_REPEAT {
            return Err(self.text.error(Reason::RepeatSize, start));
        }
        self.here.parts.push(whole);
        Ok(())
    }

    /// `{2}`, `{2,}`, `{2,5}`, which the text begins with; -1 is no bound. A number too large for any use is the least of
    /// all. `None`: it is something else, and nothing is read.
    fn counts(&mut self) -> Option<(i32, i32)> {
        let start = self.text.at;
        let found = self.read_counts();
        if found.is_none() {
            self.text.at = start;
        }
        found
    }

    fn read_counts(&mut self) -> Option<(i32, i32)> {
        self.text.skip(1);
        let least = self.number()?;
        let mut counts = (least, least);
        if self.text.take(",") {
            counts.1 = -1;
            if !self.text.rest().starts_with('}') {
                counts.1 = self.number()?;
                if counts.1 < 0 {
                    counts.0 = -1;
                }
            }
        }
        self.text.take("}").then_some(counts)
    }

    fn number(&mut self) -> Option<i32> {
        let rest = self.text.rest();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || (digits > 1 && rest.starts_with('0')) {
            return None;
        }
        self.text.skip(digits);
        Some(rest[..digits].parse::<i32>().ok().filter(|n| *n < 1_000_000_000).unwrap_or(-1))
    }

    /// `(?i)`, `(?i:`, `(?P<name>`, `(?<name>`
    fn flags_or_name(&mut self) -> Result<(), Error> {
        let start = self.text.rest();
        let prefix = ["(?P<", "(?<"].into_iter().find(|p| start.len() > p.len() && start.starts_with(p));
        if let Some(prefix) = prefix {
            let Some(end) = start.find('>') else {
                return Err(Error { why: Reason::NamedCapture, part: start.to_owned() });
            };
            self.text.skip(end + 1);
            let name = &start[prefix.len()..end];
            if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) {
                return Err(self.text.error(Reason::NamedCapture, start));
            }
            self.begin(true, self.flags);
            return Ok(());
        }
        self.text.skip(2);
        let (mut flags, mut on, mut seen) = (self.flags, true, false);
        while let Some(c) = self.text.next() {
            match c {
                'i' => flags.fold_case = on,
                'm' => flags.multi_line = on,
                's' => flags.dot_newline = on,
                'U' => flags.swap_greed = on,
                '-' if on => {
                    (on, seen) = (false, false);
                    continue;
                }
                ':' | ')' if on || seen => {
                    if c == ':' {
                        self.begin(false, self.flags);
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => break,
            }
            seen = true;
        }
        Err(self.text.error(Reason::PerlOp, start))
    }

    fn escaped(&mut self) -> Result<(), Error> {
        let rest = self.text.rest();
        match rest.as_bytes().get(1) {
            Some(b'A') => return self.look(2, Look::Start),
            Some(b'b') => return self.look(2, Look::WordAscii),
            Some(b'B') => return self.look(2, Look::WordAsciiNegate),
            Some(b'z') => return self.look(2, Look::End),
            Some(b'C') => return Err(Error { why: Reason::Escape, part: rest[..2].to_owned() }),
            Some(b'Q') => {
                let quoted = rest[2..].split_once(r"\E").map_or(&rest[2..], |(quoted, _)| quoted);
                let closed = rest.len() > 2 + quoted.len();
                self.text.skip(2 + quoted.len() + if closed { 2 } else { 0 });
                return quoted.chars().try_for_each(|c| self.literal(c.into()));
            }
            _ => {}
        }
        if let Some(class) = class::unicode(&mut self.text, self.flags)? {
            return self.class(class);
        }
        if let Some(class) = class::perl(&mut self.text, self.flags) {
            return self.class(class);
        }
        let code = self.text.escape()?;
        self.literal(code)
    }
}
