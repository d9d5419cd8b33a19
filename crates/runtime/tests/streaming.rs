//! Remote commands over WebSockets, as kubectl speaks them.

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

    let url = exec(&["sh", "-c", "test -t 0 && sleep 0.2 && stty size"], true, true).await;
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
