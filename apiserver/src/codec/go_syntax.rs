//! What Go's JSON scanner says of malformed text. Runs only when parsing has already failed.

/// Why a text is no JSON, in Go's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("{0}")]
    Malformed(String),
    /// A number that no float holds.
    #[error("json: cannot unmarshal number {0} into Go value of type float64")]
    BadNumber(String),
}

/// What Go says, or `None` where it would have found nothing wrong.
pub(crate) fn error(text: &[u8]) -> Option<JsonError> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.document().err()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

type Step = Result<(), JsonError>;

impl Scanner<'_> {
    fn peek(&self) -> Result<u8, JsonError> {
        let end = || JsonError::Malformed("unexpected end of JSON input".to_owned());
        self.text.get(self.at).copied().ok_or_else(end)
    }

    fn bad<T>(&self, context: &str) -> Result<T, JsonError> {
        let c = self.peek()?;
        let quoted = match c {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            b'\n' => r"'\n'".to_owned(),
            b'\r' => r"'\r'".to_owned(),
            b'\t' => r"'\t'".to_owned(),
            b'\\' => r"'\\'".to_owned(),
            0x20..0x7f => format!("'{}'", c as char),
            0x00..0x20 | 0x7f => format!("'\\x{c:02x}'"),
            // Go quotes the byte as the rune of that number.
            0x80..0xa1 | 0xad => format!("'\\u{c:04x}'"),
            _ => format!("'{}'", c as char),
        };
        Err(JsonError::Malformed(format!("invalid character {quoted} {context}")))
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn document(&mut self) -> Step {
        // Go's limit is deeper, but a text that deep was refused for its depth.
        self.value(0)?;
        self.space();
        if self.at < self.text.len() { self.bad("after top-level value") } else { Ok(()) }
    }

    fn value(&mut self, depth: usize) -> Step {
        if depth > 126 {
            return Err(JsonError::Malformed("exceeded max depth".to_owned()));
        }
        self.space();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.bad("looking for beginning of value"),
        }
    }

    fn object(&mut self, depth: usize) -> Step {
        self.at += 1;
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek()? != b'"' {
                return self.bad("looking for beginning of object key string");
            }
            self.string()?;
            self.space();
            if self.peek()? != b':' {
                return self.bad("after object key");
            }
            self.at += 1;
            self.value(depth + 1)?;
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.bad("after object key:value pair"),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Step {
        self.at += 1;
        self.space();
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.bad("after array element"),
            }
        }
    }

    fn string(&mut self) -> Step {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    self.escape()?;
                }
                0x00..0x20 => return self.bad("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Step {
        match self.peek()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek()?.is_ascii_hexdigit() {
                        return self.bad("in \\u hexadecimal character escape");
                    }
                    self.at += 1;
                }
            }
            _ => return self.bad("in string escape code"),
        }
        Ok(())
    }

    fn number(&mut self) -> Step {
        let from = self.at;
        self.digits_and_signs()?;
        let text = std::str::from_utf8(&self.text[from..self.at]).unwrap_or_default();
        match text.parse::<f64>() {
            Ok(float) if float.is_infinite() => Err(JsonError::BadNumber(text.to_owned())),
            _ => Ok(()),
        }
    }

    fn digits_and_signs(&mut self) -> Step {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.bad("in numeric literal"),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return self.bad("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return self.bad("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str) -> Step {
        for expected in word.bytes() {
            if self.peek()? != expected {
                return self.bad(&format!("in literal {word} (expecting '{}')", expected as char));
            }
            self.at += 1;
        }
        Ok(())
    }
}
