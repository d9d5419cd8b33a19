//! logind on the system bus: the lock that delays the machine's shutdown, and the announcements.
//!
//! A leaf of talking; nothing is decided here. Any logind will do: only the interface `org.freedesktop.login1.Manager` is
//! used. The lock is a file descriptor, so that it ends with this process however that ends. Start at [`Logind::run`].

use super::decide::News;
use crate::image::go_duration;
use futures_util::StreamExt as _;
use jiff::SignedDuration;
use std::{num::NonZeroUsize, os::fd::OwnedFd, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant, connection, message};

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";
/// How long the bus and logind may take to answer.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Between two attempts to reach them; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Signals that wait; one comes for each shutdown.
const SIGNALS_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("it is not zero");

/// Why logind cannot be heard.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus.
    #[error("the system bus cannot be reached")]
    Bus(#[source] zbus::Error),
    /// The bus, in time.
    #[error("the system bus does not answer")]
    Silent,
    /// A call.
    #[error("logind cannot be asked for {what}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// The bus's or logind's answer.
        source: zbus::Error,
    },
    /// It went away or came back.
    #[error("logind has gone or was started anew")]
    Restarted,
}

/// What logind says of shutdowns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// One is announced.
    pub is_announced: bool,
    /// So long it waits for those who hold a lock.
    pub delay_max: SignedDuration,
}

impl Look {
    /// What to do where logind waits for a shorter time than the node is told to take.
    pub fn advice(&self, wanted: SignedDuration) -> Option<String> {
        let seconds = wanted.as_secs();
        (self.delay_max < wanted).then(|| {
            let allowed = go_duration(self.delay_max);
            format!(
                "logind waits {allowed} for a shutdown, the pods are to get {}: write \"[Login]\" and \
                 \"InhibitDelayMaxSec={seconds}\" on two lines of /etc/systemd/logind.conf.d/99-sampan.conf, then run \
                 systemctl kill -s HUP systemd-logind",
                go_duration(wanted)
            )
        })
    }
}

/// Asks logind once.
///
/// # Errors
/// When there is no system bus or no logind on it.
pub async fn look() -> Result<Look, Error> {
    Bus::reach().await?.look().await
}

/// What the node hears of shutdowns and holds against them.
pub struct Logind {
    /// How long the node wants the machine to wait.
    pub wanted: SignedDuration,
    /// Whether the lock is to be held.
    pub lock: watch::Receiver<bool>,
    /// Where the news go.
    pub news: mpsc::Sender<News>,
}

impl Logind {
    /// Listens and holds the lock until cancelled. A bus or a logind that goes away is looked for again.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (mut held, mut told, mut pause) = (None, String::new(), PAUSE);
        loop {
            let mut heard = false;
            let session = self.listen(&mut held, &mut heard);
            let Some(Err(error)) = cancel.run_until_cancelled(session).await else { return };
            if heard {
                (told, pause) = (String::new(), PAUSE);
            }
            let text = with_sources(&error);
            if text != told {
                tracing::warn!(error = text, "shutdowns of the machine are not heard of; pods would be killed by one");
                told = text;
            }
            if self.news.send(News::Unheard).await.is_err() {
                return;
            }
            // Started anew, it is there.
            let rest = if matches!(error, Error::Restarted) && heard { Duration::ZERO } else { pause };
            cancel.run_until_cancelled(tokio::time::sleep(rest)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Listens for as long as the bus and logind last.
    async fn listen(&mut self, held: &mut Option<OwnedFd>, heard: &mut bool) -> Result<(), Error> {
        let bus = Bus::reach().await?;
        // Listened to before it is asked, so that nothing is missed between the two.
        let mut signals = bus.signals(manager_signal("PrepareForShutdown")).await?;
        let mut owners = bus.signals(owner_changed()).await?;
        let look = bus.look().await?;
        if let Some(advice) = look.advice(self.wanted) {
            tracing::warn!("{advice}");
        }
        self.tell(look.is_announced).await;
        self.lock.mark_unchanged();
        // What is held from a logind before holds on until there is another one.
        let mut again = self.keep(&bus, held).await;
        *heard = true;
        loop {
            let retry = async {
                match again {
                    true => tokio::time::sleep(PAUSE_MAX).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = signals.next() => {
                    let signal = signal.ok_or(Error::Restarted)?.map_err(Error::Bus)?;
                    if let Ok(is_announced) = signal.body().deserialize::<bool>() {
                        self.tell(is_announced).await;
                    }
                }
                _ = owners.next() => return Err(Error::Restarted),
                Ok(()) = self.lock.changed() => again = self.keep(&bus, held).await,
                () = retry => again = self.keep(&bus, held).await,
            }
        }
    }

    async fn tell(&self, is_announced: bool) {
        let news = if is_announced { News::Announced } else { News::Cancelled };
        // Who hears it may have gone; this task ends then too.
        let _ = self.news.send(news).await;
    }

    /// Takes or drops the lock as is wanted; true if that is to be tried again.
    async fn keep(&mut self, bus: &Bus, held: &mut Option<OwnedFd>) -> bool {
        if !*self.lock.borrow_and_update() {
            if held.take().is_some() {
                tracing::info!("the machine may shut down: the lock is released");
            }
            return false;
        }
        match bus.inhibit().await {
            Ok(lock) => {
                *held = Some(lock);
                tracing::info!("the machine's shutdown waits for this node");
                false
            }
            // logind gives none while it shuts down.
            Err(error) => {
                tracing::warn!(error = with_sources(&error), "the machine's shutdown does not wait for this node");
                true
            }
        }
    }
}

/// A connection to the system bus.
struct Bus(Connection);

impl Bus {
    async fn reach() -> Result<Bus, Error> {
        let builder = connection::Builder::system().method_timeout(CALL_MAX);
        let connection = tokio::time::timeout(CALL_MAX, builder.build()).await.map_err(|_| Error::Silent)?;
        connection.map(Bus).map_err(Error::Bus)
    }

    async fn look(&self) -> Result<Look, Error> {
        let is_announced = self.property("PreparingForShutdown").await?;
        let delay_max: u64 = self.property("InhibitDelayMaxUSec").await?;
        let delay_max = SignedDuration::from_micros(i64::try_from(delay_max).unwrap_or(i64::MAX));
        Ok(Look { is_announced, delay_max })
    }

    async fn property<T>(&self, what: &'static str) -> Result<T, Error>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let failed = |source| Error::Call { what, source };
        let interface = Some("org.freedesktop.DBus.Properties");
        let answer = self.0.call_method(Some(SERVICE), PATH, interface, "Get", &(INTERFACE, what)).await;
        let value: OwnedVariant = answer.and_then(|answer| answer.body().deserialize()).map_err(failed)?;
        T::try_from(value).map_err(|error| failed(error.into()))
    }

    async fn inhibit(&self) -> Result<OwnedFd, Error> {
        let what = "a delay of shutdowns";
        let why = "Pods are stopped in order";
        let body = ("shutdown", "sampan", why, "delay");
        let answer = self.0.call_method(Some(SERVICE), PATH, Some(INTERFACE), "Inhibit", &body).await;
        let lock = answer.and_then(|answer| answer.body().deserialize::<zbus::OwnedFd>());
        lock.map(OwnedFd::from).map_err(|source| Error::Call { what, source })
    }

    async fn signals(&self, rule: zbus::Result<MatchRule<'static>>) -> Result<MessageStream, Error> {
        let stream = async { MessageStream::for_match_rule(rule?, &self.0, Some(SIGNALS_MAX)).await };
        stream.await.map_err(|source| Error::Call { what: "signals", source })
    }
}

fn manager_signal(member: &'static str) -> zbus::Result<MatchRule<'static>> {
    let rule = MatchRule::builder().msg_type(message::Type::Signal).sender(SERVICE).path(PATH);
    rule.interface(INTERFACE).member(member).build()
}

/// logind's name on the bus has another owner, or none.
fn owner_changed() -> zbus::Result<MatchRule<'static>> {
    let bus = "org.freedesktop.DBus";
    let rule = MatchRule::builder().msg_type(message::Type::Signal).sender(bus).interface(bus);
    rule.member("NameOwnerChanged").arg(0, SERVICE).build()
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
