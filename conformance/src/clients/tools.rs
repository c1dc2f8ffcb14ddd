//! The clients' programs, built or installed when they are missing: the only part that needs the network.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Options, Suite};
use crate::kubectl::{output_of, upstream_programs};
use crate::suite::home;

/// What to run, and what it calls itself.
#[derive(Clone, Debug)]
pub struct Tool {
    pub command: Vec<String>,
    pub version: String,
}

/// Each client's program, or in one line why there is none.
#[derive(Debug)]
pub struct Tools {
    pub client_go: Result<Tool, String>,
    pub python: Result<Tool, String>,
    pub helm: Result<Tool, String>,
}

// === impl Tools ===

impl Tools {
    /// Builds what the chosen suites need and the cache does not hold.
    pub fn prepare(options: &Options) -> Self {
        let wanted = |suite, prepare: fn() -> Result<Tool>| {
            if !options.suites().contains(&suite) {
                return Err("it was not asked for".to_owned());
            }
            prepare().map_err(|e| format!("{e:#}").lines().next().unwrap_or_default().to_owned())
        };
        Tools {
            client_go: wanted(Suite::ClientGo, client_go),
            python: wanted(Suite::Python, python),
            helm: wanted(Suite::Helm, helm),
        }
    }
}

fn client_go() -> Result<Tool> {
    let program = built("client-go-checks")?;
    // The module's replacements name the one version of all of upstream's libraries.
    let module = std::fs::read_to_string(home().join("upstream/go.mod"))?;
    let version = module
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/client-go => k8s.io/client-go "))
        .unwrap_or("of upstream/go.mod");
    Ok(Tool { command: vec![text(&program)], version: format!("client-go {version}") })
}

fn helm() -> Result<Tool> {
    let program = built("helm")?;
    let version = output_of("go", &["version", "-m", &text(&program)])?;
    let version = version.lines().find(|l| l.trim().starts_with("mod") || l.contains("\tmod\t"));
    let version = version.and_then(|l| l.split_whitespace().nth(2)).unwrap_or("v4").to_owned();
    Ok(Tool { command: vec![text(&program)], version: format!("Helm {version}") })
}

/// A program of `upstream/build`, which builds it when it is not there.
fn built(program: &str) -> Result<PathBuf> {
    let output = Command::new(home().join("upstream/build"))
        .arg(program)
        .output()
        .context("running upstream/build")?;
    ensure!(output.status.success(), "{}", last_line(&output.stderr));
    Ok(upstream_programs().context("no cache directory: set CORACLE_CACHE")?.join(program))
}

/// A virtual environment with the pinned packages, made anew when those change.
fn python() -> Result<Tool> {
    let folder = home().join("clients");
    let wanted = std::fs::read_to_string(folder.join("requirements.txt"))?;
    let cache = upstream_programs().context("no cache directory: set CORACLE_CACHE")?;
    let cache = cache.ancestors().nth(2).context("a cache directory")?.join("python");
    let stamp = cache.join("requirements.txt");
    if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        install(&cache, &folder.join("requirements.txt"))?;
        std::fs::write(&stamp, &wanted)?;
    }
    let command = vec![text(&cache.join("bin/python")), text(&folder.join("checks.py"))];
    Ok(Tool { command, version: format!("Python {}", wanted.trim().replace("==", " ")) })
}

fn install(cache: &Path, requirements: &Path) -> Result<()> {
    let pip = cache.join("bin/pip");
    let steps: [(&Path, Vec<&std::ffi::OsStr>); 2] = [
        (Path::new("python3"), vec!["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), cache.as_os_str()]),
        (&pip, vec!["install".as_ref(), "-q".as_ref(), "-r".as_ref(), requirements.as_os_str()]),
    ];
    for (program, args) in steps {
        match Command::new(program).args(args).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => bail!("Python's client was not installed: {}", last_line(&output.stderr)),
            Err(e) => bail!("Python's client needs python3 with venv and pip: {e}"),
        }
    }
    Ok(())
}

fn last_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().lines().last().unwrap_or_default().to_owned()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
