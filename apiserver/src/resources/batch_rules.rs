//! What a job's spec may say, and what of it may change.

use std::collections::BTreeSet;

use coracle_api::Object;
use serde_json::{Value, json};

use super::located::Located;
use super::networking_rules::domain_path;
use super::pod_spec;
use super::validation::{Errors, is_empty_selector, selector_matches, selector_text};
use crate::field_names::{dns1123_label, qualified_name};

const MOST_PARALLEL: i64 = 100_000;
const MANY: i64 = 100_000;
/// Of jobs with many completions and a limit for each.
const MOST_PARALLEL_OF_MANY: i64 = 10_000;
const INDEXES_BYTES: usize = 64 << 10;

/// Labels that carry a job's uid, and those that carry its name.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

pub(super) fn job(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = Located::root(new);
    let spec = root.at("spec");
    generated_selector(new, old, &spec, errors);
    selected_spec(&spec, errors);
    let (completions, name) = (spec.at("completions"), new.name());
    if is_indexed(&spec)
        && let Some(count) = completions.number().filter(|n| *n > 0)
    {
        let longest = format!("{name}-{}", count - 1);
        if !dns1123_label(&longest).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.invalid("metadata.name", name, why);
        }
    }
    if let Some(old) = old {
        selected_spec(&spec, errors);
        update(&spec, old, errors);
    }
}

/// Unless somebody chose a selector, it and the labels of the template are made by the server.
fn generated_selector(new: &Object, old: Option<&Object>, spec: &Located<'_>, errors: &mut Errors) {
    let selector = spec.at("selector");
    if spec.at("manualSelector").is_true() || !selector.is_set() {
        return;
    }
    let labels = spec.at("template").at("metadata").at("labels");
    let had =
        |label: &str| old.is_none_or(|o| o.at(&["spec", "template", "metadata", "labels", label]).is_some());
    let newer = had(UID_LABELS[1]) && had(NAME_LABELS[1]);
    let mut expected = json!({});
    let pairs = [
        (UID_LABELS[0], new.uid()),
        (NAME_LABELS[0], new.name()),
        (UID_LABELS[1], new.uid()),
        (NAME_LABELS[1], new.name()),
    ];
    for (label, value) in pairs.into_iter().take(if newer { 4 } else { 2 }) {
        expected[label] = value.into();
        let at = format!("{}[{label}]", labels.path());
        match labels.at(label).value().as_str() {
            Some(same) if same == value => {}
            Some(_) => errors.invalid(at, labels.value().clone(), format!("must be '{value}'")),
            None => errors.required(at, &format!("must be '{value}'")),
        }
    }
    if !selector_matches(selector.value(), &expected) {
        errors.invalid_text(
            selector.path(),
            selector_text(selector.value()),
            "`selector` not auto-generated",
        );
    }
}

/// A spec with the selector of its own pods.
fn selected_spec(spec: &Located<'_>, errors: &mut Errors) {
    job_spec(spec, errors);
    let selector = spec.at("selector");
    let before = errors.0.len();
    if selector.is_set() {
        selector.label_selector(errors);
    } else {
        selector.missing("", errors);
    }
    let labels = spec.at("template").at("metadata").at("labels");
    let known = selector.is_set() && errors.0.len() == before;
    let picks = is_empty_selector(selector.value()) || selector_matches(selector.value(), labels.value());
    if !selector.is_set() || known && !picks {
        labels.wrong("`selector` does not match template `labels`", errors);
    }
}

fn is_indexed(spec: &Located<'_>) -> bool {
    spec.at("completionMode").text() == "Indexed"
}

/// A job's spec, or the one of a template of jobs.
pub(super) fn job_spec(spec: &Located<'_>, errors: &mut Errors) {
    for count in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.at(count).not_negative(errors);
    }
    if spec.at("maxFailedIndexes").is_set() && !spec.at("backoffLimitPerIndex").is_set() {
        spec.at("backoffLimitPerIndex").missing("when maxFailedIndexes is specified", errors);
    }
    let manager = spec.at("managedBy");
    if manager.is_set() {
        domain_path(&manager, errors);
        manager.at_most_bytes(63, errors);
    }
    spec.at("completionMode").one_of(&["NonIndexed", "Indexed"], errors);
    completion(spec, errors);
    let (failure, success) = (spec.at("podFailurePolicy"), spec.at("successPolicy"));
    if failure.is_set() {
        failure_policy(spec, &failure, errors);
    }
    if success.is_set() {
        match is_indexed(spec) {
            true => success_policy(spec, &success, errors),
            false => success.wrong("requires indexed completion mode", errors),
        }
    }
    let replace = if failure.is_set() { &["Failed"][..] } else { &["Failed", "TerminatingOrFailed"] };
    spec.at("podReplacementPolicy").one_of(replace, errors);
    let template = spec.at("template");
    pod_spec::job_template(template.path(), template.value(), errors);
    let policy = template.at("spec").at("restartPolicy");
    match policy.text() {
        "Always" | "" => policy.missing("valid values: \"OnFailure\", \"Never\"", errors),
        "Never" => {}
        "OnFailure" if failure.is_set() => {
            policy.wrong("only \"Never\" is supported when podFailurePolicy is specified", errors);
        }
        _ => policy.one_of(&["OnFailure", "Never"], errors),
    }
}

fn completion(spec: &Located<'_>, errors: &mut Errors) {
    let [completions, parallelism, per_index, most_failed] =
        ["completions", "parallelism", "backoffLimitPerIndex", "maxFailedIndexes"].map(|f| spec.at(f));
    let over = |at: &Located<'_>, most: i64| at.number().is_some_and(|n| n > most);
    match spec.at("completionMode").text() {
        "Indexed" => {}
        "NonIndexed" | "" => {
            for at in [per_index, most_failed].iter().filter(|at| at.is_set()) {
                at.wrong("requires indexed completion mode", errors);
            }
            return;
        }
        _ => return,
    }
    if !completions.is_set() {
        completions.missing("when completion mode is Indexed", errors);
    }
    if over(&parallelism, MOST_PARALLEL) {
        let why = "must be less than or equal to 100000 when completion mode is Indexed";
        parallelism.wrong(why, errors);
    }
    if completions.number().is_some_and(|all| over(&most_failed, all)) {
        most_failed.wrong("must be less than or equal to completions", errors);
    }
    if over(&most_failed, MANY) {
        most_failed.wrong("must be less than or equal to 100000", errors);
    }
    if over(&completions, MANY) && per_index.is_set() {
        const WHY: &str = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        if !most_failed.is_set() {
            most_failed.missing("must be specified when completions is above 100000", errors);
        }
        for at in [parallelism, most_failed].iter().filter(|at| over(at, MOST_PARALLEL_OF_MANY)) {
            at.wrong(WHY, errors);
        }
    }
}

fn failure_policy(spec: &Located<'_>, policy: &Located<'_>, errors: &mut Errors) {
    let pod = spec.at("template").at("spec");
    let names: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| pod.at(list).each().collect::<Vec<_>>())
        .map(|c| c.at("name").text())
        .collect();
    let rules = policy.at("rules");
    rules.at_most_items(20, errors);
    for rule in rules.each() {
        let (action, codes, patterns) =
            (rule.at("action"), rule.at("onExitCodes"), rule.at("onPodConditions"));
        match action.text() {
            "" => action.missing("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]", errors),
            "FailIndex" if !spec.at("backoffLimitPerIndex").is_set() => {
                action.wrong("requires the backoffLimitPerIndex to be set", errors);
            }
            _ => action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"], errors),
        }
        if codes.is_set() {
            exit_codes(&codes, &names, errors);
        }
        patterns.at_most_items(20, errors);
        for pattern in patterns.each() {
            let status = pattern.at("status");
            pattern.at("type").obeys(qualified_name, errors);
            match status.text() {
                "" => status.missing("valid values: [\"False\" \"True\" \"Unknown\"]", errors),
                _ => status.one_of(&["False", "True", "Unknown"], errors),
            }
        }
        match (codes.is_set(), !patterns.is_empty()) {
            (true, true) => {
                let why = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.invalid_text(rule.path(), String::new(), why);
            }
            (false, false) => {
                let why = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.invalid_text(rule.path(), String::new(), why);
            }
            _ => {}
        }
    }
}

fn exit_codes(at: &Located<'_>, names: &BTreeSet<&str>, errors: &mut Errors) {
    let (operator, container, values) = (at.at("operator"), at.at("containerName"), at.at("values"));
    match operator.text() {
        "" => operator.missing("valid values: [\"In\" \"NotIn\"]", errors),
        _ => operator.one_of(&["In", "NotIn"], errors),
    }
    if container.is_set() && !names.contains(container.text()) {
        let why = "must be one of the container or initContainer names in the pod template";
        container.wrong(why, errors);
    }
    if values.is_empty() {
        values.wrong("at least one value is required", errors);
    } else {
        values.at_most_items(255, errors);
    }
    let mut seen = BTreeSet::new();
    for value in values.each() {
        if operator.text() == "In" && value.number() == Some(0) {
            value.wrong("must not be 0 for the In operator", errors);
        }
        if !seen.insert(value.number()) {
            value.duplicate(errors);
        }
    }
    let all: Vec<_> = values.each().map(|v| v.number()).collect();
    if !all.is_sorted() {
        values.wrong("must be ordered", errors);
    }
}

fn success_policy(spec: &Located<'_>, policy: &Located<'_>, errors: &mut Errors) {
    let rules = policy.at("rules");
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        rules.missing(why, errors);
    }
    rules.at_most_items(20, errors);
    // Upstream's server fails on an indexed job without a number of completions; here it counts as none.
    let completions = spec.at("completions").number().unwrap_or(0);
    for rule in rules.each() {
        let (count, indexes) = (rule.at("succeededCount"), rule.at("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            rule.missing("at least one of succeededCount or succeededIndexes must be specified", errors);
        }
        let mut total = 0;
        if indexes.is_set() {
            indexes.at_most_bytes(INDEXES_BYTES, errors);
            match parse_indexes(indexes.text(), completions) {
                Ok(n) => total = n,
                Err(why) => indexes.wrong(format!("error parsing succeededIndexes: {why}"), errors),
            }
        }
        count.not_negative(errors);
        let over = |most: i64| count.number().is_some_and(|n| n > most);
        if over(completions) {
            let why =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            count.wrong(why, errors);
        }
        if indexes.is_set() && over(total) {
            let why = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            count.wrong(why, errors);
        }
    }
}

/// How many indexes `1,3-5` names.
///
/// # Errors
/// What is wrong with the text, in upstream's words.
pub(super) fn parse_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = parse_interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

/// `3-5`, or `3`.
///
/// # Errors
/// What is wrong with the text, in upstream's words.
pub(super) fn parse_interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    if limits.len() > 2 {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(n) if n >= completions => Err(format!("too large index: {text:?}")),
        Ok(n) => Ok(n),
    };
    let from = index(limits[0])?;
    let Some(to) = limits.get(1) else { return Ok((from, from)) };
    match index(to)? {
        to if from >= to => Err(format!("non-increasing order, previous: {from}, current: {to}")),
        to => Ok((from, to)),
    }
}

fn update(spec: &Located<'_>, old: &Object, errors: &mut Errors) {
    let root = Located::root(old);
    let before = root.at("spec");
    let (is, was) = (spec.at("completions"), before.at("completions"));
    if !is_indexed(spec) {
        is.immutable(&was, errors);
    } else if is.value() != was.value() && is.is_set() && is.number() != spec.at("parallelism").number() {
        is.wrong("can only be modified in tandem with spec.parallelism", errors);
    }
    spec.at("selector").immutable(&before.at("selector"), errors);
    template_update(spec, old, errors);
    for fixed in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        spec.at(fixed).immutable(&before.at(fixed), errors);
    }
}

/// A job that is suspended and has not started may be sent elsewhere, and may be given other resources.
fn template_update(spec: &Located<'_>, old: &Object, errors: &mut Errors) {
    let template = spec.at("template");
    let mut before = old.at(&["spec", "template"]).cloned().unwrap_or_default();
    let suspended = old.bool_at(&["spec", "suspend"]) == Some(true);
    let unstarted = old.at(&["status", "startTime"]).is_none();
    if suspended && unstarted {
        free_scheduling(&mut before, template.value());
    }
    let idle = old.i64_at(&["status", "active"]).unwrap_or(0) == 0;
    let is_suspended = coracle_api::conditions::is_true(old.items_at(&["status", "conditions"]), "Suspended");
    if !(suspended && (unstarted || is_suspended) && idle) {
        return template.immutable(&template.with(&before), errors);
    }
    for list in ["containers", "initContainers"] {
        let resources: Vec<_> = template.at("spec").at(list).each().map(|c| c.value().clone()).collect();
        let Some(Value::Array(was)) = before.pointer_mut(&format!("/spec/{list}")) else { continue };
        if was.len() != resources.len() {
            continue;
        }
        for (was, is) in was.iter_mut().zip(resources).filter(|(was, is)| was["name"] == is["name"]) {
            take(was, &is, "resources");
        }
    }
    let pod = template.at("spec");
    pod.immutable(&pod.with(&before["spec"]), errors);
}

/// What says where pods may run is as in the new template.
fn free_scheduling(before: &mut Value, new: &Value) {
    const NODE: &str = "nodeAffinity";
    let (is, was) = (new["spec"]["affinity"].clone(), before["spec"]["affinity"].clone());
    let mut affinity = was.clone();
    match (is.is_object(), was.is_object()) {
        (false, true) => {
            if let Some(map) = affinity.as_object_mut() {
                map.remove(NODE);
            }
            if affinity == json!({}) {
                affinity = Value::Null;
            }
        }
        (true, false) => {
            affinity = json!({});
            take(&mut affinity, &is, NODE);
        }
        (true, true) => take(&mut affinity, &is, NODE),
        (false, false) => {}
    }
    take(&mut before["spec"], &json!({ "affinity": affinity }), "affinity");
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        take(&mut before["spec"], &new["spec"], field);
    }
    for field in ["annotations", "labels"] {
        take(&mut before["metadata"], &new["metadata"], field);
    }
}

/// Makes a field what it is elsewhere, also where it is not there.
fn take(to: &mut Value, from: &Value, field: &str) {
    if let Some(map) = to.as_object_mut() {
        match from.get(field).filter(|v| !v.is_null()) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}
