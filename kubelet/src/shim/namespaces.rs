//! The namespaces of a pod with users of its own. They belong to its user namespace only if they are made by a process in
//! it, and no process with threads can enter one.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::pause;
use crate::cri::IdRange;
use crate::sys::{mounts, process};

/// Files in the pod's directory, by the kinds of namespaces.
const KINDS: [&str; 4] = ["user", "net", "ipc", "uts"];
/// Before the number of the pause process.
pub(crate) const PAUSE: &str = "pause ";

/// What is to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) ids: IdRange,
    pub(crate) hostname: String,
    /// A pid namespace with a first process that goes on.
    pub(crate) pause: bool,
    /// Try what else containers will need; nothing of it stays.
    pub(crate) trial: bool,
}

/// Tells its reader why when it fails.
pub(super) fn run(pod: &Path, wanted: &str) -> io::Result<()> {
    let wanted = serde_json::from_str(wanted).map_err(io::Error::other);
    let made = wanted.and_then(|wanted| make(pod, &wanted));
    if let Err(error) = &made {
        let _ = say(&error.to_string());
    }
    made
}

fn say(word: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(word.as_bytes())?;
    out.flush()
}

/// Outside of the new namespaces, as the host's root: gives the ids, and keeps the namespaces in files.
fn make(pod: &Path, wanted: &Wanted) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let maker = process::spawn(|| {
        if let Err(error) = within(pod, wanted, &theirs) {
            let _ = (&theirs).write_all(format!("{error}\n").as_bytes());
            process::exit(1)
        }
    })?;
    drop(theirs);
    let mut lines = BufReader::new(ours.try_clone()?).lines();
    let mut hear = |word: &str| match lines.next().transpose()? {
        Some(line) => match line.strip_prefix(word) {
            Some(rest) => Ok(rest.to_owned()),
            None => Err(io::Error::other(line)),
        },
        None => Err(io::Error::other("the process that makes them has died")),
    };
    let go_on = || (&ours).write_all(b"g");
    hear("users")?;
    let map = format!("0 {} {}", wanted.ids.first, wanted.ids.count);
    for file in ["uid_map", "gid_map"] {
        let file = format!("/proc/{maker}/{file}");
        fs::write(&file, &map).map_err(|error| about(&format!("the ids {map} in {file}"), &error))?;
    }
    go_on()?;
    hear("made")?;
    for kind in KINDS {
        File::create(pod.join(kind))?;
        mounts::bind(Path::new(&format!("/proc/{maker}/ns/{kind}")), &pod.join(kind))?;
    }
    go_on()?;
    if wanted.pause {
        let pid = hear(PAUSE)?;
        say(&format!("{PAUSE}{pid}\n"))?;
        go_on()?;
    }
    match waitpid(maker, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ => Err(io::Error::other(hear("").unwrap_or_else(|error| error.to_string()))),
    }
}

fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// In the new user namespace.
fn within(pod: &Path, wanted: &Wanted, mut line: &UnixStream) -> io::Result<()> {
    let told = |what: &str, done: nix::Result<()>| done.map_err(|error| about(what, &error.into()));
    told("a user namespace", unshare(CloneFlags::CLONE_NEWUSER))?;
    line.write_all(b"users\n")?;
    line.read_exact(&mut [0])?;
    process::become_root()?;
    let all = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    told("network, ipc and uts namespaces", unshare(all))?;
    nix::unistd::sethostname(&wanted.hostname)?;
    line.write_all(b"made\n")?;
    line.read_exact(&mut [0])?;
    if wanted.trial {
        return attempt(pod);
    }
    if wanted.pause {
        told("a pid namespace", unshare(CloneFlags::CLONE_NEWPID))?;
        let pause = process::spawn(|| {
            // Its number is told first, for both speak to the same reader.
            let _ = line.read_exact(&mut [0]).and_then(|()| pause::run(pod));
        })?;
        line.write_all(format!("{PAUSE}{pause}\n").as_bytes())?;
    }
    Ok(())
}

/// Mounts what every container has. A machine that hides parts of its own `/proc` or `/sys`, as containers do, lets
/// nobody else see more.
fn attempt(pod: &Path) -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    let fresh = |kind: &str| {
        let at = pod.join(kind);
        let mounted = mount(Some(kind), &at, Some(kind), MsFlags::empty(), none);
        mounted.map_err(|error| about(&format!("{kind} at {}", at.display()), &error.into()))
    };
    fresh("sysfs")?;
    let (mut ours, mut theirs) = UnixStream::pair()?;
    let first = process::spawn(|| {
        let word = fresh("proc").map_or_else(|error| error.to_string(), |()| String::new());
        let _ = theirs.write_all(word.as_bytes());
    })?;
    drop(theirs.shutdown(std::net::Shutdown::Write));
    waitpid(first, None)?;
    drop(theirs);
    let mut why = String::new();
    ours.read_to_string(&mut why)?;
    if why.is_empty() { Ok(()) } else { Err(io::Error::other(why)) }
}
