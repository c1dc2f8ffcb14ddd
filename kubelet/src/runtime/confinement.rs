//! Takes out of an OCI configuration what the shim does itself: the system call filter, and with it the capabilities.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::shim::confinement::Confinement;
use crate::sys::seccomp::Filter;

/// What loading a filter and giving up capabilities takes.
const TO_CONFINE: [&str; 2] = ["CAP_SETPCAP", "CAP_SYS_ADMIN"];

/// Compiled filters are kept in `filters`.
pub(super) fn split(oci: &mut Value, filters: &Path) -> io::Result<Confinement> {
    let profile = oci["linux"].as_object_mut().and_then(|linux| linux.remove("seccomp"));
    let process = &mut oci["process"];
    let confinement = Confinement {
        capabilities: serde_json::from_value(process["capabilities"].clone()).map_err(io::Error::other)?,
        forbids_fork: profile.as_ref().is_some_and(|profile| !allows(profile, "clone")),
        filter: profile.map(|profile| compiled(&profile, filters)).transpose()?,
        no_new_privileges: process["noNewPrivileges"] == true,
    };
    if confinement.filter.is_some() && !confinement.no_new_privileges {
        for set in ["bounding", "effective", "permitted"] {
            let Some(set) = process["capabilities"][set].as_array_mut() else { continue };
            for name in TO_CONFINE.map(|name| json!(name)) {
                if !set.contains(&name) {
                    set.push(name);
                }
            }
        }
    }
    Ok(confinement)
}

/// Whether a profile lets a system call pass, if only with some arguments.
fn allows(profile: &Value, call: &str) -> bool {
    let passes = |action: &Value| matches!(action.as_str(), Some("SCMP_ACT_ALLOW" | "SCMP_ACT_LOG"));
    let rules = || profile["syscalls"].as_array().into_iter().flatten();
    let mut own = rules()
        .filter(|rule| rule["names"].as_array().is_some_and(|names| names.iter().any(|name| name == call)))
        .peekable();
    if own.peek().is_none() {
        passes(&profile["defaultAction"])
    } else {
        own.any(|rule| passes(&rule["action"]))
    }
}

/// The file of the compiled profile. Another libseccomp knows other system calls, so its version counts.
fn compiled(profile: &Value, filters: &Path) -> io::Result<PathBuf> {
    let version = libseccomp::ScmpVersion::current().map_err(io::Error::other)?;
    let path = filters.join(hex::encode(Sha256::digest(format!("{version:?}{profile}"))));
    if !path.exists() {
        fs::create_dir_all(filters)?;
        let scratch = filters.join(format!("{:016x}.new", rand::random::<u64>()));
        fs::write(&scratch, Filter::compile(profile)?.to_bytes())?;
        fs::rename(scratch, &path)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_that_forbid_new_processes_are_known() {
        let rule = |name: &str, action: &str| json!({"names": ["read", name], "action": action});
        let profile = |default: &str, rules: Vec<Value>| json!({"defaultAction": default, "syscalls": rules});
        for (profile, want) in [
            (crate::runtime::seccomp::runtime_default(&[]), true),
            (profile("SCMP_ACT_ALLOW", vec![]), true),
            (profile("SCMP_ACT_LOG", vec![rule("clone", "SCMP_ACT_ERRNO")]), false),
            (profile("SCMP_ACT_ERRNO", vec![rule("write", "SCMP_ACT_ALLOW")]), false),
            (profile("SCMP_ACT_ERRNO", vec![rule("clone", "SCMP_ACT_ALLOW")]), true),
        ] {
            assert_eq!(allows(&profile, "clone"), want, "{profile}");
        }
    }
}
