//! What follows from the stored objects under a prefix, at hand and as new as the store.
//!
//! It is brought up to date before each question, by polling a watch that costs a lock and a load while nothing happens:
//! what was written counts for the next request (docs/decisions/0324). Start at [`Followed::ask`].

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use store::{Entry, Event, List, Store, Watch};

/// What is kept of the objects.
pub trait Index: Default + Send {
    /// Beginning of the keys of all of them.
    const PREFIX: &str;

    /// Takes a stored object in, also in place of an earlier version of it.
    fn put(&mut self, entry: &Entry);

    /// Forgets the object under a key.
    fn remove(&mut self, key: &str);
}

/// An index that follows the store.
#[derive(Default)]
pub struct Followed<I> {
    kept: Mutex<Kept<I>>,
}

#[derive(Default)]
struct Kept<I> {
    index: I,
    /// What has happened since; None before the first reading, or when it was too much.
    watch: Option<Watch>,
}

impl<I: Index> Kept<I> {
    /// Takes in what has happened; false if everything has to be read again.
    fn follow(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        loop {
            match watch.next().now_or_never() {
                None => return true,
                Some(Some(Ok(events))) => {
                    for event in events {
                        match &*event {
                            Event::Put { entry, .. } => self.index.put(entry),
                            Event::Delete { previous, .. } => self.index.remove(&previous.key),
                        }
                    }
                }
                Some(Some(Err(_)) | None) => {
                    self.watch = None;
                    return false;
                }
            }
        }
    }
}

impl<I: Index> Followed<I> {
    /// Asks the index, as new as the store.
    pub async fn ask<T>(&self, store: &dyn Store, question: impl FnOnce(&mut I) -> T) -> Result<T, store::Error> {
        loop {
            {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.follow() {
                    return Ok(question(&mut kept.index));
                }
            }
            let read = read(store).await?;
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = read;
        }
    }
}

async fn read<I: Index>(store: &dyn Store) -> Result<Kept<I>, store::Error> {
    let page = store.list(List { prefix: I::PREFIX.to_owned(), ..List::default() }).await?;
    let watch = store.watch(I::PREFIX, page.revision).await?;
    let mut index = I::default();
    page.items.iter().for_each(|entry| index.put(entry));
    Ok(Kept { index, watch: Some(watch) })
}
