//! The door to a runtime: one clonable tower service, with or without a socket behind it.
//!
//! Owns connecting, message sizes and the client's deadline. Must not interpret calls. Both kinds of door honour the
//! deadline set by `tonic::Request::set_timeout`: the call ends with `DeadlineExceeded` (or `Cancelled` over a socket).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::server::NamedService;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::sampan::pulls_client::PullsClient;
use crate::sampan::pulls_server::{Pulls, PullsServer};
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::image_service_server::{ImageService, ImageServiceServer};
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};

/// The transport of both clients: `Clone + Send + Sync`.
pub type Door = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, StdError>;

/// Largest message in either direction, in bytes. ExecSync alone may carry 16 MiB of each output.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long [`connect`] waits for the socket's other end.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Both services of one runtime. A clone shares the door; the generated clients take `&mut self`, so clone per call.
#[derive(Clone, Debug)]
pub struct Client {
    /// Sandboxes, containers, streams and statistics.
    pub runtime: RuntimeServiceClient<Door>,
    /// Images.
    pub images: ImageServiceClient<Door>,
    /// Pulls with progress; only the embedded runtime answers, others say Unimplemented.
    pub pulls: PullsClient<Door>,
}

impl Client {
    /// A client through a door of the caller's own (a test's, or one with further layers).
    pub fn new(door: Door) -> Client {
        Client {
            runtime: RuntimeServiceClient::new(door.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            images: ImageServiceClient::new(door.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            pulls: PullsClient::new(door),
        }
    }
}

/// Why a runtime's socket could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the socket.
    #[error("connect to the runtime's socket {socket}")]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The endpoint cannot be described.
    #[error("describe the runtime's endpoint")]
    Endpoint(#[source] tonic::transport::Error),
}

/// Connects to a runtime's Unix socket. The first connection is tried at once, so that a wrong path is an error here;
/// later ones are made when a call needs them.
pub async fn connect(socket: &Path) -> Result<Client, ConnectError> {
    let failed = |source| ConnectError::Connect { socket: socket.to_owned(), source };
    match tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::UnixStream::connect(socket)).await {
        Ok(Ok(_probe)) => lazy(socket),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Like [`connect`], but the first connection is made by the first call.
pub fn lazy(socket: &Path) -> Result<Client, ConnectError> {
    let endpoint = tonic::transport::Endpoint::from_shared("http://localhost")
        .map_err(ConnectError::Endpoint)?
        .connect_timeout(CONNECT_TIMEOUT);
    let socket = socket.to_owned();
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    }));
    Ok(Client::new(BoxCloneSyncService::new(channel.map_err(StdError::from))))
}

/// A client whose transport is the server itself: no socket, no task, no copy of the bytes beyond the encoding. Of
/// `sampan.v1` nothing is answered, as other runtimes do.
pub fn in_process<R: RuntimeService, I: ImageService>(runtime: R, images: I) -> Client {
    in_process_with_pulls(runtime, images, NoPulls)
}

/// Answers Unimplemented.
#[derive(Clone)]
struct NoPulls;

impl Pulls for NoPulls {}

/// Like [`in_process`], with a server of `sampan.v1`.
pub fn in_process_with_pulls<R: RuntimeService, I: ImageService, P: Pulls>(runtime: R, images: I, pulls: P) -> Client {
    let pulls = PullsServer::new(pulls);
    let runtime = RuntimeServiceServer::new(runtime)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let images = ImageServiceServer::new(images)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Client::new(BoxCloneSyncService::new(tower::service_fn(move |request: http::Request<Body>| {
        let servers = (runtime.clone(), images.clone(), pulls.clone());
        async move { Ok::<_, StdError>(dispatch(servers, request).await) }
    })))
}

async fn dispatch<R: RuntimeService, I: ImageService, P: Pulls>(
    (runtime, images, pulls): (RuntimeServiceServer<R>, ImageServiceServer<I>, PullsServer<P>),
    request: http::Request<Body>,
) -> http::Response<Body> {
    let deadline = deadline(request.headers());
    let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    let is_image = service == <ImageServiceServer<I> as NamedService>::NAME;
    let is_pulls = service == <PullsServer<P> as NamedService>::NAME;
    let answer = async move {
        let answered = match (is_image, is_pulls) {
            (true, _) => images.oneshot(request).await,
            (_, true) => pulls.oneshot(request).await,
            _ => runtime.oneshot(request).await,
        };
        answered.unwrap_or_else(|never| match never {})
    };
    match deadline {
        None => answer.await,
        Some(limit) => match tokio::time::timeout(limit, answer).await {
            Ok(response) => response,
            Err(_) => tonic::Status::deadline_exceeded("context deadline exceeded").into_http(),
        },
    }
}

/// The `grpc-timeout` of a request: up to eight digits and a unit. None if there is none or it is malformed.
fn deadline(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    struct Slow;

    #[tonic::async_trait]
    impl RuntimeService for Slow {
        async fn version(
            &self,
            request: tonic::Request<v1::VersionRequest>,
        ) -> Result<tonic::Response<v1::VersionResponse>, tonic::Status> {
            if request.get_ref().version == "hang" {
                std::future::pending::<()>().await;
            }
            let version = request.into_inner().version;
            Ok(tonic::Response::new(v1::VersionResponse { version, ..Default::default() }))
        }

        async fn exec_sync(
            &self,
            _: tonic::Request<v1::ExecSyncRequest>,
        ) -> Result<tonic::Response<v1::ExecSyncResponse>, tonic::Status> {
            let stdout = vec![b'x'; 16 << 20];
            Ok(tonic::Response::new(v1::ExecSyncResponse { stdout, ..Default::default() }))
        }
    }

    #[tonic::async_trait]
    impl ImageService for Slow {
        async fn list_images(
            &self,
            _: tonic::Request<v1::ListImagesRequest>,
        ) -> Result<tonic::Response<v1::ListImagesResponse>, tonic::Status> {
            Ok(tonic::Response::new(v1::ListImagesResponse { images: vec![v1::Image::default()] }))
        }
    }

    #[tokio::test]
    async fn both_services_answer_inside_the_process() {
        let mut client = in_process(Slow, Slow);
        let version = client.runtime.version(v1::VersionRequest { version: "v1".into() }).await.unwrap();
        assert_eq!(version.into_inner().version, "v1");
        let images = client.images.list_images(v1::ListImagesRequest::default()).await.unwrap();
        assert_eq!(images.into_inner().images.len(), 1);
    }

    #[tokio::test]
    async fn a_verb_that_is_not_carried_answers_unimplemented() {
        let error = in_process(Slow, Slow).runtime.checkpoint_pod(v1::CheckpointPodRequest::default()).await;
        assert_eq!(error.unwrap_err().code(), tonic::Code::Unimplemented);
    }

    #[tokio::test]
    async fn a_runtime_without_pulls_says_so_and_one_with_them_answers_inside_the_process() {
        use crate::sampan::{PullsSnapshot, WatchPullsRequest};
        struct Idle;
        #[tonic::async_trait]
        impl Pulls for Idle {
            async fn watch_pulls(
                &self,
                _: tonic::Request<WatchPullsRequest>,
            ) -> Result<tonic::Response<crate::Stream<PullsSnapshot>>, tonic::Status> {
                Ok(tonic::Response::new(Box::pin(tokio_stream::iter([Ok(PullsSnapshot::default())]))))
            }
        }
        let error = in_process(Slow, Slow).pulls.watch_pulls(WatchPullsRequest {}).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unimplemented);
        let mut client = in_process_with_pulls(Slow, Slow, Idle);
        let mut told = client.pulls.watch_pulls(WatchPullsRequest {}).await.unwrap().into_inner();
        assert_eq!(told.message().await.unwrap(), Some(PullsSnapshot::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_a_call_holds_without_a_socket() {
        let mut request = tonic::Request::new(v1::VersionRequest { version: "hang".into() });
        request.set_timeout(Duration::from_secs(240));
        let error = in_process(Slow, Slow).runtime.version(request).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn sixteen_mebibytes_of_output_pass() {
        let answer = in_process(Slow, Slow).runtime.exec_sync(v1::ExecSyncRequest::default()).await.unwrap();
        assert_eq!(answer.into_inner().stdout.len(), 16 << 20);
    }

    #[tokio::test]
    async fn the_same_client_works_over_a_socket() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cri.sock");
        assert!(matches!(connect(&socket).await, Err(ConnectError::Connect { .. })));
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(Slow))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(server);
        let mut client = connect(&socket).await.unwrap();
        let version = client.runtime.version(v1::VersionRequest { version: "v1".into() }).await.unwrap();
        assert_eq!(version.into_inner().version, "v1");
    }

    #[test]
    fn malformed_timeouts_are_no_timeouts() {
        let parse = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        for bad in ["", "S", "123456789S", "1x", "-1S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
