//! `batch`: jobs and cron jobs.

use coracle_api::{Object, conditions, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::batch_rules::{job, job_spec};
use super::batch_status::status;
use super::columns::{
    AGE, LABEL_SELECTOR, NAME, TEMPLATE_CONTAINERS, TEMPLATE_IMAGES, label_selector, names_of, of_kind, or,
    path, rule, since, size, wide,
};
use super::defaulting::{each, fill, fill_zero, object, within};
use super::located::Located;
use super::pod_spec;
use super::validation::Errors;
use crate::field::FieldError;
use crate::resource::{Column, NAMESPACED, Row, SelectableField, Strategy, WriteContext};

const KIND: Row = Row { group: "batch", categories: &["all"], status: true, generation: true, ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "CronJob",
        metadata_looks: [1, 0],
        plural: "cronjobs",
        short: &["cj"],
        columns: CRON_JOB,
        first_status: "{}",
        strategy: &CronJobs,
        ..KIND
    },
    Row {
        kind: "Job",
        metadata_looks: [2, 1],
        plural: "jobs",
        unknown_label: "field label \"{}\" not supported for Job",
        fields: &[SelectableField {
            label: "status.successful",
            path: &["status", "succeeded"],
            absent: "0",
            or: &[],
        }],
        columns: JOB,
        strategy: &Jobs,
        ..KIND
    },
];

const CRON_JOB_CONTAINERS: &[&str] = &["spec", "jobTemplate", "spec", "template", "spec", "containers"];

const CRON_JOB: &[Column] = &[
    NAME,
    path("Schedule", &["spec", "schedule"]),
    rule("Timezone", |o, _| or(o, &["spec", "timeZone"], "<none>")),
    of_kind(
        "boolean",
        rule("Suspend", |o, _| match o.bool_at(&["spec", "suspend"]) {
            Some(true) => json!("True"),
            Some(false) => json!("False"),
            None => json!("<unset>"),
        }),
    ),
    of_kind("integer", rule("Active", |o, _| json!(size(o, &["status", "active"])))),
    rule("Last Schedule", |o, now| match o.at(&["status", "lastScheduleTime"]) {
        Some(at) => since(Some(at), now),
        None => json!("<none>"),
    }),
    AGE,
    wide(rule("Containers", |o, _| names_of(o.items_at(CRON_JOB_CONTAINERS), "name"))),
    wide(rule("Images", |o, _| names_of(o.items_at(CRON_JOB_CONTAINERS), "image"))),
    wide(rule("Selector", |o, _| json!(label_selector(o.at(&["spec", "jobTemplate", "spec", "selector"]))))),
];

const JOB: &[Column] = &[
    NAME,
    rule("Status", |o, _| json!(state(o))),
    rule("Completions", |o, _| json!(completions(o))),
    rule("Duration", |o, now| json!(duration(o, now))),
    AGE,
    TEMPLATE_CONTAINERS,
    TEMPLATE_IMAGES,
    LABEL_SELECTOR,
];

fn state(o: &Object) -> &'static str {
    let has = |kind| conditions::is_true(o.items_at(&["status", "conditions"]), kind);
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if o.is_being_deleted() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(o: &Object) -> String {
    let done = o.i64_at(&["status", "succeeded"]).unwrap_or(0);
    match (o.i64_at(&["spec", "completions"]), o.i64_at(&["spec", "parallelism"]).unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    }
}

fn duration(o: &Object, now: Timestamp) -> String {
    let at = |key: &str| o.at(&["status", key]).and_then(time::parse);
    match at("startTime") {
        Some(start) => time::since(Some(start), at("completionTime").unwrap_or(now)),
        None => String::new(),
    }
}

fn default_spec(spec: &mut Value) {
    within(spec, "podFailurePolicy", |policy| {
        each(policy, "rules", |r| each(r, "onPodConditions", |c| fill_zero(c, "status", "True")));
    });
    pod_spec::template(object(spec, "template"));
}

struct Jobs;

const LABELS: &[&str] = &["spec", "template", "metadata", "labels"];
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// The labels by which a job knows its pods, in upstream's order.
fn generated(job: &Object) -> [(&'static str, String); 4] {
    let (uid, name) = (job.uid().to_owned(), job.name().to_owned());
    [
        ("controller-uid", uid.clone()),
        ("job-name", name.clone()),
        (CONTROLLER_UID, uid),
        ("batch.kubernetes.io/job-name", name),
    ]
}

impl Strategy for Jobs {
    fn default(&self, new: &mut Object) {
        if let Some(labels) = new.at(&["spec", "template", "metadata", "labels"]).cloned()
            && new.labels().is_none_or(serde_json::Map::is_empty)
        {
            new.set(&["metadata", "labels"], labels);
        }
        let spec = object(&mut new.0, "spec");
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            fill(spec, "completions", 1);
        } else if spec["completions"].is_null()
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove("completions");
        }
        fill(spec, "parallelism", 1);
        let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
        fill(spec, "backoffLimit", limit);
        fill(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        let replace = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
        fill(spec, "podReplacementPolicy", replace);
        fill(spec, "manualSelector", false);
        default_spec(spec);
    }

    /// Unless told otherwise, a job selects its pods by its own uid.
    fn prepare(&self, cx: &WriteContext<'_>, new: &mut Object, old: Option<&Object>) {
        if old.is_some() {
            return;
        }
        new.set(&["status"], json!({}));
        if new.bool_at(&["spec", "manualSelector"]) == Some(true) {
            return;
        }
        // Labels that were taken over from the template go on being the template's; those that came with the job do not,
        // be they the same.
        let follows = !cx.labelled && new.labels() == new.at(LABELS).and_then(Value::as_object);
        for (key, value) in generated(new) {
            let at: Vec<&str> = LABELS.iter().copied().chain([key]).collect();
            new.set_default(&at, value);
        }
        if follows && let Some(all) = new.at(LABELS).cloned() {
            new.set(&["metadata", "labels"], all);
        }
        let own = new.uid().to_owned();
        new.set_default(&["spec", "selector", "matchLabels", CONTROLLER_UID], own);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        super::apps::changed_template_warnings(new, old)
    }

    fn validates(&self, _subresource: &str) -> bool {
        true
    }

    fn validate(&self, cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        match old {
            Some(old) if cx.subresource == "status" => status(new, old, &mut errors),
            _ => job(new, old, &mut errors),
        }
        errors.0
    }

    /// Jobs made before garbage collection keep their pods unless told otherwise.
    fn default_orphan(&self) -> bool {
        true
    }

    fn delete_warning(&self) -> &'static str {
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them \
         or set propagationPolicy=Orphan to suppress this warning"
    }
}

/// A name of the time zone database; `Local` would mean the server's.
fn time_zone(new: &Object, errors: &mut Errors) {
    const AT: &str = "spec.timeZone";
    let Some(name) = new.at(&["spec", "timeZone"]).and_then(Value::as_str) else { return };
    if name.is_empty() {
        errors.invalid(AT, name, "timeZone must be nil or non-empty string");
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(AT, name, why);
    }
    if name != "Local" && !coracle_api::time::is_zone(name) {
        errors.invalid(AT, name, format!("unknown time zone {name}"));
    }
}

struct CronJobs;

impl Strategy for CronJobs {
    fn default(&self, new: &mut Object) {
        let spec = object(&mut new.0, "spec");
        fill_zero(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        within(object(spec, "jobTemplate"), "spec", default_spec);
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let schedule = new.str_at(&["spec", "schedule"]);
        if schedule.is_empty() {
            errors.required("spec.schedule", "");
        } else if schedule.contains("TZ") {
            // One that was stored before this was refused may stay, but not beside the field.
            let stays = old.is_some_and(|o| o.str_at(&["spec", "schedule"]).contains("TZ"));
            if !stays {
                let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.invalid("spec.schedule", schedule, detail);
            } else if new.at(&["spec", "timeZone"]).is_some() {
                let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
                errors.invalid("spec.schedule", schedule, detail);
            }
        } else if let Err(why) = coracle_api::cron::Schedule::parse(schedule) {
            errors.invalid("spec.schedule", schedule, why);
        }
        let start = new.i64_at(&["spec", "startingDeadlineSeconds"]);
        errors.non_negative("spec.startingDeadlineSeconds", start);
        // A zone that has left the database does not keep its object from being changed.
        if old.is_none_or(|old| old.at(&["spec", "timeZone"]) != new.at(&["spec", "timeZone"])) {
            time_zone(new, &mut errors);
        }
        let policy = new.str_at(&["spec", "concurrencyPolicy"]);
        errors.one_of("spec.concurrencyPolicy", policy, &["Allow", "Forbid", "Replace"]);
        let spec = Located::root(new).at("spec").at("jobTemplate").at("spec");
        job_spec(&spec, &mut errors);
        if spec.at("selector").is_set() {
            spec.at("selector").wrong("`selector` will be auto-generated", &mut errors);
        }
        if spec.at("manualSelector").is_true() {
            errors.unsupported_text(spec.at("manualSelector").path(), "true".to_owned(), &["nil", "false"]);
        }
        for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            errors.non_negative(format!("spec.{key}"), new.i64_at(&["spec", key]));
        }
        if old.is_none() && new.name().len() > 52 {
            errors.invalid("metadata.name", new.name(), "must be no more than 52 characters");
        }
        errors.0
    }
}
