//! What fuzzing calls, and tests call with the corpus of `fuzz/`: certificate requests that are signed, and texts of Jobs
//! and CronJobs that say when and how often something runs.

/// A certificate request in DER.
pub fn certificate_requests(bytes: &[u8]) {
    crate::certificates::hostile_request(bytes);
}

/// Lines, each of them a schedule and a list of completion indexes.
pub fn job_texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().take(8) {
        crate::job::hostile_indexes(line);
        crate::cronjob::hostile_schedule(line);
    }
}

#[cfg(test)]
mod tests {
    coracle_api::replayed! { certificate_requests job_texts }
}
