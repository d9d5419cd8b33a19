//! The pod's service account, for plugins that want its token (IMG-207, IMG-208).
//!
//! Owns the two calls to the API. Must not keep a token. Start at [`Plea::of`].

use super::{cache::Holder, config::Token};
use crate::{
    credentials::Account,
    object::Pod,
    volumes::{Sources, request_token, said},
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use std::{collections::BTreeMap, time::Duration};

/// A call to the API takes no longer than this.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Whether a plugin is asked for a pod, and in whose name.
pub(super) enum Plea {
    /// Asked without a token.
    Plain,
    /// Asked with a token of this account and these annotations of it.
    For(Account, BTreeMap<String, String>),
    /// Not asked, and that is as configured.
    Not,
}

impl Plea {
    /// Reads the account if the plugin wants one.
    ///
    /// # Errors
    /// In words, when there is no such account or the API does not answer.
    pub(super) async fn of(token: Option<&Token>, sources: &Sources, pod: &Pod) -> Result<Plea, String> {
        let Some(token) = token else { return Ok(Plea::Plain) };
        let name = pod.spec.service_account_name.as_str();
        if name.is_empty() {
            return Ok(if token.account_required { Plea::Not } else { Plea::Plain });
        }
        let api: Api<ServiceAccount> = Api::namespaced(sources.client(), pod.namespace());
        let account = match tokio::time::timeout(CALL_LIMIT, api.get(name)).await {
            Ok(Ok(account)) => account,
            Ok(Err(error)) => return Err(format!("get service account {}/{name}: {}", pod.namespace(), said(error))),
            Err(_) => return Err(format!("get service account {}/{name}: no answer in time", pod.namespace())),
        };
        let all = account.metadata.annotations.unwrap_or_default();
        let Some(annotations) = chosen(token, &all) else { return Ok(Plea::Not) };
        let uid = account.metadata.uid.unwrap_or_default();
        Ok(Plea::For(Account { namespace: pod.namespace().to_owned(), name: name.to_owned(), uid }, annotations))
    }

    /// For whom the answer holds, not yet bound to a token.
    pub(super) fn holder(&self) -> Holder {
        match self {
            Plea::For(account, annotations) => Holder {
                namespace: account.namespace.clone(),
                name: account.name.clone(),
                uid: account.uid.clone(),
                annotations: annotations.clone(),
                token_hash: None,
            },
            Plea::Plain | Plea::Not => Holder::default(),
        }
    }
}

/// The annotations that the plugin gets; `None` if a required one is missing: that is how workloads opt in.
fn chosen(token: &Token, all: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut chosen = BTreeMap::new();
    for key in &token.required_annotations {
        chosen.insert(key.clone(), all.get(key)?.clone());
    }
    for key in &token.optional_annotations {
        chosen.extend(all.get(key).map(|value| (key.clone(), value.clone())));
    }
    Some(chosen)
}

/// A fresh token of the pod's account, bound to the pod.
///
/// # Errors
/// In words, when the API does not give one.
pub(super) async fn token(sources: &Sources, pod: &Pod, audience: &str) -> Result<String, String> {
    request_token(&sources.client(), pod, audience, None).await.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_required_annotation_means_not_asked_and_only_named_ones_are_passed() {
        let token = Token {
            audience: "a".into(),
            account_required: true,
            cached_by_token: false,
            required_annotations: vec!["need".into()],
            optional_annotations: vec!["may".into()],
        };
        let map = |keys: &[&str]| -> BTreeMap<String, String> {
            keys.iter().map(|key| ((*key).to_owned(), "v".to_owned())).collect()
        };
        assert_eq!(chosen(&token, &map(&["may", "other"])), None);
        assert_eq!(chosen(&token, &map(&["need", "other"])), Some(map(&["need"])));
        assert_eq!(chosen(&token, &map(&["need", "may"])), Some(map(&["need", "may"])));
    }
}
