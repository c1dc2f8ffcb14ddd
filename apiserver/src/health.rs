//! `/healthz`, `/livez`, `/readyz`, each as a whole, check by check (`/readyz/store`), and with `?verbose` or `?exclude=`.

use std::fmt::Write;

/// One thing that must be well, and why it is not.
pub struct Check {
    pub name: &'static str,
    pub failure: Option<String>,
    /// Whether the server may still be alive, though not ready, while this fails.
    pub readiness_only: bool,
}

/// Code and text of an answer. `path` begins with one of the three names; `query` is the raw query string.
pub fn answer(path: &str, query: &str, checks: &[Check]) -> Option<(u16, String)> {
    let mut segments = path.trim_matches('/').splitn(2, '/');
    let (name, one) = (segments.next()?, segments.next());
    if !["healthz", "livez", "readyz"].contains(&name) {
        return None;
    }
    let mut relevant = checks.iter().filter(|c| name == "readyz" || !c.readiness_only);
    if let Some(one) = one {
        let check = relevant.find(|c| c.name == one)?;
        return Some(match &check.failure {
            None => (200, "ok".to_owned()),
            Some(why) => (500, format!("internal server error: {why}\n")),
        });
    }
    let parameters: Vec<(&str, &str)> =
        query.split('&').map(|p| p.split_once('=').unwrap_or((p, ""))).collect();
    let verbose = parameters.iter().any(|(n, _)| *n == "verbose");
    let excluded: Vec<&str> = parameters.iter().filter(|(n, _)| *n == "exclude").map(|(_, v)| *v).collect();
    let (mut text, mut failed) = (String::new(), false);
    for check in relevant {
        // Writing to a String cannot fail.
        let _ = match &check.failure {
            _ if excluded.contains(&check.name) => writeln!(text, "[+]{} excluded: ok", check.name),
            None => writeln!(text, "[+]{} ok", check.name),
            Some(_) => {
                failed = true;
                writeln!(text, "[-]{} failed: reason withheld", check.name)
            }
        };
    }
    Some(match (failed, verbose) {
        (true, _) => (500, format!("{text}{name} check failed\n")),
        (false, true) => (200, format!("{text}{name} check passed\n")),
        (false, false) => (200, "ok".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_upstream() {
        let check = |name, failure: Option<&str>, readiness_only| Check {
            name,
            failure: failure.map(str::to_owned),
            readiness_only,
        };
        let well = [check("ping", None, false), check("store", None, true)];
        let ill = [check("ping", None, false), check("store", Some("closed"), true)];
        for (path, query, checks, code, text) in [
            ("/readyz", "", &well, 200, "ok"),
            ("/readyz", "verbose", &well, 200, "[+]ping ok\n[+]store ok\nreadyz check passed\n"),
            ("/readyz", "", &ill, 500, "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n"),
            ("/livez", "verbose", &ill, 200, "[+]ping ok\nlivez check passed\n"),
            (
                "/readyz",
                "verbose&exclude=store",
                &ill,
                200,
                "[+]ping ok\n[+]store excluded: ok\nreadyz check passed\n",
            ),
            ("/readyz/store", "", &ill, 500, "internal server error: closed\n"),
            ("/healthz/ping", "", &ill, 200, "ok"),
        ] {
            assert_eq!(answer(path, query, checks), Some((code, text.to_owned())), "{path}?{query}");
        }
        assert_eq!(answer("/readyz/none", "", &well), None);
    }
}
