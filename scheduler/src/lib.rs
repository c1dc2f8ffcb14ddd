//! The scheduler: a pure decision core and a thin loop around it.
