//! Registries that take their time: every step with one ends within its bound (IMG-147). Once the peer is reached, time
//! is virtual: it leaps to the next deadline as soon as only the peer could go on.

mod support;

use images::{Images, Options, ProgressSink, PullError, PullRequest};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const DIAL: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The time that one request may wait for the next byte.
const SILENCE: Duration = Duration::from_secs(60);
/// A failed request is made once more, after a pause.
const TRIES: u32 = 2;
const PAUSES: Duration = Duration::from_secs(5);

async fn store(registry: &str, server: &str) -> (Images, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("images"));
    let hosts = directory.path().join("certs.d");
    std::fs::create_dir_all(hosts.join(registry)).unwrap();
    std::fs::write(hosts.join(registry).join("hosts.toml"), format!("server = \"{server}\"\n")).unwrap();
    options.hosts_directories = vec![hosts];
    (Images::open(options).await.unwrap(), directory)
}

/// How long a pull from `server` took until it failed; the error was a time-out that names the host. Until it is
/// `reached` the clock runs: what the kernel does on the way takes real time.
async fn given_up<T>(server: &str, reached: impl Future<Output = T>) -> Duration {
    let (images, _directory) = store("slow.test", server).await;
    let request = PullRequest { image: "slow.test/app:v1".into(), ..PullRequest::default() };
    let began = tokio::time::Instant::now();
    let pull = images.pull(request, ProgressSink::none(), CancellationToken::new());
    tokio::pin!(pull);
    let _peer = tokio::select! {
        biased;
        peer = reached => peer,
        pulled = &mut pull => panic!("{pulled:?}"),
    };
    tokio::time::pause();
    let error = pull.await.unwrap_err();
    assert!(matches!(error, PullError::TimedOut { .. }), "{error:?}");
    assert_eq!((error.class(), error.host()), ("timeout", Some(server)), "{error:?}");
    began.elapsed()
}

async fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_peer_that_never_shakes_hands_ends_by_the_bounds_of_dialling() {
    // It accepts, and never reads.
    let (silent, address) = listening().await;
    let took = given_up(&format!("https://{address}"), silent.accept()).await;
    assert!(took >= HANDSHAKE && took <= TRIES * (DIAL + HANDSHAKE) + PAUSES, "{took:?}");
}

#[tokio::test]
async fn a_peer_that_does_not_even_accept_ends_by_the_bound_of_dialling() {
    let socket = impatient_listener();
    let address = socket.local_addr().unwrap();
    // A queue that is full: the next connection is never answered.
    let _queued: Vec<TcpStream> = (0..2).filter_map(|_| connect_briefly(address)).collect();
    let took = given_up(&format!("http://{address}"), std::future::ready(())).await;
    assert!(took >= DIAL && took <= TRIES * DIAL + PAUSES, "{took:?}");
}

/// A listener whose queue holds one connection.
fn impatient_listener() -> std::net::TcpListener {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, 0).unwrap();
    socket.into()
}

fn connect_briefly(address: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()
}

#[tokio::test]
async fn a_peer_that_never_answers_ends_when_its_time_of_silence_is_over() {
    let (silent, address) = listening().await;
    let took = given_up(&format!("http://{address}"), silent.accept()).await;
    assert!(took >= SILENCE && took <= TRIES * SILENCE + PAUSES, "{took:?}");
}

#[tokio::test]
async fn a_head_that_comes_by_the_byte_is_bounded_as_a_whole() {
    let (listener, address) = listening().await;
    let (sender, reached) = tokio::sync::oneshot::channel();
    let dribble = tokio::spawn(async move {
        let (mut peers, mut sender) = (tokio::task::JoinSet::new(), Some(sender));
        while let Ok((mut peer, _)) = listener.accept().await {
            sender.take().map(|sender| sender.send(()));
            peers.spawn(async move {
                let head = b"HTTP/1.1 200 OK\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'a'));
                for byte in head {
                    if peer.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    });
    let took = given_up(&format!("http://{address}"), reached).await;
    assert!(took >= SILENCE && took <= TRIES * SILENCE + PAUSES, "{took:?}");
    dribble.abort();
}
