//! What is wrong with a custom object, as far as it is told: the place of an error is spelled out when there is one, and no
//! more than so many bytes of errors are made. A path may be as long as the object, and there may be as many errors as
//! values in it.

use std::fmt::Write;

use crate::field::FieldError;
use crate::limits;

/// A place in an object, on the way down.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    Root,
    /// A field with a name in the schema.
    Field(&'a At<'a>, &'a str),
    /// One of many fields, as validation names it: with a dot even at the root.
    Dotted(&'a At<'a>, &'a str),
    /// One of many fields, as upstream's list types name it.
    Keyed(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

/// The errors found so far.
pub(super) struct Told {
    pub(super) errors: Vec<FieldError>,
    room: usize,
}

// === impl At ===

impl At<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        let written = match self {
            At::Root => Ok(()),
            At::Field(parent, name) => {
                parent.write(text);
                let dot = if text.is_empty() { "" } else { "." };
                write!(text, "{dot}{name}")
            }
            At::Dotted(parent, name) => {
                parent.write(text);
                write!(text, ".{name}")
            }
            At::Keyed(parent, name) => {
                parent.write(text);
                write!(text, "[{name}]")
            }
            At::Item(parent, i) => {
                parent.write(text);
                write!(text, "[{i}]")
            }
        };
        written.expect("a String takes everything");
    }
}

// === impl Told ===

impl Told {
    pub(super) fn new() -> Self {
        Told { errors: vec![], room: limits::TOLD_BYTES }
    }

    /// Whether there is nothing to be gained by looking further.
    pub(super) fn is_full(&self) -> bool {
        self.room == 0
    }

    /// Adds an error, which is made only if there is room for it. At least one is always told.
    pub(super) fn add(&mut self, error: impl FnOnce() -> FieldError) {
        if self.is_full() {
            return;
        }
        let error = error();
        let size = error.field.len() + error.value.len() + error.detail.len() + size_of::<FieldError>();
        self.room = self.room.saturating_sub(size);
        self.errors.push(error);
    }
}
