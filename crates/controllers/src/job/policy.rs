//! When a Job has failed or succeeded: limits, deadlines, and the rules that its spec gives.

use api::{Timestamp, look};
use serde_json::Value;

use super::indexes::Indexes;
use super::ledger::Ledger;
use super::{Job, News, Verdict};
use crate::view::Pod;
use crate::view::pod::seconds;
use crate::workload::after_seconds;

/// What a rule says about a pod that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Count it.
    Count,
    /// Do not count it.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// What the first rule that fits says about a pod that failed.
pub fn action(job: &Job<'_>, pod: &Pod) -> Action {
    let rules = look::list_at(&job.view.object, &["spec", "podFailurePolicy", "rules"]);
    // Of a pod that has not ended nothing can be said.
    for (index, rule) in rules.iter().enumerate().filter(|_| pod.finished) {
        let Some(what) = matched(rule, pod) else { continue };
        let action = look::text(rule, "action");
        return match action {
            "Ignore" => Action::Ignore,
            "FailIndex" if job.per_index.is_some() => Action::FailIndex,
            "FailJob" => Action::FailJob(format!("{what} matching {action} rule at index {index}")),
            _ => Action::Count,
        };
    }
    Action::Count
}

fn matched(rule: &Value, pod: &Pod) -> Option<String> {
    let place = format!("{}/{}", pod.namespace, pod.name);
    if let Some(codes) = look::get(rule, "onExitCodes") {
        let name = look::text(codes, "containerName");
        let values: Vec<i64> = look::list(codes, "values").iter().filter_map(Value::as_i64).collect();
        let fits = |code: i64| code != 0 && values.contains(&code) == (look::text(codes, "operator") == "In");
        let mut exits = pod.job.exits.iter().filter(|(container, _)| name.is_empty() || container == name);
        let (container, code) = exits.find(|(_, code)| fits(*code))?;
        return Some(format!("Container {container} for pod {place} failed with exit code {code}"));
    }
    let patterns = look::list(rule, "onPodConditions");
    let fits = |(kind, status): &&(String, String)| {
        patterns.iter().any(|one| look::text(one, "type") == kind && look::text(one, "status") == status)
    };
    let (kind, _) = pod.job.conditions.iter().find(fits)?;
    Some(format!("Pod {place} has condition {kind}"))
}

/// How the Job ends, if it is to.
pub fn judge(job: &Job<'_>, ledger: &Ledger, news: &News, status: &Value, now: Timestamp) -> Option<Verdict> {
    let failing = news.failed.iter().find_map(|pod| match action(job, pod) {
        Action::FailJob(message) => Verdict::failure("PodFailurePolicy", message),
        _ => None,
    });
    failing
        .or_else(|| exceeded(job, ledger, status, now))
        .or_else(|| failed_indexes(job, ledger))
        .or_else(|| by_success_policy(job, ledger))
        .or_else(|| completed(job, ledger))
}

fn exceeded(job: &Job<'_>, ledger: &Ledger, status: &Value, now: Timestamp) -> Option<Verdict> {
    let limit = job.view.number("backoffLimit").unwrap_or(6);
    if ledger.failed() > limit || has_restarted_too_often(job, limit) {
        return Verdict::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let is_over = deadline(job, status).is_some_and(|deadline| deadline <= now);
    is_over.then(|| Verdict::failure("DeadlineExceeded", "Job was active longer than specified deadline")).flatten()
}

/// Restarts in place count as failures when the pods restart theirs.
fn has_restarted_too_often(job: &Job<'_>, limit: i64) -> bool {
    if look::text_at(job.view.template(), &["spec", "restartPolicy"]) != "OnFailure" {
        return false;
    }
    let restarts: i64 = job.active().map(|pod| pod.job.restarts).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// When the Job has been active for too long.
pub fn deadline(job: &Job<'_>, status: &Value) -> Option<Timestamp> {
    let allowed = job.view.number("activeDeadlineSeconds").filter(|_| !job.is_suspended)?;
    after_seconds(seconds(look::text(status, "startTime"))? + allowed)
}

fn failed_indexes(job: &Job<'_>, ledger: &Ledger) -> Option<Verdict> {
    let failed = ledger.failed_indexes.len();
    if failed == 0 {
        return None;
    }
    if job.view.number("maxFailedIndexes").is_some_and(|max| failed > max) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Verdict::failure("MaxFailedIndexesExceeded", message);
    }
    let is_over = job.completions.is_some_and(|all| failed + ledger.succeeded(job) >= all);
    is_over.then(|| Verdict::failure("FailedIndexes", "Job has failed indexes")).flatten()
}

fn by_success_policy(job: &Job<'_>, ledger: &Ledger) -> Option<Verdict> {
    let rules = look::list_at(&job.view.object, &["spec", "successPolicy", "rules"]);
    let is_met = |rule: &Value| {
        let wanted = look::get(rule, "succeededIndexes").and_then(Value::as_str).map(Indexes::parse);
        let met = match &wanted {
            Some(wanted) => wanted.common(&ledger.completed),
            None => ledger.completed.len(),
        };
        match look::integer(rule, "succeededCount") {
            Some(count) => met >= count,
            None => wanted.is_some_and(|wanted| met == wanted.len()),
        }
    };
    let index = rules.iter().position(is_met)?;
    Verdict::success("SuccessPolicy", format!("Matched rules at index {index}"))
}

fn completed(job: &Job<'_>, ledger: &Ledger) -> Option<Verdict> {
    let is_idle = job.active().next().is_none();
    let succeeded = ledger.succeeded(job);
    let is_complete = match job.completions {
        // Without a number, the first success ends it when the others have ended too.
        None => succeeded > 0 && is_idle,
        Some(completions) => succeeded >= completions && is_idle,
    };
    is_complete.then(|| Verdict::success("CompletionsReached", "Reached expected number of succeeded pods")).flatten()
}
