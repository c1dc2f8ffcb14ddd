//! May they: RBAC and the node authorizer.
