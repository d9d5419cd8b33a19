//! Whether a pod that the API refuses to change is still there.
//!
//! Owns the reading of such a refusal. A conflict alone says nothing: only the UID tells one pod of a name from the next.
//! Start at [`is_gone`].

use crate::object::Pod;
use kube::Api;
use std::time::Duration;

const GET_TIMEOUT: Duration = Duration::from_secs(30);

/// True when there is no pod of this name and UID any more. When nobody can tell it counts as there, and what was refused
/// is tried again.
pub(super) async fn is_gone(api: &Api<Pod>, name: &str, uid: &str, refusal: &kube::Error) -> bool {
    let kube::Error::Api(status) = refusal else { return false };
    match status.code {
        404 => true,
        409 if is_about_uid(&status.message) => true,
        409 => match tokio::time::timeout(GET_TIMEOUT, api.get_opt(name)).await {
            Ok(Ok(found)) => found.is_none_or(|pod| pod.uid() != uid),
            Ok(Err(_)) | Err(_) => false,
        },
        _ => false,
    }
}

/// The words of a UID that is not the one that was asked for, as API servers write them.
fn is_about_uid(message: &str) -> bool {
    ["UID in precondition:", "the UID in the precondition"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_about_the_uid_only_when_it_says_so() {
        for (message, expected) in [
            ("Precondition failed: UID in precondition: a, UID in object meta: b", true),
            (
                "Operation cannot be fulfilled on pods \"p\": Precondition failed: UID in precondition: a, UID in object meta: b",
                true,
            ),
            ("the UID in the precondition (a) does not match the UID in record (b)", true),
            (
                "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply your changes to the latest version and try again",
                false,
            ),
            ("", false),
        ] {
            assert_eq!(is_about_uid(message), expected, "{message}");
        }
    }
}
