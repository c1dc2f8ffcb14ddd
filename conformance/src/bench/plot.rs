//! Bar charts as SVG text: pairs of bars, ours beside upstream's.

use std::fmt::Write;

/// What one chart shows.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    /// What is said under each pair, and the two values.
    pub pairs: Vec<(String, f64, Option<f64>)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
/// Room for the title above the bars, and for the names below.
const TOP: f64 = 56.0;
const BOTTOM: f64 = 34.0;
const OURS: &str = "#1b7f79";
const THEIRS: &str = "#b8b8b8";

// === impl Chart ===

impl Chart<'_> {
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        )?;
        writeln!(out, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##)?;
        writeln!(out, r#"<text x="16" y="22" font-size="15">{}</text>"#, self.title)?;
        for (x, color, name) in [(16.0, OURS, "Coracle"), (96.0, THEIRS, "upstream")] {
            writeln!(out, r#"<rect x="{x}" y="32" width="10" height="10" fill="{color}"/>"#)?;
            writeln!(out, r#"<text x="{}" y="41">{name}</text>"#, x + 14.0)?;
        }
        let most =
            self.pairs.iter().flat_map(|(_, a, b)| [*a, b.unwrap_or(0.0)]).fold(f64::MIN_POSITIVE, f64::max);
        let step = (WIDTH - 32.0) / self.pairs.len().max(1) as f64;
        let bar = (step * 0.36).min(70.0);
        for (n, (name, ours, theirs)) in self.pairs.iter().enumerate() {
            let middle = 16.0 + step * (n as f64 + 0.5);
            for (x, value, color) in [(middle - bar, Some(*ours), OURS), (middle, *theirs, THEIRS)] {
                let Some(value) = value else { continue };
                let high = (HEIGHT - TOP - BOTTOM - 14.0) * value / most;
                let y = HEIGHT - BOTTOM - high;
                writeln!(
                    out,
                    r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{high:.1}" fill="{color}"/>"#,
                    bar - 2.0
                )?;
                let text = super::page::figure(value);
                writeln!(
                    out,
                    r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="10">{text}</text>"#,
                    x + bar / 2.0 - 1.0,
                    y - 4.0
                )?;
            }
            writeln!(
                out,
                r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{name}</text>"#,
                HEIGHT - BOTTOM + 18.0
            )?;
        }
        writeln!(out, "</svg>")
    }
}
