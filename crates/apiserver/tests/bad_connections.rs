//! Clients that are slow, silent, greedy or wild, over real sockets: each is cut off by a limit, and nobody else notices.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods)] // Measures of real time against real sockets.

use std::time::{Duration, Instant};

use apiserver::Options;
use axum::body::Body;
use futures_util::StreamExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use wire::frames::{self, END_HEADERS, END_STREAM, frame};
use wire::{MAPS, PATIENCE, PODS, Wire, refusal};

mod pki;
mod wire;

/// Short, so that nobody has to wait for them; far above what a machine that is busy needs.
const SHORT: Duration = Duration::from_millis(1500);
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

fn short(options: &mut Options) {
    let limits = &mut options.limits;
    (limits.handshake, limits.header, limits.idle, limits.request) = (SHORT, SHORT, SHORT * 2, SHORT);
}

async fn wire() -> Wire {
    Wire::start(short).await
}

/// Reads until the end; what was said, and when the end came.
async fn end(stream: &mut (impl AsyncReadExt + Unpin), began: Instant) -> (Vec<u8>, Duration) {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    // An end without good-bye is an end.
    let _ = read.expect("the connection is cut");
    (said, began.elapsed())
}

/// Sends one byte after the other, slowly, until the other side has gone.
async fn trickle(write: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if write.write_all(&[*byte]).await.is_err() || write.flush().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let wire = wire().await;
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let began = Instant::now();
        let mut silent = TcpStream::connect(wire.address).await.unwrap();
        silent.write_all(bytes).await.unwrap();
        wire.others_are_served().await;
        assert!(end(&mut silent, began).await.1 >= SHORT);
    }
    let began = Instant::now();
    let (mut read, mut write) = TcpStream::connect(wire.address).await.unwrap().into_split();
    // The length of a record of 16 KiB that never comes to its end.
    let dribble = [&b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03"[..], &[0; 100]].concat();
    tokio::select! {
        (_, after) = end(&mut read, began) => assert!(after >= SHORT, "{after:?}"),
        () = trickle(&mut write, &dribble) => assert!(began.elapsed() >= SHORT),
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut() {
    let wire = wire().await;
    let preface = &frames::PREFACE[..10];
    let endless = [frames::begin(&[]), frame(frames::HEADERS, END_STREAM, 1, &frames::get("/api"))].concat();
    for (what, protocol, bytes) in [
        ("nothing", &b"http/1.1"[..], &b""[..]),
        ("half a line", b"http/1.1", b"GET /ap"),
        ("half a head", b"http/1.1", b"GET /api HTTP/1.1\r\nhost: x\r\nx: "),
        ("half a preface to who speaks HTTP/1.1", b"http/1.1", preface),
        ("nothing in HTTP/2", b"h2", b""),
        ("half a preface", b"h2", preface),
        ("no request", b"h2", &frames::begin(&[])),
        ("headers that go on", b"h2", &endless),
    ] {
        for who in [None, Some(&wire.admin)] {
            let began = Instant::now();
            let mut stream = wire.connect(who, protocol).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let (said, after) = end(&mut stream, began).await;
            assert!(after >= SHORT, "{what}: {after:?}");
            assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 200"), "{what}");
        }
    }
    let began = Instant::now();
    let stream = wire.connect(None, b"http/1.1").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_all(b"GET /api HTTP/1.1\r\n").await.unwrap();
    tokio::select! {
        (_, after) = end(&mut read, began) => assert!(after >= SHORT, "{after:?}"),
        () = trickle(&mut write, b"x: y\r\n") => {}
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_given_up() {
    let wire = wire().await;
    let slow = || {
        let bytes = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(" "), ()))
        });
        Body::from_stream(bytes)
    };
    let status = (504, "Timeout", "Timeout: request did not complete within the allotted timeout");
    for (method, path) in [(Method::POST, MAPS.to_owned()), (Method::DELETE, format!("{MAPS}/x"))] {
        let answer = wire.write(method, &path, "application/json", slow()).await;
        assert_eq!(refusal(&answer), status);
    }
    let request = Request::post(MAPS).header("content-type", "application/json").body(slow()).unwrap();
    let (code, _, body) = wire.send_h2(Some(&wire.admin), request).await.unwrap();
    assert_eq!(refusal(&(code, body)), status);
    let request = Request::post(MAPS).header("content-type", "application/json").body(slow()).unwrap();
    let (code, _, _) = wire.send(None, request).await;
    assert_eq!(code, 401, "of a stranger nothing is awaited");
    wire.others_are_served().await;
}

/// A watch over HTTP/1.1 whose answer has begun.
async fn watch(wire: &Wire) -> TlsStream<TcpStream> {
    let mut stream = wire.connect(Some(&wire.admin), b"http/1.1").await.unwrap();
    let request = format!("GET {MAPS}?watch=true HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

/// Writes one object again and again, so that its watchers have so many bytes to read.
async fn events(wire: &Wire, count: usize, bytes: usize) {
    let data = |i: usize| json!({"metadata": {"name": "busy"}, "data": {"n": i.to_string(), "x": "x".repeat(bytes)}});
    let door = wire.server.router_as(apiserver::UserInfo::admin());
    for i in 0..count {
        let request = Request::put(format!("{MAPS}/busy")).header("content-type", "application/json");
        let request = request.body(Body::from(data(i).to_string())).unwrap();
        let answer = tower::ServiceExt::oneshot(door.clone(), request).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn a_watcher_that_never_reads_is_cut_and_one_that_waits_is_not() {
    let wire = wire().await;
    assert_eq!(wire.post(MAPS, json!({"metadata": {"name": "busy"}}).to_string()).await.0, 201);
    let mut deaf = watch(&wire).await;
    let mut patient = watch(&wire).await;
    let began = Instant::now();
    let reads = async {
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        while began.elapsed() < SHORT * 4 || (bytes <= 200 * (64 << 10) && began.elapsed() < PATIENCE) {
            let read = tokio::time::timeout(SHORT, patient.read(&mut buffer)).await;
            bytes += read.map_or(0, |read| read.expect("it lives"));
        }
        bytes
    };
    let (bytes, ()) = tokio::join!(reads, events(&wire, 200, 64 << 10));
    assert!(bytes > 200 * (64 << 10), "who reads gets all: {bytes}");
    wire.others_are_served().await;
    // It talks, so that it learns of the end without reading.
    let cut = tokio::time::timeout(PATIENCE, trickle(&mut deaf, b"\r\n")).await;
    assert!(cut.is_ok(), "who never reads is borne");
    // What the kernel held, and no more.
    let (said, _) = end(&mut deaf, began).await;
    assert!(said.len() < 200 * (64 << 10) * 3 / 4, "{}", said.len());
    events(&wire, 1, 10).await;
    let mut last = vec![0; 1 << 10];
    assert!(patient.read(&mut last).await.unwrap() > 0, "who waits is told");
}

#[tokio::test]
async fn a_window_that_is_never_opened_ends_its_connection() {
    let wire = wire().await;
    assert_eq!(wire.post(MAPS, json!({"metadata": {"name": "busy"}}).to_string()).await.0, 201);
    // SETTINGS_INITIAL_WINDOW_SIZE: 0.
    let begin = frames::begin(&[(4, 0)]);
    for path in [MAPS.to_owned(), format!("{MAPS}?watch=true"), "/openapi/v2".to_owned()] {
        let requests: Vec<u8> = (0..50).flat_map(|i| frames::request(i * 2 + 1, &path)).collect();
        let stream = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
        let first = [begin.clone(), requests].concat();
        let silent = frames::flood(stream, first, (Vec::new(), 0), PATIENCE);
        let ((frames, closed), ()) = tokio::join!(silent, events(&wire, 20, 1000));
        assert!(closed, "{path}");
        let data: usize = frames.iter().filter(|f| f.kind == frames::DATA).map(|f| f.payload.len()).sum();
        assert_eq!(data, 0, "{path}");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn idle_connections_end_and_running_requests_keep_theirs() {
    let wire = wire().await;
    let began = Instant::now();
    let (mut quiet, mut watching) = (Vec::new(), Vec::new());
    for kept in [false, true] {
        let stream = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        let connection = tokio::spawn(connection);
        let path =
            if kept { format!("https://localhost{MAPS}?watch=true") } else { "https://localhost/api".to_owned() };
        let answer = sender.send_request(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        match kept {
            true => watching.push((answer, sender, connection)),
            false => {
                answer.into_body().collect().await.unwrap();
                quiet.push((sender, connection));
            }
        }
    }
    for (_sender, connection) in quiet {
        let ended = tokio::time::timeout(PATIENCE, connection).await.expect("an idle connection ends");
        assert!(ended.unwrap().is_ok(), "with a good-bye");
        assert!(began.elapsed() >= SHORT * 2);
    }
    while began.elapsed() < SHORT * 5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (mut answer, _sender, connection) in watching {
        assert!(!connection.is_finished(), "a watch without events is not idle");
        assert_eq!(wire.post(MAPS, json!({"metadata": {"name": "new"}}).to_string()).await.0, 201);
        let event = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(event.starts_with(b"{\"type\":\"ADDED\""), "{event:?}");
    }
}

#[tokio::test]
async fn whoever_takes_all_places_and_says_nothing_loses_them() {
    let wire = Wire::start(|options| {
        short(options);
        options.limits.connections = 40;
    })
    .await;
    let mut idle = Vec::new();
    for i in 0..40 {
        let stream = TcpStream::connect(wire.address).await.unwrap();
        if i % 2 == 0 {
            idle.push((Some(stream), None));
        } else {
            drop(stream);
            idle.push((None, wire.connect(None, b"h2").await.ok()));
        }
    }
    let more = futures_util::stream::iter(0..40).then(|_| TcpStream::connect(wire.address));
    let more: Vec<_> = more.collect().await;
    wire.others_are_served().await;
    drop((idle, more));
}

#[tokio::test]
async fn requests_beyond_those_in_flight_are_429_and_administrators_are_served() {
    let wire = Wire::start(|options| (options.limits.reads, options.limits.writes) = (2, 1)).await;
    let someone = wire.pki.client("someone", "");
    let open = |i: usize| {
        let request = format!(
            "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews HTTP/1.1\r\nhost: x\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            100 + i
        );
        let (wire, someone) = (&wire, &someone);
        async move {
            let mut stream = wire.connect(Some(someone), b"http/1.1").await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        }
    };
    let mut held = open(0).await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let refused = async {
        loop {
            let request =
                Request::post(path).header("content-type", "application/json").body(Body::from("{}")).unwrap();
            let (code, headers, status) = wire.send(Some(&someone), request).await;
            if code == 429 {
                return (headers, status);
            }
        }
    };
    let (headers, status) = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(headers["retry-after"], "1");
    let words = "Too many requests, please try again later.";
    assert_eq!(refusal(&(429, status)), (429, "TooManyRequests", words));
    let read = Request::get("/api").body(Body::empty()).unwrap();
    assert_eq!(wire.send(Some(&someone), read).await.0, 200, "reads have turns of their own");
    wire.others_are_served().await;
    held.write_all(format!("{{}}{}", " ".repeat(98)).as_bytes()).await.unwrap();
    let mut head = [0; 12];
    held.read_exact(&mut head).await.unwrap();
    assert_eq!(&head[..10], b"HTTP/1.1 4", "the first one had its turn: the question was empty");
}

/// The error with which the server ends a connection.
async fn ends(wire: &Wire, what: &str, first: Vec<u8>, flood: (Vec<u8>, usize)) -> Option<u32> {
    let stream = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
    let first = [frames::begin(&[]), first].concat();
    let ((frames, closed), ()) = tokio::join!(frames::flood(stream, first, flood, PATIENCE), wire.others_are_served());
    assert!(closed, "{what} is borne: {:?}", frames.iter().map(|f| (f.kind, f.error())).collect::<Vec<_>>());
    frames.iter().rev().find(|f| f.kind == frames::GOAWAY).and_then(|f| f.error())
}

#[tokio::test]
async fn floods_of_http_2_end_their_connection() {
    let wire = wire().await;
    let open = frame(frames::HEADERS, END_STREAM, 1, &frames::get("/api"));
    let more = frame(frames::CONTINUATION, 0, 1, &[0; 16 << 10]);
    let empty = frame(frames::CONTINUATION, 0, 1, &[]).repeat(1000);
    for (what, flood) in [("CONTINUATION", (more, 4096)), ("empty CONTINUATION", (empty, 4096))] {
        let code = ends(&wire, what, open.clone(), flood).await;
        assert!(code.is_none_or(|code| code != 0), "{what}: {code:?}");
    }
    let wide = frame(frames::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(3);
    let wild: [(&str, Vec<u8>); 6] = [
        ("windows that overflow", wide),
        ("a frame that is too long", frame(frames::DATA, 0, 1, &vec![0; 100 << 10])),
        ("settings of an odd length", frame(frames::SETTINGS, 0, 0, &[0; 7])),
        ("data of no stream", frame(frames::DATA, 0, 0, b"x")),
        ("a header block of garbage", frame(frames::HEADERS, END_HEADERS, 1, &[0xff; 200])),
        ("a stream of the server's", frames::request(2, "/api")),
    ];
    for (what, bytes) in wild {
        let code = ends(&wire, what, bytes, (Vec::new(), 0)).await;
        assert!(code.is_some_and(|code| code != 0), "{what}: {code:?}");
    }
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_cost_nobody_else() {
    let wire = Wire::start(|_| {}).await;
    let list = format!("{MAPS}?limit=500");
    let one = |i: u32| [frames::request(i, &list), frame(frames::RST_STREAM, 0, i, &8_u32.to_be_bytes())].concat();
    let resets: Vec<u8> = (0..10_000).flat_map(|i| one(i * 2 + 1)).collect();
    let stream = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
    let first = [frames::begin(&[]), resets].concat();
    let ((frames, closed), ()) =
        tokio::join!(frames::flood(stream, first, (Vec::new(), 0), SHORT), wire.others_are_served());
    // Either it is too much, or each was over when it was taken back: none is answered.
    let answered = frames.iter().filter(|f| f.kind == frames::HEADERS).count();
    let calmed = frames.iter().any(|f| f.kind == frames::GOAWAY && f.error() == Some(ENHANCE_YOUR_CALM));
    assert!(answered < 10_000 && closed == calmed, "{answered} {closed} {calmed}");
    wire.others_are_served().await;
}

#[tokio::test]
async fn streams_beyond_a_hundred_are_refused_one_by_one() {
    let wire = Wire::start(|_| {}).await;
    let watches: Vec<u8> = (0..150).flat_map(|i| frames::request(i * 2 + 1, &format!("{MAPS}?watch=true"))).collect();
    let stream = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
    let first = [frames::begin(&[]), watches].concat();
    let (frames, closed) = frames::flood(stream, first, (Vec::new(), 0), SHORT * 2).await;
    assert!(!closed, "{frames:?}");
    let refused = frames.iter().filter(|f| f.kind == frames::RST_STREAM && f.error() == Some(REFUSED_STREAM)).count();
    let served = frames.iter().filter(|f| f.kind == frames::HEADERS).count();
    assert_eq!((served, refused), (100, 50));
    wire.others_are_served().await;
}

#[tokio::test]
async fn settings_pings_and_tables_are_borne_while_others_are_served() {
    let wire = Wire::start(|_| {}).await;
    let settings = frame(frames::SETTINGS, 0, 0, &[]).repeat(1000);
    let pings = frame(frames::PING, 0, 0, &[7; 8]).repeat(1000);
    // SETTINGS_HEADER_TABLE_SIZE: 4 GiB, then names that would fill it.
    let mut block = frames::get("/api");
    (0..100).for_each(|i| frames::header(&mut block, &format!("x-{i}"), &"v".repeat(100), true));
    let table = frame(frames::SETTINGS, 0, 0, &[&1_u16.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat());
    let tables = [table, frame(frames::HEADERS, END_HEADERS | END_STREAM, 1, &block)].concat();
    for flood in [(settings, 50), (pings, 50), (tables, 1)] {
        let stream = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
        let sends = frames::flood(stream, frames::begin(&[]), flood, SHORT);
        let ((frames, _), ()) = tokio::join!(sends, wire.others_are_served());
        assert!(!frames.is_empty());
    }
    // Who never reads the answers to his pings is not answered without end.
    let mut deaf = wire.connect(Some(&wire.admin), b"h2").await.unwrap();
    deaf.write_all(&frames::begin(&[])).await.unwrap();
    let pings = frame(frames::PING, 0, 0, &[7; 8]).repeat(10_000);
    let mut sent = 0;
    let stuck = async {
        while sent < 1000 && deaf.write_all(&pings).await.is_ok() {
            sent += 1;
        }
    };
    // It is stuck, or was cut.
    let _ = tokio::time::timeout(SHORT * 2, stuck).await;
    assert!(sent < 1000, "170 MB of pings were taken");
    wire.others_are_served().await;
}

#[tokio::test]
async fn streams_to_a_pod_ask_for_an_upgrade_that_is_one() {
    let wire = Wire::start(|_| {}).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(wire.post(PODS, pod.to_string()).await.0, 201);
    for sub in ["exec?command=sh", "attach", "portforward"] {
        let path = format!("{PODS}/p/{sub}");
        for (method, headers, codes) in [
            (Method::GET, vec![("upgrade", "websocket"), ("connection", "upgrade")], [400, 400]),
            (Method::POST, vec![("upgrade", "\t~"), ("connection", "upgrade, close")], [400, 400]),
            (Method::PUT, vec![("upgrade", "SPDY/3.1"), ("connection", "upgrade")], [405, 405]),
            (Method::GET, vec![], [400, 400]),
        ] {
            let mut request = Request::builder().method(method).uri(&path).header("host", "x");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let (code, _, status) = wire.send(Some(&wire.admin), request.body(Body::from("\0garbage")).unwrap()).await;
            assert!(codes.contains(&code), "{path}: {code} {status}");
            refusal(&(code, status));
        }
    }
    wire.others_are_served().await;
}
