//! Static pods: pods that the node reads from a directory or a URL, and their mirrors in the API (HOOK-101, IMG-24).
//!
//! Owns the sources, the defaulting and validation of what they hold, the merge of the sources, the ledger of the pods
//! that were begun, and the making and removing of mirror pods. They run without an API and are taken over by the next
//! agent. Must not run a pod: the agent's `statics` carries the steps decided here to the tasks of the pods. Start at
//! [`view::pod`], which makes a pod of a manifest, and [`decide::steps`].

pub mod decide;
mod files;
pub mod ledger;
pub mod mirror;
mod touch;
mod url;
pub mod view;

pub use decide::{Name, Update};
pub use view::{Origin, StaticPod};

use crate::pod::clock::Clock;
use std::{fmt, path::PathBuf, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};

/// Updates that wait for the agent; each is the whole of its source, so few are enough.
const UPDATES_MAX: usize = 4;

/// Where static pods come from.
#[derive(Clone)]
pub struct Options {
    /// A directory with one manifest a file, or one such file (`staticPodPath`).
    pub path: Option<PathBuf>,
    /// Between two looks at files that nobody told of (`fileCheckFrequency`).
    pub file_period: Duration,
    /// A URL that answers with a Pod or a PodList (`staticPodURL`).
    pub url: Option<http::Uri>,
    /// Headers of that request, by name (`staticPodURLHeader`). They may be secret.
    pub headers: http::HeaderMap,
    /// Between two requests (`httpCheckFrequency`).
    pub url_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let period = Duration::from_secs(20);
        Self { path: None, file_period: period, url: None, headers: http::HeaderMap::new(), url_period: period }
    }
}

impl Options {
    /// The sources that there are.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        let (file, url) = (self.path.as_ref().map(|_| Origin::File), self.url.as_ref().map(|_| Origin::Url));
        file.into_iter().chain(url)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads the sources in the background. `known` is the ledger: what a source held when an earlier agent last saw it.
pub fn watch(
    options: &Options,
    node_name: &str,
    clock: Clock,
    known: &[StaticPod],
    background: &mut JoinSet<()>,
) -> mpsc::Receiver<Update> {
    let (updates, receiver) = mpsc::channel(UPDATES_MAX);
    let reader = view::Reader { node_name: node_name.to_owned(), clock };
    if let Some(path) = &options.path {
        let known = known.iter().filter(|pod| pod.origin == Origin::File).cloned().collect();
        let files = files::Files::new(path.clone(), options.file_period, reader.clone(), known);
        background.spawn(files.watch(updates.clone()));
    }
    if let Some(url) = &options.url {
        let known = known.iter().filter(|pod| pod.origin == Origin::Url).cloned().collect();
        let request = url::Request { url: url.clone(), headers: options.headers.clone() };
        background.spawn(url::watch(request, options.url_period, reader, known, updates));
    }
    receiver
}
