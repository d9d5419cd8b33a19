//! The road from a name to an image: resolve, choose, fetch and unpack layers, record.
//!
//! Owns the order of these steps and what a failure of each means. Start at [`pull`].

mod layer;

use crate::credential::Secret;
use crate::error::PullError;
use crate::images::{Core, PullRequest};
use crate::machine;
use crate::manifest::{self, ConfigBlob, Descriptor, Document, Packing, Refusal};
use crate::progress::Board;
use crate::registry::{Fault, HostsError, Places, RequestError, Session, SessionOptions, endpoints, load_hosts};
use crate::store::{Image, NewImage};
use reference::{Digest, Platform, Reference};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

/// A silent connection is given up after this, and asked again while the pull's own patience lasts.
const STALL_MAX: Duration = Duration::from_secs(60);
/// The time that may be spent waiting for a registry that limits rates, where nothing else is said.
const BUDGET_DEFAULT: Duration = Duration::from_secs(300);

/// One layer to be had.
#[derive(Clone)]
struct LayerPlan {
    descriptor: Descriptor,
    packing: Packing,
    diff_id: Digest,
}

/// Everything that the documents of an image say.
struct Plan {
    config_digest: Digest,
    config_bytes: Vec<u8>,
    layers: Vec<LayerPlan>,
    /// The documents, to be kept.
    documents: Vec<(Digest, Vec<u8>)>,
}

/// Opens the conversation of a request with its registry, as the machine's files say. The reference is in its stored form.
pub(crate) async fn session(
    core: &Arc<Core>,
    reference: &Reference,
    request: PullRequest,
) -> Result<Arc<Session>, PullError> {
    let secret = match &request.credential {
        None => Ok(Secret::Anonymous),
        Some(credential) => credential.secret_for(reference.domain()),
    };
    let secret = secret.map_err(|detail| PullError::InvalidCredential {
        reference: reference.canonical(),
        detail: detail.to_owned(),
    })?;
    open_session(core, reference, (secret, request.headers)).await
}

/// Pulls one image. The reference is in its stored form.
pub(crate) async fn pull(
    core: &Arc<Core>,
    reference: Reference,
    request: PullRequest,
    board: &Board,
) -> Result<Arc<Image>, PullError> {
    let session = session(core, &reference, request).await?;
    let limit = core.options.no_progress;
    let transfer = transfer(core, reference, session.clone(), board);
    if limit.is_zero() {
        return transfer.await;
    }
    tokio::select! {
        pulled = transfer => pulled,
        host = session.pulse.silence(limit) => {
            let failure = format!("no byte came for {limit:?}");
            let error = RequestError::new(Fault::TimedOut, &host, failure);
            Err(session.fail(error))
        }
    }
}

/// Reads what the machine's files say of the registry, and opens the conversation.
async fn open_session(
    core: &Arc<Core>,
    reference: &Reference,
    (secret, headers): (Secret, Vec<(String, String)>),
) -> Result<Arc<Session>, PullError> {
    let name = reference.canonical();
    let limit = core.options.no_progress;
    let (stall, budget) =
        if limit.is_zero() { (STALL_MAX, BUDGET_DEFAULT) } else { ((limit / 3).min(STALL_MAX), limit) };
    let reference = reference.clone();
    blocking(core, "reading hosts of registries", move |core| {
        let options = &core.options;
        let places = Places { directories: &options.hosts_directories, registries: &options.registries_files };
        let rules = load_hosts(&places, reference.domain()).map_err(misread)?;
        let bad = |detail: &str| PullError::InvalidCredential { reference: name.clone(), detail: detail.to_owned() };
        let endpoints = endpoints(&reference, &secret, &rules).map_err(bad)?;
        let transport = core.transport.clone();
        let session = SessionOptions { transport, reference, endpoints, headers, stall, budget };
        Session::new(session).map(Arc::new).map_err(misread)
    })
    .await
}

fn misread(error: HostsError) -> PullError {
    let line = if error.line == 0 { String::new() } else { format!(":{}", error.line) };
    PullError::HostsFile { path: format!("{}{line}", error.path.display()), detail: error.detail }
}

/// Resolves, fetches, records.
async fn transfer(
    core: &Arc<Core>,
    reference: Reference,
    session: Arc<Session>,
    board: &Board,
) -> Result<Arc<Image>, PullError> {
    let name = reference.canonical();
    let resolved = session.resolve().await?;
    let names = |id: &Digest| NewImage {
        id: id.clone(),
        config: Vec::new(),
        tag: reference.digest().is_none().then(|| name.clone()),
        digest: Some(reference.with_digest(resolved.digest.clone()).canonical()),
        layers: Vec::new(),
        blobs: Vec::new(),
        pulled_at: machine::now(),
        pinned: false,
    };
    // Leased: a collection that comes now leaves the image alone (IMG-267).
    if let Some(lease) = Lease::of_root(core, &resolved.digest) {
        let id = Digest::parse(&lease.image.id).expect("the store loads images with digests as ids only");
        let known = NewImage { layers: lease.image.layers.clone(), ..names(&id) };
        return blocking(core, "recording an image", move |core| core.store.commit_image(&known, &[])).await;
    }
    let body = match resolved.body {
        Some(body) => (resolved.media_type, body),
        None => session.manifest(&resolved.digest, None).await?,
    };
    let plan = plan(core, &session, resolved.digest.clone(), body).await?;
    let layers: Vec<Digest> = plan.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let _pins = Pins::new(core, layers.clone());
    fetch_layers(core, &session, &plan.layers, board).await?;
    let blobs = plan.documents.iter().map(|(digest, _)| digest.clone()).collect();
    let new = NewImage { config: plan.config_bytes, layers, blobs, ..names(&plan.config_digest) };
    let (documents, partials) = (plan.documents, plan.layers);
    let image = blocking(core, "recording an image", move |core| {
        let image = core.store.commit_image(&new, &documents)?;
        partials.iter().for_each(|layer| core.store.drop_partial(&layer.descriptor.digest));
        Ok(image)
    })
    .await?;
    flush(core);
    Ok(image)
}

/// Makes new layers durable in the background.
pub(crate) fn flush(core: &Arc<Core>) {
    let flushing = core.clone();
    core.tasks.spawn_blocking(move || {
        if let Err(error) = flushing.store.make_durable() {
            tracing::warn!(%error, "layers could not be flushed; they will be fetched again after a power loss");
        }
    });
}

/// Runs a blocking step on the store.
pub(crate) async fn blocking<T: Send + 'static>(
    core: &Arc<Core>,
    doing: &str,
    step: impl FnOnce(&Core) -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    let own = core.clone();
    let joined = tokio::task::spawn_blocking(move || step(&own)).await;
    joined.unwrap_or_else(|error| Err(PullError::Storage { doing: doing.to_owned(), detail: error.to_string() }))
}

/// An image that must stay while this pull looks at it.
struct Lease {
    core: Arc<Core>,
    image: Arc<Image>,
}

impl Lease {
    fn of_root(core: &Arc<Core>, digest: &Digest) -> Option<Lease> {
        core.store.lease_by_root(digest).map(|image| Lease { core: core.clone(), image })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.core.store.end_lease(&self.image.id);
    }
}

/// Layers that must stay while this pull needs them.
pub(crate) struct Pins {
    core: Arc<Core>,
    layers: Vec<Digest>,
}

impl Pins {
    pub(crate) fn new(core: &Arc<Core>, layers: Vec<Digest>) -> Pins {
        core.store.pin(&layers);
        Pins { core: core.clone(), layers }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.core.store.unpin(&self.layers);
    }
}

/// Follows indexes to this node's manifest and reads its config (IMG-101..IMG-107).
async fn plan(
    core: &Core,
    session: &Session,
    root: Digest,
    (mut media_type, mut body): (String, Vec<u8>),
) -> Result<Plan, PullError> {
    let mut digest = root;
    let mut documents = Vec::new();
    let (mut platform_known, mut entries_met) = (false, 0);
    for depth in 0..=manifest::INDEX_DEPTH_MAX {
        let document = manifest::parse(&media_type, &body).map_err(|refusal| refused(session, &digest, refusal))?;
        documents.push((digest.clone(), body));
        match document {
            Document::Manifest { config, layers } => {
                let platform = (!platform_known, &core.options.platform);
                return finish_plan(session, digest, (*config, layers), documents, platform).await;
            }
            Document::Index(entries) => {
                entries_met += entries.len();
                if depth == manifest::INDEX_DEPTH_MAX || entries_met > manifest::INDEX_ENTRIES_MAX {
                    return Err(invalid(&digest, "indexes are nested too deeply or have too many entries"));
                }
                let chosen = choose(&core.options.platform, &digest, entries)?;
                // An entry that says nothing leaves it to the image's config (IMG-101).
                platform_known = chosen.platform.is_some();
                (media_type, body) = match chosen.embedded() {
                    Some(content) => (String::new(), content.to_vec()),
                    None => session.manifest(&chosen.digest, Some(chosen.size)).await?,
                };
                // The descriptor's type is the promise; the header only stands in where there is none.
                if !chosen.media_type.is_empty() {
                    media_type = chosen.media_type;
                }
                digest = chosen.digest;
            }
        }
    }
    Err(invalid(&digest, "indexes are nested too deeply"))
}

pub(crate) fn choose(node: &Platform, index: &Digest, entries: Vec<Descriptor>) -> Result<Descriptor, PullError> {
    let usable: Vec<Descriptor> = entries
        .into_iter()
        .filter(|entry| entry.media_type.is_empty() || manifest::is_document(&entry.media_type))
        .collect();
    let chosen = node.choose(usable.iter().map(|entry| entry.platform.as_ref()));
    chosen.map(|index| usable[index].clone()).ok_or_else(|| {
        let mut offered: Vec<String> =
            usable.iter().filter_map(|entry| Some(entry.platform.as_ref()?.normalised().to_string())).collect();
        offered.dedup();
        let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
        PullError::NoPlatform { digest: index.clone(), node: node.to_string(), offered }
    })
}

async fn finish_plan(
    session: &Session,
    digest: Digest,
    (config, layers): (Descriptor, Vec<Descriptor>),
    mut documents: Vec<(Digest, Vec<u8>)>,
    (check_platform, node): (bool, &Platform),
) -> Result<Plan, PullError> {
    if !manifest::is_image_config(&config.media_type) {
        return Err(invalid(
            &digest,
            &format!("unrecognised mediatype {:?} of the config: this is no container image", config.media_type),
        ));
    }
    let config_bytes = match config.embedded() {
        Some(content) => content.to_vec(),
        None => session.small_blob(&config.digest, config.size).await?,
    };
    let parsed = manifest::parse_config(&config_bytes).map_err(|text| invalid(&config.digest, &text))?;
    if check_platform {
        check_runs_here(node, &parsed)?;
    }
    if parsed.diff_ids.len() != layers.len() {
        return Err(PullError::LayerCount { layers: layers.len(), diff_ids: parsed.diff_ids.len() });
    }
    let plans = layers.into_iter().zip(parsed.diff_ids).map(|(descriptor, diff_id)| {
        let packing = manifest::packing(&descriptor.media_type).ok_or_else(|| {
            invalid(&descriptor.digest, &format!("unrecognised mediatype {:?}", descriptor.media_type))
        })?;
        Ok(LayerPlan { descriptor, packing, diff_id })
    });
    let layers = plans.collect::<Result<Vec<_>, PullError>>()?;
    documents.push((config.digest.clone(), config_bytes.clone()));
    Ok(Plan { config_digest: config.digest, config_bytes, layers, documents })
}

/// A single manifest was not chosen by platform, so its config must fit (IMG-104).
pub(crate) fn check_runs_here(node: &Platform, config: &ConfigBlob) -> Result<(), PullError> {
    let offered = config.platform.normalised();
    let says_nothing = offered.architecture.is_empty();
    if says_nothing || node.rank(&offered).is_some() || machine::runs_foreign(&offered.architecture) {
        return Ok(());
    }
    Err(PullError::PlatformMismatch { offered: offered.to_string(), node: node.to_string() })
}

fn refused(session: &Session, digest: &Digest, refusal: Refusal) -> PullError {
    match refusal {
        Refusal::Schema1 { media_type } => PullError::Schema1 { reference: session.name().to_owned(), media_type },
        Refusal::Invalid(text) => invalid(digest, &text),
    }
}

fn invalid(digest: &Digest, detail: &str) -> PullError {
    PullError::InvalidContent { digest: digest.clone(), detail: detail.to_owned() }
}

/// Fetches all layers that are not here, a few at a time (IMG-142). The first failure ends the others.
async fn fetch_layers(
    core: &Arc<Core>,
    session: &Arc<Session>,
    layers: &[LayerPlan],
    board: &Board,
) -> Result<(), PullError> {
    layers.iter().for_each(|layer| board.add(layer.descriptor.digest.as_str(), layer.descriptor.size));
    let number = core.numbers.fetch_add(1, Ordering::Relaxed);
    let (reports, mut heard) = tokio::sync::mpsc::channel(64);
    let mut tasks = JoinSet::new();
    for layer in layers {
        let fetch = layer::Fetch {
            core: core.clone(),
            session: session.clone(),
            plan: layer.clone(),
            number,
            reports: reports.clone(),
        };
        tasks.spawn(fetch.run());
    }
    drop(reports);
    loop {
        tokio::select! {
            Some(report) = heard.recv() => report.show(board),
            joined = tasks.join_next() => match joined {
                None => break,
                Some(Ok(result)) => result?,
                Some(Err(error)) => {
                    let reference = session.name().to_owned();
                    return Err(PullError::Broken { reference, detail: error.to_string() });
                }
            },
        }
    }
    while let Ok(report) = heard.try_recv() {
        report.show(board);
    }
    Ok(())
}
