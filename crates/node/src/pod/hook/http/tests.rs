//! Servers that redirect, lie, or never end.

use super::*;
use serde_json::json;
use std::sync::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

/// A server that gives every connection the same answer, and what it was asked.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

async fn server(answer: impl Fn(u16) -> String) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
    let (mut tasks, heard, answer) = (JoinSet::new(), seen.clone(), answer(port));
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            heard.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Server { port, seen, _tasks: tasks }
}

fn action(more: serde_json::Value) -> HttpGetAction {
    let mut action = json!({"path": "/hook?token=1", "port": 1, "scheme": "HTTP"});
    action.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(action).unwrap()
}

#[tokio::test]
async fn any_status_is_an_answer_and_an_endless_body_is_not_read() {
    for (status, body) in [(204, ""), (404, ""), (500, "x")] {
        let length = if body.is_empty() { 0 } else { 1_u64 << 40 };
        let server = server(|_| format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        let answer = get(&action(json!({})), "127.0.0.1", server.port).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.plain_instead_of_tls), (status, None));
        let seen = server.seen.lock().unwrap().clone();
        assert!(seen.len() == 1 && seen[0].starts_with("GET /hook?token=1 HTTP/1.1\r\n"), "{seen:?}");
        assert!(seen[0].contains("user-agent: kube-lifecycle/1.36\r\n") && seen[0].contains("accept: */*\r\n"));
    }
}

#[test]
fn an_address_of_version_6_stands_in_brackets() {
    let target = |host: &str| Target { is_tls: true, host: host.into(), port: 8443, path: "/a?b".into() }.url();
    assert_eq!(target("fd00::1"), "https://[fd00::1]:8443/a?b");
    assert_eq!(target("10.0.0.1"), "https://10.0.0.1:8443/a?b");
}

#[tokio::test]
async fn redirects_without_end_end_after_ten() {
    let server = server(|_| "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n".into()).await;
    let error = get(&action(json!({})), "127.0.0.1", server.port).await.unwrap_err();
    assert_eq!(
        (error.text.as_str(), error.outline.as_str()),
        ("stopped after 10 redirects", "stopped after 10 redirects")
    );
    assert_eq!(server.seen.lock().unwrap().len(), 11);
}

#[tokio::test]
async fn a_redirect_to_another_host_is_the_answer() {
    let server = server(|port| format!("HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}/\r\n\r\n")).await;
    let answer = get(&action(json!({})), "127.0.0.1", server.port).await.unwrap();
    assert_eq!((answer.status.as_u16(), server.seen.lock().unwrap().len()), (302, 1));
}

#[tokio::test]
async fn who_answers_https_in_http_is_asked_again_without_credentials() {
    let server = server(|_| "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".into()).await;
    let headers = json!([{"name": "Authorization", "value": "secret"}, {"name": "X-A", "value": "b"}]);
    let action = action(json!({"scheme": "HTTPS", "httpHeaders": headers}));
    let answer = get(&action, "127.0.0.1", server.port).await.unwrap();
    assert_eq!(answer.status.as_u16(), 400);
    assert_eq!(answer.plain_instead_of_tls, Some(format!("127.0.0.1:{}", server.port)));
    let seen = server.seen.lock().unwrap().clone();
    assert!(seen.len() == 2 && seen[1].contains("x-a: b") && !seen[1].contains("secret"), "{seen:?}");
}

#[tokio::test]
async fn what_is_no_http_at_all_is_told_without_its_words() {
    let server = server(|_| "SECRET\r\n\r\n".into()).await;
    let error = get(&action(json!({})), "127.0.0.1", server.port).await.unwrap_err();
    assert_eq!(error.outline, "no HTTP response");
    let tls = get(&action(json!({"scheme": "HTTPS"})), "127.0.0.1", server.port).await.unwrap_err();
    assert_eq!(tls.outline, "no TLS");
    // Taken, and nobody listens there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = get(&action(json!({})), "127.0.0.1", socket.local_addr().unwrap().port()).await.unwrap_err();
    assert_eq!(gone.outline, "no connection");
}
