//! Figures as people read them: tables of ours, upstream's and the ratio, the aims, and the plots.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::plot::Chart;
use super::{Figures, Measure, Run};

/// Where plots lie, beside the page.
const PLOTS: &str = "plots";
/// The number of clients the aims are about.
const AIMED_AT: usize = 64;

type Of = fn(&Figures) -> Option<f64>;
type Row = (String, Option<f64>, Option<f64>);

/// The section of the status page.
pub fn section(run: &Run) -> String {
    let mut out = String::from("## Beside upstream, in one run on one machine\n\n");
    out.push_str(&tables(run));
    out.push('\n');
    for (name, chart) in charts(run) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "![{}]({PLOTS}/{name}.svg)", chart.title);
    }
    out
}

/// Draws the plots that [`section`] shows into a directory beside the page.
pub(super) fn draw(run: &Run, home: &Path) -> Result<()> {
    let dir = home.join(PLOTS);
    std::fs::create_dir_all(&dir)?;
    for (name, chart) in charts(run) {
        let file = dir.join(format!("{name}.svg"));
        std::fs::write(&file, chart.svg()).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// All tables, in Markdown.
pub(super) fn tables(run: &Run) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, run);
    out
}

fn write(out: &mut String, run: &Run) -> std::fmt::Result {
    writeln!(
        out,
        "{}, {} cores, clients and servers on the same machine; HTTP/2 over TLS; the disk does {:.0} fdatasync a second. \
         Server CPU is that of all its processes: Coracle's one, upstream's kube-apiserver and etcd. Coracle keeps what a list has \
         encoded with the objects: the first list of each form is a row of its own.\n",
        run.date, run.cores, run.fdatasync_per_second
    )?;
    aims(out, run)?;
    operations(out, run)?;
    writeln!(out, "| | Coracle | upstream | ratio |\n|---|---:|---:|---:|")?;
    for row in others(run) {
        writeln!(out, "{}", line(&row))?;
    }
    Ok(())
}

/// What was aimed at, and whether it was reached.
fn aims(out: &mut String, run: &Run) -> std::fmt::Result {
    let Some(theirs) = &run.upstream else { return Ok(()) };
    let wanted: [(&str, &str, f64, bool, Of); 7] = [
        ("creates a second", "at least 5 times", 5.0, true, |f| Some(aimed(f, "create")?.per_second)),
        ("server CPU of a create", "at most 1/5", 0.2, false, |f| Some(aimed(f, "create")?.cpu_ms)),
        ("GETs a second", "at least 7 times", 7.0, true, |f| Some(aimed(f, "get")?.per_second)),
        ("server CPU of a LIST, JSON", "at most 1/10", 0.1, false, |f| Some(single(f, "list")?.cpu_ms)),
        ("server CPU of a LIST, protobuf", "at most 1/10", 0.1, false, |f| {
            Some(single(f, "list protobuf")?.cpu_ms)
        }),
        ("server CPU of a LIST, table", "at most 1/10", 0.1, false, |f| {
            Some(single(f, "list table")?.cpu_ms)
        }),
        ("server CPU of a watch event", "at most 1/5", 0.2, false, |f| Some(f.watch.as_ref()?.cpu_us)),
    ];
    writeln!(out, "| aim, at {AIMED_AT} clients | wanted | measured | |\n|---|---:|---:|---|")?;
    for (name, words, bound, least, of) in wanted {
        let (Some(a), Some(b)) = (of(&run.coracle), of(theirs)) else { continue };
        let ratio = a / b;
        let met = if least { ratio >= bound } else { ratio <= bound };
        let measured = if least { format!("{ratio:.1} times") } else { format!("1/{:.1}", 1.0 / ratio) };
        writeln!(out, "| {name} | {words} | {measured} | {} |", if met { "met" } else { "**missed**" })?;
    }
    writeln!(out)
}

/// A row per operation and number of clients; ours and upstream's beside each other.
fn operations(out: &mut String, run: &Run) -> std::fmt::Result {
    if run.coracle.measures.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "| operation | clients | per second | upstream | p50 ms | upstream | p99 ms | upstream | server CPU ms | upstream | client CPU ms | bytes | upstream |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )?;
    for ours in &run.coracle.measures {
        let theirs = run.upstream.as_ref().and_then(|u| find(u, &ours.operation, ours.clients));
        write!(out, "| {} | {} |", ours.operation, ours.clients)?;
        let columns: [fn(&Measure) -> f64; 4] = [|m| m.per_second, |m| m.p50_ms, |m| m.p99_ms, |m| m.cpu_ms];
        for of in columns {
            write!(out, " {} | {} |", figure(of(ours)), theirs.map_or("-".into(), |t| figure(of(t))))?;
        }
        let bytes = theirs.map_or("-".into(), |t| t.bytes.to_string());
        writeln!(out, " {} | {} | {bytes} |", figure(ours.client_cpu_ms), ours.bytes)?;
    }
    writeln!(out)
}

/// What is no request.
fn others(run: &Run) -> Vec<Row> {
    let amounts = &run.amounts;
    let more: [(String, Of); 24] = [
        (format!("watch, {} watchers: events a second", amounts.watchers), |f| {
            Some(f.watch.as_ref()?.events_per_second)
        }),
        ("watch: server CPU us of an event".into(), |f| Some(f.watch.as_ref()?.cpu_us)),
        ("watch: client CPU us of an event".into(), |f| Some(f.watch.as_ref()?.client_cpu_us)),
        ("RSS of the API server at its start, MiB".into(), |f| mib(f.memory.start)),
        (format!("RSS for {} pods more, MiB", amounts.objects), |f| {
            grown(f.memory.before_objects, f.memory.with_objects)
        }),
        (format!("RSS for {} watchers more, MiB", amounts.watchers), |f| {
            grown(f.memory.before_watchers, f.memory.with_watchers)
        }),
        ("RSS with objects and watchers, MiB".into(), |f| mib(f.memory.with_watchers)),
        (format!("{} definitions of 68 KB: until all are written, s", amounts.definitions), |f| {
            Some(f.definitions.as_ref()?.written)
        }),
        ("definitions: until all are served, s".into(), |f| Some(f.definitions.as_ref()?.served)),
        ("definitions: RSS of each, KiB".into(), |f| {
            let d = f.definitions.as_ref()?;
            Some(d.rss_growth as f64 / d.count as f64 / 1024.0)
        }),
        ("definitions: first /openapi/v2, s".into(), |f| Some(f.definitions.as_ref()?.openapi)),
        ("definitions: RSS for /openapi/v2 more, MiB".into(), |f| {
            Some(f.definitions.as_ref()?.openapi_rss_growth as f64 / f64::from(1 << 20))
        }),
        ("start of the control plane to readyz, s".into(), |f| f.ready),
        (format!("idle control plane for {} s: CPU ms a second", amounts.idle), |f| {
            Some(f.idle.as_ref()?.cpu_ms_per_second)
        }),
        ("idle control plane: RSS, MiB".into(), |f| mib(f.idle.as_ref()?.rss_bytes)),
        ("start with a node to readyz, s".into(), |f| f.pods.as_ref()?.ready),
        ("start to node Ready, s".into(), |f| f.pods.as_ref()?.node_ready),
        ("start to first pod Running, s".into(), |f| f.pods.as_ref()?.first_pod),
        ("one pod, create to Running, median s".into(), |f| Some(f.pods.as_ref()?.alone_p50)),
        ("one pod, create to Running, p99 s".into(), |f| Some(f.pods.as_ref()?.alone_p99)),
        (format!("{} pods at once, create to Running, median s", amounts.together), |f| {
            Some(f.pods.as_ref()?.together_p50)
        }),
        (format!("{} pods at once, until all run, s", amounts.together), |f| {
            Some(f.pods.as_ref()?.together_all)
        }),
        ("idle with a node: CPU ms a second".into(), |f| {
            Some(f.pods.as_ref()?.idle.as_ref()?.cpu_ms_per_second)
        }),
        ("idle with a node: RSS, MiB".into(), |f| mib(f.pods.as_ref()?.idle.as_ref()?.rss_bytes)),
    ];
    let rows =
        more.into_iter().map(|(name, of)| (name, of(&run.coracle), run.upstream.as_ref().and_then(of)));
    rows.filter(|(_, ours, _)| ours.is_some()).collect()
}

fn line((name, ours, theirs): &Row) -> String {
    let ratio = ours.zip(*theirs).filter(|(_, b)| *b > 0.0).map(|(a, b)| format!("{:.2}", a / b));
    let shown = |v: &Option<f64>| v.map_or("-".to_owned(), figure);
    format!("| {name} | {} | {} | {} |", shown(ours), shown(theirs), ratio.unwrap_or("-".into()))
}

/// What is drawn, by the name of its file.
fn charts(run: &Run) -> Vec<(&'static str, Chart<'static>)> {
    let by_clients = |title, operation: &'static str, of: fn(&Measure) -> f64| {
        let ours = run.coracle.measures.iter().filter(|m| m.operation == operation);
        let pair = |m: &Measure| {
            let theirs = run.upstream.as_ref().and_then(|u| find(u, operation, m.clients));
            (format!("{} clients", m.clients), of(m), theirs.map(of))
        };
        Chart { title, pairs: ours.map(pair).collect() }
    };
    let lists = run.coracle.measures.iter().filter(|m| m.operation.starts_with("list"));
    let lists = lists.map(|m| {
        let theirs = run.upstream.as_ref().and_then(|u| find(u, &m.operation, m.clients));
        (m.operation.replace("list by ", "by "), m.cpu_ms, theirs.map(|t| t.cpu_ms))
    });
    vec![
        ("creates", by_clients("Creates a second", "create", |m| m.per_second)),
        ("create-cpu", by_clients("Server CPU of a create, ms", "create", |m| m.cpu_ms)),
        ("gets", by_clients("GETs a second", "get", |m| m.per_second)),
        ("get-p99", by_clients("99th percentile of a GET, ms", "get", |m| m.p99_ms)),
        ("lists", Chart { title: "Server CPU of a list of all pods, ms", pairs: lists.collect() }),
    ]
}

fn find<'a>(figures: &'a Figures, operation: &str, clients: usize) -> Option<&'a Measure> {
    figures.measures.iter().find(|m| m.operation == operation && m.clients == clients)
}

fn aimed<'a>(figures: &'a Figures, operation: &str) -> Option<&'a Measure> {
    find(figures, operation, AIMED_AT)
}

fn single<'a>(figures: &'a Figures, operation: &str) -> Option<&'a Measure> {
    find(figures, operation, 1)
}

fn mib(bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| bytes as f64 / f64::from(1 << 20))
}

fn grown(before: u64, after: u64) -> Option<f64> {
    (after > 0).then(|| (after as f64 - before as f64) / f64::from(1 << 20))
}

pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
