//! AppArmor: whether the machine has it, the profile that containers get by default, and what is loaded.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cri::{AppArmor, ContainerError, Security};

/// What containers run under that ask for nothing else.
const DEFAULT: &str = "coracle-default";
const PARSER: &str = "/sbin/apparmor_parser";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Equal in effect to the default profile of the other runtimes: a container does all that its capabilities let it, but
/// nothing writes to the kernel's own files, mounts, or touches processes outside.
const PROFILE: &str = r"@{PROC}=/proc/
profile coracle-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer=coracle-default,
  ptrace (trace,read,tracedby,readby) peer=coracle-default,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// Loads the default profile. An error says why no profile can be enforced here, in upstream's words where it has some.
pub(super) fn load() -> Result<(), String> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.starts_with('Y')) || !Path::new(LOADED).exists() {
        return Err("AppArmor is not enabled on the host".to_owned());
    }
    if !Path::new(PARSER).exists() {
        return Err(format!("AppArmor is not enabled on the host: there is no {PARSER}"));
    }
    let failed = |error: std::io::Error| format!("cannot load the default profile: {error}");
    let mut parser = Command::new(PARSER)
        .args(["--skip-cache", "--replace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = parser.stdin.take() {
        input.write_all(PROFILE.as_bytes()).map_err(failed)?;
    }
    let done = parser.wait_with_output().map_err(failed)?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!("cannot load the default profile: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

/// The profile of a container. Where the machine has none, the default is none, as upstream has it; a named one must be
/// loaded.
pub(super) fn profile(security: &Security, enabled: bool) -> Result<Option<String>, ContainerError> {
    let loaded = || fs::read_to_string(LOADED).unwrap_or_default();
    choose(security, enabled, loaded)
}

fn choose(
    security: &Security,
    enabled: bool,
    loaded: impl FnOnce() -> String,
) -> Result<Option<String>, ContainerError> {
    match &security.apparmor {
        AppArmor::Unconfined => Ok(None),
        AppArmor::Default if security.privileged => Ok(None),
        AppArmor::Default | AppArmor::RuntimeDefault => Ok(enabled.then(|| DEFAULT.to_owned())),
        AppArmor::Localhost(name) => {
            // `name (enforce)`, a line each.
            let known = enabled
                && loaded().lines().any(|line| line.rsplit_once(" (").is_some_and(|(own, _)| own == name));
            if known {
                Ok(Some(name.clone()))
            } else {
                Err(ContainerError::Create(format!("apparmor profile not found {name}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_that_is_asked_for_is_had_or_refused() {
        let local = |name: &str| AppArmor::Localhost(name.to_owned());
        for (apparmor, privileged, enabled, want) in [
            (AppArmor::Default, false, true, Ok(Some(DEFAULT))),
            (AppArmor::Default, true, true, Ok(None)),
            (AppArmor::Default, false, false, Ok(None)),
            (AppArmor::RuntimeDefault, true, true, Ok(Some(DEFAULT))),
            (AppArmor::RuntimeDefault, false, false, Ok(None)),
            (AppArmor::Unconfined, false, true, Ok(None)),
            (local("mine"), false, true, Ok(Some("mine"))),
            (local("min"), false, true, Err("apparmor profile not found min")),
            (local("mine"), false, false, Err("apparmor profile not found mine")),
        ] {
            let security = Security { apparmor, privileged, ..Security::default() };
            let got = choose(&security, enabled, || "mine (enforce)\nother (complain)\n".to_owned());
            let got = got.map_err(|error| error.to_string());
            assert_eq!(got.as_ref().map(Option::as_deref).map_err(String::as_str), want, "{security:?}");
        }
    }
}
