//! Attackers with an account: what they ask for, and how much of it.

mod authority;
mod authority_rows;
mod bodies;
mod custom;
mod floods;
mod kubelets;
mod nodes;
mod patches;
mod watches;

use super::book::Attack;

pub(super) fn attacks() -> Vec<Attack> {
    [
        authority_rows::ATTACKS,
        authority::ATTACKS,
        nodes::ATTACKS,
        kubelets::ATTACKS,
        bodies::ATTACKS,
        patches::ATTACKS,
        custom::ATTACKS,
        watches::ATTACKS,
        floods::ATTACKS,
    ]
    .concat()
}
