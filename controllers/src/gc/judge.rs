//! What becomes of an object, given the state of its owners.

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OwnerState {
    /// There, and not waiting for its dependents.
    Solid,
    Absent,
    /// Being deleted in the foreground: gone once its dependents are.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Keep,
    /// Some owners remain: drop the references to the rest.
    Release,
    DeleteForeground,
    /// As the object's own finalizers say, else in the background.
    Delete,
}

impl OwnerState {
    pub(super) fn of(deleting: bool, foreground: bool) -> Self {
        if deleting && foreground { OwnerState::Waiting } else { OwnerState::Solid }
    }
}

pub(super) fn verdict(owners: &[OwnerState], has_dependents: bool) -> Verdict {
    let any = |state| owners.contains(&state);
    if any(OwnerState::Solid) {
        return if any(OwnerState::Absent) || any(OwnerState::Waiting) {
            Verdict::Release
        } else {
            Verdict::Keep
        };
    }
    if any(OwnerState::Waiting) && has_dependents {
        return Verdict::DeleteForeground;
    }
    Verdict::Delete
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Absent, Solid, Waiting};
    use super::*;

    #[test]
    fn an_object_lives_while_one_owner_is_solid() {
        assert_eq!(verdict(&[Solid, Solid], true), Verdict::Keep);
        assert_eq!(verdict(&[Solid, Absent], false), Verdict::Release);
        assert_eq!(verdict(&[Solid, Waiting], true), Verdict::Release);
        assert_eq!(verdict(&[Absent, Waiting], true), Verdict::DeleteForeground);
        assert_eq!(verdict(&[Waiting], false), Verdict::Delete);
        assert_eq!(verdict(&[Absent], true), Verdict::Delete);
    }
}
