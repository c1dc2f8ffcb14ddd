//! A client program that prints a JSON line a check, and may ask for a restart of the server on the way.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Site;
use crate::outcome::{Outcome, Ran};

/// Seconds a whole suite may take.
const PATIENCE: &str = "900";

/// What a client program prints.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Wish { ask: String },
    Check(Outcome),
}

/// Runs `command KUBECONFIG IMAGE` and keeps each outcome.
pub(super) fn run(command: &[String], site: &mut Site, ran: &mut Ran) -> Result<()> {
    let mut child = Command::new("timeout")
        .arg(PATIENCE)
        .args(command)
        .arg(site.kubeconfig())
        .arg(super::site::IMAGE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let mut answers = child.stdin.take().context("stdin")?;
    let lines = BufReader::new(child.stdout.take().context("stdout")?);
    for line in lines.lines() {
        let line = line?;
        match serde_json::from_str(&line).with_context(|| format!("it printed {line:?}"))? {
            Line::Check(outcome) => ran.keep(outcome),
            Line::Wish { ask } if ask == "restart" => {
                let answer = if site.restart()? { "done" } else { "the server is not ours to restart" };
                writeln!(answers, "{answer}")?;
            }
            Line::Wish { ask } => bail!("it asked for {ask:?}"),
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}
