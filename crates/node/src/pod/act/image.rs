//! Having an image: look, choose, pull with each credential in turn, say so (IMG-40 … IMG-64).

use super::{Actor, CRI_TIMEOUT, Outcome, limited, rpc, rpc_text};
use crate::{
    config,
    image::{Choice, Policy, Refusal, choose, classify, go_duration},
    object::Pod,
    pod::view::ImageReady,
};
use cri::v1;
use jiff::Timestamp;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap};

/// What precedes the name of a registry header in the metadata of PullImage (docs/walls/cri.md).
const HEADER_PREFIX: &str = "sampan-registry-header-";

impl Actor {
    pub(super) async fn ensure_image(&self, pod: &Pod, name: &str, attempt: u32) -> Outcome {
        let Some((_, container)) = pod.container(name) else {
            return Outcome::Failed(format!("pod has no container {name}"));
        };
        let image = &container.image;
        let asked_at = self.clock.now();
        let spec = match reference::apply_default_tag(image) {
            Ok(tagged) => self.image_spec(pod, tagged),
            Err(error) => {
                let message = format!(
                    "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {error}"
                );
                self.warn(pod, name, "InspectFailed", message.clone());
                return self.refuse(pod, name, Refusal { reason: "InvalidImageName", message, backs_off: false });
            }
        };
        let policy = Policy::parse(&container.image_pull_policy);
        let present = match policy.looks_locally() {
            true => self.look(&spec).await,
            false => Ok(None),
        };
        let present = match present {
            Ok(present) => present,
            Err(text) => {
                let message = format!("Failed to inspect image {image:?}: {text}");
                self.warn(pod, name, "InspectFailed", message.clone());
                return self.refuse(pod, name, Refusal { reason: "ImageInspectError", message, backs_off: false });
            }
        };
        match (choose(policy, present.is_some()), present) {
            (Choice::UseLocal, Some(found)) => {
                self.note(pod, name, "Pulled", format!("Container image {image:?} already present on machine"));
                Outcome::Image(ready(image, attempt, found.id.clone(), &found))
            }
            (Choice::RefuseNever, _) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.warn(pod, name, "ErrImageNeverPull", message.clone());
                self.refuse(pod, name, Refusal { reason: "ErrImageNeverPull", message, backs_off: false })
            }
            _ => self.pull(pod, (name, image), spec, (attempt, asked_at)).await,
        }
    }

    fn image_spec(&self, pod: &Pod, image: String) -> v1::ImageSpec {
        let annotations = pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
        v1::ImageSpec { image, annotations, ..v1::ImageSpec::default() }
    }

    fn refuse(&self, pod: &Pod, name: &str, refusal: Refusal) -> Outcome {
        self.warn(pod, name, "Failed", format!("Error: {}", refusal.reason));
        Outcome::Refused(refusal)
    }

    async fn look(&self, spec: &v1::ImageSpec) -> Result<Option<v1::Image>, String> {
        let request = limited(v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false }, CRI_TIMEOUT);
        let answer = rpc(self.cri.images.clone().image_status(request)).await.map_err(|status| rpc_text(&status))?;
        Ok(answer.into_inner().image)
    }

    async fn pull(&self, pod: &Pod, names: (&str, &str), spec: v1::ImageSpec, of: (u32, Timestamp)) -> Outcome {
        let ((name, image), (attempt, asked_at)) = (names, of);
        self.note(pod, name, "Pulling", format!("Pulling image {image:?}"));
        // The semaphore is never closed; were it, pulls would simply not be limited.
        let _token = self.pulls.acquire().await.ok();
        let begun = self.clock.now();
        match self.pull_with_credentials(pod, &spec).await {
            Ok(id) => {
                let by_id = v1::ImageSpec { image: id.clone(), ..v1::ImageSpec::default() };
                let found = match self.look(&by_id).await {
                    Ok(Some(found)) => found,
                    _ => self.look(&spec).await.ok().flatten().unwrap_or_default(),
                };
                let now = self.clock.now();
                let (took, waited) = (now.duration_since(begun), now.duration_since(asked_at));
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                    go_duration(took),
                    go_duration(waited),
                    found.size
                );
                self.note(pod, name, "Pulled", message);
                Outcome::Image(ready(image, attempt, id, &found))
            }
            Err(text) => {
                self.warn(pod, name, "Failed", format!("Failed to pull image {image:?}: {text}"));
                self.refuse(pod, name, classify(image, &text))
            }
        }
    }

    /// Each credential that matches, in order; without any, anonymously. The runtime's id of the image.
    async fn pull_with_credentials(&self, pod: &Pod, spec: &v1::ImageSpec) -> Result<String, String> {
        let lookup = self.credentials.for_image(pod, &spec.image).await;
        if !lookup.missing.is_empty() {
            let names = lookup.missing.join(", ");
            let message = format!(
                "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
            );
            self.warn(pod, "", "FailedToRetrieveImagePullSecret", message);
        }
        for problem in &lookup.problems {
            tracing::warn!(pod = pod.full_name(), problem, "a pull credential is not used");
        }
        let mut tries: Vec<Option<v1::AuthConfig>> = lookup.auths.into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut failures: Vec<String> = Vec::new();
        for auth in tries {
            match self.pull_once(pod, spec, auth, &lookup.headers).await {
                Ok(id) => return Ok(id),
                Err(text) if failures.contains(&text) => {}
                Err(text) => failures.push(text),
            }
        }
        match failures.as_slice() {
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    async fn pull_once(
        &self,
        pod: &Pod,
        spec: &v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        headers: &[(String, String)],
    ) -> Result<String, String> {
        // IMG-61: no deadline of the node's own; the runtime gives up when there is no progress.
        let mut request = tonic::Request::new(v1::PullImageRequest {
            image: Some(spec.clone()),
            auth,
            sandbox_config: Some(config::sandbox(pod, &self.ctx)),
        });
        *request.metadata_mut() = registry_headers(headers);
        let answer = rpc(self.cri.images.clone().pull_image(request)).await.map_err(|status| rpc_text(&status))?;
        let id = answer.into_inner().image_ref;
        if id.is_empty() {
            return Err(format!("imageRef of image {:?} is not set", spec.image));
        }
        Ok(id)
    }
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

fn ready(image: &str, attempt: u32, id: String, found: &v1::Image) -> ImageReady {
    ImageReady {
        image: image.to_owned(),
        attempt,
        id,
        uid: found.uid.as_ref().map(|uid| uid.value),
        user: found.username.clone(),
    }
}
