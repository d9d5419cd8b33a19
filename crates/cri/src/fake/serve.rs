//! The fake as a CRI server: every call is recorded, struck by its fault if one is armed, then carried out.

use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::Shared;
use super::call::Call;
use super::script::{Effect, Exec};
use super::world::{World, name_of, no_container};
use crate::v1::image_service_server::ImageService;
use crate::v1::runtime_service_server::RuntimeService;
use crate::v1::*;

pub(super) struct Service(pub Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

/// What a call's fault leaves to do.
enum Left {
    /// Carry it out and answer.
    Whole,
    /// Carry it out; this arrives instead of the answer.
    Lost(Status),
    /// Only answer, with nothing.
    Blank,
}

impl Left {
    fn or<T>(self, answer: T) -> Answer<T> {
        match self {
            Left::Lost(status) => Err(status),
            Left::Whole | Left::Blank => Ok(Response::new(answer)),
        }
    }
}

impl Service {
    async fn call<R, T>(&self, request: Request<R>, act: impl FnOnce(&mut World, R) -> Result<T, Status>) -> Answer<T>
    where
        R: Into<Call> + Clone,
        T: Default,
    {
        let request = request.into_inner();
        match self.enter(request.clone().into()).await? {
            Left::Blank => Ok(Response::new(T::default())),
            left => left.or(self.0.change(|world| act(world, request))?),
        }
    }

    /// Records the call and suffers its fault; says what is left to do.
    async fn enter(&self, call: Call) -> Result<Left, Status> {
        match self.0.change(|world| world.enter(call)) {
            None => Ok(Left::Whole),
            Some(Effect::Fail(status)) => Err(status),
            Some(Effect::FailAfter(status)) => Ok(Left::Lost(status)),
            Some(Effect::Blank) => Ok(Left::Blank),
            Some(Effect::Delay(by)) => {
                tokio::time::sleep(by).await;
                Ok(Left::Whole)
            }
            Some(Effect::Hang) => std::future::pending().await,
        }
    }

    /// Waits until the container no longer runs.
    async fn ended(&self, id: &str) {
        let mut version = self.0.version.subscribe();
        while self.0.world().is_running(id) {
            if version.changed().await.is_err() {
                return;
            }
        }
    }
}

fn matches(
    wanted: &std::collections::BTreeMap<String, String>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn stats_of(world: &World, id: &str) -> Option<ContainerStats> {
    let status = &world.containers.get(id).filter(|container| container.is_running())?.status;
    let (timestamp, zero) = (world.wall(), Some(UInt64Value { value: 0 }));
    Some(ContainerStats {
        attributes: Some(ContainerAttributes {
            id: id.into(),
            metadata: status.metadata.clone(),
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
        }),
        cpu: Some(CpuUsage { timestamp, usage_core_nano_seconds: zero, ..Default::default() }),
        memory: Some(MemoryUsage { timestamp, working_set_bytes: zero, ..Default::default() }),
        ..Default::default()
    })
}

fn sandbox_stats_of(world: &World, id: &str) -> Option<PodSandboxStats> {
    let status = &world.sandboxes.get(id)?.status;
    let inside = world.containers.iter().filter(|(_, container)| container.sandbox == id);
    let containers = inside.filter_map(|(id, _)| stats_of(world, id)).collect();
    Some(PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: id.into(),
            metadata: status.metadata.clone(),
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
        }),
        linux: Some(LinuxPodSandboxStats { containers, ..Default::default() }),
        windows: None,
    })
}

fn stream_url(world: &mut World, path: &str, container: &str) -> Result<String, Status> {
    if !world.is_running(container) {
        return Err(if world.containers.contains_key(container) {
            not_running(container)
        } else {
            no_container(container)
        });
    }
    let token = world.token();
    Ok(format!("{}/{path}/{token}", world.streaming_url))
}

fn not_running(id: &str) -> Status {
    Status::unknown(format!("container \"{id}\" is not running"))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        self.call(request, |_, _| {
            Ok(VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1.0.0".into(),
                runtime_api_version: "v1".into(),
            })
        })
        .await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        self.call(request, |world, _| {
            Ok(StatusResponse {
                status: Some(RuntimeStatus { conditions: world.conditions.clone() }),
                runtime_handlers: world.handlers.clone(),
                features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
                ..Default::default()
            })
        })
        .await
    }

    async fn runtime_config(&self, request: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        self.call(request, |_, _| Ok(RuntimeConfigResponse { linux: Some(linux) })).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        self.call(request, |_, _| Ok(UpdateRuntimeConfigResponse {})).await
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        self.call(request, |world, request| {
            world.run_sandbox(request).map(|pod_sandbox_id| RunPodSandboxResponse { pod_sandbox_id })
        })
        .await
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        self.call(request, |world, request| {
            world.stop_sandbox(&request.pod_sandbox_id);
            Ok(StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        self.call(request, |world, request| {
            world.remove_sandbox(&request.pod_sandbox_id);
            Ok(RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        self.call(request, |world, request| {
            let id = &request.pod_sandbox_id;
            let missing = || Status::not_found(format!("sandbox \"{id}\" not found"));
            let status = world.sandboxes.get(id).ok_or_else(missing)?.status.clone();
            Ok(PodSandboxStatusResponse {
                status: Some(status),
                containers_statuses: world.statuses_in(id),
                timestamp: world.wall(),
                ..Default::default()
            })
        })
        .await
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        self.call(request, |world, request| {
            let filter = request.filter.unwrap_or_default();
            let wanted = |s: &&PodSandboxStatus| {
                (filter.id.is_empty() || s.id == filter.id)
                    && filter.state.is_none_or(|state| state.state == s.state)
                    && matches(&filter.label_selector, &s.labels)
            };
            let items = world.sandboxes.values().map(|sandbox| &sandbox.status).filter(wanted);
            Ok(ListPodSandboxResponse { items: items.cloned().map(listed_sandbox).collect() })
        })
        .await
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        self.call(request, |world, request| {
            world.create_container(request).map(|container_id| CreateContainerResponse { container_id })
        })
        .await
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        self.call(request, |world, request| {
            world.start_container(&request.container_id).map(|()| StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        let lost = self.enter(request.clone().into()).await?;
        if let Left::Blank = lost {
            return Ok(Response::new(StopContainerResponse {}));
        }
        self.0.change(|world| world.stop_container(&request.container_id, request.timeout));
        self.ended(&request.container_id).await;
        lost.or(StopContainerResponse {})
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        self.call(request, |world, request| {
            world.remove_container(&request.container_id);
            Ok(RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        self.call(request, |world, request| {
            let filter = request.filter.unwrap_or_default();
            let wanted = |c: &&super::world::Container| {
                (filter.id.is_empty() || c.status.id == filter.id)
                    && (filter.pod_sandbox_id.is_empty() || c.sandbox == filter.pod_sandbox_id)
                    && filter.state.is_none_or(|state| state.state == c.status.state)
                    && matches(&filter.label_selector, &c.status.labels)
            };
            let containers = world.containers.values().filter(wanted);
            Ok(ListContainersResponse { containers: containers.map(listed_container).collect() })
        })
        .await
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        self.call(request, |world, request| {
            let id = &request.container_id;
            let status = world.containers.get(id).ok_or_else(|| no_container(id))?.status.clone();
            Ok(ContainerStatusResponse { status: Some(status), ..Default::default() })
        })
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        self.call(request, |world, request| {
            let id = &request.container_id;
            let container = world.containers.get_mut(id).ok_or_else(|| no_container(id))?;
            container.status.resources = Some(ContainerResources { linux: request.linux, windows: None });
            Ok(UpdateContainerResourcesResponse {})
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.call(request, |world, request| {
            let id = &request.container_id;
            if !world.is_running(id) {
                return Err(not_running(id));
            }
            Ok(ReopenContainerLogResponse {})
        })
        .await
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let lost = self.enter(request.clone().into()).await?;
        let id = request.container_id;
        let (exec, answer) = {
            let world = self.0.world();
            let container = world.containers.get(&id).ok_or_else(|| no_container(&id))?;
            if !container.is_running() {
                return Err(not_running(&id));
            }
            let container = name_of(&container.status);
            (Exec { container_id: id.clone(), container, command: request.cmd }, world.exec.clone())
        };
        let outcome = answer(&exec);
        let limit = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let takes = limit.map_or(outcome.takes, |limit| limit.min(outcome.takes));
        tokio::select! {
            () = self.ended(&id), if !takes.is_zero() => return Ok(Response::new(ExecSyncResponse { exit_code: 137, ..Default::default() })),
            () = tokio::time::sleep(takes), if !takes.is_zero() => (),
            else => (),
        }
        if limit.is_some_and(|limit| outcome.takes > limit) {
            let text = format!("command {:?} timed out", exec.command);
            return Err(Status::deadline_exceeded(text));
        }
        let (stdout, stderr, exit_code) = (outcome.stdout, outcome.stderr, outcome.exit_code);
        lost.or(ExecSyncResponse { stdout, stderr, exit_code })
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        self.call(request, |world, request| {
            stream_url(world, "exec", &request.container_id).map(|url| ExecResponse { url })
        })
        .await
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        self.call(request, |world, request| {
            stream_url(world, "attach", &request.container_id).map(|url| AttachResponse { url })
        })
        .await
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        self.call(request, |world, _| {
            let token = world.token();
            Ok(PortForwardResponse { url: format!("{}/portforward/{token}", world.streaming_url) })
        })
        .await
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        self.call(request, |world, request| {
            let id = &request.container_id;
            let stats = stats_of(world, id).ok_or_else(|| no_container(id))?;
            Ok(ContainerStatsResponse { stats: Some(stats) })
        })
        .await
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        self.call(request, |world, _| {
            Ok(ListContainerStatsResponse {
                stats: world.containers.keys().filter_map(|id| stats_of(world, id)).collect(),
            })
        })
        .await
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        self.call(request, |world, request| {
            let stats = sandbox_stats_of(world, &request.pod_sandbox_id);
            let stats = stats.ok_or_else(|| Status::not_found("sandbox not found"))?;
            Ok(PodSandboxStatsResponse { stats: Some(stats) })
        })
        .await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        self.call(request, |world, _| {
            Ok(ListPodSandboxStatsResponse {
                stats: world.sandboxes.keys().filter_map(|id| sandbox_stats_of(world, id)).collect(),
            })
        })
        .await
    }

    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> Answer<crate::Stream<ContainerEventResponse>> {
        let events = self.0.events.subscribe();
        let carried = self.call(request, |world, _| Ok(world.events_carried)).await?.into_inner();
        if !carried {
            return Err(Status::unimplemented("unknown method GetContainerEvents"));
        }
        let stream = BroadcastStream::new(events).map(|event| event.map_err(|lag| Status::data_loss(lag.to_string())));
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        self.call(request, |world, _| Ok(ListImagesResponse { images: world.images.values().cloned().collect() })).await
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        self.call(request, |world, request| {
            let name = request.image.unwrap_or_default().image;
            Ok(ImageStatusResponse { image: world.find_image(&name).cloned(), ..Default::default() })
        })
        .await
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        self.call(request, |world, request| {
            let name = request.image.unwrap_or_default().image;
            if name.is_empty() {
                return Err(Status::invalid_argument("no image is named"));
            }
            Ok(PullImageResponse { image_ref: world.pull(&name).id })
        })
        .await
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        self.call(request, |world, request| {
            let name = request.image.unwrap_or_default().image;
            if let Some(id) = world.find_image(&name).map(|image| image.id.clone()) {
                world.images.retain(|_, image| image.id != id);
            }
            Ok(RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(&self, request: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        self.call(request, |world, _| {
            let usage = FilesystemUsage {
                timestamp: world.wall(),
                fs_id: Some(FilesystemIdentifier { mountpoint: "/".into() }),
                used_bytes: Some(UInt64Value { value: world.images.values().map(|image| image.size).sum() }),
                inodes_used: Some(UInt64Value { value: 0 }),
            };
            Ok(ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
        })
        .await
    }
}

fn listed_sandbox(status: PodSandboxStatus) -> PodSandbox {
    PodSandbox {
        id: status.id,
        metadata: status.metadata,
        state: status.state,
        created_at: status.created_at,
        labels: status.labels,
        annotations: status.annotations,
        runtime_handler: status.runtime_handler,
    }
}

fn listed_container(container: &super::world::Container) -> Container {
    let status = container.status.clone();
    Container {
        id: status.id,
        pod_sandbox_id: container.sandbox.clone(),
        metadata: status.metadata,
        image: status.image,
        image_ref: status.image_ref,
        state: status.state,
        created_at: status.created_at,
        labels: status.labels,
        annotations: status.annotations,
        image_id: status.image_id,
    }
}
