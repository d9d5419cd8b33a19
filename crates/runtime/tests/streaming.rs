//! Remote commands and ports over WebSockets, as clients speak them. SPDY is seen in `tests/streaming.rs` of the program.

mod world;

use cri::v1::*;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use world::*;

async fn open(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    tokio_tungstenite::client_async(request, stream).await.expect("upgrade").0
}

/// Everything until the end, by channel.
async fn gather(mut socket: WebSocketStream<TcpStream>) -> [Vec<u8>; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_runs_commands_and_attaches() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "stream");
    let sandbox = sandbox(&client, &pod).await;
    let mut config = container_config(&image, "main", &["cat"]);
    config.stdin = true;
    config.stdin_once = true;
    let id = create(&client, &sandbox, &pod, config).await;
    start(&client, &id).await;
    let exec = async |cmd: &[&str], tty: bool, stdin: bool| {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecRequest { container_id: id.clone(), cmd, tty, stdin, stdout: true, stderr: !tty };
        client.runtime.clone().exec(request).await.unwrap().into_inner().url
    };

    let url = exec(&["sh", "-c", "cat; echo oops >&2; exit 9"], false, true).await;
    let mut socket = open(&url, "v5.channel.k8s.io").await;
    socket.send(Message::Binary(b"\x00hello ".as_slice().into())).await.unwrap();
    socket.send(Message::Binary(b"\x00there".as_slice().into())).await.unwrap();
    socket.send(Message::Binary(b"\xff\x00".as_slice().into())).await.unwrap();
    let [_, stdout, stderr, end] = gather(socket).await;
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"hello there"[..], &b"oops\n"[..]));
    let end: serde_json::Value = serde_json::from_slice(&end).unwrap();
    assert_eq!(end["details"]["causes"][0]["message"], "9");

    let url = exec(
        &["sh", "-c", "test -t 0 && until stty size 2>/dev/null | grep -q '27 91'; do sleep 0.1; done; stty size"],
        true,
        true,
    )
    .await;
    let mut socket = open(&url, "v4.channel.k8s.io").await;
    socket.send(Message::Binary(b"\x04{\"Width\":91,\"Height\":27}".as_slice().into())).await.unwrap();
    let [_, stdout, _, end] = gather(socket).await;
    assert_eq!(String::from_utf8_lossy(&stdout), "27 91\r\n");
    let end: serde_json::Value = serde_json::from_slice(&end).unwrap();
    assert_eq!(end["status"], "Success");

    // An address is good for one use.
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap().split('/').next().unwrap()).await.unwrap();
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "v5.channel.k8s.io".parse().unwrap());
    assert!(tokio_tungstenite::client_async(request, stream).await.is_err());

    let request = AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
    let url = client.runtime.clone().attach(request).await.unwrap().into_inner().url;
    let mut socket = open(&url, "v5.channel.k8s.io").await;
    socket.send(Message::Binary(b"\x00through cat\n".as_slice().into())).await.unwrap();
    socket.send(Message::Binary(b"\xff\x00".as_slice().into())).await.unwrap();
    let [_, stdout, _, _] = gather(socket).await;
    assert_eq!(String::from_utf8_lossy(&stdout), "through cat\n");
    assert_eq!(ended(&client, &id).await.exit_code, 0);
    runtime.tear_down().await.unwrap();
    assert_eq!(world.traces(), [""; 0]);
}

/// A connection to a port of the sandbox: what the server there says to `asked`, and what the error channel says.
async fn forwarded(url: &str, asked: &str) -> [Vec<u8>; 4] {
    let mut socket = open(url, "v4.channel.k8s.io").await;
    let message = [&[0], asked.as_bytes()].concat();
    socket.send(Message::Binary(message.into())).await.unwrap();
    gather(socket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_sandbox_are_reached_by_channels() {
    let world = World::new();
    let runtime = world.runtime().await;
    let client = runtime.client();
    let image = pull(&client, &world.image()).await;
    let pod = sandbox_config(&world, "ports");
    let sandbox = sandbox(&client, &pod).await;
    // One of them on the loopback of each family alone.
    let script = "echo hello > index.html; busybox httpd -p 127.0.0.1:8080; busybox httpd -f -p '[::1]:8081'";
    let id = create(&client, &sandbox, &pod, container_config(&image, "main", &["sh", "-c", script])).await;
    start(&client, &id).await;
    let listening = "until grep -q :1F90 /proc/net/tcp && grep -q :1F91 /proc/net/tcp6; do sleep 0.1; done";
    let cmd = ["sh", "-c", listening].map(str::to_owned).into();
    let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 60 };
    client.runtime.clone().exec_sync(request).await.expect("the servers listen");
    let ask = async |port: &[i32]| {
        let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: port.to_vec() };
        client.runtime.clone().port_forward(request).await
    };

    for port in [8080, 8081] {
        let url = ask(&[port]).await.unwrap().into_inner().url;
        let [data, error, ..] = forwarded(&url, "GET / HTTP/1.0\r\n\r\n").await;
        let number = u16::try_from(port).unwrap().to_le_bytes();
        assert_eq!((&data[..2], error.as_slice()), (&number[..], &number[..]), "each channel names the port first");
        assert!(data.ends_with(b"hello\n"), "{port}: {}", String::from_utf8_lossy(&data));
    }

    let url = ask(&[9]).await.unwrap().into_inner().url;
    let [data, error, ..] = forwarded(&url, "x").await;
    assert_eq!(data, 9_u16.to_le_bytes());
    let error = String::from_utf8_lossy(&error[2..]).into_owned();
    assert!(error.starts_with("error forwarding port 9 to pod") && error.contains("refused"), "{error}");

    client.runtime.clone().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    assert_eq!(ask(&[8080]).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    runtime.tear_down().await.unwrap();
}
