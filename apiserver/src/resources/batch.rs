//! `batch`: jobs and cron jobs.

use crate::resource::{NAMESPACED, Row};

const KIND: Row = Row { group: "batch", ..NAMESPACED };

pub(super) static ROWS: &[Row] = &[
    Row {
        kind: "CronJob",
        plural: "cronjobs",
        short: &["cj"],
        categories: &["all"],
        status: true,
        generation: true,
        ..KIND
    },
    Row { kind: "Job", plural: "jobs", categories: &["all"], status: true, generation: true, ..KIND },
];
