//! CronJobs: Jobs at set times.

use jiff::Timestamp;
use serde_json::Value;

use super::{cells, job};
use crate::field::{FieldError, Path};
use crate::rules::Rules;
use crate::{look, schedule};

/// Rules of `batch/v1 CronJob`.
pub struct CronJobs;

/// Its Jobs get eleven letters more, and 63 is the most for them.
const NAME_BYTES_MAX: usize = 52;

impl Rules for CronJobs {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        look::set_empty(spec, "concurrencyPolicy", "Allow");
        look::set_absent(spec, "suspend", false);
        look::set_absent(spec, "successfulJobsHistoryLimit", 3);
        look::set_absent(spec, "failedJobsHistoryLimit", 1);
        let template = look::child(spec, "jobTemplate");
        look::child(template, "metadata");
        let job = look::child(template, "spec");
        job::default_conditions(job);
        super::default_template(job);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate_spec(object, None);
        let name = look::text_at(object, &["metadata", "name"]);
        if name.len() > NAME_BYTES_MAX {
            let detail = "must be no more than 52 characters";
            errors.push(FieldError::invalid(&Path::new("metadata").child("name"), name, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        // Upstream checks nothing of a new status.
        if sub == Some("status") { Vec::new() } else { validate_spec(new, Some(old)) }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        super::template_warnings(object, &["spec", "jobTemplate", "spec", "template"])
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec", "jobTemplate", "spec", "template", "spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of_cron_job(object, now)
    }
}

fn validate_spec(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
    let spec = look::get(object, "spec").unwrap_or(&empty);
    times(spec, old.and_then(|old| look::get(old, "spec")), &path, &mut errors);
    super::none_negative(spec, &["startingDeadlineSeconds"], &path, &mut errors);
    let policies = ["Allow", "Forbid", "Replace"];
    let policy = look::text(spec, "concurrencyPolicy");
    if !policies.contains(&policy) {
        errors.push(FieldError::not_supported(&path.child("concurrencyPolicy"), policy, &policies));
    }
    let template = look::at(spec, &["jobTemplate", "spec"]).unwrap_or(&empty);
    let path_job = path.child("jobTemplate").child("spec");
    job::validate_spec(template, &path_job, &mut errors);
    if let Some(selector) = look::get(template, "selector") {
        let detail = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(&path_job.child("selector"), selector.clone(), detail));
    }
    if look::flag(template, "manualSelector") {
        errors.push(FieldError::not_supported(&path_job.child("manualSelector"), true, &["nil", "false"]));
    }
    super::none_negative(spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], &path, &mut errors);
    errors
}

fn times(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    let zone = look::get(spec, "timeZone").and_then(Value::as_str);
    let (text, path_schedule) = (look::text(spec, "schedule"), path.child("schedule"));
    if text.is_empty() {
        errors.push(FieldError::required(&path_schedule, ""));
    } else {
        if let Err(complaint) = schedule::parse(schedule::split_zone(text).1) {
            errors.push(FieldError::invalid(&path_schedule, text, complaint));
        }
        let had_zone = old.is_some_and(|old| look::text(old, "schedule").contains("TZ"));
        let detail = match (text.contains("TZ"), had_zone) {
            (true, true) if zone.is_some() => Some("cannot use both timeZone field and TZ or CRON_TZ in schedule"),
            (true, false) => Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            _ => None,
        };
        errors.extend(detail.map(|detail| FieldError::invalid(&path_schedule, text, detail)));
    }
    let same_zone = old.is_some_and(|old| look::get(old, "timeZone").and_then(Value::as_str) == zone);
    if let Some(zone) = zone.filter(|_| !same_zone)
        && let Some(complaint) = schedule::zone_complaint(zone)
    {
        errors.push(FieldError::invalid(&path.child("timeZone"), zone, complaint));
    }
}
