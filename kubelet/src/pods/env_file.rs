//! The files that `fileKeyRef` takes variables from: written by a container, and so not trusted.

use std::{io, sync::Arc};

use crate::beneath::{Dir, Links};

/// What a pod is told when its file cannot be had: not why, for that would tell of the node.
pub(crate) const UNREADABLE: &str = "couldn't parse env file";

/// More than the environment of any process can hold.
const MAX_FILE: u64 = 1 << 20;

/// The text of the file `path` in a volume, as a container would find it there. Blocks.
pub(crate) fn read(volume: &Dir, path: &str) -> io::Result<Arc<str>> {
    let data = volume.read(path, Links::AsRoot, MAX_FILE)?;
    String::from_utf8(data).map(Arc::from).map_err(io::Error::other)
}

/// The value that the text gives to `key`; empty when it gives none.
///
/// Upstream's subset of the shell's syntax: `NAME='value'`, the value taken as it is over several lines, comments, nothing
/// between name, `=` and value. What stands behind the assignment that is looked for is not judged.
pub(crate) fn value(text: &str, key: &str) -> Result<String, String> {
    const BLANK: [char; 2] = [' ', '\t'];
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong =
            |what: &str| Err(format!("invalid environment variable format at line {}: {what}", number + 1));
        let line = line.trim_start_matches(BLANK);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, assigned)) = line.split_once('=') else { return wrong("missing '='") };
        if name.trim_end_matches(BLANK).is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with(BLANK) {
            return wrong("whitespace before '=' is not allowed");
        }
        if assigned.starts_with(BLANK) {
            // A shell takes this for an empty value.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = assigned.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let mut value = String::new();
        let behind = loop {
            if let Some((end, behind)) = rest.split_once('\'') {
                value.push_str(end);
                break behind.trim_start_matches(BLANK);
            }
            value.push_str(rest);
            value.push('\n');
            match lines.next() {
                Some((_, next)) => rest = next,
                None => return wrong("unclosed single quote"),
            }
        };
        if !behind.is_empty() && !behind.starts_with('#') {
            return wrong("unexpected content after closing quote");
        }
        if name == key {
            return Ok(value);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_read_as_upstream_reads_them() {
        for (text, expected) in [
            ("K='v'", Ok("v")),
            ("# K='no'\n\n  K='v' # said", Ok("v")),
            ("A='1'\nK='a\n b=\"$X\"\n'\nB='2'", Ok("a\n b=\"$X\"\n")),
            ("K='first'\nK='second'", Ok("first")),
            ("K= 'v'", Ok("")),
            ("A= 'v'\nK='v'", Ok("v")),
            ("A='v'", Ok("")),
            ("", Ok("")),
            ("K='v'\nnonsense", Ok("v")),
            ("nonsense\nK='v'", Err("missing '='")),
            ("='v'", Err("empty variable name")),
            ("K ='v'", Err("whitespace before '='")),
            ("K=v", Err("must be enclosed")),
            ("K=\"v\"", Err("must be enclosed")),
            ("K='v", Err("unclosed")),
            ("K='v'w", Err("unexpected content")),
        ] {
            let got = value(text, "K");
            match expected {
                Ok(expected) => assert_eq!(got.as_deref(), Ok(expected), "{text}"),
                Err(why) => assert!(got.as_ref().is_err_and(|e| e.contains(why)), "{text}: {got:?}"),
            }
        }
    }

    /// What a container can put into its volume to have the node read what it may not, or never come back.
    #[test]
    fn nothing_outside_the_volume_is_read_and_nothing_but_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("volume").join(name);
        std::fs::create_dir_all(at("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "K='secret'").unwrap();
        std::fs::write(at("sub/env"), "K='v'").unwrap();
        symlink(dir.path().join("secret"), at("absolute")).unwrap();
        symlink("../secret", at("relative")).unwrap();
        symlink("sub/env", at("within")).unwrap();
        symlink(dir.path(), at("up")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::File::create(at("sparse")).unwrap().set_len(10 << 30).unwrap();
        std::fs::write(at("binary"), [0xff, 0xfe]).unwrap();
        let volume = Dir::open(at("")).unwrap();
        for (path, fine) in [
            ("sub/env", true),
            ("within", true),
            ("absolute", false),
            ("relative", false),
            ("up/secret", false),
            ("../secret", false),
            ("/etc/hostname", false),
            ("fifo", false),
            ("sparse", false),
            ("binary", false),
            ("sub", false),
            ("missing", false),
        ] {
            let got = read(&volume, path);
            assert_eq!(got.is_ok(), fine, "{path}: {got:?}");
        }
    }
}
