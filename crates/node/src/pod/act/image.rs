//! Having an image: look, choose, wait for a turn, pull with each credential, say so (IMG-40 … IMG-64).

use super::{Actor, CRI_TIMEOUT, Outcome, Scene, limited, rpc, rpc_text, sandbox::ClassError};
use crate::{
    config,
    credentials::{Lookup, Try},
    image::{Choice, Fault, Landing, Policy, Pulled, Pulls, Refusal, Verification, choose, full_name, go_duration},
    object::Pod,
    pod::{clock::Clock, view::ImageReady},
    records::{self, Records},
};
use cri::v1;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap};

/// What precedes the name of a registry header in the metadata of PullImage (docs/walls/cri.md).
const HEADER_PREFIX: &str = "sampan-registry-header-";

/// Whose image is wanted, and how.
struct Wanted<'a> {
    pod: &'a Pod,
    /// The container that events are about; "" for the image of a volume, of which the pod is told (IMG-303).
    about: &'a str,
    /// As the pod names it.
    image: &'a str,
    policy: Policy,
    /// The handler of the pod's RuntimeClass, if images are asked for with it (IMG-320).
    handler: String,
    /// The start that it is for.
    attempt: u32,
    asked_at: Timestamp,
}

impl Actor {
    pub(super) async fn ensure_image(&self, scene: &Scene, name: &str, attempt: u32) -> Outcome {
        let pod = &*scene.pod;
        let Some((_, container)) = pod.container(name) else {
            return Outcome::Failed(format!("pod has no container {name}"));
        };
        let policy = Policy::parse(&container.image_pull_policy);
        let asked_at = self.clock.now();
        let (about, image) = (name, container.image.as_str());
        self.ensure(scene, Wanted { pod, about, image, policy, handler: String::new(), attempt, asked_at }).await
    }

    pub(super) async fn ensure_volume_image(&self, scene: &Scene, volume: &str) -> Outcome {
        let pod = &*scene.pod;
        let Some(volume) = pod.spec.volumes.iter().find(|v| v.name == volume).and_then(|v| v.image.as_ref()) else {
            return Outcome::Failed(format!("pod has no image volume {volume}"));
        };
        let policy = Policy::parse(&volume.pull_policy);
        let asked_at = self.clock.now();
        let (about, image) = ("", volume.reference.as_str());
        self.ensure(scene, Wanted { pod, about, image, policy, handler: String::new(), attempt: 0, asked_at }).await
    }

    /// With the handler, if images are asked for with one: without it nothing can be started (IMG-320).
    async fn ensure(&self, scene: &Scene, mut wanted: Wanted<'_>) -> Outcome {
        if self.images_with_handler {
            wanted.handler = match self.handler(scene).await {
                Ok(handler) => handler,
                Err(ClassError::Absent(text) | ClassError::Unreadable(text)) => {
                    self.warn(wanted.pod, wanted.about, "InspectFailed", text.clone());
                    return self.refuse(&wanted, Refusal::without_pull("ImageInspectError", text));
                }
            };
        }
        self.decide(wanted).await
    }

    async fn decide(&self, wanted: Wanted<'_>) -> Outcome {
        let Wanted { pod, about, image, policy, .. } = wanted;
        let spec = match reference::apply_default_tag(image) {
            Ok(tagged) => image_spec(&wanted, tagged),
            Err(error) => {
                let message = format!(
                    "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {error}"
                );
                self.warn(pod, about, "InspectFailed", message.clone());
                return self.refuse(&wanted, Refusal::without_pull("InvalidImageName", message));
            }
        };
        let present = match policy.looks_locally() {
            true => self.look(&spec).await,
            false => Ok(None),
        };
        let present = match present {
            Ok(present) => present,
            Err(text) => {
                let message = format!("Failed to inspect image {image:?}: {text}");
                self.warn(pod, about, "InspectFailed", message.clone());
                self.pulls.metrics.decided(policy, None, None);
                return self.refuse(&wanted, Refusal::without_pull("ImageInspectError", message));
            }
        };
        let verification = match &present {
            Some(found) => self.verification(&wanted, &spec, found).await,
            None => Verification::Allowed,
        };
        let choice = choose(policy, present.is_some(), verification);
        self.pulls.metrics.decided(policy, policy.looks_locally().then_some(present.is_some()), Some(choice));
        match (choice, present) {
            (Choice::UseLocal, Some(found)) => {
                let may = if self.records.verifies() { " and can be accessed by the pod" } else { "" };
                self.note(pod, about, "Pulled", format!("Container image {image:?} already present on machine{may}"));
                Outcome::Image(ready(&wanted, found.id.clone(), &found))
            }
            (Choice::RefuseNever, _) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.warn(pod, about, "ErrImageNeverPull", message.clone());
                self.refuse(&wanted, Refusal::without_pull("ErrImageNeverPull", message))
            }
            _ => self.pull(&wanted, spec).await,
        }
    }

    /// Whether the pod may use what is there (IMG-232 … IMG-237). Its credentials are looked up only if they matter.
    async fn verification(&self, wanted: &Wanted<'_>, spec: &v1::ImageSpec, found: &v1::Image) -> Verification {
        let name = full_name(wanted.image);
        let verdict = match self.records.verdict_without_credentials(&name, &found.id).await {
            Some(verdict) => verdict,
            None => {
                let lookup = self.credentials.for_image(wanted.pod, &spec.image).await;
                self.records.must_pull(&name, &found.id, &lookup).await
            }
        };
        if verdict.must_pull() { Verification::MustPull } else { Verification::Allowed }
    }

    /// The container is told; of a volume's image the containers that mount it are told by the plan (IMG-304).
    fn refuse(&self, wanted: &Wanted<'_>, refusal: Refusal) -> Outcome {
        if !wanted.about.is_empty() {
            self.warn(wanted.pod, wanted.about, "Failed", format!("Error: {}", refusal.reason));
            self.pulls.metrics.start_failed(refusal.reason);
        }
        Outcome::Refused(refusal)
    }

    async fn look(&self, spec: &v1::ImageSpec) -> Result<Option<v1::Image>, String> {
        let request = limited(v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false }, CRI_TIMEOUT);
        let answer = rpc(self.cri.images.clone().image_status(request)).await.map_err(|status| rpc_text(&status))?;
        Ok(answer.into_inner().image)
    }

    async fn pull(&self, wanted: &Wanted<'_>, spec: v1::ImageSpec) -> Outcome {
        let Wanted { pod, about, image, .. } = *wanted;
        self.note(pod, about, "Pulling", format!("Pulling image {image:?}"));
        let _waits = self.pulls.board.wait(pod.uid(), format!("{}/{}", pod.namespace(), pod.name()), image);
        let lookup = self.credentials(pod, &spec).await;
        match self.fly(pod, spec, lookup.clone()).await {
            Ok(pulled) => {
                self.remember(image, &pulled, &lookup).await;
                Outcome::Image(self.landed(wanted, pulled))
            }
            Err(fault) => {
                self.pulls.failed(&fault);
                self.warn(pod, about, "Failed", format!("Failed to pull image {image:?}: {}", fault.text));
                self.refuse(wanted, fault.refusal(image))
            }
        }
    }

    /// Read anew for each attempt (IMG-79); what is missing is told of the pod (IMG-183).
    async fn credentials(&self, pod: &Pod, spec: &v1::ImageSpec) -> Lookup {
        let lookup = self.credentials.for_image(pod, &spec.image).await;
        if let Some((reason, message)) = lookup.warning() {
            self.warn(pod, "", reason, message);
        }
        for problem in &lookup.problems {
            tracing::warn!(pod = pod.full_name(), problem, "a pull credential is not used");
        }
        lookup
    }

    /// Each pod that shared a pull has its own source of the credential on record (IMG-238).
    async fn remember(&self, image: &str, pulled: &Pulled, lookup: &Lookup) {
        let Some(by) = lookup.tries.get(pulled.by) else { return };
        if let Err(error) = self.records.pulled(&full_name(image), &pulled.id, by).await {
            tracing::error!(%error, "the pod has to pull the image again the next time");
        }
    }

    /// Joins the pull of the same image with the same credentials, or waits for a turn and pulls.
    async fn fly(&self, pod: &Pod, spec: v1::ImageSpec, lookup: Lookup) -> Landing {
        let key = key(&spec, &lookup);
        let begin = || {
            let flight = Flight {
                images: self.cri.images.clone(),
                sandbox: config::sandbox(pod, &self.ctx),
                spec,
                lookup,
                pulls: self.pulls.clone(),
                records: self.records.clone(),
                clock: self.clock,
                pod: pod.uid().to_owned(),
            };
            flight.run().boxed()
        };
        self.pulls.flights.join(key, begin).await
    }

    /// IMG-47: says how long it took. Whoever joined a pull under way counts from his own question.
    fn landed(&self, wanted: &Wanted<'_>, pulled: Pulled) -> ImageReady {
        let found = &pulled.found;
        let (now, asked_at) = (self.clock.now(), wanted.asked_at);
        let took = now.duration_since(pulled.begun.max(asked_at));
        self.pulls.metrics.pulled(found.size, Duration::try_from(took).unwrap_or_default());
        let message = format!(
            "Successfully pulled image {:?} in {} ({} including waiting). Image size: {} bytes.",
            wanted.image,
            go_duration(took),
            go_duration(now.duration_since(asked_at)),
            found.size
        );
        self.note(wanted.pod, wanted.about, "Pulled", message);
        ready(wanted, pulled.id.clone(), found)
    }
}

/// One pull, for all who join it.
struct Flight {
    images: v1::image_service_client::ImageServiceClient<cri::Door>,
    sandbox: v1::PodSandboxConfig,
    spec: v1::ImageSpec,
    lookup: Lookup,
    pulls: Pulls,
    records: Records,
    clock: Clock,
    /// The pod that began it: its turn is taken.
    pod: String,
}

impl Flight {
    /// IMG-239: the intent is on disk before the runtime is asked, and until the pull is on record.
    async fn run(self) -> Landing {
        let _turn = self.pulls.queue.turn(&self.pod).await;
        let _tells = self.pulls.board.begin(&self.spec.image);
        let name = full_name(&self.spec.image);
        let intended = self.records.intent(&name).await;
        let intended = intended.map_err(|error| Fault::own(&self.spec.image, error.to_string()))?;
        let landing = self.tries().await;
        let recorded = match &landing {
            Ok(pulled) => self.record(&name, pulled).await,
            Err(_) => Ok(()),
        };
        match recorded {
            Ok(()) => self.records.ended(intended).await,
            Err(error) => tracing::error!(%error, "the image stays to be verified"),
        }
        landing
    }

    /// IMG-180: one after another until one works.
    async fn tries(&self) -> Landing {
        let begun = self.clock.now();
        let mut faults = Vec::new();
        for (by, attempt) in self.lookup.tries.iter().enumerate() {
            match self.ask(attempt).await {
                Ok(id) => {
                    let found = self.found(&id).await;
                    return Ok(Pulled { id, by, begun, found });
                }
                Err(fault) => faults.push(fault),
            }
        }
        Err(Fault::join(faults).unwrap_or_else(|| Fault::own(&self.spec.image, "no credential was tried".into())))
    }

    /// What the runtime has now; nothing if it does not say.
    async fn found(&self, id: &str) -> v1::Image {
        let (image, runtime_handler) = (id.to_owned(), self.spec.runtime_handler.clone());
        let spec = v1::ImageSpec { image, runtime_handler, ..v1::ImageSpec::default() };
        let request = limited(v1::ImageStatusRequest { image: Some(spec), verbose: false }, CRI_TIMEOUT);
        let answer = rpc(self.images.clone().image_status(request)).await;
        answer.ok().and_then(|answer| answer.into_inner().image).unwrap_or_default()
    }

    async fn record(&self, name: &str, pulled: &Pulled) -> Result<(), records::Error> {
        let found = &pulled.found;
        let names: Vec<String> = found.repo_tags.iter().chain(&found.repo_digests).cloned().collect();
        self.records.observe(name, &pulled.id, &names).await;
        match self.lookup.tries.get(pulled.by) {
            Some(by) => self.records.pulled(name, &pulled.id, by).await,
            None => Ok(()),
        }
    }

    async fn ask(&self, attempt: &Try) -> Result<String, Fault> {
        // IMG-61: no deadline of the node's own; the runtime gives up when there is no progress.
        let mut request = tonic::Request::new(v1::PullImageRequest {
            image: Some(self.spec.clone()),
            auth: attempt.auth.clone(),
            sandbox_config: Some(self.sandbox.clone()),
        });
        *request.metadata_mut() = registry_headers(&attempt.headers);
        let image = &self.spec.image;
        let answer = rpc(self.images.clone().pull_image(request)).await;
        let answer = answer.map_err(|status| Fault::of(image, &status, rpc_text(&status)))?;
        let id = answer.into_inner().image_ref;
        if id.is_empty() {
            return Err(Fault::own(image, format!("imageRef of image {image:?} is not set")));
        }
        Ok(id)
    }
}

fn image_spec(wanted: &Wanted<'_>, image: String) -> v1::ImageSpec {
    let runtime_handler = wanted.handler.clone();
    let annotations = wanted.pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    v1::ImageSpec { image, annotations, runtime_handler, ..v1::ImageSpec::default() }
}

/// What makes two pulls the same: image and credentials. A hash, so that no credential lies about.
fn key(spec: &v1::ImageSpec, lookup: &Lookup) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    };
    add(spec.image.as_bytes());
    add(spec.runtime_handler.as_bytes());
    for attempt in &lookup.tries {
        add(&attempt.auth.as_ref().map(|auth| auth.encode_to_vec()).unwrap_or_default());
        for (name, value) in &attempt.headers {
            add(name.as_bytes());
            add(value.as_bytes());
        }
    }
    hash.finalize().into()
}

/// Headers for the registry as metadata of the call (IMG-163); other runtimes ignore it. What cannot be metadata is
/// left out.
fn registry_headers(headers: &[(String, String)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        let key = MetadataKey::<Ascii>::from_bytes(format!("{HEADER_PREFIX}{}", name.to_ascii_lowercase()).as_bytes());
        if let (Ok(key), Ok(value)) = (key, value.parse()) {
            metadata.append(key, value);
        }
    }
    metadata
}

fn ready(wanted: &Wanted<'_>, id: String, found: &v1::Image) -> ImageReady {
    ImageReady {
        image: wanted.image.to_owned(),
        attempt: wanted.attempt,
        digest: own_digest(wanted.image, &found.repo_digests).unwrap_or_else(|| id.clone()),
        id,
        uid: found.uid.as_ref().map(|uid| uid.value),
        user: found.username.clone(),
    }
}

/// The digest in the repository that the pod names, else any (IMG-332).
fn own_digest(image: &str, digests: &[String]) -> Option<String> {
    let repository = reference::Reference::parse(image).map(|reference| reference.repository()).unwrap_or_default();
    let own = digests.iter().find(|digest| digest.split_once('@').is_some_and(|(at, _)| at == repository));
    own.or(digests.first()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pull_has_the_same_image_and_the_same_credentials() {
        let spec = |image: &str| v1::ImageSpec { image: image.into(), ..Default::default() };
        let with = |user: &str| {
            let auth = v1::AuthConfig { username: user.into(), ..Default::default() };
            Lookup { tries: vec![Try { auth: Some(auth), ..Try::anonymous() }], ..Lookup::default() }
        };
        let mut annotated = spec("a:1");
        annotated.annotations.insert("k".into(), "v".into());
        assert_eq!(key(&spec("a:1"), &with("u")), key(&annotated, &with("u")));
        assert_ne!(key(&spec("a:1"), &with("u")), key(&spec("a:2"), &with("u")));
        assert_ne!(key(&spec("a:1"), &with("u")), key(&spec("a:1"), &with("v")));
        assert_ne!(key(&spec("a:1"), &with("u")), key(&spec("a:1"), &Lookup::default()));
        let mut headers = with("u");
        headers.tries[0].headers.push(("a".into(), "b".into()));
        assert_ne!(key(&spec("a:1"), &with("u")), key(&spec("a:1"), &headers));
    }

    #[test]
    fn the_digest_is_that_of_the_repository_which_the_pod_names() {
        let digests = ["docker.io/library/box@sha256:1".to_string(), "r:5000/team/box@sha256:2".to_string()];
        for (image, wanted) in [("box:1", 0), ("r:5000/team/box:3", 1), ("other:1", 0)] {
            assert_eq!(own_digest(image, &digests).as_ref(), Some(&digests[wanted]), "{image}");
        }
        assert_eq!(own_digest("box", &[]), None);
    }
}
