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
    /// A dependent waits for it in turn, so that none would ever go: stop blocking the owners, then look again.
    Unblock,
    /// As the object's own finalizers say, else in the background.
    Delete,
}

impl OwnerState {
    pub(super) fn of(deleting: bool, foreground: bool) -> Self {
        if deleting && foreground { OwnerState::Waiting } else { OwnerState::Solid }
    }
}

/// Those an object owns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Dependents {
    None,
    Some,
    /// One of them waits for this object, which blocks its own owner.
    Circle,
}

pub(super) fn verdict(owners: &[OwnerState], dependents: Dependents) -> Verdict {
    let any = |state| owners.contains(&state);
    if any(OwnerState::Solid) {
        return if any(OwnerState::Absent) || any(OwnerState::Waiting) {
            Verdict::Release
        } else {
            Verdict::Keep
        };
    }
    match dependents {
        Dependents::Some if any(OwnerState::Waiting) => Verdict::DeleteForeground,
        Dependents::Circle if any(OwnerState::Waiting) => Verdict::Unblock,
        _ => Verdict::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Absent, Solid, Waiting};
    use super::*;

    #[test]
    fn an_object_lives_while_one_owner_is_solid() {
        assert_eq!(verdict(&[Solid, Solid], Dependents::Some), Verdict::Keep);
        assert_eq!(verdict(&[Solid, Absent], Dependents::None), Verdict::Release);
        assert_eq!(verdict(&[Solid, Waiting], Dependents::Circle), Verdict::Release);
        assert_eq!(verdict(&[Absent, Waiting], Dependents::Some), Verdict::DeleteForeground);
        assert_eq!(verdict(&[Waiting], Dependents::Circle), Verdict::Unblock);
        assert_eq!(verdict(&[Waiting], Dependents::None), Verdict::Delete);
        assert_eq!(verdict(&[Absent], Dependents::Some), Verdict::Delete);
    }
}
