//! What Go's `regexp` says of the same expressions and texts.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::*;

/// What is found in each text where anything is, or the error.
type Found = Result<BTreeMap<String, Vec<String>>, String>;

fn ours(pattern: &str, texts: &[String]) -> Found {
    let regexp = Regexp::new(pattern).map_err(|e| e.to_string())?;
    let found = texts.iter().filter_map(|text| {
        let all: Vec<String> = regexp.find_iter(text).map(str::to_owned).collect();
        assert_eq!(regexp.is_match(text), !all.is_empty(), "{pattern} in {text:?}");
        (!all.is_empty()).then(|| (text.clone(), all))
    });
    Ok(found.collect())
}

/// Differences from a table of lines `[pattern, error]` and `[pattern, {text: [found ...]}]`.
fn differences(table: &str) -> Vec<String> {
    let rows: Vec<(String, Value)> =
        table.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    let texts: Vec<String> = rows
        .iter()
        .find(|(pattern, _)| pattern == "()*")
        .and_then(|(_, found)| found.as_object())
        .map(|found| found.keys().cloned().collect())
        .expect("an expression that is found in every text");
    let mut wrong = vec![];
    for (pattern, row) in &rows {
        let theirs: Found = match row {
            Value::String(error) => Err(format!("error parsing regexp: {error}")),
            found => Ok(serde_json::from_value(found.clone()).expect("what is found")),
        };
        let ours = ours(pattern, &texts);
        if ours != theirs {
            wrong.push(format!("{pattern:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    wrong
}

#[test]
fn expressions_are_taken_and_refused_and_found_as_by_go() {
    let table = include_str!("testdata/go.jsonl");
    assert!(table.lines().count() > 600);
    let wrong = differences(table);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// `GO_REGEXPS` names a larger table of the same form.
#[test]
#[ignore = "needs a table of one's own, which GO_REGEXPS names"]
fn further_expressions_are_those_of_go() {
    let path = std::env::var("GO_REGEXPS").expect("GO_REGEXPS names a table");
    let wrong = differences(&std::fs::read_to_string(path).expect("the table"));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_too_deep_or_too_large_is_refused_before_it_costs() {
    for (pattern, why) in [
        (format!("{}a{}", "(".repeat(2000), ")".repeat(2000)), Reason::NestingDepth),
        ("(?:".repeat(100_000), Reason::MissingParen),
        (format!("{}a{}", "(?:".repeat(100_000), ")*".repeat(100_000)), Reason::NestingDepth),
        ("((a{100}){100}){100}".to_owned(), Reason::RepeatSize),
        ("(a{1000}){0}".repeat(3) + &"(?:a{1000}b{1000})".repeat(2000), Reason::Large),
        ("[^\\p{Greek}]{1000}\\p{L}{1000}\\p{N}{1000}".repeat(20), Reason::Large),
    ] {
        assert_eq!(Regexp::new(&pattern).map(|_| ()).map_err(|e| e.why), Err(why));
    }
    // As deep as it may be.
    let deep = format!("{}a{}", "(".repeat(990), ")".repeat(990));
    assert!(Regexp::new(&deep).is_ok_and(|r| r.is_match("a")));
    assert!(Regexp::new(r"^\p{L}{1,256}$").is_ok_and(|r| r.is_match(&"é".repeat(256))));
}

#[test]
fn no_text_makes_the_reader_panic() {
    let mut random = StdRng::seed_from_u64(11);
    let parts: Vec<char> =
        r"\\\\[[[]]](((()))){{{}}}??**++||^^$$..--::::PpQEAzbBxuUimsdDwW<>=!,0129aé日".chars().collect();
    for _ in 0..20_000 {
        let length = random.random_range(1..24);
        let pattern: String = (0..length).map(|_| parts[random.random_range(0..parts.len())]).collect();
        if let Ok(regexp) = Regexp::within(&pattern, 1 << 16) {
            regexp.is_match("aé日[]()0129\n");
        }
    }
}
