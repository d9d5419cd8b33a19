//! Asking registries that did not serve whether they answer again: anonymous, `GET /v2/`, ever so rarely (IMG-77).
//!
//! [`Watchlist`] is the pure core: whom to ask when, and which answers are news. [`run`] is the shell: it connects, sends
//! no credential and no image name, and looks at the status line only. Start at [`Registries::failed`].

use super::{Cause, Causes, Class};
use crate::{pod::clock::Clock, probes::tls};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Between two questions to one host, and between a failed pull and the first.
pub const ASK_PERIOD: SignedDuration = SignedDuration::from_secs(5);
/// A host at which nothing failed for so long is asked no more; the longest back-off is shorter.
const FORGET: SignedDuration = SignedDuration::from_secs(600);
/// A host that has not answered by then is silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// At most so many hosts are kept; further ones only have their back-off.
const HOSTS_MAX: usize = 256;
const QUEUE_LENGTH: usize = 256;

/// What a host said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing that is HTTP.
    Silent,
    /// HTTP.
    Said {
        /// The status code.
        status: u16,
        /// Hash of the certificate that it showed, if it spoke TLS.
        certificate: Option<[u8; 32]>,
    },
}

/// The hosts at which pulls failed.
///
/// ```text
/// Failing ──news──► Answering (not asked any more) ──a pull fails again──► Doubted ──silence──► Failing
/// ```
#[derive(Debug, Default)]
pub struct Watchlist {
    hosts: BTreeMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    class: Class,
    trust: Trust,
    failed_at: Timestamp,
    /// The last contact: a failed pull or a question.
    met_at: Timestamp,
    is_being_asked: bool,
    /// For TLS: what it showed at the first question after the failure.
    shown: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// An answer is news.
    Failing,
    /// It has answered; pulls are tried.
    Answering,
    /// It answered and a pull failed all the same: only an answer after silence is news again.
    Doubted,
}

impl Watchlist {
    /// A pull failed at this host.
    pub fn failed(&mut self, host: &str, class: Class, now: Timestamp) {
        if !class.is_unreachable() || host.is_empty() {
            return;
        }
        if !self.hosts.contains_key(host) && self.hosts.len() >= HOSTS_MAX {
            return;
        }
        let fresh =
            Host { class, trust: Trust::Failing, failed_at: now, met_at: now, is_being_asked: false, shown: None };
        let known = self.hosts.entry(host.to_owned()).or_insert(fresh);
        if known.trust == Trust::Answering {
            known.trust = Trust::Doubted;
        }
        if known.class != class {
            known.shown = None;
        }
        (known.class, known.failed_at) = (class, now);
        known.met_at = known.met_at.max(now);
    }

    /// The hosts to ask now; they count as asked.
    pub fn ask(&mut self, now: Timestamp) -> Vec<String> {
        self.hosts.retain(|_, host| now.duration_since(host.failed_at) <= FORGET);
        let mut due = Vec::new();
        for (name, host) in &mut self.hosts {
            if host.due_at().is_some_and(|at| at <= now) {
                (host.is_being_asked, host.met_at) = (true, now);
                due.push(name.clone());
            }
        }
        due
    }

    /// When the next host is to be asked.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.hosts.values().filter_map(Host::due_at).min()
    }

    /// Takes in an answer; true if pulls from this host are worth a try.
    #[must_use]
    pub fn take(&mut self, name: &str, answer: Answer) -> bool {
        let Some(host) = self.hosts.get_mut(name) else { return false };
        host.is_being_asked = false;
        let serves = host.serves(answer);
        match (host.trust, serves) {
            (Trust::Failing, true) => {
                host.trust = Trust::Answering;
                host.shown = None;
                true
            }
            (Trust::Doubted, false) => {
                host.trust = Trust::Failing;
                false
            }
            _ => false,
        }
    }
}

impl Host {
    fn due_at(&self) -> Option<Timestamp> {
        (self.trust != Trust::Answering && !self.is_being_asked).then(|| self.met_at + ASK_PERIOD)
    }

    /// Whether the answer says that what failed is over.
    fn serves(&mut self, answer: Answer) -> bool {
        match (self.class, answer) {
            // Whether a certificate is trusted is for the runtime to say; that it changed is worth a try.
            (Class::Tls, _) => match self.shown {
                None => {
                    self.shown = Some(answer);
                    false
                }
                Some(shown) => certificate(shown) != certificate(answer) && answer != Answer::Silent,
            },
            (_, Answer::Silent) => false,
            (Class::Server, Answer::Said { status, .. }) => status < 500,
            (_, Answer::Said { .. }) => true,
        }
    }
}

fn certificate(answer: Answer) -> Option<[u8; 32]> {
    match answer {
        Answer::Silent => None,
        Answer::Said { certificate, .. } => certificate,
    }
}

/// Where failed pulls are told. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Registries {
    queue: mpsc::Sender<(String, Class)>,
}

/// The other end, for [`run`].
#[derive(Debug)]
pub struct Failed {
    queue: mpsc::Receiver<(String, Class)>,
}

impl Registries {
    /// Both ends.
    pub fn new() -> (Self, Failed) {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        (Self { queue: sender }, Failed { queue: receiver })
    }

    /// A pull failed; never waits. What finds no place in the queue has its back-off all the same.
    pub fn failed(&self, host: &str, class: Class) {
        if class.is_unreachable() {
            let _ = self.queue.try_send((host.to_owned(), class));
        }
    }
}

/// Asks hosts until cancelled, and tells when one answers again.
pub async fn run(mut failed: Failed, causes: Causes, clock: Clock, cancel: CancellationToken) {
    let mut list = Watchlist::default();
    let mut questions: JoinSet<(String, Answer)> = JoinSet::new();
    loop {
        for host in list.ask(clock.now()) {
            questions.spawn(async move {
                let answer = timeout(ANSWER_TIMEOUT, ask(&host)).await;
                (host, answer.unwrap_or(Answer::Silent))
            });
        }
        let pause = list.next_at().map_or(Duration::from_secs(3600), |at| {
            at.duration_since(clock.now()).try_into().unwrap_or(Duration::ZERO)
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            told = failed.queue.recv() => match told {
                Some((host, class)) => list.failed(&host, class, clock.now()),
                None => return,
            },
            Some(answered) = questions.join_next() => {
                if let Ok((host, answer)) = answered
                    && list.take(&host, answer)
                {
                    causes.tell(Cause::Registry { host });
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Where a host is asked, and in which ways one after another (IMG-133).
#[derive(Debug, PartialEq, Eq)]
struct Place {
    name: String,
    port: u16,
    schemes: &'static [Scheme],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Https,
    Http,
}

fn place(host: &str) -> Option<Place> {
    let (host, is_plain) = match host.strip_prefix("http://") {
        Some(rest) => (rest, true),
        None => (host.strip_prefix("https://").unwrap_or(host), false),
    };
    let host = host.split('/').next().unwrap_or_default();
    let authority: http::uri::Authority = host.parse().ok()?;
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    // A failure of the first way to a loopback host says nothing of the second.
    let schemes: &[Scheme] = match (is_plain, is_loopback(&name), authority.port_u16()) {
        (true, ..) | (_, true, Some(80)) => &[Scheme::Http],
        (_, true, Some(port)) if port != 443 => &[Scheme::Https, Scheme::Http],
        _ => &[Scheme::Https],
    };
    let default = if schemes == [Scheme::Http] { 80 } else { 443 };
    Some(Place { name, port: authority.port_u16().unwrap_or(default), schemes })
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn ask(host: &str) -> Answer {
    let Some(place) = place(host) else { return Answer::Silent };
    for scheme in place.schemes {
        let answer = ask_by(&place, *scheme).await;
        if let Some(answer) = answer {
            return answer;
        }
    }
    Answer::Silent
}

async fn ask_by(place: &Place, scheme: Scheme) -> Option<Answer> {
    let stream = TcpStream::connect((place.name.as_str(), place.port)).await.ok()?;
    match scheme {
        Scheme::Http => status(stream, place).await.map(|status| Answer::Said { status, certificate: None }),
        Scheme::Https => {
            let name = ServerName::try_from(place.name.clone()).ok()?;
            let stream = tls::connect_as(stream, name).await.ok()?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.map(|certificate| Sha256::digest(certificate.as_ref()).into());
            status(stream, place).await.map(|status| Answer::Said { status, certificate })
        }
    }
}

/// `GET /v2/` and its status.
async fn status(stream: impl AsyncRead + AsyncWrite + Unpin + Send, place: &Place) -> Option<u16> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = http::Request::get("/v2/")
        .header(http::header::HOST, format!("{}:{}", place.name, place.port))
        .header(http::header::USER_AGENT, "sampan")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = async move { sender.send_request(request).await.ok().map(|answer| answer.status().as_u16()) };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        // The answer may come with the end of the connection; it counts.
        biased;
        status = &mut answer => status,
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn said(status: u16) -> Answer {
        Answer::Said { status, certificate: None }
    }

    fn shown(byte: u8) -> Answer {
        Answer::Said { status: 401, certificate: Some([byte; 32]) }
    }

    #[test]
    fn a_host_is_asked_at_most_every_five_seconds_however_many_pulls_fail_there() {
        let mut list = Watchlist::default();
        let mut asked = Vec::new();
        for second in 0..30 {
            list.failed("r", Class::Refused, at(second / 10 * 10));
            for host in list.ask(at(second)) {
                asked.push(second);
                assert!(!list.take(&host, Answer::Silent));
            }
        }
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 5), "{asked:?}");
        assert_eq!(asked, [5, 15, 25]);
    }

    #[test]
    fn only_hosts_that_did_not_serve_are_asked() {
        let mut list = Watchlist::default();
        for class in [Class::Credentials, Class::NotFound, Class::RateLimit, Class::Disk, Class::Invalid] {
            list.failed("r", class, at(0));
        }
        assert_eq!(list.next_at(), None);
        for class in [Class::Dns, Class::Refused, Class::Timeout, Class::Tls, Class::Server] {
            let mut list = Watchlist::default();
            list.failed("r", class, at(0));
            assert_eq!(list.next_at(), Some(at(5)), "{class:?}");
        }
    }

    #[test]
    fn an_answer_is_news_once_and_again_only_after_silence() {
        let mut list = Watchlist::default();
        list.failed("r", Class::Refused, at(0));
        assert_eq!(list.ask(at(5)), ["r"]);
        assert_eq!(list.next_at(), None, "one question at a time");
        assert!(!list.take("r", Answer::Silent));
        assert_eq!(list.ask(at(10)), ["r"]);
        assert!(list.take("r", said(401)));
        assert_eq!(list.next_at(), None, "it answers");
        list.failed("r", Class::Refused, at(11));
        list.ask(at(16));
        assert!(!list.take("r", said(200)), "it answered before, and the pull failed");
        list.ask(at(21));
        assert!(!list.take("r", Answer::Silent));
        list.ask(at(26));
        assert!(list.take("r", said(200)));
    }

    #[test]
    fn a_server_error_is_no_answer_where_that_was_the_failure() {
        let mut list = Watchlist::default();
        list.failed("r", Class::Server, at(0));
        list.ask(at(5));
        assert!(!list.take("r", said(503)));
        list.ask(at(10));
        assert!(list.take("r", said(404)));
    }

    #[test]
    fn another_certificate_is_worth_a_try() {
        let mut list = Watchlist::default();
        list.failed("r", Class::Tls, at(0));
        for (answer, news) in [(shown(1), false), (Answer::Silent, false), (shown(1), false), (shown(2), true)] {
            assert_eq!(list.take("r", answer), news, "{answer:?}");
        }
    }

    #[test]
    fn a_host_at_which_nothing_fails_any_more_is_forgotten() {
        let mut list = Watchlist::default();
        list.failed("r", Class::Dns, at(0));
        assert_eq!(list.ask(at(601)), Vec::<String>::new());
        assert_eq!(list.next_at(), None);
    }

    #[test]
    fn http_is_spoken_with_loopback_and_where_the_runtime_says_so() {
        let look = |host: &str| place(host).map(|place| (place.name, place.port, place.schemes.to_vec()));
        use Scheme::*;
        for (host, wanted) in [
            ("reg.test", ("reg.test", 443, vec![Https])),
            ("reg.test:5000", ("reg.test", 5000, vec![Https])),
            ("http://reg.test:5000", ("reg.test", 5000, vec![Http])),
            ("https://reg.test/v2", ("reg.test", 443, vec![Https])),
            ("localhost:5000", ("localhost", 5000, vec![Https, Http])),
            ("https://127.0.0.1:5000", ("127.0.0.1", 5000, vec![Https, Http])),
            ("127.0.0.1:80", ("127.0.0.1", 80, vec![Http])),
            ("localhost", ("localhost", 443, vec![Https])),
            ("[::1]:5000", ("::1", 5000, vec![Https, Http])),
        ] {
            assert_eq!(look(host), Some((wanted.0.to_owned(), wanted.1, wanted.2)), "{host}");
        }
        assert_eq!(look(""), None);
    }

    #[tokio::test]
    async fn a_registry_that_begins_to_listen_is_told() {
        // Taken, and nobody listens there yet.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(ask(&address.to_string()).await, Answer::Silent);
        let listener = socket.listen(16).unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut requests = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                if text.starts_with("GET /v2/ HTTP/1.1") {
                    stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    requests.push(text);
                    return requests;
                }
            }
            requests
        });
        assert_eq!(ask(&address.to_string()).await, said(401));
        let requests = server.join_next().await.unwrap().unwrap();
        assert!(!requests[0].to_lowercase().contains("authorization"), "{requests:?}");
    }
}
