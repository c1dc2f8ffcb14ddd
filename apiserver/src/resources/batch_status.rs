//! What the status of a job may become: controllers of others write it too, and clients trust it.

use coracle_api::{Object, conditions, time};

use super::batch_rules::{parse_indexes, parse_interval};
use super::located::Located;
use super::validation::Errors;

/// One of the two objects of an update, and what its conditions say.
struct State<'a> {
    status: Located<'a>,
    complete: bool,
    failed: bool,
    will_fail: bool,
    succeeds: bool,
    suspended: bool,
}

// === impl State ===

impl<'a> State<'a> {
    fn of(job: &'a Object) -> Self {
        let all = job.items_at(&["status", "conditions"]);
        let has = |kind| conditions::is_true(all, kind);
        State {
            status: Located::root(job).at("status"),
            complete: has("Complete"),
            failed: has("Failed"),
            will_fail: has("FailureTarget"),
            succeeds: has("SuccessCriteriaMet"),
            suspended: has("Suspended"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }

    fn count(&self, field: &str) -> i64 {
        self.status.at(field).number().unwrap_or(0)
    }

    fn conditions(&self, why: &str, errors: &mut Errors) {
        errors.invalid_text(self.status.at("conditions").path(), String::new(), why);
    }
}

pub(super) fn status(new: &Object, old: &Object, errors: &mut Errors) {
    let (is, was) = (State::of(new), State::of(old));
    let spec = Located::root(new).at("spec");
    counts(&is, errors);
    contradictions(&is, &was, &spec, errors);
    indexes(&is, &was, &spec, errors);
    ends(&is, &was, &spec, errors);
    steps_back(&is, &was, &spec, errors);
}

fn counts(is: &State<'_>, errors: &mut Errors) {
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        is.status.at(count).not_negative(errors);
    }
    let mut seen = vec![];
    let uncounted = is.status.at("uncountedTerminatedPods");
    for uid in ["succeeded", "failed"].iter().flat_map(|l| uncounted.at(l).each().collect::<Vec<_>>()) {
        if uid.text().is_empty() {
            uid.wrong("must not be empty", errors);
        } else if seen.contains(&uid.text()) {
            uid.duplicate(errors);
        } else {
            seen.push(uid.text());
        }
    }
}

fn changed(is: &State<'_>, was: &State<'_>, field: &str) -> bool {
    is.status.at(field).value() != was.status.at(field).value()
}

fn contradictions(is: &State<'_>, was: &State<'_>, spec: &Located<'_>, errors: &mut Errors) {
    let (completed, failed) = (is.complete != was.complete, is.failed != was.failed);
    let ended = changed(is, was, "completionTime");
    let (end, start) = (is.status.at("completionTime"), is.status.at("startTime"));
    if (completed || failed) && is.complete && is.failed {
        is.conditions("cannot set Complete=True and Failed=true conditions", errors);
    }
    if (completed || is.will_fail != was.will_fail) && is.complete && is.will_fail {
        is.conditions("cannot set Complete=True and FailureTarget=true conditions", errors);
    }
    if (completed || ended) && end.is_set() && !is.complete {
        end.wrong("cannot set completionTime when there is no Complete=True condition", errors);
    }
    if (completed || ended) && !end.is_set() && is.complete {
        end.missing("completionTime is required for Complete jobs", errors);
    }
    let before = time::parse(end.value()).zip(time::parse(start.value())).is_some_and(|(e, s)| e < s);
    if (ended || changed(is, was, "startTime")) && before {
        end.wrong("must be equal to or after `startTime`", errors);
    }
    if (failed || changed(is, was, "failedIndexes")) && is.failed && !is.will_fail {
        is.conditions("cannot set Failed=True condition without the FailureTarget=true condition", errors);
    }
    if (completed || is.succeeds != was.succeeds) && is.complete && !is.succeeds {
        let why = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        is.conditions(why, errors);
    }
    let finished = is.finished() != was.finished();
    if (finished || is.count("active") != was.count("active")) && is.finished() && is.count("active") > 0 {
        is.status.at("active").wrong("active>0 is invalid for finished job", errors);
    }
    let nothing_to_do = spec.at("suspend").is_true() && spec.at("completions").number() == Some(0);
    let started = changed(is, was, "startTime");
    if (finished || started) && !nothing_to_do && is.finished() && !start.is_set() {
        start.missing("startTime is required for finished job", errors);
    }
    let uncounted = is.status.at("uncountedTerminatedPods");
    let some = !uncounted.at("failed").is_empty() || !uncounted.at("succeeded").is_empty();
    if (finished || changed(is, was, "uncountedTerminatedPods")) && is.finished() && some {
        uncounted.wrong("must be empty for finished job", errors);
    }
}

fn indexes(is: &State<'_>, was: &State<'_>, spec: &Located<'_>, errors: &mut Errors) {
    let (completed, failed) = (is.status.at("completedIndexes"), is.status.at("failedIndexes"));
    let completions = spec.at("completions").number();
    let per_index = spec.at("backoffLimitPerIndex").is_set();
    let other_completed = completed.text() != was.status.at("completedIndexes").text();
    let other_failed = changed(is, was, "failedIndexes");
    let parse = |at: &Located<'_>, name: &str, errors: &mut Errors| {
        if let Some(Err(why)) = completions.map(|all| parse_indexes(at.text(), all)) {
            at.wrong(format!("error parsing {name}: {why}"), errors);
        }
    };
    if other_completed {
        parse(&completed, "completedIndexes", errors);
    }
    if other_failed && per_index && failed.is_set() {
        parse(&failed, "failedIndexes", errors);
    }
    if other_completed && !completed.text().is_empty() && spec.at("completionMode").text() != "Indexed" {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        completed.wrong(why, errors);
    }
    if other_failed && !per_index && failed.is_set() {
        failed.wrong("cannot set non-null failedIndexes when backoffLimitPerIndex is null", errors);
    }
    if let Some(all) = completions.filter(|_| (other_failed || other_completed) && failed.is_set())
        && let Some(index) = overlap(completed.text(), failed.text(), all)
    {
        failed.wrong(format!("failedIndexes and completedIndexes overlap at index: {index}"), errors);
    }
}

/// The first index that both name; what is no interval is passed over.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let parse = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| parse_interval(part, completions).ok()).collect()
    };
    let (completed, failed) = (parse(completed), parse(failed));
    let (mut c, mut f) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some(&&(c_from, c_to)), Some(&&(f_from, f_to))) = (c.peek(), f.peek()) {
        if c_from <= f_to && f_from <= c_to {
            return Some(c_from.max(f_from));
        }
        if c_from <= f_from {
            c.next()
        } else {
            f.next()
        };
    }
    None
}

fn ends(is: &State<'_>, was: &State<'_>, spec: &Located<'_>, errors: &mut Errors) {
    let finished = is.finished() != was.finished();
    let (terminating, ready) = (is.status.at("terminating"), is.status.at("ready"));
    if (finished || changed(is, was, "terminating")) && is.finished() && is.count("terminating") > 0 {
        terminating.wrong("terminating>0 is invalid for finished job", errors);
    }
    let moved = changed(is, was, "ready") || is.count("active") != was.count("active");
    if moved && is.count("ready") > is.count("active") {
        ready.wrong("cannot set more ready pods than active", errors);
    }
    if is.succeeds && is.failed {
        is.conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions", errors);
    }
    if is.succeeds && is.will_fail {
        is.conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", errors);
    }
    if spec.at("successPolicy").is_set() && !is.succeeds && is.complete {
        let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        is.conditions(why, errors);
    }
}

/// What happened has happened.
fn steps_back(is: &State<'_>, was: &State<'_>, spec: &Located<'_>, errors: &mut Errors) {
    let ends = [
        ("Failed", was.failed, is.failed),
        ("Complete", was.complete, is.complete),
        ("FailureTarget", was.will_fail, is.will_fail),
    ];
    for (kind, _, _) in ends.into_iter().filter(|(_, was, is)| *was && !is) {
        is.conditions(&format!("cannot disable the terminal {kind}=True condition"), errors);
    }
    if is.count("failed") < was.count("failed") {
        let at = is.status.at("failed");
        errors.invalid(at.path(), is.count("failed"), "cannot decrease the failed counter");
    }
    let scales = spec.at("completionMode").text() == "Indexed"
        && spec.at("completions").value() == spec.at("parallelism").value();
    if !scales && is.count("succeeded") < was.count("succeeded") {
        let at = is.status.at("succeeded");
        errors.invalid(at.path(), is.count("succeeded"), "cannot decrease the succeeded counter");
    }
    let (end, ended) = (is.status.at("completionTime"), was.status.at("completionTime"));
    if end.is_set() && ended.is_set() {
        end.immutable(&ended, errors);
    }
    let (start, started) = (is.status.at("startTime"), was.status.at("startTime"));
    let all = is.status.at("conditions");
    let off = |c: Located<'_>| c.at("type").text() == "Suspended" && c.at("status").text() == "False";
    let resumes = was.suspended && all.each().any(off);
    let other = start.value() != started.value();
    if other && !resumes && started.is_set() && !spec.at("suspend").is_true() {
        start.wrong("field is immutable for unsuspended job once set", errors);
    }
    if was.succeeds && !is.succeeds {
        is.conditions("cannot disable the SuccessCriteriaMet=True condition", errors);
    }
    if was.complete && !was.succeeds && is.succeeds {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        is.conditions(why, errors);
    }
}
