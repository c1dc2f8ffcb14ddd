//! Text to tokens.

use std::sync::Arc;

/// What is wrong with the text, and where (in characters).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Issue {
    pub(super) at: usize,
    pub(super) message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    /// `` `a-b` ``: a field's name that is no identifier.
    Quoted(String),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// An operator, bracket, or the words `in`, `true`, `false`, `null`.
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", ".", ",", ":", "?", "(", ")", "[", "]", "{", "}", "<", ">", "+", "-",
    "*", "/", "%", "!", "in", "true", "false",
];

pub(super) struct Lexer<'a> {
    chars: Vec<char>,
    at: usize,
    text: &'a str,
}

// === impl Lexer ===

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer { chars: text.chars().collect(), at: 0, text }
    }

    /// All tokens with their offsets and their text.
    pub(super) fn run(mut self) -> Result<Vec<(usize, Token, String)>, Issue> {
        let mut tokens = vec![];
        loop {
            self.skip_space();
            let start = self.at;
            if self.at >= self.chars.len() {
                tokens.push((self.text.chars().count(), Token::End, "<EOF>".to_owned()));
                return Ok(tokens);
            }
            let token = self.next()?;
            tokens.push((start, token, self.chars[start..self.at].iter().collect()));
        }
    }

    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip_space(&mut self) {
        loop {
            if self.peek(0).is_ascii_whitespace() {
                self.at += 1;
            } else if self.peek(0) == '/' && self.peek(1) == '/' {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.at += 1;
                }
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Token, Issue> {
        let c = self.peek(0);
        if let Some((prefix, raw, bytes)) = self.string_prefix() {
            self.at += prefix;
            return self.string(raw, bytes);
        }
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_ascii_digit()) {
            return self.number();
        }
        if c.is_ascii_alphabetic() || c == '_' {
            let start = self.at;
            while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
                self.at += 1;
            }
            let word: String = self.chars[start..self.at].iter().collect();
            return Ok(match word.as_str() {
                "in" => Token::Sign("in"),
                "true" => Token::Sign("true"),
                "false" => Token::Sign("false"),
                "null" => Token::Sign("null"),
                _ => Token::Ident(word),
            });
        }
        if c == '`' {
            let rest = &self.chars[self.at + 1..];
            let Some(length) = rest.iter().position(|c| *c == '`') else { return Err(self.unknown(1)) };
            let name = rest[..length].iter().collect();
            self.at += length + 2;
            return Ok(Token::Quoted(name));
        }
        let sign = SIGNS.iter().find(|s| s.chars().enumerate().all(|(i, c)| self.peek(i) == c));
        match sign.filter(|s| !s.starts_with(|c: char| c.is_alphabetic())) {
            Some(sign) => {
                self.at += sign.len();
                Ok(Token::Sign(sign))
            }
            None => Err(self.unknown(1)),
        }
    }

    fn unknown(&self, length: usize) -> Issue {
        let end = (self.at + length).min(self.chars.len());
        let text: String = self.chars[self.at..end].iter().collect();
        Issue { at: self.at, message: format!("Syntax error: token recognition error at: '{text}'") }
    }

    fn number(&mut self) -> Result<Token, Issue> {
        let start = self.at;
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
            let digits: String = self.chars[start + 2..self.at].iter().collect();
            return self.integer(start, u64::from_str_radix(&digits, 16).ok());
        }
        let mut float = false;
        loop {
            let exponent = matches!(self.peek(0), 'e' | 'E');
            match self.peek(0) {
                c if c.is_ascii_digit() => self.at += 1,
                '.' if !float && self.peek(1).is_ascii_digit() => {
                    float = true;
                    self.at += 1;
                }
                _ if exponent => {
                    float = true;
                    self.at += 1 + usize::from(matches!(self.peek(1), '+' | '-'));
                }
                _ => break,
            }
        }
        let digits: String = self.chars[start..self.at].iter().collect();
        if !float {
            return self.integer(start, digits.parse().ok());
        }
        let invalid = || Issue { at: start, message: "invalid double literal".to_owned() };
        let value = digits.parse().ok().filter(|d: &f64| d.is_finite());
        value.map(Token::Double).ok_or_else(invalid)
    }

    /// The least negative number is read as its magnitude; the parser negates it.
    fn integer(&mut self, start: usize, value: Option<u64>) -> Result<Token, Issue> {
        let issue = |kind: &str| Issue { at: start, message: format!("invalid {kind} literal") };
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return value.map(Token::Uint).ok_or_else(|| issue("uint"));
        }
        match value {
            Some(v) if v <= i64::MAX.unsigned_abs() => Ok(Token::Int(v.cast_signed())),
            Some(v) if v == 1 << 63 => Ok(Token::Int(i64::MIN)),
            _ => Err(issue("int")),
        }
    }

    /// Length of what stands before the quotes, and whether the string is raw, or bytes.
    fn string_prefix(&self) -> Option<(usize, bool, bool)> {
        let (mut raw, mut bytes) = (false, false);
        for length in 0..3 {
            match self.peek(length) {
                '"' | '\'' => return Some((length, raw, bytes)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
        }
        None
    }

    fn string(&mut self, raw: bool, bytes: bool) -> Result<Token, Issue> {
        let start = self.at;
        let quote = self.peek(0);
        let triple = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if triple { 3 } else { 1 };
        let mut out: Vec<u8> = vec![];
        loop {
            let c = self.peek(0);
            if self.at >= self.chars.len() || (!triple && matches!(c, '\n' | '\r')) {
                self.at = start;
                return Err(self.unknown(usize::MAX >> 1));
            }
            let closes = c == quote && (!triple || (self.peek(1) == quote && self.peek(2) == quote));
            if closes {
                self.at += if triple { 3 } else { 1 };
                break;
            }
            self.at += 1;
            if c == '\\' && !raw {
                self.escape(bytes, &mut out)?;
            } else {
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if bytes {
            return Ok(Token::Bytes(out.into()));
        }
        let text = String::from_utf8(out).map_err(|_| self.unknown(1))?;
        Ok(Token::String(text.into()))
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), Issue> {
        let c = self.peek(0);
        let simple = match c {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\\' | '\'' | '"' | '`' | '?' => c,
            _ => '\0',
        };
        if simple != '\0' {
            self.at += 1;
            out.extend(simple.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
        let (skip, length, radix) = match c {
            'x' | 'X' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='3' => (0, 3, 8),
            _ => return Err(self.unknown(1)),
        };
        let end = (self.at + skip + length).min(self.chars.len());
        let digits: String = self.chars[self.at + skip..end].iter().collect();
        let code = u32::from_str_radix(&digits, radix).map_err(|_| self.unknown(1))?;
        self.at = end;
        match (bytes && length < 4, char::from_u32(code)) {
            (true, _) => out.push(u8::try_from(code).unwrap_or(u8::MAX)),
            (false, Some(c)) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            (false, None) => return Err(self.unknown(1)),
        }
        Ok(())
    }
}
