//! Stock kubectl, and short ways to say what it must print.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// One kubectl program talking to one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
}

/// What a finished command printed.
#[derive(Debug)]
pub struct Printed {
    pub command: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

// === impl Kubectl ===

impl Kubectl {
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBE_EDITOR", "true").args(words(line));
        command
    }

    /// Runs `kubectl <line>`; words may be quoted with `'`.
    pub fn run(&self, line: &str) -> Result<Printed> {
        self.run_with(line, "")
    }

    /// The same with text on standard input.
    pub fn run_with(&self, line: &str, input: &str) -> Result<Printed> {
        let mut child = self
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        // A command that does not read its input closes it early; that is no failure of ours.
        let _ = child.stdin.take().context("stdin")?.write_all(input.as_bytes());
        Ok(printed(line, &child.wait_with_output()?))
    }

    /// The standard output of a command that must succeed.
    pub fn ok(&self, line: &str) -> Result<String> {
        self.run(line)?.succeeded()
    }

    pub fn ok_with(&self, line: &str, input: &str) -> Result<String> {
        self.run_with(line, input)?.succeeded()
    }

    /// The command must succeed and print each of `texts`.
    pub fn prints(&self, line: &str, texts: &[&str]) -> Result<String> {
        let out = self.ok(line)?;
        contains(line, &out, texts)?;
        Ok(out)
    }

    /// The command must fail and say each of `texts`.
    pub fn refuses(&self, line: &str, input: &str, texts: &[&str]) -> Result<()> {
        let p = self.run_with(line, input)?;
        ensure!(p.code != Some(0), "`kubectl {line}` should have failed, and printed: {}", p.out);
        contains(line, &p.err, texts)
    }

    /// Asks until the output satisfies `want`, at most `seconds` long. For states that have no event to wait for here.
    pub fn until(&self, seconds: u64, line: &str, want: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let p = self.run(line)?;
            if p.code == Some(0) && want(&p.out) {
                return Ok(p.out);
            }
            if Instant::now() > deadline {
                bail!("after {seconds} s `kubectl {line}` still says: {}{}", p.out, p.err);
            }
            pause(Duration::from_millis(200));
        }
    }
}

// === impl Printed ===

impl Printed {
    pub fn succeeded(self) -> Result<String> {
        ensure!(
            self.code == Some(0),
            "`kubectl {}` ended with {:?}: {}{}",
            self.command,
            self.code,
            self.err,
            self.out
        );
        Ok(self.out)
    }
}

/// Each text must occur.
pub fn contains(what: &str, text: &str, texts: &[&str]) -> Result<()> {
    for t in texts {
        ensure!(text.contains(t), "`{what}` does not say {t:?}, but:\n{text}");
    }
    Ok(())
}

/// kubectl programs to check with: the one in PATH, and upstream's current one where it has been built.
pub fn programs() -> Vec<PathBuf> {
    let mut found = vec![];
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|p| p.is_file()));
    if let Some(newer) = upstream_programs().map(|d| d.join("kubectl")).filter(|p| p.is_file()) {
        found.push(newer);
    }
    found
}

/// Where `conformance/upstream/build` puts its programs.
pub fn upstream_programs() -> Option<PathBuf> {
    let cache = std::env::var_os("CORACLE_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache"))).map(|b| b.join("coracle"))
    })?;
    Some(cache.join("upstream").join("v1.36.3"))
}

pub fn pause(time: Duration) {
    #[allow(clippy::disallowed_methods, reason = "a client outside of any runtime waits between two looks")]
    std::thread::sleep(time);
}

pub fn printed(line: &str, output: &Output) -> Printed {
    Printed {
        command: line.to_owned(),
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Splits at blanks, keeping what stands between single quotes together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                    begun = false;
                }
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Runs any program and gives its standard output.
pub fn output_of<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_quoted_text_together() {
        assert_eq!(
            words("exec p -- sh -c 'echo  a b'  ''"),
            ["exec", "p", "--", "sh", "-c", "echo  a b", ""]
        );
    }
}
