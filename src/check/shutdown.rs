//! Whether the machine's shutdown would wait for the pods (HOOK-97).

use std::error::Error;

use node::shutdown::{Policy, logind};

use super::{Finding, good, less};

const SUBJECT: &str = "machine's shutdown";

/// What logind says, if it is to be heard.
pub fn finding(policy: &Policy) -> anyhow::Result<Finding> {
    if policy.is_off() {
        return Ok(good(SUBJECT, "does not wait for pods; --shutdown-grace-period 30s has them stopped in order"));
    }
    let look = crate::wiring::executor()?.block_on(logind::look());
    Ok(said(policy, look))
}

fn said(policy: &Policy, look: Result<logind::Look, logind::Error>) -> Finding {
    let total = policy.total().as_secs();
    match look.map(|look| (look, look.advice(policy.total()))) {
        Ok((_, Some(advice))) => less(SUBJECT, advice),
        Ok((look, None)) => {
            good(SUBJECT, format!("waits {total} s for pods; logind allows {} s", look.delay_max.as_secs()))
        }
        Err(error) => {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            less(
                SUBJECT,
                format!(
                    "{error}{source}; pods are killed by it, --shutdown-grace-period needs systemd-logind or elogind"
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Weight;
    use jiff::SignedDuration;
    use node::shutdown::Given;

    #[test]
    fn hook_97_a_logind_that_waits_too_short_a_time_is_told_with_what_to_do() {
        let policy = Policy::parse(&Given { total: SignedDuration::from_secs(30), ..Given::default() }).unwrap();
        let look = |seconds| logind::Look { is_announced: false, delay_max: SignedDuration::from_secs(seconds) };
        let finding = said(&policy, Ok(look(5)));
        assert_eq!(finding.weight, Weight::Less);
        for words in ["waits 5s", "get 30s", "InhibitDelayMaxSec=30", "/etc/systemd/logind.conf.d/99-sampan.conf"] {
            assert!(finding.seen.contains(words), "{words}: {}", finding.seen);
        }
        assert_eq!(said(&policy, Ok(look(30))).weight, Weight::Good);
        let silent = said(&policy, Err(logind::Error::Silent));
        assert_eq!(silent.weight, Weight::Less);
        assert!(silent.seen.starts_with("the system bus does not answer; pods are killed"), "{}", silent.seen);
    }
}
