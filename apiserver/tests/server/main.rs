//! The API server from outside its crate: what it promises to clients, webhooks, aggregated servers and its own store.
#![allow(clippy::unwrap_used, reason = "tests")]

mod admission;
mod aggregation;
mod bodies;
mod cluster;
mod definitions;
mod fairness;
mod front_proxy;
mod hangups;
mod identities;
mod impersonation;
mod jobs;
mod kubelets;
mod lists;
mod node;
mod objects;
mod oidc;
mod openapi;
mod scope;
mod store;
mod tls;
mod watches;
