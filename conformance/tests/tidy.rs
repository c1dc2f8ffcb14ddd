//! House rules that a machine can check: size and heads of files, names, and what the generic paths must never say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Production lines a file may have; beyond it must be split by idea.
const MAX_LINES: usize = 500;

/// Files that may be longer (up to the hard stop), each with its reason.
const LONGER: &[(&str, &str)] = &[];
const HARD_STOP: usize = 800;

/// The generic paths of the API server: no kind may be named there.
const KINDLESS: &[&str] = &["apiserver/src/verbs", "apiserver/src/chain.rs", "apiserver/src/store"];
const KINDS: &[&str] = &[
    "\"pods\"",
    "\"Pod\"",
    "\"services\"",
    "\"Service\"",
    "\"deployments\"",
    "\"Deployment\"",
    "\"nodes\"",
    "\"Node\"",
    "\"namespaces\"",
    "\"Namespace\"",
    "\"events\"",
    "\"Event\"",
    "\"secrets\"",
    "\"Secret\"",
    "\"configmaps\"",
    "\"ConfigMap\"",
    "\"leases\"",
    "\"Lease\"",
    "\"endpoints\"",
    "\"Endpoints\"",
    "\"jobs\"",
    "\"Job\"",
];

const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// Rooms of the node agent that work on files which images, containers or registries can shape: nothing is opened, made,
/// moved or removed by its path there, but through `kubelet/src/beneath`.
const SHAPED: &[&str] = &[
    "kubelet/src/pods",
    "kubelet/src/runtime/rootfs.rs",
    "kubelet/src/shim/log.rs",
    "kubelet/src/streaming/logs.rs",
    "kubelet/src/streaming/node_logs.rs",
    "kubelet/src/volumes",
];
/// Words of code that work on paths. `fs` stands for the modules of std, tokio and other crates.
const BY_PATH: &[&str] =
    &["fs", "OpenOptions", "canonicalize", "exists", "openat", "read_dir", "symlink_metadata"];

/// Dependencies that no source names, each with its reason.
const UNNAMED: &[(&str, &str)] = &[];

/// A rule of Kubernetes and its one home, with words of code that only the rule needs: who asks the home has no use for them.
struct Rule {
    name: &'static str,
    home: &'static str,
    words: &'static [&'static str],
}

const fn rule(name: &'static str, home: &'static str, words: &'static [&'static str]) -> Rule {
    Rule { name, home, words }
}

const RULES: &[Rule] = &[
    rule("quality of service", "api/src/resources", &["\"Guaranteed\"", "\"Burstable\""]),
    rule("who is a sidecar", "api/src/resources", &["== Some(\"Always\")"]),
    rule("a resize that cannot be", "api/src/resources", &["\"PodResizePending\";"]),
    rule("pods that are over", "api/src/pod.rs", &["\"Succeeded\" | \"Failed\""]),
    rule("pods that are ready", "api/src/pod.rs", &["condition(\"Ready\")", "fn is_available(pod"]),
    rule("critical pods", "api/src/priority.rs", &["\"system-node-critical\""]),
    rule("tolerations", "api/src/taint.rs", &["fn tolerates("]),
    rule(
        "selectors",
        "api/src/selector",
        &["\"DoesNotExist\" => Operator", " notin ({values})", "match_labels.iter()"],
    ),
    rule("node terms", "api/src/node_affinity.rs", &["term.match_fields", "spec.node_selector"]),
    rule("cron", "api/src/cron.rs", &["\"@every ", "\"@hourly\""]),
    rule("Go's durations", "api/src/duration.rs", &["\"ms\" => ", "3_600_000_000_000"]),
    rule(
        "who manages an object",
        "api/src/owner.rs",
        &["find(|r| r.controller == ", "find(|r| r[\"controller\"]"],
    ),
    rule("slow start", "api/client/src/slow_start.rs", &["batch * 2"]),
    rule(
        "events that are alike",
        "api/client/src/events",
        &["(combined from similar events)", "REFILL_SECONDS"],
    ),
    rule(
        "what errors mean",
        "api/client/src/errors.rs",
        &["reason == \"NamespaceTerminating\"", "reason_of(error) == "],
    ),
];

/// The same rules in other words, which nobody may use.
const SECOND_HOMES: &[&str] = &[
    "\"Failed\" | \"Succeeded\"",
    "== \"Succeeded\" ||",
    "[\"restartPolicy\"] == \"Always\"",
    "2_000_000_000",
    "batch *= 2",
    "Api(status)) if status.code == 404",
    "Api(status)) if status.code == 409",
    "\"DoesNotExist\" => value",
    "\"DoesNotExist\" => !",
    "message.contains(\"",
    "message.starts_with(",
];

struct Source {
    path: PathBuf,
    /// Relative to the workspace, with forward slashes.
    name: String,
    text: String,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn sources() -> Vec<Source> {
    let root = workspace();
    let mut found = vec![];
    for krate in [
        "api",
        "api/client",
        "apiserver",
        "scheduler",
        "controllers",
        "kubelet",
        "listener",
        "coracle",
        "conformance",
    ] {
        visit(&root.join(krate).join("src"), &root, &mut found);
    }
    assert!(!found.is_empty(), "no sources found");
    found
}

fn visit(folder: &Path, root: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, root, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            found.push(Source { path, name, text });
        }
    }
}

/// What stands before the unit tests at the end of the file.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

fn report(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn files_are_small() {
    let offenders: Vec<String> = sources()
        .iter()
        .filter_map(|s| {
            let lines = production(&s.text).lines().count();
            let limit = if LONGER.iter().any(|(name, _)| *name == s.name) { HARD_STOP } else { MAX_LINES };
            (lines > limit).then(|| format!("{} has {lines} lines, at most {limit}", s.name))
        })
        .collect();
    report(&offenders, "split these files by idea");
}

#[test]
fn modules_say_what_they_are_for() {
    let offenders: Vec<String> =
        sources().iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.name.clone()).collect();
    report(&offenders, "these files do not open with //!");
}

#[test]
fn names_say_something() {
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|s| {
            let stem = s.path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let folder = s.path.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
            EMPTY_NAMES.contains(&&*stem) || folder.as_deref() == Some(&*stem)
        })
        .map(|s| s.name.clone())
        .collect();
    report(&offenders, "these names say nothing, or repeat their folder");
}

#[test]
fn generic_paths_name_no_kind() {
    let mut offenders = vec![];
    for s in sources().iter().filter(|s| KINDLESS.iter().any(|p| s.name.starts_with(p))) {
        for (n, line) in production(&s.text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if KINDS.iter().any(|kind| code.contains(kind)) {
                offenders.push(format!("{}:{}: {}", s.name, n + 1, line.trim()));
            }
        }
    }
    report(&offenders, "kinds are rows; these generic lines name one");
}

#[test]
fn what_others_shape_is_opened_by_handle() {
    let mut offenders = vec![];
    for s in sources().iter().filter(|s| SHAPED.iter().any(|p| s.name.starts_with(p))) {
        if s.name.ends_with("/tests.rs") {
            continue;
        }
        for (n, line) in production(&s.text).lines().enumerate() {
            // What stands between quotes is no code.
            let code: String = line.split("//").next().unwrap_or(line).split('"').step_by(2).collect();
            let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| BY_PATH.contains(&word)) {
                offenders.push(format!("{}:{}: {}", s.name, n + 1, line.trim()));
            }
        }
    }
    report(&offenders, "go through kubelet/src/beneath here");
}

/// The lines of code outside of unit tests, with the numbers they have.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let tests = source.name.ends_with("/tests.rs");
    let lines = if tests { "" } else { production(&source.text) }.lines();
    lines.enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn each_rule_has_one_home() {
    let sources = sources();
    let components = || sources.iter().filter(|s| !s.name.starts_with("conformance"));
    let mut offenders = vec![];
    for Rule { name, home, words } in RULES {
        for word in *words {
            let mut at_home = false;
            for s in components() {
                for (n, line) in code(s).filter(|(_, line)| line.contains(word)) {
                    let is_home = s.name.starts_with(home);
                    at_home |= is_home;
                    if !is_home {
                        offenders.push(format!("{}:{n}: {name}: {}", s.name, line.trim()));
                    }
                }
            }
            assert!(at_home, "{name}: nothing in {home} says {word:?} any more");
        }
    }
    for s in components() {
        for (n, line) in code(s).filter(|(_, line)| SECOND_HOMES.iter().any(|word| line.contains(word))) {
            offenders.push(format!("{}:{n}: {}", s.name, line.trim()));
        }
    }
    report(&offenders, "ask the home of the rule (the table at the top of this file names it)");
}

/// A fuzz target is an entry of a crate, which the crate's tests call with the target's corpus.
#[test]
fn every_fuzz_target_is_replayed() {
    let fuzz = workspace().join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest of the targets");
    let told = fs::read_to_string(fuzz.join("README.md")).expect("the list of targets");
    let mut offenders = vec![];
    let mut targets = 0;
    for file in fs::read_dir(fuzz.join("fuzz_targets")).expect("the targets") {
        let path = file.expect("a target").path();
        let target = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("source is UTF-8");
        let entry =
            text.lines().find_map(|l| l.strip_prefix("coracle_fuzz::target!(coracle")?.strip_suffix(");"));
        let (krate, name) = entry.and_then(|e| e.split_once("::fuzz::")).unwrap_or_default();
        // The program's own crate has no further name.
        let krate = krate.strip_prefix('_').unwrap_or("coracle");
        let module = fs::read_to_string(workspace().join(krate).join("src/fuzz.rs")).unwrap_or_default();
        let replayed = module.split_once("replayed! {").map_or("", |(_, list)| list);
        let is_replayed = replayed.split('}').next().is_some_and(|l| l.split_whitespace().any(|w| w == name));
        let is_built = manifest.contains(&format!("name = \"{target}\"\n"));
        let is_told = told.lines().any(|row| row.ends_with(&format!("| {target} |")));
        let corpus = fs::read_dir(fuzz.join("corpus").join(&target)).map_or(0, Iterator::count);
        if name != target || !is_replayed || !is_built || !is_told || corpus == 0 {
            offenders.push(target);
        }
        targets += 1;
    }
    assert!(targets > 20, "{targets}");
    report(
        &offenders,
        "a target is one line, stands in fuzz/Cargo.toml and fuzz/README.md, has a corpus, is replayed",
    );
}

/// Whoever decodes bytes says whose they are, and which target has tried that.
#[test]
fn whoever_decodes_is_in_the_list_of_fuzz_targets() {
    const DECODERS: &[&str] = &[
        "serde_json::from_",
        "Deserializer::from_",
        "serde_saphyr::",
        "yaml::parse",
        "Message::from_vec",
        "x509_parser::",
        "pem_slice_iter",
        "HtmlRewriter",
        "Kubeconfig::read_from",
        "GzDecoder",
        "Decompress::new",
        "WebSocketUpgrade",
        "http1::handshake",
        "http2::handshake",
    ];
    let fuzz = workspace().join("fuzz");
    let told = fs::read_to_string(fuzz.join("README.md")).expect("the list of targets");
    let mut offenders = vec![];
    for s in sources() {
        let tests = ["/tests", "tests.rs", "hostile", "/fuzz.rs", "testing.rs"];
        if s.name.starts_with("conformance/") || tests.iter().any(|part| s.name.contains(part)) {
            continue;
        }
        let mut code = production(&s.text).lines().map(|line| line.split("//").next().unwrap_or(line));
        let decodes = code.any(|line| DECODERS.iter().any(|word| line.contains(word)));
        if decodes && !told.contains(&format!("`{}`", s.name)) {
            offenders.push(s.name);
        }
    }
    for named in told.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")) {
        if !workspace().join(named).is_file() {
            offenders.push(format!("{named} (is not there)"));
        }
    }
    for row in told.lines().filter(|row| row.starts_with("| ") && row.contains("`")) {
        let target = row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
        if !fuzz.join("fuzz_targets").join(format!("{target}.rs")).is_file() {
            offenders.push(format!("{target} (no target)"));
        }
    }
    report(&offenders, "fuzz/README.md says who decodes whose bytes, and in which target that is tried");
}

/// What a crate declares is compiled for it: it names it, or does not declare it.
#[test]
fn every_dependency_is_named() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let (mut offenders, mut declared) = (vec![], BTreeSet::new());
    for package in metadata["packages"].as_array().expect("packages") {
        let folder =
            Path::new(package["manifest_path"].as_str().expect("a path")).parent().expect("a folder");
        let mut own = vec![];
        visit(folder, folder, &mut own);
        let (shipped, tests): (Vec<_>, Vec<_>) = own.iter().partition(|s| s.name.starts_with("src/"));
        let words = |sources: &[&Source]| -> BTreeSet<String> {
            sources.iter().flat_map(|s| named(&s.text)).collect()
        };
        let (shipped, tests) = (words(&shipped), words(&tests));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["rename"].as_str().or(dependency["name"].as_str()).expect("a name");
            let word = name.replace('-', "_");
            let is_named = shipped.contains(&word) || (dependency["kind"] == "dev" && tests.contains(&word));
            if !is_named && !UNNAMED.iter().any(|(unnamed, _)| *unnamed == name) {
                offenders.push(format!("{}: {name}", package["name"]));
            }
            declared.insert(name.to_owned());
        }
    }
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("the workspace's manifest");
    let table = manifest.split("[workspace.dependencies]").nth(1).and_then(|t| t.split("\n[").next());
    let lines = table.expect("the table of dependencies").lines().filter(|l| !l.starts_with('#'));
    for name in lines.filter_map(|l| l.split_once(" = ")).map(|(name, _)| name) {
        if !declared.contains(name) {
            offenders.push(format!("the workspace: {name}"));
        }
    }
    report(&offenders, "nobody names these dependencies");
}

/// The words of code that a path may begin with, or that an item brings in.
fn named(text: &str) -> impl Iterator<Item = String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    code.flat_map(|line| {
        let ends: Vec<usize> = line.match_indices("::").map(|(at, _)| at).collect();
        let paths = ends.into_iter().map(|at| line[..at].to_owned());
        let item = line.trim().strip_prefix("use ").or(line.trim().strip_prefix("pub use "));
        paths.chain(item.map(|i| i.trim_end_matches(';').split(" as ").next().unwrap_or(i).to_owned()))
    })
    .map(|head| {
        let last = head.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        last.unwrap_or_default().to_owned()
    })
}

#[test]
fn nothing_is_left_undone_in_comments() {
    let mut offenders = vec![];
    for s in sources().iter().filter(|s| !s.name.ends_with("tidy.rs")) {
        for (n, line) in s.text.lines().enumerate() {
            if line.contains("TODO") || line.contains("FIXME") || line.contains("XXX:") {
                offenders.push(format!("{}:{}: {}", s.name, n + 1, line.trim()));
            }
        }
    }
    report(&offenders, "open an issue instead");
}

/// `unsafe` lives in the node agent's system-call module only.
#[test]
fn unsafe_stays_in_sys() {
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|s| !s.name.starts_with("kubelet/src/sys"))
        .filter(|s| s.text.lines().any(|l| l.split("//").next().unwrap_or(l).contains("unsafe {")))
        .map(|s| s.name.clone())
        .collect();
    report(&offenders, "system calls belong in kubelet/src/sys");
}
