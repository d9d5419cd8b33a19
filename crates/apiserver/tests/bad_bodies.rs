//! Requests that are too large, too deep, too many or garbage, over TLS: refused with upstream's status, in time, and
//! nobody else notices.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods)] // Measures of real time against real sockets.

use std::time::Instant;

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use wire::{MAPS, PATIENCE, PODS, Wire, refusal, talk};

mod pki;
mod wire;

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Upstream's limit.
const LIMIT: usize = 3 << 20;
const TOO_LARGE: &str = "Request entity too large: limit is 3145728";

async fn wire() -> Wire {
    let wire = Wire::start(|_| {}).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
    assert_eq!(wire.post(MAPS, map.to_string()).await.0, 201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(wire.post(PODS, pod.to_string()).await.0, 201);
    wire
}

/// Each is answered in time, also on a busy machine, and others are served after it.
struct Bad {
    what: &'static str,
    method: Method,
    path: String,
    media: &'static str,
    body: Vec<u8>,
}

fn bad(what: &'static str, method: Method, path: &str, media: &'static str, body: impl Into<Vec<u8>>) -> Bad {
    Bad { what, method, path: path.to_owned(), media, body: body.into() }
}

async fn answer(wire: &Wire, bad: Bad) -> (u16, Value) {
    let began = Instant::now();
    let answer = wire.write(bad.method, &bad.path, bad.media, bad.body).await;
    assert!(began.elapsed() < PATIENCE, "{}: {:?}", bad.what, began.elapsed());
    answer
}

/// Refused with code and reason, in words that have `words` in them.
async fn refused(wire: &Wire, bad: Bad, code: u16, words: &str) {
    let what = bad.what;
    let answer = answer(wire, bad).await;
    let reason = match code {
        400 => "BadRequest",
        413 => "RequestEntityTooLarge",
        422 => "Invalid",
        _ => "",
    };
    let text = answer.1.to_string();
    assert!(text.len() < 256 << 10, "{what}: a refusal of {} bytes", text.len());
    let (got, said, message) = refusal(&answer);
    assert_eq!((got, said), (code, reason), "{what}: {message:.300}");
    assert!(message.contains(words), "{what}: {message:.300}");
}

#[tokio::test]
async fn a_body_of_more_than_three_mebibytes_is_413_however_it_is_sent() {
    let wire = wire().await;
    let map = json!({"metadata": {"name": "padded"}}).to_string();
    let padded = |length: usize| format!("{map}{}", " ".repeat(length - map.len()));
    assert_eq!(wire.post(MAPS, padded(LIMIT)).await.0, 201, "the limit itself");
    for (method, path, media) in [
        (Method::POST, MAPS.to_owned(), JSON),
        (Method::PUT, format!("{MAPS}/m"), JSON),
        (Method::PATCH, format!("{MAPS}/m"), MERGE),
        (Method::PATCH, format!("{MAPS}/m"), APPLY),
        (Method::DELETE, format!("{MAPS}/m"), JSON),
        (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(), JSON),
        (Method::POST, format!("{PODS}/p/eviction"), JSON),
    ] {
        let path = if media == APPLY { format!("{path}?fieldManager=t") } else { path };
        refused(&wire, bad("one byte more", method, &path, media, padded(LIMIT + 1)), 413, TOO_LARGE).await;
    }
    let chunks = futures_util::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10])));
    let answer = wire.write(Method::POST, MAPS, JSON, Body::from_stream(chunks)).await;
    assert_eq!(refusal(&answer), (413, "RequestEntityTooLarge", TOO_LARGE), "chunks without a length");
    let zipped = [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], &[0; 1000]].concat();
    let request = Request::post(MAPS).header("content-encoding", "gzip").header("content-type", JSON);
    let (code, _, _) = wire.send(Some(&wire.admin), request.body(Body::from(zipped)).unwrap()).await;
    assert_eq!(code, 400, "nothing is inflated");
    wire.others_are_served().await;
}

fn deep(levels: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels))
}

fn deep_list(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn ten_thousand_levels_are_refused_at_every_door() {
    let wire = wire().await;
    let map = format!("{MAPS}/m");
    let apply = format!("{map}?fieldManager=t");
    let access = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for inner in [deep(10_000), deep_list(10_000)] {
        let meta = "\"metadata\":{\"name\":\"deep\"}";
        for door in [
            bad("object", Method::POST, MAPS, JSON, inner.clone()),
            bad("unknown field", Method::POST, MAPS, JSON, format!("{{{meta},\"x\":{inner}}}")),
            bad("data", Method::PUT, &map, JSON, format!("{{{meta},\"data\":{inner}}}")),
            bad("annotation", Method::POST, MAPS, JSON, format!("{{\"metadata\":{{\"annotations\":{inner}}}}}")),
            bad(
                "JSON patch",
                Method::PATCH,
                &map,
                JSON_PATCH,
                format!("[{{\"op\":\"add\",\"path\":\"/x\",\"value\":{inner}}}]"),
            ),
            bad("merge patch", Method::PATCH, &map, MERGE, format!("{{\"x\":{inner}}}")),
            bad("strategic patch", Method::PATCH, &map, STRATEGIC, format!("{{\"x\":{inner}}}")),
            bad("apply", Method::PATCH, &apply, APPLY, format!("{{{meta},\"x\":{inner}}}")),
            bad("apply in YAML", Method::PATCH, &apply, APPLY, format!("metadata: {{name: m}}\nx: {inner}\n")),
            bad("YAML", Method::POST, MAPS, "application/yaml", format!("metadata: {{name: m}}\nx: {inner}\n")),
            bad("options", Method::DELETE, &map, JSON, format!("{{\"x\":{inner}}}")),
            bad("access review", Method::POST, access, JSON, format!("{{\"spec\":{{\"extra\":{inner}}}}}")),
            bad("eviction", Method::POST, &format!("{PODS}/p/eviction"), JSON, format!("{{\"x\":{inner}}}")),
            bad("binding", Method::POST, &format!("{PODS}/p/binding"), JSON, format!("{{\"target\":{inner}}}")),
        ] {
            refused(&wire, door, 400, "").await;
        }
    }
    let indented: String = (0..1500).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    refused(&wire, bad("deep YAML", Method::PATCH, &apply, APPLY, indented), 400, "YAML").await;
    wire.others_are_served().await;
}

#[tokio::test]
async fn yaml_that_multiplies_itself_is_refused() {
    let wire = wire().await;
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    let long = "x".repeat(1 << 20);
    let copies = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 5000].join(", "));
    let merges = format!("a: &a {{{}}}\n", (0..2000).map(|i| format!("k{i}: v")).collect::<Vec<_>>().join(", "))
        + &(0..2000).map(|i| format!("b{i}: {{<<: *a}}\n")).collect::<String>();
    let itself = "a: &a [*a]\n".to_owned();
    let apply = format!("{MAPS}/m?fieldManager=t");
    for (what, text) in
        [("a billion laughs", laughs), ("copies", copies), ("merges", merges), ("an alias in itself", itself)]
    {
        for (method, path, media) in [(Method::POST, MAPS, "application/yaml"), (Method::PATCH, &apply, APPLY)] {
            let (code, status) = answer(&wire, bad(what, method, path, media, text.clone())).await;
            assert!(matches!(code, 400 | 413), "{what}: {code} {status:.300}");
        }
    }
    wire.others_are_served().await;
}

fn entries(count: usize, entry: impl Fn(usize) -> String) -> String {
    (0..count).map(entry).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn a_hundred_thousand_labels_are_a_large_object_and_nothing_worse() {
    let wire = wire().await;
    let object = |field: &str, entry: fn(usize) -> String| {
        format!("{{\"metadata\":{{\"name\":\"many\",\"{field}\":{{{}}}}}}}", entries(100_000, entry))
    };
    let labels = object("labels", |i| format!("\"k{i}\":\"v{i}\""));
    let (code, made) = answer(&wire, bad("labels", Method::POST, MAPS, JSON, labels)).await;
    assert_eq!((code, made["metadata"]["labels"].as_object().map(serde_json::Map::len)), (201, Some(100_000)));
    let terms = entries(2500, |i| format!("k{}%3Dv{}", i * 40, i * 40));
    let (code, list) = wire.get(&format!("{MAPS}?labelSelector={terms}")).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)), "2,500 terms about 100,000 labels");
    let patch =
        bad("a label more", Method::PATCH, &format!("{MAPS}/many"), MERGE, "{\"metadata\":{\"labels\":{\"x\":\"y\"}}}");
    assert_eq!(answer(&wire, patch).await.0, 200);
    let wrong = object("labels", |i| format!("\"-{i}\":\"_\""));
    refused(&wire, bad("wrong labels", Method::POST, MAPS, JSON, wrong), 422, "name part must consist").await;
    let notes = object("annotations", |i| format!("\"k{i}\":\"v{i}\""));
    let words = "metadata.annotations: Too long: may not be more than 262144 bytes";
    refused(&wire, bad("annotations", Method::POST, MAPS, JSON, notes), 422, words).await;
    let fields = format!("{{{}}}", entries(100_000, |i| format!("\"x{i}\":{i}")));
    let path = format!("{MAPS}?fieldValidation=Strict");
    refused(&wire, bad("unknown fields", Method::POST, &path, JSON, fields), 400, "unknown field \"x0\"").await;
    wire.others_are_served().await;
}

/// A pod with a list of so many in one of its places.
fn lists(count: usize) -> Vec<(&'static str, String)> {
    let pod = |meta: &str, spec: &str, containers: &str| {
        format!("{{\"metadata\":{{\"name\":\"many\"{meta}}},\"spec\":{{\"containers\":[{containers}]{spec}}}}}")
    };
    let one = "{\"name\":\"c\",\"image\":\"i\"}";
    let owner = |i| format!("{{\"apiVersion\":\"v1\",\"kind\":\"A\",\"name\":\"o\",\"uid\":\"{i}\"}}");
    let finalizers = format!(",\"finalizers\":[{}]", entries(count, |i| format!("\"a/f{i}\"")));
    let owners = format!(",\"ownerReferences\":[{}]", entries(count, owner));
    let tolerations = format!(",\"tolerations\":[{}]", entries(count, |i| format!("{{\"key\":\"k{i}\"}}")));
    vec![
        ("finalizers", pod(&finalizers, "", one)),
        ("owners", pod(&owners, "", one)),
        ("tolerations", pod("", &tolerations, one)),
        ("containers", pod("", "", &entries(count, |i| format!("{{\"name\":\"c{i}\",\"image\":\"i\"}}")))),
    ]
}

#[tokio::test]
async fn lists_of_a_hundred_thousand_are_refused() {
    let wire = wire().await;
    let words = "Request entity too large: ";
    for (what, pod) in lists(40_000) {
        refused(&wire, bad(what, Method::POST, PODS, JSON, pod), 413, words).await;
    }
    let text = format!("{{\"metadata\":{{\"finalizers\":[{}]}}}}", entries(100_000, |i| format!("\"a/f{i}\"")));
    for media in [MERGE, STRATEGIC] {
        refused(&wire, bad("patch", Method::PATCH, &format!("{PODS}/p"), media, text.clone()), 413, words).await;
    }
    let path = format!("{PODS}/p?fieldManager=t");
    refused(&wire, bad("apply", Method::PATCH, &path, APPLY, text), 413, words).await;
    let empty = format!(
        "{{\"metadata\":{{\"name\":\"e\"}},\"x\":[{}]}}",
        entries(9000, |_| "{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":{\"f\":{\"g\":{}}}}}}}}".to_owned())
    );
    refused(&wire, bad("small maps", Method::POST, MAPS, JSON, empty), 413, "bytes of memory").await;
    wire.others_are_served().await;
}

#[tokio::test]
async fn the_longest_lists_are_answered_in_time() {
    let wire = wire().await;
    for (what, pod) in lists(3000) {
        let (code, status) = answer(&wire, bad(what, Method::POST, &format!("{PODS}?dryRun=All"), JSON, pod)).await;
        assert!(matches!(code, 201 | 422), "{what}: {code} {status:.300}");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn json_patches_are_no_programs() {
    let wire = wire().await;
    let map = format!("{MAPS}/m");
    let patch = |operations: String| bad("JSON patch", Method::PATCH, &map, JSON_PATCH, format!("[{operations}]"));
    let add = "{\"op\":\"add\",\"path\":\"/data/x\",\"value\":\"y\"}";
    let most = answer(&wire, patch(entries(10_000, |_| add.to_owned()))).await;
    assert_eq!((most.0, &most.1["data"]["x"]), (200, &json!("y")), "as many as are allowed");
    let words = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    refused(&wire, patch(entries(10_001, |_| add.to_owned())), 413, words).await;
    let text = format!("{{\"op\":\"add\",\"path\":\"/data/x\",\"value\":\"{}\"}}", "x".repeat(1 << 20));
    let copies = entries(1000, |i| format!("{{\"op\":\"copy\",\"from\":\"/data/x\",\"path\":\"/data/x{i}\"}}"));
    refused(&wire, patch(format!("{text},{copies}")), 413, "copies").await;
    let deeper =
        entries(5, |i| format!("{{\"op\":\"add\",\"path\":\"/x{}\",\"value\":{}}}", "/a".repeat(i * 100), deep(100)));
    refused(&wire, patch(deeper), 413, "levels").await;
    let doubled = entries(20, |i| {
        format!("{{\"op\":\"copy\",\"from\":\"/data\",\"path\":\"/data{}\"}}", "/d".repeat(1 << i.min(12)))
    });
    refused(&wire, patch(doubled), 413, "levels").await;
    for garbage in [
        "{}",
        "[1]",
        "[{\"op\":\"fly\"}]",
        "[{\"op\":\"add\"}]",
        "[{\"op\":\"add\",\"path\":\"no\",\"value\":1}]",
        "\0",
    ] {
        refused(&wire, bad("garbage", Method::PATCH, &map, JSON_PATCH, garbage), 400, "").await;
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn fields_that_come_twice_are_told_a_hundred_times_at_most() {
    let wire = wire().await;
    let twice = "{\"metadata\":{\"name\":\"twice\",\"name\":\"twice\"},\"data\":{\"a\":\"1\",\"a\":\"2\"}}";
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let words = "strict decoding error: duplicate field \"metadata.name\", duplicate field \"data.a\"";
    refused(&wire, bad("strict", Method::POST, &strict, JSON, twice), 400, words).await;
    let request = Request::post(MAPS).header("content-type", JSON).body(Body::from(twice)).unwrap();
    let (code, headers, made) = wire.send(Some(&wire.admin), request).await;
    assert_eq!((code, &made["data"]["a"]), (201, &json!("2")), "the last one counts");
    assert_eq!(headers["warning"], "299 - \"duplicate field \\\"metadata.name\\\"\"");
    let all = entries(60_000, |i| format!("\"k{i}\":1,\"k{i}\":2"));
    let many = format!("{{\"metadata\":{{\"name\":\"many\"}},\"x\":{{{all}}}}}");
    refused(&wire, bad("many", Method::POST, &strict, JSON, many.clone()), 400, "duplicate field \"x.k99\"").await;
    assert_eq!(answer(&wire, bad("many, warned", Method::POST, MAPS, JSON, many)).await.0, 201);
    wire.others_are_served().await;
}

fn message(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(content);
    out
}

fn protobuf(kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [message(1, b"v1"), message(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), message(1, &types), message(2, raw)].concat()
}

#[tokio::test]
async fn protobuf_that_lies_is_refused() {
    let wire = wire().await;
    let good = protobuf("ConfigMap", &message(1, &message(1, b"pb")));
    assert_eq!(answer(&wire, bad("good", Method::POST, MAPS, PROTOBUF, good.clone())).await.0, 201);
    let huge = [0xff_u8; 9];
    for (what, body) in [
        ("nothing", Vec::new()),
        ("no magic", vec![0; 100]),
        ("a length beyond the end", [&good[..good.len() - 2], &[0x7f]].concat()),
        ("a length of 2^63", [b"k8s\0\x12".to_vec(), huge.to_vec()].concat()),
        ("a number that never ends", [b"k8s\0".to_vec(), vec![0xff; 1000]].concat()),
        ("a group", b"k8s\0\x0b".to_vec()),
        ("not UTF-8", protobuf("ConfigMap", &message(1, &message(1, b"\xff")))),
    ] {
        let (code, status) = answer(&wire, bad(what, Method::POST, MAPS, PROTOBUF, body)).await;
        assert!(matches!(code, 400 | 415), "{what}: {code} {status}");
    }
    for cut in 0..good.len() {
        let (code, _) = answer(&wire, bad("cut", Method::POST, MAPS, PROTOBUF, &good[..cut])).await;
        assert!(matches!(code, 400 | 415 | 422), "{cut}: {code}");
    }
    // Containers in two bytes each, and in six.
    for one in [message(2, b""), message(2, &message(1, b"c"))] {
        let pod = protobuf("Pod", &message(2, &one.repeat((LIMIT - 200) / one.len())));
        refused(&wire, bad("many small ones", Method::POST, PODS, PROTOBUF, pod), 413, "Request entity too large")
            .await;
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn names_and_paths_of_any_bytes_are_refused_or_not_found() {
    let wire = wire().await;
    let named = |name: &str| json!({"metadata": {"name": name}}).to_string();
    for name in ["a\0b", "a/b", "..", "a%2fb", "\u{202e}a", "A", &"a".repeat(1 << 20)] {
        let (code, status) = answer(&wire, bad("name", Method::POST, MAPS, JSON, named(name))).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{name:.20}");
    }
    let broken = [b"{\"metadata\":{\"name\":\"".to_vec(), vec![0xff, 0xfe], b"\"}}".to_vec()].concat();
    refused(&wire, bad("not UTF-8", Method::POST, MAPS, JSON, broken), 400, "").await;
    for (path, codes) in [
        (format!("{MAPS}/a%00b"), &[404][..]),
        (format!("{MAPS}/%ff%fe"), &[404]),
        (format!("{MAPS}/a%2Fb"), &[400]),
        (format!("{MAPS}/.."), &[400]),
        (format!("{MAPS}/%2e%2e"), &[400]),
        (format!("{MAPS}/a%25b"), &[400]),
        ("/api/v1/namespaces/default%2Fconfigmaps/configmaps/m".to_owned(), &[400, 404]),
        ("/api/v1/namespaces/%00/configmaps".to_owned(), &[200, 400, 404]),
        ("/api/v1//namespaces///default/configmaps/m".to_owned(), &[200, 301, 404]),
        ("/%00".to_owned(), &[404]),
        ("/api/v1/nodes/n/proxy/%0d%0aHost:%20x".to_owned(), &[404]),
        (format!("{MAPS}/{}", "a".repeat(30_000)), &[404]),
    ] {
        let (code, status) = wire.get(&path).await;
        assert!(codes.contains(&code), "{path:.80}: {code} {status}");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn queries_of_any_words_are_refused_or_mean_nothing() {
    let wire = wire().await;
    for (query, codes) in [
        ("continue=garbage", &[400][..]),
        ("continue=e30", &[400]),
        ("resourceVersion=garbage", &[400]),
        ("resourceVersion=-1", &[400]),
        ("resourceVersion=99999999999999999999999", &[400]),
        ("resourceVersion=9999999999", &[504]),
        ("limit=x", &[400]),
        ("limit=-1", &[200, 400, 422]),
        ("limit=9223372036854775807", &[200]),
        ("limit=99999999999999999999", &[400]),
        ("timeoutSeconds=1e9", &[400]),
        ("labelSelector=%00", &[400]),
        ("labelSelector=a%20in%20(", &[400]),
        ("labelSelector=((((((((", &[400]),
        ("fieldSelector=no.such%3Dx", &[400]),
        ("fieldSelector=%ff", &[400]),
        ("watch=true&resourceVersion=garbage", &[400]),
        ("%ff=%ff&&&=&==", &[200]),
    ] {
        let (code, status) = wire.get(&format!("{MAPS}?{query}")).await;
        assert!(codes.contains(&code), "{query}: {code} {status}");
        if code != 200 {
            refusal(&(code, status));
        }
    }
    // As much as fits into a URI.
    let terms = entries(12_000, |i| format!("!k{i}"))[..60_000].to_owned();
    let terms = &terms[..terms.rfind(',').unwrap()];
    for path in [
        format!("{MAPS}?labelSelector={terms}"),
        format!("{MAPS}?fieldSelector={}", "metadata.name!%3Dx,".repeat(3000)),
    ] {
        let (code, status) = wire.get(&path).await;
        assert!(matches!(code, 200 | 400), "{code} {status:.300}");
        let request = Request::get(&path).body(Body::empty()).unwrap();
        assert_eq!(wire.send_h2(Some(&wire.admin), request).await.unwrap().0, code, "over HTTP/2");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn heads_of_a_megabyte_end_with_their_own_status() {
    let wire = wire().await;
    let connect = || async { wire.connect(Some(&wire.admin), b"http/1.1").await.unwrap() };
    let long = "a".repeat(1 << 20);
    let said = talk(connect().await, format!("GET /api/v1/{long} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 414") || said.starts_with("HTTP/1.1 431"), "{said}");
    let said = talk(connect().await, format!("GET /api HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    let flood = "x: y\r\n".repeat(10_000);
    let said = talk(connect().await, format!("GET /api HTTP/1.1\r\nhost: x\r\n{flood}\r\n").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    for garbage in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n"]
    {
        let said = talk(connect().await, garbage.as_bytes()).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{garbage:?}: {said}");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn a_request_in_the_body_of_another_is_no_request() {
    let wire = wire().await;
    let inner = "GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let head = "POST /api HTTP/1.1\r\nhost: x\r\n";
    for lengths in [
        // The length covers the inner request, the chunks end before it.
        format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", inner.len() + 5),
        format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", inner.len() + 5),
        "content-length: 0\r\ncontent-length: 60\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "content-length: +5\r\n".to_owned(),
    ] {
        let stream = wire.connect(Some(&wire.admin), b"http/1.1").await.unwrap();
        let said = talk(stream, format!("{head}{lengths}\r\n0\r\n\r\n{inner}").as_bytes()).await;
        assert!(!said.contains("gitVersion") || !lengths.contains("content-length: 0"), "{lengths}: {said}");
        let answers = said.matches("HTTP/1.1 ").count();
        // Who speaks in two lengths is refused, or cut off after the first answer.
        assert!(answers <= 1, "{lengths}: {said}");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn many_large_bodies_at_once_leave_small_ones_their_turn() {
    let wire = Wire::start(|options| {
        options.limits.buffered_bodies = 4;
        options.limits.heavy_bodies = 1;
    })
    .await;
    let body = |i: usize| {
        let value = "x".repeat(900 << 10);
        json!({"metadata": {"name": format!("large-{i}")}, "data": {"a": value}}).to_string()
    };
    let large = futures_util::future::join_all((0..12).map(|i| wire.post(MAPS, body(i))));
    let (large, ()) = tokio::join!(large, async {
        for _ in 0..5 {
            wire.others_are_served().await;
        }
    });
    let made = large.iter().filter(|(code, _)| *code == 201).count();
    assert!(made >= 4, "{:?}", large.iter().map(|(code, _)| *code).collect::<Vec<_>>());
    for answer in large.iter().filter(|(code, _)| *code != 201) {
        assert_eq!(refusal(answer), (429, "TooManyRequests", "Too many requests, please try again later."));
    }
}
