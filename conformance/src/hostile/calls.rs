//! System calls by number, for pods that do what no tool of their image would.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::libc;

use super::arena::base64;

/// What rows say as `{sys:NAME}`.
const NUMBERS: &[(&str, libc::c_long)] = &[
    ("acct", libc::SYS_acct),
    ("add_key", libc::SYS_add_key),
    ("bpf", libc::SYS_bpf),
    ("delete_module", libc::SYS_delete_module),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("finit_module", libc::SYS_finit_module),
    ("fsopen", libc::SYS_fsopen),
    ("init_module", libc::SYS_init_module),
    ("inotify_add_watch", libc::SYS_inotify_add_watch),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("kexec_load", libc::SYS_kexec_load),
    ("keyctl", libc::SYS_keyctl),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("open_tree", libc::SYS_open_tree),
    ("openat", libc::SYS_openat),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("pipe2", libc::SYS_pipe2),
    ("pivot_root", libc::SYS_pivot_root),
    ("ppoll", libc::SYS_ppoll),
    ("quotactl", libc::SYS_quotactl),
    ("request_key", libc::SYS_request_key),
    ("sendto", libc::SYS_sendto),
    ("setns", libc::SYS_setns),
    ("socket", libc::SYS_socket),
    ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
];

/// The text with numbers for names.
pub(super) fn numbered(mut text: String) -> String {
    for (name, number) in NUMBERS {
        if !text.contains("{sys:") {
            break;
        }
        text = text.replace(&format!("{{sys:{name}}}"), &number.to_string());
    }
    text
}

/// Builds `call.c` with the machine's compiler; the program in base64.
pub(super) fn program(scratch: &Path) -> Result<String> {
    let (source, program) = (scratch.join("call.c"), scratch.join("call"));
    std::fs::write(&source, include_str!("call.c"))?;
    let output = Command::new("cc")
        .arg(format!("-DEXIT={}", libc::SYS_exit_group))
        .args(["-Os", "-static", "-nostdlib", "-fno-builtin", "-fno-stack-protector"])
        .args(["-fno-asynchronous-unwind-tables", "-s", "-Wl,--build-id=none,-z,noseparate-code", "-o"])
        .args([&program, &source])
        .output()
        .context("running cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(base64(&std::fs::read(&program)?))
}

/// Bytes as `call` reads them.
pub(super) fn bytes(bytes: &[u8]) -> String {
    bytes.iter().fold("x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_made_one_after_the_other() -> Result<()> {
        let dir = tempfile::tempdir()?;
        program(dir.path())?;
        let ended = |words: &str| -> Result<(Option<i32>, String)> {
            let output = Command::new(dir.path().join("call")).args(words.split(' ')).output()?;
            Ok((output.status.code(), String::from_utf8(output.stdout)?))
        };
        let (openat, write) = (libc::SYS_openat, libc::SYS_write);
        let (none, said) = (bytes(b"/none"), bytes(b"hi"));
        let missing = Some(libc::ENOENT);
        assert_eq!(ended(&format!("{openat} -100 {none} 0 / {write} 1 {said} 2"))?, (Some(0), "hi".into()));
        assert_eq!(ended(&format!("{openat} -100 {none} 0 + {write} 1 {said} 2"))?, (missing, String::new()));
        let (null, number) = (bytes(b"/dev/null"), numbered("{sys:openat}".to_owned()));
        assert_eq!(ended(&format!("{number} -100 {null} 1 + {write} % {said} 2"))?.0, Some(0));
        Ok(())
    }
}
