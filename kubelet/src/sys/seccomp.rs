//! System call filters: compiled once from a profile, loaded as often as needed.
//!
//! Compiling takes libseccomp more time than everything else about a container, loading takes microseconds.

use std::fs::File;
use std::io::{self, Read, Seek};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use serde::Deserialize;
use serde_json::Value;

const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
/// What a rule answers that names no error.
const EPERM: i32 = 1;
/// Flags and padding, so that instructions are aligned.
const HEADER: usize = 8;
const INSTRUCTION: usize = 8;

/// A profile in OCI's form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<i32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<i32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// A compiled filter.
pub(crate) struct Filter {
    flags: u32,
    instructions: Vec<libc::sock_filter>,
}

// === impl Filter ===

impl Filter {
    pub(crate) fn compile(profile: &Value) -> io::Result<Filter> {
        let profile: Profile = serde_json::from_value(profile.clone()).map_err(io::Error::other)?;
        let flags = profile.flags.iter().map(|flag| flag_bit(flag)).try_fold(0, |all, bit| Ok(all | bit?));
        let context = rules(&profile).map_err(io::Error::other)?;
        let mut memory = File::from(memfd_create(c"filter", MemFdCreateFlag::MFD_CLOEXEC)?);
        context.export_bpf(&memory).map_err(io::Error::other)?;
        memory.rewind()?;
        let mut bytes = Vec::new();
        memory.read_to_end(&mut bytes)?;
        Ok(Filter { flags: flags.map_err(io::Error::other::<String>)?, instructions: instructions(&bytes) })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = u64::from(self.flags).to_ne_bytes().to_vec();
        for i in &self.instructions {
            bytes.extend(i.code.to_ne_bytes());
            bytes.extend([i.jt, i.jf]);
            bytes.extend(i.k.to_ne_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> io::Result<Filter> {
        let (header, rest) =
            bytes.split_first_chunk::<HEADER>().ok_or_else(|| io::Error::other("no compiled filter"))?;
        let flags = u32::try_from(u64::from_ne_bytes(*header)).map_err(io::Error::other)?;
        Ok(Filter { flags, instructions: instructions(rest) })
    }

    /// Puts this process under the filter. Needs CAP_SYS_ADMIN or no_new_privs.
    pub(crate) fn load(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.instructions.len()).map_err(io::Error::other)?,
            // The kernel only reads it.
            filter: self.instructions.as_ptr().cast_mut(),
        };
        // SAFETY: the program and its instructions live until the call returns, which copies them.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, self.flags, &program) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn instructions(bytes: &[u8]) -> Vec<libc::sock_filter> {
    let one = |b: &[u8]| libc::sock_filter {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(INSTRUCTION).map(one).collect()
}

fn flag_bit(name: &str) -> Result<u32, String> {
    match name {
        // There is one thread only.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(1 << 1),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(1 << 2),
        other => Err(format!("unknown seccomp flag {other:?}")),
    }
}

fn rules(profile: &Profile) -> Result<ScmpFilterContext, libseccomp::error::SeccompError> {
    let otherwise =
        ScmpAction::from_str(&profile.default_action, Some(profile.default_errno_ret.unwrap_or(EPERM)))?;
    let mut context = ScmpFilterContext::new(otherwise)?;
    for arch in &profile.architectures {
        context.add_arch(arch.parse::<ScmpArch>()?)?;
    }
    for rule in &profile.syscalls {
        let action = ScmpAction::from_str(&rule.action, Some(rule.errno_ret.unwrap_or(EPERM)))?;
        // libseccomp refuses a rule that says what holds anyway.
        if action == otherwise {
            continue;
        }
        let mut tests = Vec::with_capacity(rule.args.len());
        for argument in &rule.args {
            tests.push(compare(argument)?);
        }
        let mut indexes: Vec<u32> = rule.args.iter().map(|argument| argument.index).collect();
        indexes.sort_unstable();
        let alternatives = indexes.windows(2).any(|pair| pair[0] == pair[1]);
        // A name this libseccomp does not know, the program can hardly use.
        for call in rule.names.iter().filter_map(|name| ScmpSyscall::from_name(name).ok()) {
            match tests.as_slice() {
                [] => {
                    context.add_rule(action, call)?;
                }
                // Several tests of one argument are alternatives, as runc has it.
                _ if alternatives => {
                    for test in &tests {
                        context.add_rule_conditional(action, call, std::slice::from_ref(test))?;
                    }
                }
                all => {
                    context.add_rule_conditional(action, call, all)?;
                }
            }
        }
    }
    Ok(context)
}

/// With a mask, OCI's `value` is the mask and `valueTwo` what must remain.
fn compare(argument: &Argument) -> Result<ScmpArgCompare, libseccomp::error::SeccompError> {
    let (op, value) = match argument.op.parse::<ScmpCompareOp>()? {
        ScmpCompareOp::MaskedEqual(_) => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
        other => (other, argument.value),
    };
    Ok(ScmpArgCompare::new(argument.index, op, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_survives_its_file_and_bad_profiles_are_refused() {
        let profile = crate::runtime::seccomp::runtime_default(&[]);
        let filter = Filter::compile(&profile).unwrap();
        assert!(filter.instructions.len() > 300, "a filter of all architectures");
        let again = Filter::from_bytes(&filter.to_bytes()).unwrap();
        assert_eq!(again.to_bytes(), filter.to_bytes());
        let logged = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO"}]});
        assert_eq!(Filter::compile(&logged).unwrap().flags, 2);
        for bad in [
            json!({}),
            json!({"defaultAction": "SCMP_ACT_DANCE"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["WHAT"]}),
        ] {
            assert!(Filter::compile(&bad).is_err(), "{bad}");
        }
    }
}
