//! Jobs: pods that end.

use jiff::Timestamp;
use serde_json::Value;

use super::{cells, job_policy, job_status};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;
use crate::names;
use crate::rules::Rules;
use crate::rules::pod::scheduling;

/// Rules of `batch/v1 Job`.
pub struct Jobs;

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Upstream's limits for indexed Jobs.
const PARALLELISM_MAX: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_OF_MANY_MAX: i64 = 10_000;
const MANAGER_BYTES_MAX: usize = 63;

impl Rules for Jobs {
    fn default(&self, object: &mut Value) {
        let spec = look::child(object, "spec");
        default_conditions(spec);
        if look::get(spec, "completions").is_none() && look::get(spec, "parallelism").is_none() {
            look::set(spec, "completions", 1);
        }
        look::set_absent(spec, "parallelism", 1);
        let by_index = look::get(spec, "backoffLimitPerIndex").is_some();
        look::set_absent(spec, "backoffLimit", if by_index { i32::MAX } else { 6 });
        look::set_absent(spec, "completionMode", "NonIndexed");
        look::set_absent(spec, "suspend", false);
        look::set_absent(spec, "manualSelector", false);
        let judged = look::get(spec, "podFailurePolicy").is_some();
        look::set_absent(spec, "podReplacementPolicy", if judged { "Failed" } else { "TerminatingOrFailed" });
        super::default_template(spec);
        label_like_template(object);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        super::prepare_create(object);
        // A Job labelled like its template stays so: with the labels that the server adds.
        let labels = |object: &Value, path: &[&str]| look::at(object, path).cloned();
        let template = labels(object, &["spec", "template", "metadata", "labels"]);
        let alike = look::same(labels(object, &["metadata", "labels"]).as_ref(), template.as_ref());
        generate_selector(object);
        if alike {
            look::remove(look::child(object, "metadata"), "labels");
            label_like_template(object);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        super::prepare_update(new, old, sub);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(object, "spec").unwrap_or(&empty);
        generated_selector(object, spec, &mut errors);
        whole_spec(spec, &path, &mut errors);
        let completions = look::integer(spec, "completions").unwrap_or(0);
        if look::text(spec, "completionMode") == "Indexed" && completions > 0 {
            let name = look::text_at(object, &["metadata", "name"]);
            let last = format!("{name}-{}", completions - 1);
            if !names::label(&last).is_empty() {
                let detail = format!("will not able to create pod with invalid DNS label: {last}");
                errors.push(FieldError::invalid(&Path::new("metadata").child("name"), name, detail));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return job_status::validate_update(new, old);
        }
        let (mut errors, path, empty) = (Vec::new(), Path::new("spec"), Value::Null);
        let spec = look::get(new, "spec").unwrap_or(&empty);
        let before = look::get(old, "spec").unwrap_or(&empty);
        whole_spec(spec, &path, &mut errors);
        let mut fixed = |field: &str| {
            meta::immutable(look::get(spec, field), look::get(before, field), &path.child(field), &mut errors);
        };
        if look::text(spec, "completionMode") != "Indexed" {
            fixed("completions");
        }
        fixed("selector");
        completions_of_indexed(spec, before, &path, &mut errors);
        let template = template_before(spec, before, old);
        meta::immutable(look::get(spec, "template"), template.as_ref(), &path.child("template"), &mut errors);
        for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
            meta::immutable(look::get(spec, field), look::get(before, field), &path.child(field), &mut errors);
        }
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut out = Vec::new();
        let number = |field| look::at(object, &["spec", field]).and_then(Value::as_i64).unwrap_or(0);
        if look::text_at(object, &["spec", "completionMode"]) == "Indexed"
            && number("completions") > COMPLETIONS_SOFT_MAX
            && number("parallelism") > PARALLELISM_OF_MANY_MAX
        {
            out.push(
                "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                 Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                    .to_owned(),
            );
        }
        out.extend(super::template_warnings(object, &["spec", "template"]));
        out
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let succeeded = look::at(object, &["status", "succeeded"]).and_then(Value::as_i64).unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec", "template", "spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of_job(object, now)
    }
}

/// The status that a rule about pod conditions means when it names none.
pub(super) fn default_conditions(spec: &mut Value) {
    let Some(policy) = look::get_mut(spec, "podFailurePolicy") else { return };
    for rule in look::list_mut(policy, "rules") {
        for pattern in look::list_mut(rule, "onPodConditions") {
            look::set_empty(pattern, "status", "True");
        }
    }
}

fn label_like_template(object: &mut Value) {
    let Some(labels) = look::at(object, &["spec", "template", "metadata", "labels"]).cloned() else { return };
    let metadata = look::child(object, "metadata");
    if look::map(metadata, "labels").next().is_none() && !look::same(Some(&labels), None) {
        look::set(metadata, "labels", labels);
    }
}

/// Selects by the Job's uid, and labels the template so, unless the client does it by hand or said something else.
fn generate_selector(object: &mut Value) {
    let uid = look::text_at(object, &["metadata", "uid"]).to_owned();
    let name = look::text_at(object, &["metadata", "name"]).to_owned();
    let spec = look::child(object, "spec");
    if look::flag(spec, "manualSelector") {
        return;
    }
    let labels = look::child(look::child(look::child(spec, "template"), "metadata"), "labels");
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            // Another value is refused by the validation.
            look::set_absent(labels, key, value.as_str());
        }
    }
    let wanted = look::child(look::child(spec, "selector"), "matchLabels");
    look::set_absent(wanted, UID_LABELS[1], uid);
}

fn generated_selector(object: &Value, spec: &Value, errors: &mut Vec<FieldError>) {
    if look::flag(spec, "manualSelector") || look::get(spec, "selector").is_none() {
        return;
    }
    let uid = look::text_at(object, &["metadata", "uid"]);
    let name = look::text_at(object, &["metadata", "name"]);
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let empty = Value::Null;
    let labels = look::at(spec, &["template", "metadata", "labels"]).unwrap_or(&empty);
    let expected: Vec<(&str, &str)> =
        UID_LABELS.into_iter().map(|key| (key, uid)).chain(NAME_LABELS.into_iter().map(|key| (key, name))).collect();
    for (key, value) in &expected {
        match look::get(labels, key).and_then(Value::as_str) {
            Some(found) if found == *value => {}
            Some(_) => {
                let detail = format!("must be '{value}'");
                errors.push(FieldError::invalid(&path.key(key), labels.clone(), detail));
            }
            None => errors.push(FieldError::required(&path.key(key), format!("must be '{value}'"))),
        }
    }
    let selector = look::get(spec, "selector");
    let label = |key: &str| expected.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    let selects = crate::selector::label::LabelSelector::from_object(selector).is_ok_and(|found| found.matches(label));
    if !selects {
        let shown = selector.cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&Path::new("spec").child("selector"), shown, "`selector` not auto-generated"));
    }
}

fn whole_spec(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    validate_spec(spec, path, errors);
    match look::get(spec, "selector") {
        None => errors.push(FieldError::required(&path.child("selector"), "")),
        Some(_) => scheduling::label_selector(spec, "selector", &path.child("selector"), errors),
    }
    if !super::template_is_selected(spec) {
        super::unselected(spec, path, errors);
    }
}

/// Checks a Job's spec, in a Job or in a CronJob.
pub(super) fn validate_spec(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    super::none_negative(spec, &counts, path, errors);
    let has = |field: &str| look::get(spec, field).is_some();
    if has("maxFailedIndexes") && !has("backoffLimitPerIndex") {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(&path.child("backoffLimitPerIndex"), detail));
    }
    if let Some(manager) = look::get(spec, "managedBy").and_then(Value::as_str) {
        managed_by(manager, &path.child("managedBy"), errors);
    }
    completion_mode(spec, path, errors);
    job_policy::pod_failure(spec, &path.child("podFailurePolicy"), errors);
    job_policy::success(spec, &path.child("successPolicy"), errors);
    job_policy::pod_replacement(spec, &path.child("podReplacementPolicy"), errors);
    super::template(spec, path, errors);
    restart_policy(spec, path, errors);
}

fn managed_by(manager: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if manager.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if let Some((domain, rest)) = manager.split_once('/') {
        errors.extend(names::subdomain(domain).into_iter().map(|words| FieldError::invalid(path, domain, words)));
        if rest.is_empty() {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, manager, detail));
        }
    } else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, manager, detail));
    }
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(path, MANAGER_BYTES_MAX));
    }
}

fn completion_mode(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let number = |field: &str| look::integer(spec, field);
    let mode = look::get(spec, "completionMode").and_then(Value::as_str);
    match mode {
        Some("Indexed") => indexed(spec, path, errors),
        None | Some("NonIndexed") => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = number(field) {
                    errors.push(FieldError::invalid(&path.child(field), value, "requires indexed completion mode"));
                }
            }
        }
        Some(other) => {
            let supported = ["NonIndexed", "Indexed"];
            errors.push(FieldError::not_supported(&path.child("completionMode"), other, &supported));
        }
    }
}

fn indexed(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let number = |field: &str| look::integer(spec, field);
    let (completions, parallelism, failed) = (number("completions"), number("parallelism"), number("maxFailedIndexes"));
    let mut invalid = |field: &str, value: i64, detail: String| {
        errors.push(FieldError::invalid(&path.child(field), value, detail));
    };
    if let Some(value) = parallelism.filter(|value| *value > PARALLELISM_MAX) {
        let detail = format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed");
        invalid("parallelism", value, detail);
    }
    if let Some(value) = failed.filter(|value| completions.is_some_and(|completions| *value > completions)) {
        invalid("maxFailedIndexes", value, "must be less than or equal to completions".to_owned());
    }
    if let Some(value) = failed.filter(|value| *value > FAILED_INDEXES_MAX) {
        invalid("maxFailedIndexes", value, format!("must be less than or equal to {FAILED_INDEXES_MAX}"));
    }
    let many = completions.is_some_and(|count| count > COMPLETIONS_SOFT_MAX);
    if many && number("backoffLimitPerIndex").is_some() {
        let detail = format!(
            "must be less than or equal to {PARALLELISM_OF_MANY_MAX} when completions are above \
             {COMPLETIONS_SOFT_MAX} and used with backoff limit per index"
        );
        for (field, value) in [("parallelism", parallelism), ("maxFailedIndexes", failed)] {
            if let Some(value) = value.filter(|value| *value > PARALLELISM_OF_MANY_MAX) {
                invalid(field, value, detail.clone());
            }
        }
        if failed.is_none() {
            let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
            errors.push(FieldError::required(&path.child("maxFailedIndexes"), detail));
        }
    }
    if completions.is_none() {
        errors.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
    }
}

fn restart_policy(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("template").child("spec").child("restartPolicy");
    match look::text_at(spec, &["template", "spec", "restartPolicy"]) {
        "" | "Always" => errors.push(FieldError::required(&path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if look::get(spec, "podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(&path, "OnFailure", detail));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(&path, other, &["OnFailure", "Never"])),
    }
}

/// The completions of an indexed Job change together with its parallelism.
fn completions_of_indexed(spec: &Value, before: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let (field, now) = ("completions", look::integer(spec, "completions"));
    let indexed = look::text(spec, "completionMode") == "Indexed";
    if let Some(count) = now.filter(|count| indexed && look::integer(before, field) != Some(*count))
        && look::integer(spec, "parallelism") != Some(count)
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(&path.child(field), count, detail));
    }
}

/// The old template with what may change in a suspended Job that has not started taken from the new one.
fn template_before(spec: &Value, before: &Value, old: &Value) -> Option<Value> {
    let mut template = look::get(before, "template")?.clone();
    let not_started = look::at(old, &["status", "startTime"]).is_none();
    if !look::flag(before, "suspend") || !not_started {
        return Some(template);
    }
    let empty = Value::Null;
    let new = look::get(spec, "template").unwrap_or(&empty);
    let part = |path: &[&str]| look::at(new, path).cloned();
    let pod = look::child(&mut template, "spec");
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        look::set(pod, field, part(&["spec", field]).unwrap_or(Value::Null));
    }
    let affinity = part(&["spec", "affinity", "nodeAffinity"]);
    let had_others = look::get(pod, "affinity")
        .is_some_and(|affinity| ["podAffinity", "podAntiAffinity"].iter().any(|f| look::get(affinity, f).is_some()));
    if affinity.is_some() || had_others || part(&["spec", "affinity"]).is_some() {
        look::set(look::child(pod, "affinity"), "nodeAffinity", affinity.unwrap_or(Value::Null));
    } else {
        look::set(pod, "affinity", Value::Null);
    }
    let metadata = look::child(&mut template, "metadata");
    for field in ["annotations", "labels"] {
        look::set(metadata, field, part(&["metadata", field]).unwrap_or(Value::Null));
    }
    Some(template)
}
