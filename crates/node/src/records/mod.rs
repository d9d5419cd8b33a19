//! Who may use an image that is already on the node: records of pulls and of the credentials that made them possible.
//!
//! Owns the records and the answer to [`Records::must_pull`] (IMG-232 … IMG-247). Must not pull and must not know a
//! registry. `decide` and `record` are pure, `store` is the files, `hash` knows credentials again. The order of calls is
//! [`Records::intent`], the pull, [`Records::pulled`] for each pod that shared it, then [`Records::ended`] on either
//! end: a crash between any two leaves the image to be verified, never open.

mod decide;
mod hash;
mod record;
mod store;

pub use decide::{Allowlist, PatternError, Policy, PolicyError, Rules, Verdict};

use crate::credentials::{Lookup, Try};
use crate::pod::clock::Clock;
use cri::v1;
use decide::{Facts, Presented, decide};
use hash::Hasher;
use jiff::Timestamp;
use record::{AccountEntry, Grant, Preloaded, Record, SecretEntry};
use reference::Reference;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use store::Store;

/// Why something could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the records.
    #[error("open the records of pulls in {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// An intent: without it the pull is not to be begun.
    #[error("failed to record image pull intent of {image:?}: {source}")]
    Intent {
        /// As the pod names it.
        image: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A record: the intent stays in its place.
    #[error("failed to record the pull of {image:?}: {source}")]
    Pulled {
        /// As the pod names it.
        image: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// The records of one node. Clones are one.
#[derive(Clone)]
pub struct Records {
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    hasher: Hasher,
    rules: Rules,
    clock: Clock,
    /// Pulls under way, by image as the pod names it.
    flights: Mutex<BTreeMap<String, usize>>,
    checks: Mutex<BTreeMap<Verdict, u64>>,
}

/// A pull is under way. Dropped without [`Records::ended`] it leaves the intent on disk: the image stays to be verified.
#[must_use = "a pull that nobody ends leaves its intent behind"]
pub struct Intended {
    image: String,
    shared: Arc<Shared>,
}

impl Drop for Intended {
    fn drop(&mut self) {
        let mut flights = locked(&self.shared.flights);
        if let Some(count) = flights.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                flights.remove(&self.image);
            }
        }
    }
}

/// Figures for `/metrics` (IMG-247).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// `image_mustpull_checks_total` by result.
    pub checks: BTreeMap<&'static str, u64>,
    /// Intents on disk.
    pub intents_on_disk: usize,
    /// Pulls under way.
    pub intents_in_memory: usize,
    /// Records on disk.
    pub records_on_disk: usize,
}

impl std::fmt::Display for Numbers {
    /// As `/metrics` shows them; names are the kubelet's own where it has them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| -> std::fmt::Result {
            writeln!(f, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            samples.iter().try_for_each(|(labels, value)| writeln!(f, "{name}{labels} {value}"))
        };
        let one = |count: usize| [(String::new(), count as u64)];
        let labels = |(result, count): (&&str, &u64)| (format!("{{result=\"{result}\"}}"), *count);
        let checks: Vec<(String, u64)> = self.checks.iter().map(labels).collect();
        family(
            "kubelet_imagemanager_image_mustpull_checks_total",
            "counter",
            "Decisions whether credentials have to be verified before an image is used.",
            &checks,
        )?;
        let gauge = "gauge";
        let on_disk = "kubelet_imagemanager_ondisk_pullintents";
        family(on_disk, gauge, "Intents of pulls on disk.", &one(self.intents_on_disk))?;
        let records = "kubelet_imagemanager_ondisk_pulledrecords";
        family(records, gauge, "Records of pulls on disk.", &one(self.records_on_disk))?;
        let in_memory = "sampan_imagemanager_inmemory_pullintents";
        family(in_memory, gauge, "Images that are being pulled.", &one(self.intents_in_memory))
    }
}

impl Records {
    /// Opens or makes the records in `directory`, which is `<data_dir>/image_manager`. Without that directory every
    /// image that is there counts as placed by somebody else (IMG-245).
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: &Path, rules: Rules, clock: Clock) -> Result<Records, Error> {
        let fault = |source| Error::Open { path: directory.to_owned(), source };
        let store = Store::open(directory).map_err(fault)?;
        let hasher = Hasher::open(&directory.join("hash-key")).map_err(fault)?;
        let shared = Shared {
            store: Mutex::new(store),
            hasher,
            rules,
            clock,
            flights: Mutex::default(),
            checks: Mutex::default(),
        };
        Ok(Records { shared: Arc::new(shared) })
    }

    /// At the start: a pull that was interrupted although its image has arrived becomes a record without credentials,
    /// so that the image is verified; other intents stay (IMG-239). `images` is the runtime's complete list.
    pub async fn reconcile(&self, images: &[v1::Image]) {
        let names: Vec<(String, BTreeSet<String>)> = images.iter().map(|i| (i.id.clone(), names(i))).collect();
        self.with_store(move |shared, store| {
            for intent in store.intents()? {
                let Some(wanted) = canonical(&intent) else { continue };
                let Some((image_ref, _)) = names.iter().find(|(_, names)| names.contains(&wanted)) else { continue };
                if !matches!(store.record(image_ref), Ok(Some(_))) {
                    store.write(&Record::bare(image_ref, shared.clock.now()))?;
                }
                store.end(&intent)?;
            }
            Ok(())
        })
        .await
        .unwrap_or_else(
            |error| tracing::error!(%error, "interrupted pulls are not settled; their images are verified"),
        );
    }

    /// False if whatever is on the node is for every pod.
    pub fn verifies(&self) -> bool {
        self.shared.rules.policy != Policy::NeverVerify
    }

    /// Before a pull and after its back-off: from here on the image counts as the node's own.
    ///
    /// # Errors
    /// When that cannot be written: then the pull is not to be begun.
    pub async fn intent(&self, image: &str) -> Result<Intended, Error> {
        *locked(&self.shared.flights).entry(image.to_owned()).or_default() += 1;
        let intended = Intended { image: image.to_owned(), shared: self.shared.clone() };
        let name = image.to_owned();
        let written = self.with_store(move |_, store| store.intend(&name)).await;
        written.map_err(|source| Error::Intent { image: image.to_owned(), source })?;
        Ok(intended)
    }

    /// To be called after a pull and before [`Records::pulled`], with all names that the runtime now has for the image:
    /// what nobody pulled here before was there under its other names already, and stays as open as it was (IMG-246).
    pub async fn observe(&self, image: &str, image_ref: &str, names: &[String]) {
        let plain = |name: &String| repository(name.split('@').next()?);
        let mut others: BTreeSet<String> = names.iter().filter_map(plain).collect();
        if let Some(own) = repository(image) {
            others.remove(&own);
        }
        let image_ref = image_ref.to_owned();
        let noted = self.with_store(move |shared, store| {
            if !matches!(store.record(&image_ref), Ok(None)) {
                return Ok(());
            }
            // Another pull of the same content may be under way, or was interrupted.
            let under_way = locked(&shared.flights).keys().cloned().collect::<Vec<_>>();
            for begun in store.intents()?.into_iter().chain(under_way) {
                repository(&begun).map(|begun| others.remove(&begun));
            }
            match others.is_empty() {
                true => Ok(()),
                false => store.observe(&Preloaded::new(&image_ref, others, shared.clock.now())),
            }
        });
        if let Err(error) = noted.await {
            tracing::warn!(image, %error, "other names of an image are not noted; they are verified");
        }
    }

    /// The pull went well with this try: whoever has the same may use the image (IMG-238).
    ///
    /// # Errors
    /// When that cannot be written. The image may be used all the same; the intent has to stay: do not call
    /// [`Records::ended`].
    pub async fn pulled(&self, image: &str, image_ref: &str, with: &Try) -> Result<(), Error> {
        let hash = with.auth.as_ref().map(|auth| self.shared.hasher.hash(auth)).unwrap_or_default();
        let grant = Grant::of(&with.source, hash);
        let (repository, image_ref) = (repository(image), image_ref.to_owned());
        let written = self.with_store(move |shared, store| {
            let now = shared.clock.now();
            let known = store.record(&image_ref).unwrap_or_default();
            let fresh = known.is_none();
            let record = known.unwrap_or_else(|| Record::bare(&image_ref, now));
            match repository.and_then(|repository| record.granted(&repository, &grant, now)) {
                Some(record) => store.write(&record),
                None if fresh => store.write(&record),
                None => Ok(()),
            }
        });
        written.await.map_err(|source| Error::Pulled { image: image.to_owned(), source })
    }

    /// The pull has failed, or has gone well and is recorded: its intent is removed when no other is under way.
    pub async fn ended(&self, intended: Intended) {
        let image = intended.image.clone();
        let removed = self.with_store(move |shared, store| {
            let last = locked(&shared.flights).get(&intended.image).is_none_or(|count| *count <= 1);
            let removed = if last { store.end(&intended.image) } else { Ok(()) };
            drop(intended);
            removed
        });
        if let Err(error) = removed.await {
            tracing::error!(image, %error, "an intent of a pull is not removed; the image is verified");
        }
    }

    /// Whether the registry has to be asked before this pod may use the image that is there (IMG-234 … IMG-237). To be
    /// asked for IfNotPresent and Never only.
    pub async fn must_pull(&self, image: &str, image_ref: &str, lookup: &Lookup) -> Verdict {
        let (mut secrets, mut accounts) = (Vec::new(), Vec::new());
        for one in &lookup.tries {
            let Some(auth) = &one.auth else { continue };
            for source in std::iter::once(&one.source).chain(&one.also) {
                match Grant::of(source, self.shared.hasher.hash(auth)) {
                    Grant::Secret(secret) => secrets.push(Presented { secret, old_hash: Hasher::old(auth) }),
                    Grant::Account(account) => accounts.push(account),
                    Grant::Node => {}
                }
            }
        }
        let verdict = self.judge(image, image_ref, (secrets, accounts)).await.0;
        self.count(verdict)
    }

    /// The same where the pod's credentials do not matter, so that they need not be looked up: `None` if they do.
    pub async fn verdict_without_credentials(&self, image: &str, image_ref: &str) -> Option<Verdict> {
        let (verdict, open) = self.judge(image, image_ref, Default::default()).await;
        (verdict != Verdict::MustAuthenticate || !open).then(|| self.count(verdict))
    }

    /// The verdict, and whether somebody's credentials could open the image.
    async fn judge(
        &self,
        image: &str,
        image_ref: &str,
        (secrets, accounts): (Vec<Presented>, Vec<AccountEntry>),
    ) -> (Verdict, bool) {
        if image_ref.is_empty() {
            return (Verdict::MustAuthenticate, false);
        }
        let (image, image_ref, repository) = (image.to_owned(), image_ref.to_owned(), repository(image));
        let judged = self.with_store(move |shared, store| {
            let in_flight = locked(&shared.flights).contains_key(&image);
            let record = store.record(&image_ref);
            let intended = if in_flight { Ok(true) } else { store.intended(&image) };
            let preloaded = repository.as_deref().is_some_and(|name| store.was_preloaded(&image_ref, name));
            let (record, intended) = match (&record, intended) {
                (Ok(record), Ok(intended)) => (Ok(record.as_ref()), intended),
                _ => (Err(()), true),
            };
            let facts = Facts {
                repository: repository.as_deref(),
                record,
                intended,
                preloaded,
                secrets: &secrets,
                accounts: &accounts,
            };
            let (verdict, learned) = decide(&shared.rules, &facts);
            let grants =
                record.ok().flatten().zip(facts.repository).and_then(|(r, name)| r.credential_mapping.get(name));
            let open =
                grants.is_some_and(|g| !g.kubernetes_secrets.is_empty() || !g.kubernetes_service_accounts.is_empty());
            if let (Some(secret), Ok(Some(record)), Some(name)) = (learned, record, facts.repository) {
                learn(store, record, name, secret, shared.clock.now());
            }
            Ok((verdict, open))
        });
        judged.await.unwrap_or((Verdict::Unreadable, false))
    }

    fn count(&self, verdict: Verdict) -> Verdict {
        *locked(&self.shared.checks).entry(verdict).or_default() += 1;
        verdict
    }

    /// After a collection of images that began at `began`: records of images that are gone are removed. `on_node` are
    /// the ids of *all* images of the runtime; a shorter list would open private images to everybody (IMG-243).
    pub async fn prune(&self, on_node: &BTreeSet<String>, began: Timestamp) {
        let (on_node, began) = (on_node.clone(), record::seconds(began));
        let pruned = self.with_store(move |_, store| {
            for record in store.records()? {
                if record.last_updated_time < began && !on_node.contains(&record.image_ref) {
                    store.delete(&record.image_ref)?;
                }
            }
            Ok(())
        });
        if let Err(error) = pruned.await {
            tracing::error!(%error, "records of images that are gone are not removed");
        }
    }

    /// Figures for `/metrics`.
    pub async fn numbers(&self) -> Numbers {
        let counted = self.with_store(|_, store| Ok(store.counts())).await;
        let (intents_on_disk, records_on_disk) = counted.unwrap_or_default();
        Numbers {
            checks: locked(&self.shared.checks).iter().map(|(verdict, count)| (verdict.label(), *count)).collect(),
            intents_on_disk,
            intents_in_memory: locked(&self.shared.flights).len(),
            records_on_disk,
        }
    }

    /// Runs one thing after the other where it may block.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, &Store) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || work(&shared, &locked(&shared.store)));
        done.await.map_err(io::Error::other)?
    }
}

/// What fits is known better the next time; if that cannot be written the image may be used all the same.
fn learn(store: &Store, record: &Record, repository: &str, secret: SecretEntry, now: Timestamp) {
    if let Some(record) = record.granted(repository, &Grant::Secret(secret), now)
        && let Err(error) = store.write(&record)
    {
        tracing::warn!(image_ref = record.image_ref, %error, "a pull record is not extended");
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("rules", &self.shared.rules).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Intended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intended").field("image", &self.image).finish_non_exhaustive()
    }
}

/// The names under which the runtime knows an image, in one normal form: upstream compares raw texts, so that `nginx`
/// never meets `docker.io/library/nginx:latest` (IMG-239).
fn names(image: &v1::Image) -> BTreeSet<String> {
    image.repo_tags.iter().chain(&image.repo_digests).filter_map(|name| canonical(name)).collect()
}

fn canonical(image: &str) -> Option<String> {
    Reference::parse(image).ok().map(|reference| reference.stored().canonical())
}

fn repository(image: &str) -> Option<String> {
    Reference::parse(image).ok().map(|reference| reference.repository())
}

/// What a panic interrupted is on disk as it was before or after.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
