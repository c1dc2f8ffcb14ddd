//! The program as a service manager sees it that speaks systemd's protocol.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use coracle::cli::Cli;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_is_told_when_all_is_up_that_it_lives_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, path) = (dir.path().join("notify"), dir.path().join("data"));
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).expect("a word in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let program = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args([
            "up",
            "--no-node",
            "--port=0",
            "--bind-address=127.0.0.1",
            "--node-ip=127.0.0.1",
            "--node-name=a",
        ])
        .arg("--data-dir")
        .arg(&path)
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let program = Program(program);
    let ready = hear();
    assert!(ready.starts_with("READY=1\nSTATUS=Serving https://127.0.0.1:"), "{ready}");
    assert_eq!((hear(), hear()), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
    let pid = nix::unistd::Pid::from_raw(program.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let stopping = std::iter::repeat_with(hear).find(|word| word != "WATCHDOG=1").unwrap();
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
}

/// The unit in `docs`: its flags are the program's, and pods outlive what runs them.
#[test]
fn the_unit_that_is_offered_can_be_used() {
    let unit = include_str!("../../docs/coracle.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let command = value("ExecStart").unwrap();
    assert!(command.starts_with("/usr/local/bin/coracle up "));
    Cli::try_parse_from(command.split(' ')).unwrap();
    for (key, want) in [("Type", "notify"), ("Delegate", "yes"), ("KillMode", "process")] {
        assert_eq!(value(key), Some(want), "{key}");
    }
}
