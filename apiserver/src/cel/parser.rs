//! Tokens to a tree, by CEL's grammar; macros are expanded on the way.

use super::ast::{Element, Entry, Expr, Kind, Literal, Select};
use super::lexer::{Issue, Lexer, Token};
use super::macros;

/// How deep an expression may be nested: the evaluator recurses.
const MAX_DEPTH: usize = 120;
/// What may follow where an operand is missing, as upstream's parser lists it; the second where it may be optional.
const OPERANDS: [&str; 2] = [
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
    "{'[', '{', '(', '.', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
     IDENTIFIER}",
];
/// Words of other languages that name nothing here.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a word can be no name of a variable or field.
pub fn is_keyword(name: &str) -> bool {
    matches!(name, "true" | "false" | "null" | "in") || RESERVED.contains(&name)
}

/// The name under which expressions know a field that is named by such a word.
pub fn escaped_keyword(word: &str) -> String {
    format!("__{word}__")
}

type Result<T> = std::result::Result<T, Issue>;

struct Parser {
    tokens: Vec<(usize, Token, String)>,
    at: usize,
    depth: usize,
}

/// Reads a whole expression.
pub(super) fn parse(text: &str) -> Result<Expr> {
    let mut parser = Parser { tokens: Lexer::new(text).run()?, at: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("<EOF>", |next| matches!(next, Token::End))),
    }
}

/// Whether an operand may begin so.
fn begins_operand(token: &Token) -> bool {
    match token {
        Token::Sign(sign) => matches!(*sign, "[" | "{" | "(" | "." | "-" | "!" | "true" | "false" | "null"),
        Token::Quoted(_) | Token::End => false,
        _ => true,
    }
}

// === impl Parser ===

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].1
    }

    fn offset(&self) -> usize {
        self.tokens[self.at].0
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }

    /// The first of some operators, where one of them stands here.
    fn take_any(&mut self, signs: &[&'static str]) -> Option<(usize, &'static str)> {
        let at = self.offset();
        let sign = signs.iter().find(|s| self.is(s))?;
        self.at += 1;
        Some((at, sign))
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.unexpected(&format!("'{sign}'"), |next| matches!(next, Token::Sign(s) if *s == sign)))
    }

    /// As [`Parser::expect`] where upstream's parser goes on as if the sign were there.
    fn expect_or_miss(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) {
            return Ok(());
        }
        let (at, _, text) = &self.tokens[self.at];
        Err(Issue { at: *at, message: format!("Syntax error: missing '{sign}' at '{text}'") })
    }

    fn after(&self, sign: &str) -> bool {
        let before = self.at.checked_sub(1).map(|at| &self.tokens[at].1);
        matches!(before, Some(Token::Sign(s)) if *s == sign)
    }

    /// Something else was expected here. Where that is what comes next, this is only too much.
    fn unexpected(&self, expected: &str, is_expected: impl Fn(&Token) -> bool) -> Issue {
        let (at, _, text) = &self.tokens[self.at];
        let next = self.tokens.get(self.at + 1).map(|(_, token, _)| token);
        let word = if next.is_some_and(is_expected) { "extraneous" } else { "mismatched" };
        Issue { at: *at, message: format!("Syntax error: {word} input '{text}' expecting {expected}") }
    }

    /// Counts what makes the tree deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
            return Err(Issue { at: self.offset(), message });
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expr(&mut self) -> Result<Expr> {
        self.deeper(|p| {
            let condition = p.or()?;
            let at = p.offset();
            if !p.take("?") {
                return Ok(condition);
            }
            let yes = p.or()?;
            p.expect(":")?;
            let no = p.expr()?;
            Ok(Expr::new(at, Kind::Ternary(Box::new([condition, yes, no]))))
        })
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        let (at, mut all) = (self.offset(), vec![first]);
        while self.take("||") {
            all.push(self.and()?);
        }
        Ok(if all.len() > 1 { Expr::new(at, Kind::Or(all)) } else { all.remove(0) })
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.relation()?;
        let (at, mut all) = (self.offset(), vec![first]);
        while self.take("&&") {
            all.push(self.relation()?);
        }
        Ok(if all.len() > 1 { Expr::new(at, Kind::And(all)) } else { all.remove(0) })
    }

    fn relation(&mut self) -> Result<Expr> {
        self.chain(&["==", "!=", "<=", ">=", "<", ">", "in"], |p| {
            p.chain(&["+", "-"], |p| p.chain(&["*", "/", "%"], Self::unary))
        })
    }

    /// Operators of one rank, from left to right.
    fn chain(&mut self, signs: &[&'static str], operand: impl Fn(&mut Self) -> Result<Expr>) -> Result<Expr> {
        let mut left = operand(self)?;
        let depth = self.depth;
        while let Some((at, sign)) = self.take_any(signs) {
            let right = self.deeper(&operand)?;
            self.depth += 1;
            let function = if sign == "in" { "@in".to_owned() } else { format!("_{sign}_") };
            left = Expr::call(at, &function, vec![left, right]);
        }
        self.depth = depth;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr> {
        let at = self.offset();
        if self.take("!") {
            let operand = self.deeper(Self::unary)?;
            return Ok(Expr::call(at, "!_", vec![operand]));
        }
        if self.take("-") {
            match self.peek() {
                Token::Int(v) => {
                    let negated = Kind::Literal(Literal::Int(v.wrapping_neg()));
                    self.at += 1;
                    return self.members(Expr::new(at, negated));
                }
                Token::Double(v) => {
                    let negated = Kind::Literal(Literal::Double(-v));
                    self.at += 1;
                    return self.members(Expr::new(at, negated));
                }
                _ => {
                    let operand = self.deeper(Self::unary)?;
                    return Ok(Expr::call(at, "-_", vec![operand]));
                }
            }
        }
        let primary = self.primary()?;
        self.members(primary)
    }

    /// What follows an operand: fields, calls, indices, and the fields of a message.
    fn members(&mut self, mut operand: Expr) -> Result<Expr> {
        let depth = self.depth;
        loop {
            let at = self.offset();
            if self.take(".") {
                let optional = self.take("?");
                let field = self.field()?;
                let at_call = self.offset();
                if !optional && self.take("(") {
                    let args = self.arguments()?;
                    operand = macros::member(at_call, operand, &field, args)?;
                } else {
                    let select = Select { operand, field, test: false, optional };
                    operand = Expr::new(at, Kind::Select(Box::new(select)));
                }
            } else if self.take("[") {
                let function = if self.take("?") { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.expect("]")?;
                operand = Expr::call(at, function, vec![operand, index]);
            } else if self.is("{")
                && let Some(name) = operand.qualified()
            {
                self.at += 1;
                let entries = self.entries(true)?;
                operand = Expr::new(at, Kind::Struct(name, entries));
            } else {
                self.depth = depth;
                return Ok(operand);
            }
            self.deeper(|_| Ok(()))?;
            self.depth += 1;
        }
    }

    fn field(&mut self) -> Result<String> {
        let name = match self.peek() {
            Token::Ident(name) | Token::Quoted(name) => name.clone(),
            _ => return Err(self.unexpected("IDENTIFIER", |next| matches!(next, Token::Ident(_)))),
        };
        self.at += 1;
        Ok(name)
    }

    fn arguments(&mut self) -> Result<Vec<Expr>> {
        let mut args = vec![];
        if self.take(")") {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if !self.take(",") {
                self.expect_or_miss(")")?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let at = self.offset();
        let token = self.peek().clone();
        self.at += 1;
        let literal = match token {
            Token::Int(i64::MIN) => {
                return Err(Issue { at, message: "invalid int literal".to_owned() });
            }
            Token::Int(v) => Literal::Int(v),
            Token::Uint(v) => Literal::Uint(v),
            Token::Double(v) => Literal::Double(v),
            Token::String(v) => Literal::String(v),
            Token::Bytes(v) => Literal::Bytes(v),
            Token::Sign("true") => Literal::Bool(true),
            Token::Sign("false") => Literal::Bool(false),
            Token::Sign("null") => Literal::Null,
            Token::Sign("(") => {
                let inner = self.expr()?;
                self.expect_or_miss(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => return self.list(at),
            Token::Sign("{") => {
                let entries = self.entries(false)?;
                return Ok(Expr::new(at, Kind::Map(entries)));
            }
            Token::Sign(".") => {
                if !matches!(self.peek(), Token::Ident(_)) {
                    let (at, _, text) = &self.tokens[self.at];
                    let message = format!("Syntax error: no viable alternative at input '.{text}'");
                    return Err(Issue { at: *at, message });
                }
                return self.name(at);
            }
            Token::Ident(_) => {
                self.at -= 1;
                return self.name(at);
            }
            Token::Sign(_) | Token::Quoted(_) | Token::End => {
                self.at -= 1;
                return Err(self.unexpected(OPERANDS[usize::from(self.after("["))], begins_operand));
            }
        };
        Ok(Expr::new(at, Kind::Literal(literal)))
    }

    fn name(&mut self, at: usize) -> Result<Expr> {
        let name = self.field()?;
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue { at, message: format!("reserved identifier: {name}") });
        }
        let at_call = self.offset();
        if !self.take("(") {
            return Ok(Expr::new(at, Kind::Ident(name)));
        }
        let args = self.arguments()?;
        macros::global(at_call, &name, args)
    }

    fn list(&mut self, at: usize) -> Result<Expr> {
        let mut items = vec![];
        while !self.take("]") {
            let optional = self.take("?");
            items.push(Element { value: self.expr()?, optional });
            if !self.take(",") {
                if !self.take("]") {
                    let goes_on = |next: &Token| matches!(next, Token::Sign("]" | ","));
                    return Err(self.unexpected("{']', ','}", goes_on));
                }
                break;
            }
        }
        Ok(Expr::new(at, Kind::List(items)))
    }

    /// The entries of a map, or (`named`) the fields of a message; the opening brace is behind us.
    fn entries(&mut self, named: bool) -> Result<Vec<Entry>> {
        let mut entries = vec![];
        while !self.take("}") {
            let optional = self.take("?");
            let at = self.offset();
            let key = match named {
                true => Expr::new(at, Kind::Literal(Literal::String(self.field()?.into()))),
                false => self.expr()?,
            };
            self.expect_or_miss(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(entries)
    }
}
