//! One layer: wait for others who fetch it, then stream it from the network into the pipeline.
//!
//! Owns resuming: what an earlier attempt left is hashed again, and only the rest is asked for (IMG-140, IMG-141).

use super::LayerPlan;
use crate::error::PullError;
use crate::images::Core;
use crate::layer::{self, Feed, LayerFailure, LayerJob, Unpacked};
use crate::progress::{Board, LayerState};
use crate::registry::{Active, Blob, Fault, Next, RequestError, Session};
use crate::store::LayerRecord;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, mpsc};

/// Reconnections in a row that bring no byte (IMG-140).
const RECONNECTS_MAX: u32 = 3;
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const CHUNKS: usize = 8;

/// News of one layer.
pub(super) struct Report {
    digest: String,
    news: News,
}

enum News {
    State(LayerState),
    Fetched(u64),
    Unpacked(u64),
}

impl Report {
    pub(super) fn show(self, board: &Board) {
        match self.news {
            News::State(state) => board.state(&self.digest, state),
            News::Fetched(bytes) => board.fetched(&self.digest, bytes),
            News::Unpacked(bytes) => board.unpacked(&self.digest, bytes),
        }
    }
}

/// The fetching of one layer.
pub(super) struct Fetch {
    pub(super) core: Arc<Core>,
    pub(super) session: Arc<Session>,
    pub(super) plan: LayerPlan,
    /// Of the pull, in the queue of all.
    pub(super) number: u64,
    pub(super) reports: mpsc::Sender<Report>,
}

/// Held by the blocking thread too, so that nobody else touches the layer's files before it ends.
type Locks = Arc<(OwnedMutexGuard<()>, OwnedMutexGuard<()>)>;

impl Fetch {
    pub(super) async fn run(self) -> Result<(), PullError> {
        let LayerPlan { descriptor, diff_id, .. } = &self.plan;
        // Always in this order, and nobody who holds the second waits for anything: no deadlock.
        let by_diff_id = self.core.layer_locks.lock(&format!("diff {diff_id}")).await;
        let by_blob = self.core.layer_locks.lock(&format!("blob {}", descriptor.digest)).await;
        let locks: Locks = Arc::new((by_diff_id, by_blob));
        if self.core.store.has_layer(diff_id) {
            self.report(News::State(LayerState::Present)).await;
            return Ok(());
        }
        let resume = self.core.store.partial_bytes(&descriptor.digest, descriptor.size);
        // Whoever has a turn waits for no lock, so whoever has a lock may wait for a turn.
        let _turn = self.core.queue.turn(self.number, descriptor.size - resume).await;
        self.report(News::State(LayerState::Fetching)).await;
        let mut result = self.attempt(resume, locks.clone()).await;
        if resume > 0 && matches!(result, Err(PullError::DigestMismatch { .. })) {
            // What was on disk was bad, perhaps after a power loss; the registry deserves a fresh judgement.
            result = self.attempt(0, locks).await;
        }
        result?;
        self.report(News::State(LayerState::Done)).await;
        Ok(())
    }

    async fn attempt(&self, resume: u64, locks: Locks) -> Result<(), PullError> {
        let (chunks, incoming) = mpsc::channel(CHUNKS);
        let core = self.core.clone();
        let plan = self.plan.clone();
        let reports = self.reports.clone();
        let unpacking = self.core.tasks.spawn_blocking(move || {
            let result = unpack(&core, &plan, resume, incoming, &reports);
            drop(locks);
            result
        });
        let fetched = self.fetch(resume, chunks).await;
        let unpacked = unpacking.await.unwrap_or_else(|error| Err(LayerFailure::Invalid(error.to_string())));
        match (fetched, unpacked) {
            (_, Ok(())) => Ok(()),
            // Too few bytes: the network knows better why.
            (Err(error), Err(LayerFailure::Incomplete { .. })) => Err(error),
            (Err(error @ PullError::SizeMismatch { .. }), Err(_)) => Err(error),
            (_, Err(failure)) => Err(self.explain(failure)),
        }
    }

    fn explain(&self, failure: LayerFailure) -> PullError {
        failure.into_pull(&self.plan.descriptor.digest, self.plan.descriptor.size, &self.plan.diff_id)
    }

    /// Streams the blob from an offset to its end into the channel. Ends early without error if nobody listens, for
    /// then the listener has the error.
    async fn fetch(&self, from: u64, chunks: mpsc::Sender<Bytes>) -> Result<(), PullError> {
        let (digest, size) = (&self.plan.descriptor.digest, self.plan.descriptor.size);
        let (mut got, mut idle, mut host) = (from, 0, 0);
        // The network is waited for all the time but while the pipeline takes what came.
        let mut waiting = Some(self.session.pulse.active());
        while got < size {
            let before = got;
            let ended = self.fetch_once((&mut got, &mut host), &mut waiting, &chunks).await?;
            // A host that sends nothing gives way to the next one.
            (idle, host) = if got > before { (0, host) } else { (idle + 1, host + 1) };
            match ended {
                Ended::NobodyListens => return Ok(()),
                Ended::Whole => {}
                Ended::Cut(error) if idle >= RECONNECTS_MAX => {
                    return Err(match error {
                        Some(error) => self.session.fail(error),
                        None => PullError::Truncated { digest: digest.clone(), received: got, expected: size },
                    });
                }
                Ended::Cut(_) => tokio::time::sleep(RECONNECT_PAUSE * (idle + 1)).await,
            }
        }
        self.report(News::State(LayerState::Unpacking)).await;
        Ok(())
    }

    async fn fetch_once<'a>(
        &'a self,
        (got, host): (&mut u64, &mut usize),
        waiting: &mut Option<Active<'a>>,
        chunks: &mpsc::Sender<Bytes>,
    ) -> Result<Ended, PullError> {
        let size = self.plan.descriptor.size;
        let blob = self.open(*got, *host).await?;
        *host = blob.host.unwrap_or(*host);
        if blob.beyond_end {
            return Ok(Ended::Cut(None));
        }
        let mut skip = *got - blob.starts_at;
        let mut body = blob.body;
        loop {
            let mut data = match body.next(self.session.stall()).await {
                Ok(Next::Data(data)) => data,
                Ok(Next::End) if *got == size => return Ok(Ended::Whole),
                Ok(Next::End) => return Ok(Ended::Cut(None)),
                Err(error) => return Ok(Ended::Cut(Some(error))),
            };
            self.session.pulse.beat();
            // A server that does not know ranges sends everything again.
            let skipped = skip.min(data.len() as u64);
            let _ = data.split_to(skipped as usize);
            skip -= skipped;
            if *got + data.len() as u64 > size {
                let (digest, received) = (self.plan.descriptor.digest.clone(), *got + data.len() as u64);
                return Err(PullError::SizeMismatch { digest, received, expected: size });
            }
            *got += data.len() as u64;
            *waiting = None;
            if !data.is_empty() && chunks.send(data).await.is_err() {
                return Ok(Ended::NobodyListens);
            }
            *waiting = Some(self.session.pulse.active());
            self.mention(News::Fetched(*got));
        }
    }

    /// Foreign layers are asked at their own addresses first (IMG-110).
    async fn open(&self, offset: u64, first: usize) -> Result<Blob, PullError> {
        let descriptor = &self.plan.descriptor;
        let foreign = descriptor.media_type.contains("foreign") || descriptor.media_type.contains("nondistributable");
        let is_http = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
        for url in descriptor.urls.iter().filter(is_http).filter(|_| foreign) {
            match self.session.foreign_blob(url, offset).await {
                Err(RequestError { fault: Fault::NotFound, .. }) => {}
                Err(error) => return Err(self.session.fail(error)),
                Ok(blob) => return Ok(blob),
            }
        }
        self.session.blob(&descriptor.digest, offset, first).await.map_err(|error| self.session.fail(error))
    }

    async fn report(&self, news: News) {
        // Nobody listens any more when the pull has ended.
        let _ = self.reports.send(Report { digest: self.plan.descriptor.digest.to_string(), news }).await;
    }

    fn mention(&self, news: News) {
        // Numbers may be lost when the listener is busy: the next ones say more.
        let _ = self.reports.try_send(Report { digest: self.plan.descriptor.digest.to_string(), news });
    }
}

/// How one connection ended.
enum Ended {
    Whole,
    Cut(Option<RequestError>),
    NobodyListens,
}

/// Unpacks and commits. On failure nothing stays but the compressed bytes, if they can be of use.
fn unpack(
    core: &Core,
    plan: &LayerPlan,
    resume: u64,
    incoming: mpsc::Receiver<Bytes>,
    reports: &mpsc::Sender<Report>,
) -> Result<(), LayerFailure> {
    let (digest, store) = (plan.descriptor.digest.clone(), &core.store);
    let storage = |doing: &str, source: std::io::Error| LayerFailure::Io { doing: doing.to_owned(), source };
    let fresh = store.begin_layer().map_err(|error| storage("making a layer's directory", error))?;
    let job = LayerJob {
        digest: Some(digest.clone()),
        size: plan.descriptor.size,
        packing: plan.packing,
        diff_id: plan.diff_id.clone(),
        target: fresh.files(),
    };
    let feed = Feed::Network { partial: store.partial(&digest), resume, chunks: incoming };
    let report = |bytes: u64| {
        let _ = reports.try_send(Report { digest: digest.to_string(), news: News::Unpacked(bytes) });
    };
    let Unpacked { bytes, inodes } = layer::run(&job, feed, &report).inspect_err(|failure| {
        if !failure.keeps_partial() {
            store.drop_partial(&digest);
        }
    })?;
    let record = LayerRecord { diff_id: plan.diff_id.clone(), bytes, inodes, boot: String::new(), durable: false };
    store.commit_layer(fresh, record).map_err(|error| storage("committing a layer", error))?;
    store.drop_partial(&digest);
    Ok(())
}
