//! The CRI server: each verb of the interface, handed to the module that does it.
//!
//! Verbs that change something run to their end even if the caller goes away. What is not here answers Unimplemented.

use std::sync::Arc;

use cri::v1::image_service_server::ImageService;
use cri::v1::runtime_service_server::RuntimeService;
use cri::v1::*;
use tonic::{Request, Response, Status};

use crate::core::Core;
use crate::error::Error;
use crate::state::Stage;
use crate::streaming::Ticket;
use crate::{container, images, info, sandbox, stats};

/// The server of both services.
#[derive(Clone)]
pub(crate) struct Service(pub Arc<Core>);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Reading cgroups and directories blocks.
    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Core) -> T + Send + 'static) -> Result<T, Status> {
        let core = self.0.clone();
        tokio::task::spawn_blocking(move || read(&core)).await.map_err(|error| Status::internal(error.to_string()))
    }
}

impl Service {
    /// An address for streams to what runs; the reason if it does not.
    fn stream(&self, ticket: Ticket) -> Result<String, Error> {
        let state = &self.0.state;
        match &ticket {
            Ticket::Exec(ExecRequest { container_id, .. }) | Ticket::Attach(AttachRequest { container_id, .. }) => {
                let container = state.container(container_id)?;
                if matches!(container.stage(), Stage::Created | Stage::Exited) {
                    return Err(Error::WrongState(format!("container {} does not run", container.id())));
                }
            }
            Ticket::PortForward(request) => drop(state.sandbox(&request.pod_sandbox_id)?.link()?),
        }
        self.0.tickets.issue(ticket)
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(info::version()))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        Ok(Response::new(info::status(&self.0, request.get_ref().verbose)))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        // The pod CIDR is a flag of ours.
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let verb = sandbox::run::run(self.0.clone(), request.into_inner());
        let pod_sandbox_id = self.0.finish(verb).await?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        self.0.finish(sandbox::stop::stop(self.0.clone(), request.into_inner().pod_sandbox_id)).await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        self.0.finish(sandbox::remove::remove(self.0.clone(), request.into_inner().pod_sandbox_id)).await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        Ok(Response::new(sandbox::status::status(&self.0, &request.pod_sandbox_id, request.verbose)?))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        Ok(Response::new(ListPodSandboxResponse { items: sandbox::status::list(&self.0, request.into_inner()) }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let verb = container::create::create(self.0.clone(), request.into_inner());
        let container_id = self.0.finish(verb).await?;
        Ok(Response::new(CreateContainerResponse { container_id }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        self.0.finish(container::start::start(self.0.clone(), request.into_inner().container_id)).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        // Not carried on without its caller: a stop that nobody waits for any more may be given up.
        container::stop::stop(self.0.clone(), request.container_id, request.timeout).await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        self.0.finish(container::remove::remove(self.0.clone(), request.into_inner().container_id)).await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let containers = container::status::list(&self.0, request.into_inner());
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        Ok(Response::new(container::status::status(&self.0, &request.container_id, request.verbose)?))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        self.0.finish(container::update::update(self.0.clone(), request.into_inner())).await?;
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.0.finish(container::update::reopen_log(self.0.clone(), request.into_inner().container_id)).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let (metadata, _, request) = request.into_parts();
        let keep = container::exec::Keep::wanted(&metadata);
        Ok(self.0.finish(container::exec::exec_sync(self.0.clone(), request, keep)).await?)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let ticket = Ticket::exec(request.into_inner())?;
        Ok(Response::new(ExecResponse { url: self.stream(ticket)? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let ticket = Ticket::attach(request.into_inner())?;
        Ok(Response::new(AttachResponse { url: self.stream(ticket)? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        Ok(Response::new(PortForwardResponse { url: self.stream(Ticket::PortForward(request.into_inner()))? }))
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let container = self.0.state.container(&request.get_ref().container_id)?;
        let stats = self.read(move |core| stats::of_container(core, &container)).await?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = self.read(move |core| stats::containers(core, &filter)).await?;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let sandbox = self.0.state.sandbox(&request.get_ref().pod_sandbox_id)?;
        let stats = self.read(move |core| stats::of_sandbox(core, &sandbox)).await?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = self.read(move |core| stats::sandboxes(core, &filter)).await?;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<cri::Stream<ContainerEventResponse>> {
        Ok(Response::new(self.0.events.stream()))
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image);
        Ok(Response::new(ListImagesResponse { images: images::list(&self.0, wanted) }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        let found = self.0.images.resolve(&image.unwrap_or_default().image);
        let info = found.iter().filter(|_| verbose).map(|image| ("info".to_owned(), images::detail(image))).collect();
        Ok(Response::new(ImageStatusResponse { image: found.map(|image| images::listed(&image)), info }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let (metadata, _, request) = request.into_parts();
        let image_ref = images::pull(&self.0, request, &metadata).await?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        images::remove(&self.0, request.into_inner().image).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        Ok(Response::new(self.read(images::fs_info).await?))
    }
}
