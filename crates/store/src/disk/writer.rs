//! The writer: the one thread that owns the connection.
//!
//! It takes all requests that wait, decides them one after another on top of the published state, commits them in one
//! transaction (one fsync for all), publishes, and only then answers each caller. Between batches it expires keys and
//! compacts, so nothing else ever writes. After a failed commit that is not just a full disk it refuses to write on:
//! what the disk holds is then known again only by opening the store anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Options;
use super::schema::Database;
use crate::hub::Hub;
use crate::state::{Draft, State};
use crate::{Entry, Error, Expect, Put, Revision, clock};

/// How many requests one transaction takes at most.
const BATCH_LENGTH: usize = 256;

/// How many keys are expired, or log rows removed, in one transaction.
const UPKEEP_BATCH: usize = 256;

/// How long upkeep rests after it failed.
const UPKEEP_REST: Duration = Duration::from_secs(5);

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A request with its place in the queue.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) work: Work,
    pub(super) _place: OwnedSemaphorePermit,
}

/// What can be asked of the writer.
#[derive(Debug)]
pub(super) enum Work {
    Put(Put, Reply<Entry>),
    Delete(String, Expect, Reply<(Entry, Revision)>),
    Compact(Revision, Reply<()>),
    Scrub(Reply<()>),
}

/// A decided request that waits for the commit.
enum Outcome {
    Put(Reply<Entry>, Result<Entry, Error>),
    Delete(Reply<(Entry, Revision)>, Result<(Entry, Revision), Error>),
    Compact(Reply<()>, Result<(), Error>),
    Scrub(Reply<()>),
}

pub(super) struct Writer {
    database: Database,
    hub: Arc<Hub>,
    queue: Receiver<Request>,
    options: Options,
    /// Why no write is possible any more.
    broken: Option<String>,
    /// Where the store was at earlier ticks, oldest first.
    marks: VecDeque<(Instant, Revision)>,
    next_tick: Instant,
    /// There may be compacted rows left in the log.
    untrimmed: bool,
    rest_until: Option<Instant>,
}

impl Writer {
    pub(super) fn new(database: Database, hub: Arc<Hub>, queue: Receiver<Request>, options: Options) -> Writer {
        let now = clock::instant();
        let marks = VecDeque::from([(now, hub.read().revision())]);
        let next_tick = now + options.compact_every;
        Writer { database, hub, queue, options, broken: None, marks, next_tick, untrimmed: true, rest_until: None }
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self) {
        loop {
            match self.queue.recv_timeout(self.wait()) {
                Ok(first) => self.batch(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.upkeep();
        }
    }

    fn batch(&mut self, first: Request) {
        let waiting = std::iter::once(first).chain(self.queue.try_iter()).take(BATCH_LENGTH);
        let requests: Vec<Request> = waiting.collect();
        let (draft, compacted, outcomes, places) = self.decide(requests);
        let committed = self.commit(draft, compacted);
        if compacted.is_some() && committed.is_ok() {
            self.untrimmed = true;
        }
        drop(places);
        for outcome in outcomes {
            match outcome {
                // The writes of its batch are done: a scrub that fails is its caller's failure alone.
                Outcome::Scrub(reply) => drop(reply.send(committed.clone().and_then(|()| self.scrub()))),
                other => other.tell(&committed),
            }
        }
    }

    /// Takes everything off the disk that is not part of the state or of the history any more.
    fn scrub(&mut self) -> Result<(), Error> {
        if let Some(why) = &self.broken {
            return Err(Error::Unavailable(why.clone()));
        }
        while self.untrimmed {
            self.trim()?;
        }
        // Neither changes what is stored, so a failure leaves the store as good as it was.
        self.database.rebuild().map_err(|error| Error::Unavailable(format!("cannot scrub the database: {error}")))
    }

    fn decide(&self, requests: Vec<Request>) -> (Draft, Option<Revision>, Vec<Outcome>, Vec<OwnedSemaphorePermit>) {
        let state = self.hub.read();
        let now_ms = clock::unix_millis();
        let mut draft = Draft::on(&state);
        let mut compacted = None;
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut places = Vec::with_capacity(requests.len());
        for Request { work, _place } in requests {
            places.push(_place);
            outcomes.push(match work {
                Work::Put(put, reply) => Outcome::Put(reply, draft.put(&state, put, now_ms)),
                Work::Delete(key, expect, reply) => Outcome::Delete(reply, draft.delete(&state, &key, expect)),
                Work::Compact(through, reply) => {
                    let decided = compaction(&state, through);
                    compacted = decided.as_ref().ok().copied().flatten().max(compacted);
                    Outcome::Compact(reply, decided.map(|_| ()))
                }
                Work::Scrub(reply) => Outcome::Scrub(reply),
            });
        }
        (draft, compacted, outcomes, places)
    }

    /// Makes the draft durable and then visible. On an error nothing is visible.
    fn commit(&mut self, draft: Draft, compacted: Option<Revision>) -> Result<(), Error> {
        if draft.changes().is_empty() && compacted.is_none() {
            return Ok(());
        }
        if let Some(why) = &self.broken {
            return Err(Error::Unavailable(why.clone()));
        }
        if let Err(error) = self.database.commit(draft.changes(), compacted) {
            return Err(self.failed("commit", error));
        }
        self.hub.publish(draft.into_changes());
        if let Some(compacted) = compacted {
            self.hub.compact(compacted);
        }
        Ok(())
    }

    fn failed(&mut self, attempt: &str, error: rusqlite::Error) -> Error {
        let why = format!("cannot {attempt}: {error}");
        tracing::error!(%error, attempt, "the store cannot write");
        // A full disk is refused before anything is synced, and SQLite has rolled back: later writes may succeed.
        if error.sqlite_error_code() != Some(rusqlite::ErrorCode::DiskFull) {
            self.broken = Some(why.clone());
        }
        Error::Unavailable(why)
    }

    /// How long to wait for requests before there is something else to do.
    fn wait(&self) -> Duration {
        let now = clock::instant();
        if self.broken.is_some() {
            return self.options.compact_every;
        }
        if let Some(rest_until) = self.rest_until {
            return rest_until.saturating_duration_since(now);
        }
        if self.untrimmed {
            return Duration::ZERO;
        }
        let tick = self.next_tick.saturating_duration_since(now);
        let deadline = self.hub.read().next_deadline();
        let expiry = deadline.map(|deadline| Duration::from_millis(deadline.saturating_sub(clock::unix_millis())));
        expiry.map_or(tick, |expiry| expiry.min(tick))
    }

    /// One small step of each chore that is due, so that writers never wait long.
    fn upkeep(&mut self) {
        let now = clock::instant();
        if self.broken.is_some() || self.rest_until.is_some_and(|rest_until| now < rest_until) {
            return;
        }
        let done = self.expire().and_then(|()| self.compact_when_due(now)).and_then(|()| self.trim());
        self.rest_until = done.err().map(|_| now + UPKEEP_REST);
    }

    fn expire(&mut self) -> Result<(), Error> {
        let draft = {
            let state = self.hub.read();
            let mut draft = Draft::on(&state);
            for key in state.due(clock::unix_millis(), UPKEEP_BATCH) {
                draft.delete(&state, &key, Expect::Any)?;
            }
            draft
        };
        self.commit(draft, None)
    }

    fn compact_when_due(&mut self, now: Instant) -> Result<(), Error> {
        let (revision, middle, bytes) = {
            let state = self.hub.read();
            (state.revision(), state.history_middle(), state.history_bytes())
        };
        let mut through = None;
        if bytes > self.options.history_bytes_max {
            through = Some(middle);
        }
        if now >= self.next_tick {
            self.next_tick = now + self.options.compact_every;
            while let Some((at, mark)) = self.marks.front().copied()
                && now.duration_since(at) >= self.options.keep_history
            {
                through = through.max(Some(mark));
                self.marks.pop_front();
            }
            self.marks.push_back((now, revision));
        }
        let Some(through) = through else { return Ok(()) };
        let draft = Draft::on(&self.hub.read());
        self.commit(draft, Some(through))?;
        self.untrimmed = true;
        Ok(())
    }

    fn trim(&mut self) -> Result<(), Error> {
        if !self.untrimmed {
            return Ok(());
        }
        let compacted = self.hub.read().compacted();
        let trimmed = self.database.trim(compacted, UPKEEP_BATCH).map_err(|error| self.failed("trim", error))?;
        self.untrimmed = trimmed == UPKEEP_BATCH;
        Ok(())
    }
}

impl Outcome {
    fn tell(self, committed: &Result<(), Error>) {
        // A caller that has gone does not want to know.
        match self {
            Outcome::Put(reply, outcome) => drop(reply.send(committed.clone().and(outcome))),
            Outcome::Delete(reply, outcome) => drop(reply.send(committed.clone().and(outcome))),
            Outcome::Compact(reply, outcome) => drop(reply.send(committed.clone().and(outcome))),
            Outcome::Scrub(reply) => drop(reply.send(committed.clone())),
        }
    }
}

/// The revision to compact through, or `None` if that is done already.
fn compaction(state: &State, through: Revision) -> Result<Option<Revision>, Error> {
    if through > state.revision() {
        return Err(Error::Future { requested: through, current: state.revision() });
    }
    Ok((through > state.compacted()).then_some(through))
}
