//! The figures as a table.

use std::fmt::Write;

use super::cost::MB;
use super::judge::Run;

/// One line for each attack, then what did not hold.
pub(super) fn table(run: &Run) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, run);
    out
}

fn write(out: &mut String, run: &Run) -> std::fmt::Result {
    let quiet = (run.quiet_p99(|t| &t.get), run.quiet_p99(|t| &t.create));
    writeln!(
        out,
        "\n{:<40} {:<24} {:>7} {:>7} {:>6} {:>7} {:>8} {:>8} {:>6}  how",
        "attack", "by", "cpu s", "rss MB", "fds", "disk MB", "GET", "create", "back s"
    )?;
    writeln!(out, "{:<89} {:>8.1} {:>8.1}", "(p99 of the tenant, in ms; alone:)", quiet.0, quiet.1)?;
    for row in &run.rows {
        writeln!(
            out,
            "{:<40} {:<24} {:>7.2} {:>7.0} {:>6} {:>7.1} {:>8.1} {:>8.1} {:>6.1}  {}",
            row.attack,
            row.by,
            row.cpu_seconds,
            row.rss_growth as f64 / MB,
            row.descriptors_growth,
            row.disk_growth as f64 / MB,
            row.tenant.get.p99_ms,
            row.tenant.create.p99_ms,
            row.after.seconds,
            if row.faults.is_empty() { row.refused.as_str() } else { "FAULT" },
        )?;
    }
    for row in &run.rows {
        for fault in &row.faults {
            writeln!(out, "fault: {} ({}): {fault}", row.attack, row.findings)?;
        }
    }
    let failed = run.rows.iter().filter(|r| !r.faults.is_empty()).count();
    writeln!(out, "{} attacks held, {failed} did not", run.rows.len() - failed)
}

/// The part of the status page.
pub fn section(run: &Run) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_section(&mut out, run);
    out
}

fn write_section(out: &mut String, run: &Run) -> std::fmt::Result {
    let held = run.rows.iter().filter(|r| r.faults.is_empty()).count();
    let (get, create) = (run.quiet_p99(|t| &t.get), run.quiet_p99(|t| &t.create));
    writeln!(out, "## Attacks\n")?;
    writeln!(
        out,
        "**{held} of {} held**, run on {} at {} on {} cores. The tenant alone: p99 of GET {get:.1} ms, of create {create:.1} ms.\n",
        run.rows.len(),
        run.date,
        run.commit,
        run.cores
    )?;
    writeln!(
        out,
        "| attack | by | like | CPU s | memory MB | descriptors | tenant GET p99 ms | create p99 ms | back s | how |"
    )?;
    writeln!(out, "|---|---|---|---:|---:|---:|---:|---:|---:|---|")?;
    for row in &run.rows {
        let how = if row.faults.is_empty() {
            row.refused.clone()
        } else {
            format!("FAULT: {}", row.faults.join("; "))
        };
        let how: String = how.replace('|', "/").replace(['\n', '`'], " ").chars().take(160).collect();
        writeln!(
            out,
            "| {} | {} | {} | {:.2} | {:.0} | {} | {:.1} | {:.1} | {:.1} | {how} |",
            row.attack,
            row.by,
            row.findings,
            row.cpu_seconds,
            row.rss_growth as f64 / MB,
            row.descriptors_growth,
            row.tenant.get.p99_ms,
            row.tenant.create.p99_ms,
            row.after.seconds
        )?;
    }
    writeln!(out)
}
