//! The pod network: links, addresses, routes.
