//! The log of calls: one variant a verb, with the request as it came.

use std::time::Duration;

use crate::v1::*;

/// A call and when it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Time since the fake's birth, on tokio's clock.
    pub at: Duration,
    /// The call.
    pub call: Call,
}

macro_rules! calls {
    ($($verb:ident($request:ty)),* $(,)?) => {
        /// A verb of the CRI.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Verb { $($verb),* }

        /// A verb with its request.
        #[allow(missing_docs, clippy::large_enum_variant)]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Call { $($verb($request)),* }

        impl Call {
            /// The call's verb.
            pub fn verb(&self) -> Verb {
                match self { $(Call::$verb(_) => Verb::$verb),* }
            }
        }

        $(impl From<$request> for Call {
            fn from(request: $request) -> Call { Call::$verb(request) }
        })*
    };
}

calls! {
    Version(VersionRequest),
    Status(StatusRequest),
    RuntimeConfig(RuntimeConfigRequest),
    UpdateRuntimeConfig(UpdateRuntimeConfigRequest),
    RunPodSandbox(RunPodSandboxRequest),
    StopPodSandbox(StopPodSandboxRequest),
    RemovePodSandbox(RemovePodSandboxRequest),
    PodSandboxStatus(PodSandboxStatusRequest),
    ListPodSandbox(ListPodSandboxRequest),
    CreateContainer(CreateContainerRequest),
    StartContainer(StartContainerRequest),
    StopContainer(StopContainerRequest),
    RemoveContainer(RemoveContainerRequest),
    ListContainers(ListContainersRequest),
    ContainerStatus(ContainerStatusRequest),
    UpdateContainerResources(UpdateContainerResourcesRequest),
    ReopenContainerLog(ReopenContainerLogRequest),
    ExecSync(ExecSyncRequest),
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
    ContainerStats(ContainerStatsRequest),
    ListContainerStats(ListContainerStatsRequest),
    ListPodSandboxStats(ListPodSandboxStatsRequest),
    PodSandboxStats(PodSandboxStatsRequest),
    GetContainerEvents(GetEventsRequest),
    ListImages(ListImagesRequest),
    ImageStatus(ImageStatusRequest),
    PullImage(PullImageRequest),
    RemoveImage(RemoveImageRequest),
    ImageFsInfo(ImageFsInfoRequest),
}

impl Call {
    /// The id that the request is about; for creations the name, for images the reference.
    pub fn subject(&self) -> Option<&str> {
        let id: &str = match self {
            Call::StopPodSandbox(r) => &r.pod_sandbox_id,
            Call::RemovePodSandbox(r) => &r.pod_sandbox_id,
            Call::PodSandboxStatus(r) => &r.pod_sandbox_id,
            Call::PortForward(r) => &r.pod_sandbox_id,
            Call::StartContainer(r) => &r.container_id,
            Call::StopContainer(r) => &r.container_id,
            Call::RemoveContainer(r) => &r.container_id,
            Call::ContainerStatus(r) => &r.container_id,
            Call::UpdateContainerResources(r) => &r.container_id,
            Call::ReopenContainerLog(r) => &r.container_id,
            Call::ExecSync(r) => &r.container_id,
            Call::Exec(r) => &r.container_id,
            Call::Attach(r) => &r.container_id,
            Call::ContainerStats(r) => &r.container_id,
            Call::RunPodSandbox(r) => &r.config.as_ref()?.metadata.as_ref()?.name,
            Call::CreateContainer(r) => &r.config.as_ref()?.metadata.as_ref()?.name,
            Call::PullImage(r) => &r.image.as_ref()?.image,
            Call::ImageStatus(r) => &r.image.as_ref()?.image,
            Call::RemoveImage(r) => &r.image.as_ref()?.image,
            _ => return None,
        };
        Some(id)
    }
}
