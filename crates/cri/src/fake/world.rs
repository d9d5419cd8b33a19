//! The fake's state: sandboxes, containers, images, and the rules by which they change. Synchronous; time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::call::{Call, Recorded};
use super::script::{Effect, Exec, ExecOutcome, Fault, OnStop, Program};
use crate::v1::*;

/// Wall time of the fake's birth, in nanoseconds since 1970.
const BIRTH_NANOSECONDS: i64 = 1_700_000_000_000_000_000;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

pub(super) struct World {
    born: Instant,
    now: Instant,
    serial: u64,
    pub calls: Vec<Recorded>,
    pub violations: Vec<String>,
    pub faults: Vec<Fault>,
    pub programs: BTreeMap<String, Program>,
    pub exec: Arc<dyn Fn(&Exec) -> ExecOutcome + Send + Sync>,
    pub handlers: Vec<RuntimeHandler>,
    pub conditions: Vec<RuntimeCondition>,
    pub events_carried: bool,
    pub streaming_url: String,
    pub sandboxes: BTreeMap<String, Sandbox>,
    pub containers: BTreeMap<String, Container>,
    pub images: BTreeMap<String, Image>,
    pub outbox: Vec<ContainerEventResponse>,
}

pub(super) struct Sandbox {
    pub status: PodSandboxStatus,
}

pub(super) struct Container {
    pub sandbox: String,
    pub status: ContainerStatus,
    pub program: Program,
    pub signals: Vec<(Duration, i32)>,
    /// When and how it ends if nothing else happens.
    end: Option<(Instant, i32)>,
    /// When it is killed; a further stop may move it earlier only.
    kill_at: Option<Instant>,
}

impl World {
    pub fn new(born: Instant) -> World {
        let ready = |kind: &str| RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        World {
            born,
            now: born,
            serial: 0,
            calls: Vec::new(),
            violations: Vec::new(),
            faults: Vec::new(),
            programs: BTreeMap::new(),
            exec: Arc::new(|_| ExecOutcome::default()),
            handlers: vec![RuntimeHandler::default()],
            conditions: vec![ready("RuntimeReady"), ready("NetworkReady")],
            events_carried: true,
            streaming_url: "http://127.0.0.1:1".into(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    /// Moves the clock and ends what is due.
    pub fn settle(&mut self, now: Instant) {
        self.now = now.max(self.now);
        let due: Vec<(String, i32)> = self
            .containers
            .iter()
            .filter(|(_, container)| container.is_running())
            .filter_map(|(id, container)| container.due().map(|(at, code)| (id.clone(), at, code)))
            .filter(|(_, at, _)| *at <= self.now)
            .map(|(id, _, code)| (id, code))
            .collect();
        for (id, code) in due {
            let reason = self.containers[&id].program.reason.clone();
            let killed = code == 128 + SIGKILL;
            self.exit(&id, code, if killed { "" } else { &reason });
        }
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.containers.values().filter(|c| c.is_running()).filter_map(|c| c.due()).map(|(at, _)| at).min()
    }

    /// Records a call and takes the first fault that strikes it.
    pub fn enter(&mut self, call: Call) -> Option<Effect> {
        let mut subjects: Vec<String> = call.subject().map(str::to_owned).into_iter().collect();
        if let Some(container) = call.subject().and_then(|id| self.containers.get(id)) {
            subjects.push(name_of(&container.status));
        }
        let effect = self.faults.iter_mut().find(|fault| fault.strikes(&call, &subjects)).map(|fault| {
            fault.times -= 1;
            fault.effect.clone()
        });
        self.calls.push(Recorded { at: self.now - self.born, call });
        effect
    }

    pub fn wall(&self) -> i64 {
        BIRTH_NANOSECONDS + i64::try_from((self.now - self.born).as_nanos()).unwrap_or(i64::MAX)
    }

    pub fn token(&mut self) -> String {
        self.serial += 1;
        format!("{:064x}", self.serial)
    }

    fn violation(&mut self, text: String) -> Status {
        self.violations.push(text.clone());
        Status::unknown(text)
    }

    pub fn set_condition(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        self.conditions.retain(|condition| condition.r#type != kind);
        self.conditions.push(RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: reason.into(),
            message: message.into(),
        });
    }

    pub fn run_sandbox(&mut self, request: RunPodSandboxRequest) -> Result<String, Status> {
        let handler = request.runtime_handler;
        if !handler.is_empty() && !self.handlers.iter().any(|known| known.name == handler) {
            return Err(Status::unknown(format!("no runtime for \"{handler}\" is configured")));
        }
        let config = request.config.unwrap_or_default();
        if self.sandboxes.values().any(|other| other.status.metadata == config.metadata) {
            return Err(self.violation(format!("sandbox {:?} exists already", config.metadata)));
        }
        let id = self.token();
        let last = self.serial % 250 + 2;
        let options = config.linux.as_ref().and_then(|l| l.security_context.as_ref()?.namespace_options.clone());
        let on_host = options.as_ref().is_some_and(|o| o.network == NamespaceMode::Node as i32);
        let ip = if on_host { String::new() } else { format!("10.88.{}.{last}", self.serial / 250) };
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: PodSandboxState::SandboxReady as i32,
            created_at: self.wall(),
            network: Some(PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: handler,
        };
        self.sandboxes.insert(id.clone(), Sandbox { status });
        Ok(id)
    }

    pub fn stop_sandbox(&mut self, id: &str) {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        sandbox.status.state = PodSandboxState::SandboxNotready as i32;
        for container in self.running_in(id) {
            self.exit(&container, 128 + SIGKILL, "");
        }
    }

    pub fn kill_sandbox(&mut self, id: &str) {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        sandbox.status.state = PodSandboxState::SandboxNotready as i32;
        for container in self.running_in(id) {
            self.exit(&container, 255, "Unknown");
        }
    }

    pub fn remove_sandbox(&mut self, id: &str) {
        self.stop_sandbox(id);
        let inside: Vec<String> =
            self.containers.iter().filter(|(_, c)| c.sandbox == id).map(|(id, _)| id.clone()).collect();
        for container in inside {
            self.remove_container(&container);
        }
        self.sandboxes.remove(id);
    }

    fn running_in(&self, sandbox: &str) -> Vec<String> {
        let inside = self.containers.iter().filter(|(_, c)| c.sandbox == sandbox && c.is_running());
        inside.map(|(id, _)| id.clone()).collect()
    }

    pub fn create_container(&mut self, request: CreateContainerRequest) -> Result<String, Status> {
        let mut config = request.config.unwrap_or_default();
        if let Some(directory) = request.sandbox_config.map(|config| config.log_directory).filter(|d| !d.is_empty()) {
            config.log_path = format!("{directory}/{}", config.log_path);
        }
        let Some(sandbox) = self.sandboxes.get(&request.pod_sandbox_id) else {
            return Err(Status::not_found(format!("sandbox \"{}\" not found", request.pod_sandbox_id)));
        };
        if sandbox.status.state != PodSandboxState::SandboxReady as i32 {
            return Err(self.violation(format!("create container in sandbox {} that is not ready", sandbox.status.id)));
        }
        let twin = |c: &Container| c.sandbox == request.pod_sandbox_id && c.status.metadata == config.metadata;
        if self.containers.values().any(twin) {
            return Err(self.violation(format!("container {:?} exists already", config.metadata)));
        }
        let image = config.image.clone().unwrap_or_default();
        let Some(present) = self.find_image(&image.image).cloned() else {
            return Err(Status::not_found(format!("image \"{}\" not found", image.image)));
        };
        let id = self.token();
        let name = config.metadata.clone().unwrap_or_default().name;
        let asked = if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image };
        let program = self.programs.get(&name).or_else(|| self.programs.get(asked)).cloned();
        let status = self.fresh_status(&id, config, image, &present);
        let container = Container {
            sandbox: request.pod_sandbox_id,
            status,
            program: program.unwrap_or_else(Program::forever),
            signals: Vec::new(),
            end: None,
            kill_at: None,
        };
        self.containers.insert(id.clone(), container);
        self.emit(&id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    fn fresh_status(&self, id: &str, config: ContainerConfig, image: ImageSpec, present: &Image) -> ContainerStatus {
        ContainerStatus {
            id: id.into(),
            metadata: config.metadata,
            state: ContainerState::ContainerCreated as i32,
            created_at: self.wall(),
            image: Some(image),
            image_ref: present.repo_digests.first().unwrap_or(&present.id).clone(),
            image_id: present.id.clone(),
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: config.log_path,
            resources: Some(ContainerResources {
                linux: config.linux.and_then(|linux| linux.resources),
                windows: None,
            }),
            stop_signal: config.stop_signal,
            ..Default::default()
        }
    }

    pub fn start_container(&mut self, id: &str) -> Result<(), Status> {
        let wall = self.wall();
        let container = self.containers.get_mut(id).ok_or_else(|| no_container(id))?;
        if container.status.state != ContainerState::ContainerCreated as i32 {
            let text = format!("start container {id} in state {}", container.status.state);
            return Err(self.violation(text));
        }
        if let Some(error) = container.program.start_error.clone() {
            container.status.message = error.clone();
            self.exit(id, 128, "StartError");
            return Err(Status::unknown(error));
        }
        container.status.state = ContainerState::ContainerRunning as i32;
        container.status.started_at = wall;
        container.end = container.program.runs_for.map(|after| (self.now + after, container.program.exit_code));
        self.emit(id, ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    /// Begins or hastens a stop. The first one alone sends the stop signal; the earliest deadline counts.
    pub fn stop_container(&mut self, id: &str, timeout_seconds: i64) {
        let (now, since) = (self.now, self.now - self.born);
        let Some(container) = self.containers.get_mut(id).filter(|container| container.is_running()) else { return };
        let deadline = now + Duration::from_secs(u64::try_from(timeout_seconds).unwrap_or(0));
        container.kill_at = Some(container.kill_at.map_or(deadline, |earlier| earlier.min(deadline)));
        if container.signals.is_empty() && timeout_seconds > 0 {
            container.signals.push((since, SIGTERM));
            if let OnStop::Exit { after, code } = container.program.on_stop {
                let end = (now + after, code);
                container.end = Some(container.end.map_or(end, |own| if own.0 <= end.0 { own } else { end }));
            }
        }
    }

    pub fn is_running(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(Container::is_running)
    }

    pub fn exit(&mut self, id_or_name: &str, code: i32, reason: &str) {
        let (wall, since) = (self.wall(), self.now - self.born);
        let Some(id) = self.live(id_or_name) else { return };
        let Some(container) = self.containers.get_mut(&id) else { return };
        if code == 128 + SIGKILL && reason.is_empty() {
            container.signals.push((since, SIGKILL));
        }
        container.status.state = ContainerState::ContainerExited as i32;
        container.status.finished_at = wall;
        container.status.exit_code = code;
        let own = if code == 0 { "Completed" } else { "Error" };
        container.status.reason = if reason.is_empty() { own.into() } else { reason.into() };
        self.emit(&id, ContainerEventType::ContainerStoppedEvent);
    }

    /// A container that has not ended, by id or by name.
    fn live(&self, id_or_name: &str) -> Option<String> {
        let live = |c: &Container| c.status.state != ContainerState::ContainerExited as i32;
        if self.containers.get(id_or_name).is_some_and(live) {
            return Some(id_or_name.to_owned());
        }
        let named = |(_, c): &(&String, &Container)| c.is_running() && name_of(&c.status) == id_or_name;
        self.containers.iter().find(named).map(|(id, _)| id.clone())
    }

    pub fn remove_container(&mut self, id: &str) {
        if self.is_running(id) {
            self.exit(id, 128 + SIGKILL, "");
        }
        if self.containers.contains_key(id) {
            self.emit(id, ContainerEventType::ContainerDeletedEvent);
            self.containers.remove(id);
        }
    }

    fn emit(&mut self, id: &str, kind: ContainerEventType) {
        let sandbox = &self.containers[id].sandbox;
        self.outbox.push(ContainerEventResponse {
            container_id: id.into(),
            container_event_type: kind as i32,
            created_at: self.wall(),
            pod_sandbox_status: self.sandboxes.get(sandbox).map(|sandbox| sandbox.status.clone()),
            containers_statuses: self.statuses_in(sandbox),
        });
    }

    pub fn statuses_in(&self, sandbox: &str) -> Vec<ContainerStatus> {
        self.containers.values().filter(|c| c.sandbox == sandbox).map(|c| c.status.clone()).collect()
    }

    pub fn pull(&mut self, reference: &str) -> Image {
        let digest = digest_of(reference);
        let repository = reference.split('@').next().unwrap_or(reference);
        let last = repository.rfind('/').map_or(0, |slash| slash + 1);
        let bare = repository[last..].find(':').map_or(repository, |colon| &repository[..last + colon]);
        let digest_named = reference.split_once('@').map(|(_, digest)| digest.to_owned());
        let image = Image {
            id: format!("sha256:{digest}"),
            repo_tags: if digest_named.is_some() { Vec::new() } else { vec![reference.to_owned()] },
            repo_digests: vec![format!("{bare}@{}", digest_named.unwrap_or_else(|| format!("sha256:{digest}")))],
            size: 1 << 20,
            spec: Some(ImageSpec { image: reference.into(), ..Default::default() }),
            ..Default::default()
        };
        self.images.insert(reference.to_owned(), image.clone());
        image
    }

    pub fn find_image(&self, name_or_id: &str) -> Option<&Image> {
        let known = |image: &&Image| {
            image.id == name_or_id
                || image.id.strip_prefix("sha256:") == Some(name_or_id)
                || image.repo_digests.iter().any(|digest| digest == name_or_id)
        };
        self.images.get(name_or_id).or_else(|| self.images.values().find(known))
    }
}

impl Container {
    pub fn is_running(&self) -> bool {
        self.status.state == ContainerState::ContainerRunning as i32
    }

    fn due(&self) -> Option<(Instant, i32)> {
        let killed = self.kill_at.map(|at| (at, 128 + SIGKILL));
        match (self.end, killed) {
            (Some(own), Some(kill)) if kill.0 < own.0 => Some(kill),
            (Some(own), _) => Some(own),
            (None, killed) => killed,
        }
    }
}

pub(super) fn name_of(status: &ContainerStatus) -> String {
    status.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default()
}

pub(super) fn no_container(id: &str) -> Status {
    Status::not_found(format!("container \"{id}\" not found"))
}

/// 64 hex digits that depend on the reference alone (FNV-1a, four times over).
fn digest_of(reference: &str) -> String {
    let hash = |seed: u64| {
        reference
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    (1..=4).map(|seed| format!("{:016x}", hash(seed))).collect()
}
