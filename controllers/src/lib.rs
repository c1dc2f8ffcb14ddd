//! The controllers: one runtime, one file per reconciler.
