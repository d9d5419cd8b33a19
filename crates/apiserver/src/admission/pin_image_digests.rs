//! `PinImageDigests`: a tag is looked up once, when a pod or a pod template is made, and stored as `name:tag@digest`, so
//! that every pod of a template runs the same content whatever becomes of the tag. Off by default; no plugin of upstream.
//!
//! Who looks up is handed in: this room knows no registry. Left alone are names with a digest, texts that are no names
//! (the node tells, IMG-13), images that are never pulled, and a node's own mirror pods. The policy was chosen before the
//! digest came, so it is that of the tag (IMG-20). Start at [`PinImageDigests::mutate`].

use std::collections::BTreeMap;
use std::time::Duration;

use api::look;
use futures_util::StreamExt;
use futures_util::stream;
use reference::Reference;
use serde_json::Value;
use tokio::time::Instant;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::{Operation, Request};
use crate::status::Status;

/// Name of the plugin.
pub const NAME: &str = "PinImageDigests";

/// How long all look-ups of one object may take.
const PATIENCE: Duration = Duration::from_secs(2);
const AT_ONCE_MAX: usize = 16;

/// One look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestQuery {
    /// The image as the object names it.
    pub image: String,
    /// Namespace of the object, where its pull secrets are.
    pub namespace: String,
    /// Names of its pull secrets, in their order.
    pub pull_secrets: Vec<String>,
}

/// A service that says which digest (`sha256:…`) a tag stands for; the error says why it cannot, free of secrets.
pub type DigestResolver = BoxCloneSyncService<DigestQuery, String, String>;

/// What becomes of an object with a tag that cannot be looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnresolvedTags {
    /// It is refused.
    #[default]
    Refuse,
    /// The tag stays, and the client is warned.
    LetPass,
}

/// The plugin.
pub struct PinImageDigests {
    /// Who looks up; without one every tag is unresolved.
    pub resolver: Option<DigestResolver>,
    /// What to do when it fails.
    pub unresolved: UnresolvedTags,
}

impl PinImageDigests {
    /// Pins the images of a new object.
    pub async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let place = request.kind.rules.pod_spec_path();
        let mirror = api::pod::is_mirror(object);
        let own_mirror = mirror && request.user.node_name().is_some();
        if request.operation != Operation::Create || !request.subresource.is_empty() || place.is_empty() || own_mirror {
            return Ok(());
        }
        let mut pinned: BTreeMap<String, String> = BTreeMap::new();
        let spec = place.iter().fold(object, |value, name| look::child(value, name));
        visit(spec, &mut |image, _| {
            pinned.insert(image.to_owned(), String::new());
        });
        let pull_secrets = pull_secrets(request, spec).await;
        let deadline = Instant::now() + PATIENCE;
        let look_ups = pinned.keys().cloned().map(|image| {
            let query =
                DigestQuery { image, namespace: request.namespace.to_owned(), pull_secrets: pull_secrets.clone() };
            self.look_up(query, deadline)
        });
        let found: Vec<(String, Result<String, String>)> = stream::iter(look_ups).buffered(AT_ONCE_MAX).collect().await;
        for (image, digest) in found {
            match digest.and_then(|digest| with_digest(&image, &digest)) {
                Ok(name) => drop(pinned.insert(image, name)),
                Err(why) if self.unresolved == UnresolvedTags::Refuse => {
                    return Err(request.forbidden(format!("image {image:?} cannot be pinned to a digest: {why}")));
                }
                Err(why) => {
                    request.warnings.add(format!("image {image:?} keeps its tag: {why}"));
                    pinned.remove(&image);
                }
            }
        }
        visit_mut(spec, &pinned);
        Ok(())
    }

    async fn look_up(&self, query: DigestQuery, deadline: Instant) -> (String, Result<String, String>) {
        let image = query.image.clone();
        let Some(resolver) = self.resolver.clone() else {
            return (image, Err("this server has nobody who looks up tags".to_owned()));
        };
        let answered = tokio::time::timeout_at(deadline, resolver.oneshot(query)).await;
        (image, answered.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))))
    }
}

/// The pull secrets that pods of this spec will have: its own, or its account's (IMG-188), which templates do not name.
async fn pull_secrets(request: &Request<'_>, spec: &Value) -> Vec<String> {
    let names = |object: &Value| -> Vec<String> {
        look::list(object, "imagePullSecrets").iter().map(|secret| look::text(secret, "name").to_owned()).collect()
    };
    let own = names(spec);
    if !own.is_empty() {
        return own;
    }
    let account = Some(look::text(spec, "serviceAccountName")).filter(|name| !name.is_empty()).unwrap_or("default");
    let account = request.world.find("", "serviceaccounts", Some(request.namespace), account).await;
    account.as_ref().map(names).unwrap_or_default()
}

/// Fields of a container or of an image volume.
const CONTAINER: (&str, &str) = ("image", "imagePullPolicy");
const VOLUME: (&str, &str) = ("reference", "pullPolicy");
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Whether an image is to be pinned: a good name with a tag, or without anything, that may be pulled.
fn is_open(holder: &Value, (image, policy): (&str, &str)) -> bool {
    look::text(holder, policy) != "Never"
        && Reference::parse(look::text(holder, image)).is_ok_and(|name| name.digest().is_none())
}

fn visit(spec: &Value, found: &mut dyn FnMut(&str, &str)) {
    let volumes = look::list(spec, "volumes").iter().filter_map(|volume| look::get(volume, "image"));
    let containers = LISTS.iter().flat_map(|list| look::list(spec, list));
    let holders = containers.map(|holder| (holder, CONTAINER)).chain(volumes.map(|holder| (holder, VOLUME)));
    for (holder, fields) in holders.filter(|(holder, fields)| is_open(holder, *fields)) {
        found(look::text(holder, fields.0), fields.0);
    }
}

fn visit_mut(spec: &mut Value, pinned: &BTreeMap<String, String>) {
    let pin = |holder: &mut Value, fields: (&str, &str)| {
        if is_open(holder, fields)
            && let Some(name) = pinned.get(look::text(holder, fields.0))
        {
            look::set(holder, fields.0, name.as_str());
        }
    };
    for list in LISTS {
        look::list_mut(spec, list).iter_mut().for_each(|container| pin(container, CONTAINER));
    }
    let volumes = look::list_mut(spec, "volumes").iter_mut();
    volumes.filter_map(|volume| look::get_mut(volume, "image")).for_each(|image| pin(image, VOLUME));
}

/// `name:tag@digest`; a tag that was not written is written out (IMG-10, IMG-11).
fn with_digest(image: &str, digest: &str) -> Result<String, String> {
    let name = Reference::parse(image).map_err(|error| error.to_string())?;
    let tag = format!(":{}", name.tag().unwrap_or(reference::DEFAULT_TAG));
    let tag = if image.ends_with(&tag) { "" } else { &tag };
    let pinned = format!("{image}{tag}@{digest}");
    match Reference::parse(&pinned) {
        Ok(_) => Ok(pinned),
        Err(error) => Err(format!("{digest:?} is no digest: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_kept_and_written_out_before_the_digest() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (image, expected) in [
            ("nginx", "nginx:latest@"),
            ("nginx:1", "nginx:1@"),
            ("localhost:5000/x", "localhost:5000/x:latest@"),
            ("localhost:5000/x:5000", "localhost:5000/x:5000@"),
        ] {
            assert_eq!(with_digest(image, digest), Ok(format!("{expected}{digest}")), "{image}");
        }
        assert!(with_digest("nginx", "sha256:short").is_err());
    }
}
