//! Figures as a table that people read: ours, upstream's, and the ratio.

use std::fmt::Write;

use super::Figures;

/// A Markdown table; without a second server the last two columns are left out.
pub fn table(ours: &Figures, upstream: Option<&Figures>) -> String {
    let mut rows = vec![];
    for m in &ours.measures {
        let other = upstream
            .and_then(|u| u.measures.iter().find(|o| o.operation == m.operation && o.clients == m.clients));
        let what = match m.clients {
            1 => m.operation.clone(),
            n => format!("{}, {n} clients", m.operation),
        };
        rows.push((format!("{what}: per second"), m.per_second, other.map(|o| o.per_second)));
        rows.push((format!("{what}: p99 ms"), m.p99_ms, other.map(|o| o.p99_ms)));
        rows.push((format!("{what}: server CPU ms"), m.cpu_ms, other.map(|o| o.cpu_ms)));
    }
    let watch = upstream.and_then(|u| u.watch.as_ref());
    if let Some(w) = &ours.watch {
        rows.push((
            format!("watch, {} watchers: events per second", w.watchers),
            w.events_per_second,
            watch.map(|o| o.events_per_second),
        ));
        rows.push(("watch: server CPU us per event".to_owned(), w.cpu_us, watch.map(|o| o.cpu_us)));
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (name, of) in [
        ("RSS at the start, MiB", (|f: &Figures| f.rss_start) as fn(&Figures) -> u64),
        ("RSS with the objects, MiB", |f| f.rss_objects),
        ("RSS with the watchers, MiB", |f| f.rss_watchers),
    ] {
        rows.push((name.to_owned(), mib(of(ours)), upstream.map(|u| mib(of(u)))));
    }
    let mut text = String::from("| | Coracle | upstream | ratio |\n|---|---:|---:|---:|\n");
    for (name, ours, other) in rows {
        let (other, ratio) = match other {
            Some(o) => (figure(o), if o > 0.0 { format!("{:.2}", ours / o) } else { "-".to_owned() }),
            None => ("-".to_owned(), "-".to_owned()),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {other} | {ratio} |", figure(ours));
    }
    text
}

fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
