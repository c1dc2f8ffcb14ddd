//! CEL, the Common Expression Language, as Kubernetes speaks it: compile once against declared variables, evaluate often
//! within a budget.
//!
//! ```text
//! text -> lexer -> parser (macros) -> check (types, overloads) -> Program -> eval(Scope, budget) -> Value
//! ```
//! Values look into JSON where it stands. What functions there are is the table in `library`. What an expression costs is
//! counted while it runs, in upstream's orders of magnitude and not to the unit; what it may cost at most is estimated to the
//! unit (`cost`), for upstream decides by that what may be written.

mod ast;
mod check;
mod cost;
mod eval;
mod functions;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod lexer;
mod library;
mod macros;
mod parser;
mod types;
mod value;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

pub use cost::{Below, Extent};
pub use eval::{Context, Scope};
pub use library::authorizer::{Query, Stage, Verdict};
pub use parser::{escaped_keyword, is_keyword};
pub use types::{ObjectType, Type};
pub use value::{Failure, Key, Value};

use check::Checker;
use lexer::Issue;

/// What one expression may cost, and what all of one policy may.
pub const EXPRESSION_BUDGET: u64 = 1_000_000;
pub const POLICY_BUDGET: u64 = 10_000_000;
/// What all match conditions of one webhook or policy may cost.
pub const CONDITIONS_BUDGET: u64 = 2_500_000;

/// Upstream's limit of an expression's length, in characters.
const MAX_LENGTH: usize = 100_000;

/// Runs what may take longer than an async worker can wait, in the place of this worker where there are others.
pub fn beside_workers<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// What is declared: variables, and messages that expressions may make.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
    /// Whether `Object{...}` and `JSONPatch{...}` may be made.
    pub patches: bool,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    expr: ast::Expr,
    pub output: Type,
}

// === impl Environment ===

impl Environment {
    #[must_use]
    pub fn with(mut self, name: &str, ty: Type) -> Self {
        self.declare(name, ty);
        self
    }

    pub fn declare(&mut self, name: &str, ty: Type) {
        self.variables.insert(name.to_owned(), ty);
    }

    /// Declares a field of a variable that is a message: by itself (`variable.field`), and as what the message has.
    pub fn declare_field(&mut self, variable: &str, message: &str, field: &str, ty: Type) {
        let mut fields = match self.variables.get(variable) {
            Some(Type::Object(object)) => object.fields.clone(),
            _ => BTreeMap::new(),
        };
        fields.insert(field.to_owned(), ty.clone());
        let object = ObjectType { name: message.to_owned(), fields, open: false };
        self.declare(variable, Type::Object(Arc::new(object)));
        self.declare(&format!("{variable}.{field}"), ty);
    }

    fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    fn message(&self, name: &str) -> Option<Arc<ObjectType>> {
        let name = name.to_owned();
        let fields = match name.as_str() {
            "JSONPatch" if self.patches => {
                let text = ["op", "path", "from"].map(|field| (field.to_owned(), Type::String));
                let value = [("value".to_owned(), Type::Dyn)];
                return Some(Arc::new(ObjectType {
                    name,
                    fields: text.into_iter().chain(value).collect(),
                    open: false,
                }));
            }
            object if self.patches && (object == "Object" || object.starts_with("Object.")) => {
                BTreeMap::new()
            }
            _ => return None,
        };
        Some(Arc::new(ObjectType { name, fields, open: true }))
    }

    /// Compiles an expression; the error is upstream's text, with lines that point at what is wrong.
    pub fn compile(&self, text: &str) -> Result<Program, String> {
        let size = text.chars().count();
        if size > MAX_LENGTH {
            let message =
                format!("expression code point size exceeds limit: size: {size}, limit {MAX_LENGTH}");
            return Err(format!("ERROR: <input>:-1:0: {message}"));
        }
        let mut expr = parser::parse(text).map_err(|issue| shown(text, &[issue]))?;
        let mut checker = Checker::new(self);
        let output = checker.check(&mut expr);
        let unmakeable = checker.unmakeable.take();
        let issues = checker.finish();
        if !issues.is_empty() {
            return Err(shown(text, &issues));
        }
        match unmakeable {
            Some(why) => Err(format!("program instantiation failed: {why}")),
            None => Ok(Program { expr, output }),
        }
    }

    /// Compiles an expression that must have one of some types.
    pub fn compile_as(&self, text: &str, wanted: &[Type]) -> Result<Program, String> {
        let program = self.compile(text).map_err(|why| format!("compilation failed: {why}"))?;
        if wanted.contains(&program.output) {
            return Ok(program);
        }
        let got = &program.output;
        Err(match wanted {
            [one] => format!("must evaluate to {one} but got {got}"),
            many => {
                let names: Vec<String> = many.iter().map(ToString::to_string).collect();
                format!("must evaluate to one of [{}] but got {got}", names.join(" "))
            }
        })
    }
}

// === impl Program ===

impl Program {
    /// The most that the expression costs, in upstream's units, where its variables all look like this.
    pub fn most(&self, variables: &Extent) -> u64 {
        cost::most(&self.expr, variables)
    }

    /// Evaluates with what is left of the context's budget, and never more than one expression may cost.
    pub fn evaluate<'a>(&self, context: &mut Context<'a, '_>) -> Result<Value<'a>, Failure> {
        let before = context.budget;
        context.budget = before.min(EXPRESSION_BUDGET);
        let allowed = context.budget;
        let result = context.apart(|context| context.eval(&self.expr));
        context.budget = before - (allowed - context.budget);
        result
    }
}

/// Issues as upstream prints them, in the order of the text: each with its line and a mark under what it is about, but for
/// lines that are too long to be shown. No more than upstream reports: the others are counted.
fn shown(text: &str, issues: &[Issue]) -> String {
    const MOST: usize = 100;
    const LONGEST_LINE: usize = 16_384;
    let mut issues: Vec<&Issue> = issues.iter().collect();
    let more = issues.len().saturating_sub(MOST);
    issues.truncate(MOST);
    issues.sort_by_key(|issue| issue.at);
    // In characters: where the line begins that is looked at.
    let mut begin = 0;
    let mut lines = text.split('\n').zip(1..).peekable();
    let mut shown = vec![];
    for issue in issues {
        while let Some((line, _)) = lines.peek() {
            let length = line.chars().count();
            if issue.at <= begin + length {
                break;
            }
            begin += length + 1;
            lines.next();
        }
        let (source, line) = lines.peek().copied().unwrap_or_default();
        let column = issue.at.saturating_sub(begin);
        if text.is_empty() {
            // There is no first column, and no line to show.
            shown.push(format!("ERROR: <input>:1:0: {}", issue.message));
            continue;
        }
        let mut one = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
        if source.len() <= LONGEST_LINE {
            let wide = |c: char| c.len_utf8() > 1;
            let mark: String =
                source.chars().take(column).map(|c| if wide(c) { '\u{ff0e}' } else { '.' }).collect();
            let end = if source.chars().nth(column).is_some_and(wide) { '\u{ff3e}' } else { '^' };
            write!(one, "\n | {}\n | {mark}{end}", source.replace('\t', " "))
                .expect("a String takes everything");
        }
        shown.push(one);
    }
    if more > 0 {
        shown.push(format!("{more} more errors were truncated"));
    }
    shown.join("\n")
}

#[cfg(test)]
mod tests;
