//! `sampan.v1.Pulls`: what people at a terminal want beside CRI. Pulls that tell how far they are; archives
//! are `archives.rs`.

use std::sync::Arc;
use std::time::Duration;

use cri::sampan::pull_update::What;
use cri::sampan::pulls_server::Pulls;
use cri::sampan::{
    ExportPart, ExportRequest, ImportPart, ImportResult, LayerProgress, LayerState, PinRequest, PinResponse,
    PullProgress, PullRequest, PullUpdate, PullsSnapshot, WatchPullsRequest,
};
use images::{Credential, ProgressSink};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::archives;
use crate::core::Core;
use crate::images::{refused, unremoved};
use crate::service::Service;

/// Updates that may wait for a slow reader; more are dropped, because each one replaces those before.
const WAITING_MAX: usize = 64;

/// The shortest time between two snapshots of all pulls.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(250);

#[tonic::async_trait]
impl Pulls for Service {
    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<cri::Stream<PullUpdate>>, Status> {
        let request = request.into_inner();
        let (updates, reader) = mpsc::channel(WAITING_MAX);
        let progress = updates.clone();
        let sink = ProgressSink::new(move |layer| {
            let _ = progress.try_send(Ok(PullUpdate { what: Some(What::Layer(told(layer))) }));
        });
        let named = !request.username.is_empty() || !request.password.is_empty();
        let credential = named.then(|| Credential {
            username: request.username,
            password: request.password,
            ..Credential::default()
        });
        let pull = images::PullRequest { image: request.image, credential, headers: Vec::new() };
        let core = self.0.clone();
        core.tasks.clone().spawn(async move {
            let cancel = core.cancel.child_token();
            let _given_up = cancel.clone().drop_guard();
            let pulled = tokio::select! {
                pulled = core.images.pull(pull, sink, cancel) => pulled,
                // The reader has gone.
                () = updates.closed() => return,
            };
            let last = pulled.map(|image| PullUpdate { what: Some(What::ImageId(image.id.clone())) });
            let _ = updates.send(last.map_err(|error| refused(&error))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(reader).fuse())))
    }

    async fn watch_pulls(&self, _: Request<WatchPullsRequest>) -> Result<Response<cri::Stream<PullsSnapshot>>, Status> {
        let (snapshots, reader) = mpsc::channel(1);
        self.0.tasks.spawn(tell_of_all(self.0.clone(), snapshots));
        Ok(Response::new(Box::pin(ReceiverStream::new(reader).fuse())))
    }

    async fn import(&self, request: Request<Streaming<ImportPart>>) -> Result<Response<ImportResult>, Status> {
        Ok(Response::new(archives::import(&self.0, request.into_inner()).await?))
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<cri::Stream<ExportPart>>, Status> {
        Ok(Response::new(archives::export(&self.0, request.into_inner())))
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<PinResponse>, Status> {
        let PinRequest { image, pinned } = request.into_inner();
        self.0.images.set_pinned(&image, pinned).await.map_err(|error| unremoved(&error))?;
        Ok(Response::new(PinResponse {}))
    }
}

/// Sends a snapshot at once, then one after changes, until the reader or the runtime has gone.
async fn tell_of_all(core: Arc<Core>, snapshots: mpsc::Sender<Result<PullsSnapshot, Status>>) {
    let mut changes = core.images.pull_changes();
    loop {
        changes.mark_unchanged();
        let pulls = core.images.pulls().into_iter().map(sum).collect();
        let told = async {
            snapshots.send(Ok(PullsSnapshot { pulls })).await.ok()?;
            tokio::time::sleep(SNAPSHOT_PAUSE).await;
            changes.changed().await.ok()
        };
        tokio::select! {
            told = told => if told.is_none() { return },
            () = snapshots.closed() => return,
            () = core.cancel.cancelled() => return,
        }
    }
}

fn sum(pull: images::PullProgress) -> PullProgress {
    let images::PullProgress { image, total, fetched, present, layers, layers_done } = pull;
    PullProgress { image, total, fetched, present, layers, layers_done }
}

fn told(layer: &images::LayerProgress) -> LayerProgress {
    let state = match layer.state {
        images::LayerState::Waiting => LayerState::Waiting,
        images::LayerState::Fetching => LayerState::Fetching,
        images::LayerState::Unpacking => LayerState::Unpacking,
        images::LayerState::Done => LayerState::Done,
        images::LayerState::Present => LayerState::Present,
    };
    LayerProgress {
        digest: layer.digest.clone(),
        total: layer.total,
        fetched: layer.fetched,
        unpacked: layer.unpacked,
        state: state as i32,
    }
}
