//! Carries out one action of a plan: calls the runtime, the API and the other rooms of the node.
//!
//! Owns the calls, their time-outs, and the events and texts that belong to them. Each action is idempotent: losing its
//! outcome and doing it again is safe. Must not decide what comes next: it tells what happened in an [`Outcome`]. Start
//! at [`Actor::run`].

mod handlers;
mod image;
mod sandbox;

use super::{
    checkpoint::{Checkpoints, Verdict, VolumeImage},
    clock::Clock,
    decide::{Action, CrashBackOff},
    gone::is_gone,
    view::{ImageReady, Record, Sandbox, StartError},
};
use crate::{
    cgroups::Cgroups,
    config,
    credentials::Credentials,
    event::{Recorder, Target},
    heartbeat::{Pulse, RuntimeState},
    hooks::{Hooks, run::Moment},
    image::{Pulls, Refusal},
    object::{Container, Pod},
    records::Records,
    volumes::{Mounted, MountedVolume, Volumes},
};
use cri::v1;
use jiff::Timestamp;
use kube::{Api, api::DeleteParams};
use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// CRI calls without a limit of their own.
const CRI_TIMEOUT: Duration = Duration::from_secs(120);
/// RunPodSandbox (RTC-42).
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
const API_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that actions need, shared by all pods of the node.
pub struct Actor {
    /// The runtime.
    pub cri: cri::Client,
    /// What the runtime calls itself: the scheme of container ids.
    pub runtime_name: Arc<str>,
    /// The API, as this node.
    pub client: kube::Client,
    /// Facts of the node.
    pub ctx: Arc<config::Context>,
    /// Volumes of pods.
    pub volumes: Volumes,
    /// Cgroups of pods.
    pub cgroups: Cgroups,
    /// Registry credentials.
    pub credentials: Credentials,
    /// Checkpoint files.
    pub checkpoints: Checkpoints,
    /// Events.
    pub recorder: Recorder,
    /// What the node's pulls share: queue, progress, numbers.
    pub pulls: Pulls,
    /// Who may use an image that is there.
    pub records: Records,
    /// Images are asked for with the handler of the pod's RuntimeClass (IMG-320).
    pub images_with_handler: bool,
    /// The time.
    pub clock: Clock,
    /// A pod whose RuntimeClass or handler does not exist fails at once, instead of being tried for ever (RTC-38).
    pub runtime_class_fails_pod: bool,
    /// The runs of hooks.
    pub hooks: Hooks,
    /// How long containers that ended wait for their next start.
    pub crash_back_off: CrashBackOff,
    /// When the runtime was last listed as a whole.
    pub pulse: Pulse,
    /// What the runtime last said of itself.
    pub runtime_state: watch::Sender<RuntimeState>,
}

/// What an action needs to know of its pod.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its volumes, once prepared.
    pub mounted: Arc<Mounted>,
    /// Its present sandbox.
    pub sandbox: Option<Sandbox>,
    /// The image of the container that the action is about.
    pub image: Option<ImageReady>,
    /// The handler that an earlier sandbox of the pod had.
    pub handler: Option<String>,
    /// The images of the pod's volumes, by volume name.
    pub volume_images: BTreeMap<String, VolumeImage>,
    /// For an ephemeral container, the id of the one whose processes it sees.
    pub target_id: Option<String>,
    /// Cancelled as soon as the pod is being deleted, also while the action runs.
    pub deletion: CancellationToken,
    /// Which restart the container of a hook is.
    pub restart: u32,
    /// When the grace of the container that is being stopped is used up.
    pub deadline: Option<Timestamp>,
}

/// What happened.
#[derive(Debug)]
pub enum Outcome {
    /// The action did what it is for.
    Done,
    /// The volumes are there.
    Mounted(Mounted),
    /// The sandbox is there, made with this handler.
    Sandbox(Sandbox, String),
    /// The image is there.
    Image(ImageReady),
    /// The image cannot be had.
    Refused(Refusal),
    /// A record was made or changed its state.
    Record(Record),
    /// A hook ended, with the text of its failure if it failed.
    Hook(Option<String>),
    /// A container could not be made or started; with the record if there is one.
    StartFailed(StartError, Option<Record>),
    /// The pod cannot run on this node.
    Verdict(Verdict),
    /// It failed and is to be tried again.
    Failed(String),
    /// The network is not ready; it is tried again soon (POD-4).
    NetworkNotReady(String),
    /// The API does not have this pod any more.
    ApiGone,
}

impl Actor {
    /// Carries out `action` for the pod in `scene`.
    pub async fn run(&self, scene: &Scene, action: &Action) -> Outcome {
        let pod = &*scene.pod;
        match action {
            Action::EnsureCgroup => self.ensure_cgroup(pod).await,
            Action::PrepareVolumes => self.prepare_volumes(pod).await,
            Action::CreateSandbox { attempt } => self.create_sandbox(scene, *attempt).await,
            Action::EnsureImage { container, attempt } => self.ensure_image(scene, container, *attempt).await,
            Action::EnsureVolumeImage { volume } => self.ensure_volume_image(scene, volume).await,
            Action::CreateContainer { container, attempt, sandbox, step } => {
                self.create_container(scene, container, *attempt, (sandbox, *step)).await
            }
            Action::StartContainer { id, container } => self.start_container(scene, id, container).await,
            Action::RunPostStart { id, container } => self.run_hook(scene, id, container, Moment::PostStart).await,
            Action::RunPreStop { id, container } => self.run_hook(scene, id, container, Moment::PreStop).await,
            Action::StopContainer { id, timeout_seconds, .. } => self.stop_container(scene, id, *timeout_seconds).await,
            Action::StopSandbox { id } => self.stop_sandbox(pod, id).await,
            Action::RemoveContainer { id, keeps_log } => self.remove_container(id, *keeps_log).await,
            Action::RemoveSandbox { id } => self.remove_sandbox(id).await,
            Action::TearDownVolumes => done(self.volumes.tear_down(pod.uid()).await),
            Action::RemoveCgroup => done(self.cgroups.remove(pod.uid()).await),
            Action::RemoveTraces { logs } => self.remove_traces(pod, *logs).await,
            Action::DeleteFromApi => self.delete_from_api(pod).await,
            Action::Cancel(_) | Action::Record(_) | Action::Tell(_) => Outcome::Done,
        }
    }

    /// A Normal event about a container, or about the pod if `container` is "".
    pub(super) fn note(&self, pod: &Pod, container: &str, reason: &str, message: impl Into<String>) {
        self.recorder.normal(target(pod, container), reason, message);
    }

    /// A Warning event about a container, or about the pod if `container` is "".
    pub(super) fn warn(&self, pod: &Pod, container: &str, reason: &str, message: impl Into<String>) {
        self.recorder.warning(target(pod, container), reason, message);
    }

    async fn ensure_cgroup(&self, pod: &Pod) -> Outcome {
        match self.cgroups.ensure(pod) {
            Ok(_) => Outcome::Done,
            Err(error) => {
                self.warn(
                    pod,
                    "",
                    "FailedCreatePodContainer",
                    format!("unable to ensure pod container exists: {error}"),
                );
                Outcome::Failed(error.to_string())
            }
        }
    }

    async fn prepare_volumes(&self, pod: &Pod) -> Outcome {
        match self.volumes.prepare(pod).await {
            Ok(mounted) => Outcome::Mounted(mounted),
            Err(error) => {
                for failure in &error.failures {
                    self.warn(pod, "", "FailedMount", failure.to_string());
                }
                Outcome::Failed(error.to_string())
            }
        }
    }

    async fn create_container(&self, scene: &Scene, name: &str, attempt: u32, place: (&str, u32)) -> Outcome {
        let pod = &*scene.pod;
        let Some((_, container)) = pod.container(name) else {
            return Outcome::Failed(format!("pod has no container {name}"));
        };
        let config = match self.container_config(scene, container, attempt, place.1).await {
            Ok(config) => config,
            Err(message) => return self.start_failed((pod, name), "CreateContainerConfigError", message, None),
        };
        let mut sandbox_config = config::sandbox(pod, &self.ctx);
        if let (Some(metadata), Some(sandbox)) = (&mut sandbox_config.metadata, &scene.sandbox) {
            metadata.attempt = sandbox.attempt;
        }
        let request = limited(
            v1::CreateContainerRequest {
                pod_sandbox_id: place.0.to_owned(),
                config: Some(config),
                sandbox_config: Some(sandbox_config),
            },
            CRI_TIMEOUT,
        );
        match rpc(self.cri.runtime.clone().create_container(request)).await {
            Ok(answer) => {
                let id = answer.into_inner().container_id;
                self.note(pod, name, "Created", "Container created");
                self.record_of(&id, place.0).await
            }
            Err(status) => self.start_failed((pod, name), "CreateContainerError", rpc_text(&status), None),
        }
    }

    async fn container_config(
        &self,
        scene: &Scene,
        container: &Container,
        attempt: u32,
        step: u32,
    ) -> Result<v1::ContainerConfig, String> {
        let pod = &*scene.pod;
        let image = scene.image.as_ref().ok_or("the image is not known")?;
        let objects = self.volumes.sources().environment(pod, container).await.map_err(|error| error.to_string())?;
        let pod_ips = self.pod_ips(scene);
        let handler = scene.handler.as_deref().unwrap_or_default();
        let spec = v1::ImageSpec {
            image: image.id.clone(),
            user_specified_image: container.image.clone(),
            image_ref: image.id.clone(),
            ..v1::ImageSpec::default()
        };
        let inputs = config::Inputs {
            attempt,
            image: &spec,
            image_uid: image.uid,
            image_user: &image.user,
            pod_ips: &pod_ips,
            mounted: &with_images(&scene.mounted, &scene.volume_images),
            objects: &objects,
            target_id: scene.target_id.as_deref(),
            can_read_only_below: self.mounts_read_only_below(container, handler).await,
        };
        let mut config = config::container(pod, container, inputs, &self.ctx).map_err(|error| error.to_string())?;
        config.annotations.insert(super::view::CRASH_STEP.to_owned(), step.to_string());
        Ok(config)
    }

    /// The pod's addresses; the node's for a pod on the host network.
    pub(super) fn pod_ips(&self, scene: &Scene) -> Vec<String> {
        match &scene.sandbox {
            Some(sandbox) if !scene.pod.spec.host_network => sandbox.ips.clone(),
            _ => self.ctx.node_ips.iter().map(ToString::to_string).collect(),
        }
    }

    async fn start_container(&self, scene: &Scene, id: &str, name: &str) -> Outcome {
        let pod = &*scene.pod;
        let sandbox = scene.sandbox.as_ref().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
        let request = limited(v1::StartContainerRequest { container_id: id.to_owned() }, CRI_TIMEOUT);
        match rpc(self.cri.runtime.clone().start_container(request)).await {
            Ok(_) => {
                self.note(pod, name, "Started", "Container started");
                let seen = self.record_of(id, &sandbox).await;
                if let (Outcome::Record(record), Some((_, container))) = (&seen, pod.container(name)) {
                    config::link_log(&self.ctx.log_dir, (pod, container), id, record.log_path.as_ref());
                }
                seen
            }
            Err(status) => {
                let message = rpc_text(&status);
                let record = match self.record_of(id, &sandbox).await {
                    Outcome::Record(record) => Some(self.never_started(record, &message)),
                    _ => None,
                };
                self.start_failed((pod, name), "RunContainerError", message, record)
            }
        }
    }

    /// A record whose start failed counts as ended, whatever the runtime calls it (POD-37: exit 128, StartError).
    fn never_started(&self, mut record: Record, message: &str) -> Record {
        if record.state == super::view::RecordState::Created {
            record.state = super::view::RecordState::Exited(super::view::Exit {
                code: 128,
                reason: "StartError".into(),
                message: message.to_owned(),
                started_at: None,
                finished_at: self.clock.now(),
            });
        }
        record
    }

    fn start_failed(&self, of: (&Pod, &str), reason: &str, message: String, record: Option<Record>) -> Outcome {
        let (pod, name) = of;
        // POD-22: users know containers by their names.
        let told = record.as_ref().map_or_else(|| message.clone(), |record| message.replace(&record.id, name));
        self.warn(pod, name, "Failed", format!("Error: {told}"));
        self.pulls.metrics.start_failed(reason);
        Outcome::StartFailed(StartError { reason: reason.into(), message, at: self.clock.now() }, record)
    }

    async fn record_of(&self, id: &str, sandbox: &str) -> Outcome {
        let request = limited(v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false }, CRI_TIMEOUT);
        match rpc(self.cri.runtime.clone().container_status(request)).await {
            Ok(answer) => match answer.into_inner().status {
                Some(status) => Outcome::Record(Record::from_cri(&status, sandbox)),
                None => Outcome::Failed(format!("container {id} has no status")),
            },
            Err(status) => Outcome::Failed(rpc_text(&status)),
        }
    }

    async fn stop_container(&self, scene: &Scene, id: &str, timeout_seconds: i64) -> Outcome {
        let limit = CRI_TIMEOUT + Duration::from_secs(timeout_seconds.unsigned_abs());
        let request =
            limited(v1::StopContainerRequest { container_id: id.to_owned(), timeout: timeout_seconds }, limit);
        let stopped = rpc(self.cri.runtime.clone().stop_container(request)).await;
        let seen = match stopped {
            Err(status) if status.code() != tonic::Code::NotFound => Outcome::Failed(rpc_text(&status)),
            _ => match self.status_of(id).await {
                Ok(Some(status)) => Outcome::Record(Record::from_cri(&status, "")),
                Ok(None) => Outcome::Done,
                Err(text) => Outcome::Failed(text),
            },
        };
        let failure = match &seen {
            Outcome::Failed(text) => text.clone(),
            // HOOK-84.
            Outcome::Record(record) if record.is_running() => {
                format!("detected running containers after a successful KillPod, CRI violation: [{}]", record.name)
            }
            _ => return seen,
        };
        self.warn(&scene.pod, "", "FailedKillPod", format!("error killing pod: {failure}"));
        Outcome::Failed(failure)
    }

    /// What the runtime says of a container; `None` if it has none of that id.
    async fn status_of(&self, id: &str) -> Result<Option<v1::ContainerStatus>, String> {
        let request = limited(v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false }, CRI_TIMEOUT);
        match rpc(self.cri.runtime.clone().container_status(request)).await {
            Ok(answer) => Ok(answer.into_inner().status),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(rpc_text(&status)),
        }
    }

    async fn remove_container(&self, id: &str, keeps_log: bool) -> Outcome {
        if let Ok(Some(status)) = self.status_of(id).await {
            config::unlink_log(&self.ctx.log_dir, &status.labels, id);
            if !keeps_log && status.log_path.starts_with('/') {
                crate::log_rotation::remove(status.log_path.into()).await;
            }
        }
        let request = limited(v1::RemoveContainerRequest { container_id: id.to_owned() }, CRI_TIMEOUT);
        absent_is_done(rpc(self.cri.runtime.clone().remove_container(request)).await)
    }

    async fn remove_traces(&self, pod: &Pod, logs: bool) -> Outcome {
        let directory = config::pod_log_directory(&self.ctx.log_dir, pod);
        config::unlink_logs(&self.ctx.log_dir, &directory);
        if logs
            && let Err(error) = tokio::fs::remove_dir_all(&directory).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Outcome::Failed(error.to_string());
        }
        self.checkpoints.remove(pod.uid());
        self.hooks.journal.gone(pod.uid());
        Outcome::Done
    }

    async fn delete_from_api(&self, pod: &Pod) -> Outcome {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        let mut parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        parameters.preconditions =
            Some(kube::api::Preconditions { uid: Some(pod.uid().to_owned()), resource_version: None });
        match tokio::time::timeout(API_TIMEOUT, api.delete(pod.name(), &parameters)).await {
            Ok(Ok(_)) => Outcome::ApiGone,
            Ok(Err(error)) if is_gone(&api, pod.name(), pod.uid(), &error).await => Outcome::ApiGone,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed("the API did not answer".into()),
        }
    }
}

/// The volumes with what the pod calls their images replaced by what they turned out to be (IMG-306).
fn with_images(mounted: &Mounted, images: &BTreeMap<String, VolumeImage>) -> Mounted {
    let mut mounted = mounted.clone();
    for (name, volume) in &mut mounted.volumes {
        if let (MountedVolume::Image(spec), Some(image)) = (volume, images.get(name)) {
            let user_specified_image = image.reference.clone();
            let (image, image_ref) = (image.id.clone(), image.id.clone());
            *spec = v1::ImageSpec { image, user_specified_image, image_ref, ..v1::ImageSpec::default() };
        }
    }
    mounted
}

fn target(pod: &Pod, container: &str) -> Target {
    if container.is_empty() { Target::pod(pod) } else { Target::container(pod, container) }
}

/// A call to the runtime, boxed: the compiler cannot prove the generated future `Send` inside a larger one.
pub(crate) fn rpc<'a, T>(call: impl Future<Output = T> + Send + 'a) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(call)
}

/// A request with a deadline of its own.
pub(crate) fn limited<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// A runtime's error in the words that users know: the bare text of an Unknown, else code and text (IMG-51).
pub(crate) fn rpc_text(status: &tonic::Status) -> String {
    match status.code() {
        tonic::Code::Unknown => status.message().to_owned(),
        tonic::Code::Cancelled => format!("rpc error: code = Canceled desc = {}", status.message()),
        code => format!("rpc error: code = {code:?} desc = {}", status.message()),
    }
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn absent_is_done<T>(result: Result<T, tonic::Status>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(status) if status.code() == tonic::Code::NotFound => Outcome::Done,
        Err(status) => Outcome::Failed(rpc_text(&status)),
    }
}
