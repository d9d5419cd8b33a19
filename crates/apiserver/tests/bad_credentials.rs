//! Tokens and certificates that prove nothing, over TLS: each is refused as upstream refuses it, and nobody else is.
#![allow(missing_docs)]

use apiserver::Options;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use pki::{Identity, Pki};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use wire::{Answer, PODS, Wire, refusal};

mod pki;
mod wire;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn encode(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

/// Signs whatever it is given with the server's own key.
struct Signer {
    pem: String,
    id: String,
}

impl Signer {
    fn sign(&self, claims: &Value) -> String {
        sign(&self.pem, &json!({"alg": "ES256", "kid": self.id}), claims)
    }
}

fn sign(pem: &str, head: &Value, claims: &Value) -> String {
    let der = KeyPair::from_pem(pem).unwrap().serialize_der();
    let random = ring::rand::SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).unwrap();
    let text = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
    let signature = pair.sign(&random, text.as_bytes()).unwrap();
    format!("{text}.{}", encode(signature))
}

async fn wire() -> (Wire, Signer) {
    let pem = KeyPair::generate().unwrap().serialize_pem();
    let key = pem.clone();
    let wire = Wire::start(|options: &mut Options| options.service_account_key_pem = Some(key)).await;
    let (_, keys) = wire.get("/openid/v1/jwks").await;
    let id = keys["keys"][0]["kid"].as_str().unwrap().to_owned();
    make(&wire, ACCOUNTS, json!({"metadata": {"name": "robot"}})).await;
    (wire, Signer { pem, id })
}

async fn make(wire: &Wire, path: &str, object: Value) -> Value {
    let (code, made) = wire.post(path, object.to_string()).await;
    assert_eq!(code, 201, "{path}: {made}");
    made
}

async fn token(wire: &Wire, account: &str, spec: Value) -> String {
    let made = make(wire, &format!("{ACCOUNTS}/{account}/token"), json!({"spec": spec})).await;
    made["status"]["token"].as_str().unwrap().to_owned()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

async fn bear(wire: &Wire, path: &str, authorizations: &[String]) -> Answer {
    let mut request = Request::get(path);
    for authorization in authorizations {
        request = request.header("authorization", authorization);
    }
    wire.send(None, request.body(Body::empty()).unwrap()).await
}

/// A request with it is 401 and says no more; who may ask is told that it is nobody's.
async fn is_nobodys(wire: &Wire, what: &str, token: &str) {
    for path in ["/api", PODS, "/no/such/path"] {
        let (code, _, status) = bear(wire, path, &[format!("Bearer {token}")]).await;
        assert_eq!(refusal(&(code, status)), (401, "Unauthorized", "Unauthorized"), "{what} {path}");
    }
    review_refuses(wire, what, token).await;
}

async fn review_refuses(wire: &Wire, what: &str, token: &str) {
    let review = make(wire, REVIEWS, json!({"spec": {"token": token}})).await;
    let status = &review["status"];
    assert!(status["authenticated"] != true && status["error"].is_string(), "{what}: {status}");
    assert!(token.len() < 3 || !status.to_string().contains(token), "{what}: the token is told");
}

/// One thing wrong with claims that the server itself signs.
fn wrong_claims(right: &Value) -> Vec<(&'static str, Value)> {
    let now = right["iat"].as_i64().unwrap();
    let with = |path: &str, value: Value| {
        let mut claims = right.clone();
        *claims.pointer_mut(path).unwrap() = value;
        claims
    };
    let mut nobody = right.clone();
    nobody.as_object_mut().unwrap().remove("kubernetes.io");
    vec![
        ("expired", with("/exp", json!(now - 1))),
        ("not valid yet", with("/nbf", json!(now + 3000))),
        ("times as texts", with("/exp", json!("2999-01-01"))),
        ("another issuer", with("/iss", json!("https://elsewhere"))),
        ("another audience", with("/aud", json!(["vault"]))),
        ("no audience", with("/aud", json!([]))),
        ("another subject", with("/sub", json!("system:serviceaccount:kube-system:root"))),
        ("an account that never was", with("/kubernetes.io/serviceaccount/name", json!("ghost"))),
        ("the account's earlier life", with("/kubernetes.io/serviceaccount/uid", json!("other"))),
        ("no claims of Kubernetes", nobody),
        ("no object", json!([1])),
    ]
}

/// Tokens that this server did not sign.
fn forged(right: &str, signer: &Signer) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = right.split('.').collect();
    let body = claims(right);
    let other = KeyPair::generate().unwrap().serialize_pem();
    let public = KeyPair::from_pem(&signer.pem).unwrap();
    let hmac = |key: &[u8]| {
        let text = format!("{}.{}", encode(json!({"alg": "HS256", "kid": signer.id}).to_string()), parts[1]);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        format!("{text}.{}", encode(ring::hmac::sign(&key, text.as_bytes())))
    };
    let head = |head: Value| encode(head.to_string());
    vec![
        ("garbage", "\u{7f}garbage".replace('\u{7f}', "~")),
        ("dots", "..".to_owned()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{}.{}.", head(json!({"alg": "none"})), parts[1])),
        ("alg NoNe with a signature", format!("{}.{}.{}", head(json!({"alg": "NoNe"})), parts[1], parts[2])),
        ("HS256 with the public key", hmac(public.public_key_raw())),
        ("HS256 with the public key in PEM", hmac(public.public_key_pem().as_bytes())),
        ("another key", sign(&other, &json!({"alg": "ES256"}), &body)),
        ("another key under this one's name", sign(&other, &json!({"alg": "ES256", "kid": signer.id}), &body)),
        ("a key that it brings along", sign(&other, &json!({"alg": "ES256", "jwk": {"kty": "EC"}}), &body)),
        ("what must be understood", sign(&signer.pem, &json!({"alg": "ES256", "crit": ["b64"]}), &body)),
        ("a longer signature", format!("{right}AAAA")),
        ("a cut one", right[..right.len() - 4].to_owned()),
    ]
}

#[tokio::test]
async fn wrong_tokens_are_401_and_nobodys_in_a_review() {
    let (wire, signer) = wire().await;
    let right = token(&wire, "robot", json!({})).await;
    for (what, claims) in wrong_claims(&claims(&right)) {
        is_nobodys(&wire, what, &signer.sign(&claims)).await;
    }
    for (what, forged) in forged(&right, &signer) {
        is_nobodys(&wire, what, &forged).await;
    }
    assert_eq!(bear(&wire, "/api", &[format!("Bearer {right}")]).await.0, 200, "the right one goes on");
    wire.others_are_served().await;
}

#[tokio::test]
async fn a_token_that_is_used_after_a_deletion_is_nobodys() {
    let (wire, _) = wire().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    make(&wire, secrets, json!({"metadata": {"name": "s"}})).await;
    make(&wire, "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let spec = json!({"serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]});
    make(&wire, PODS, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let cases = [
        ("Pod", "p", format!("{PODS}/p")),
        ("Secret", "s", format!("{secrets}/s")),
        ("Node", "n", "/api/v1/nodes/n".to_owned()),
        ("ServiceAccount", "robot", format!("{ACCOUNTS}/robot")),
    ];
    for (kind, name, path) in cases {
        let bound = json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
        let spec = if kind == "ServiceAccount" { json!({}) } else { bound };
        let held = token(&wire, "robot", spec).await;
        assert_eq!(bear(&wire, "/api", &[format!("Bearer {held}")]).await.0, 200, "{kind}");
        let now = json!({"gracePeriodSeconds": 0}).to_string();
        let (code, gone) = wire.write(http::Method::DELETE, &path, "application/json", now).await;
        assert_eq!(code, 200, "{gone}");
        is_nobodys(&wire, kind, &held).await;
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn strange_authorization_headers_are_refused() {
    let (wire, _) = wire().await;
    let right = format!("Bearer {}", token(&wire, "robot", json!({})).await);
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
    for (what, headers, code) in [
        ("none", texts(&[]), 401),
        ("nothing in it", texts(&[""]), 401),
        ("no token", texts(&["Bearer"]), 401),
        ("blanks", texts(&["Bearer      "]), 401),
        ("a password", texts(&["Basic cm9vdDpyb290"]), 401),
        // The first one counts, as upstream.
        ("a wrong one before the right one", texts(&["Bearer x", &right]), 401),
        ("the right one before a wrong one", texts(&[&right, "Bearer x"]), 200),
    ] {
        let (got, _, body) = bear(&wire, "/api", &headers).await;
        assert_eq!(got, code, "{what}: {body}");
        if code == 401 {
            assert_eq!(refusal(&(got, body)), (401, "Unauthorized", "Unauthorized"), "{what}");
        }
    }
    assert_eq!(bear(&wire, "/api", &vec!["Bearer x".to_owned(); 1000]).await.0, 431, "a flood of headers");
    let long = "a".repeat(1 << 20);
    let (code, _, _) = bear(&wire, "/api", &[format!("Bearer {long}")]).await;
    assert_eq!(code, 431, "a megabyte");
    review_refuses(&wire, "a megabyte", &long).await;
    let request = Request::get("/api").header("authorization", format!("Bearer {long}")).body(Body::empty()).unwrap();
    // HTTP/2 may also end the stream.
    if let Ok((code, _, _)) = wire.send_h2(None, request).await {
        assert_eq!(code, 431);
    }
    wire.others_are_served().await;
}

/// Certificates that prove nothing.
fn wrong_certificates(wire: &Wire) -> Vec<(&'static str, Identity)> {
    let admin = || Pki::client_of("kubernetes-admin", "system:masters");
    let with = |change: fn(&mut CertificateParams)| {
        let mut parameters = admin();
        change(&mut parameters);
        wire.pki.sign(parameters)
    };
    let key = KeyPair::generate().unwrap();
    let alone = admin().self_signed(&key).unwrap();
    let stranger = Pki::new();
    let mut hanger_on = stranger.client("kubernetes-admin", "system:masters");
    hanger_on.certificate_pem += &wire.pki.ca_pem();
    vec![
        ("another authority of the same name", stranger.client("kubernetes-admin", "system:masters")),
        ("the same with our authority behind it", hanger_on),
        ("another authority", Pki::named("else").client("kubernetes-admin", "system:masters")),
        ("signed by itself", Identity { certificate_pem: alone.pem(), key_pem: key.serialize_pem() }),
        ("expired", with(|parameters| parameters.not_after = date_time_ymd(2020, 1, 1))),
        ("not valid yet", with(|parameters| parameters.not_before = date_time_ymd(2999, 1, 1))),
        ("for servers", with(|parameters| parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("an authority below ours that is not shown", wire.pki.below("below").client("a", "system:masters")),
    ]
}

#[tokio::test]
async fn wrong_certificates_are_401_unless_a_token_proves_something() {
    let (wire, _) = wire().await;
    let right = token(&wire, "robot", json!({})).await;
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    for (what, who) in wrong_certificates(&wire) {
        // Upstream refuses it even where nobody is asked for.
        for path in ["/api", PODS, "/healthz"] {
            let (code, _, status) = wire.send(Some(&who), get(path)).await;
            assert_eq!(refusal(&(code, status)), (401, "Unauthorized", "Unauthorized"), "{what} {path}");
        }
        let (code, _, status) = wire.send_h2(Some(&who), get("/api")).await.unwrap();
        assert_eq!(refusal(&(code, status)), (401, "Unauthorized", "Unauthorized"), "{what} over HTTP/2");
        let bearer = Request::get("/api").header("authorization", format!("Bearer {right}"));
        assert_eq!(wire.send(Some(&who), bearer.body(Body::empty()).unwrap()).await.0, 200, "{what}");
        let wrong = Request::get("/api").header("authorization", "Bearer x").body(Body::empty()).unwrap();
        assert_eq!(wire.send(Some(&who), wrong).await.0, 401, "{what}");
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn a_certificate_proves_what_is_in_it_and_nothing_more() {
    let (wire, _) = wire().await;
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let below = wire.pki.below("below");
    let mut leaf = below.client("kubernetes-admin", "system:masters");
    leaf.certificate_pem += &below.ca_pem();
    assert_eq!(wire.send(Some(&leaf), get(PODS)).await.0, 200, "through an authority that ours signed");
    let node = wire.pki.client("system:node:n1", "");
    for path in ["/api/v1/nodes/n1", PODS] {
        let (code, _, status) = wire.send(Some(&node), get(path)).await;
        let (code, reason, message) = { (code, status["reason"].clone(), status["message"].clone()) };
        assert_eq!((code, reason), (403, json!("Forbidden")), "a node by name alone");
        assert!(message.as_str().unwrap().contains("User \"system:node:n1\" cannot"), "{message}");
    }
    let nobody = wire.pki.client("", "system:masters");
    assert_eq!(wire.send(Some(&nobody), get(PODS)).await.0, 401, "a group without a name");
    let (code, _, status) = wire.send(None, get(PODS)).await;
    assert_eq!(refusal(&(code, status)), (401, "Unauthorized", "Unauthorized"), "no certificate");
    assert_eq!(wire.send(None, get("/healthz")).await.0, 200);
}

/// Shows a certificate whose key somebody else has.
#[derive(Debug)]
struct Thief(std::sync::Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Thief {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_no_connection() {
    use rustls_pki_types::pem::PemObject;

    let (wire, _) = wire().await;
    let other = wire.pki.client("nobody", "");
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(other.key_pem.as_bytes()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(wire::chain(&wire.admin.certificate_pem), key);
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(wire::chain(&wire.pki.ca_pem()).remove(0)).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let thief =
            Thief(std::sync::Arc::new(rustls::sign::CertifiedKey::new(stolen.cert.clone(), stolen.key.clone())));
        let config = builder.with_root_certificates(roots).with_client_cert_resolver(std::sync::Arc::new(thief));
        // In TLS 1.3 the client learns it with the first answer.
        if let Ok(stream) = wire.connect_with(config).await {
            let said = wire::talk(stream, b"GET /api HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            assert_eq!(said, "");
        }
    }
    wire.others_are_served().await;
}

#[tokio::test]
async fn a_certificate_that_expires_on_an_open_connection_proves_nothing_more() {
    let (wire, _) = wire().await;
    let mut parameters = Pki::client_of("kubernetes-admin", "system:masters");
    #[allow(clippy::disallowed_methods)] // Certificates are of real time.
    let end = std::time::SystemTime::now() + std::time::Duration::from_secs(6);
    parameters.not_after = end.into();
    let who = wire.pki.sign(parameters);
    let stream = wire.connect(Some(&who), b"http/1.1").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    #[allow(clippy::disallowed_methods)] // It ends with the test's runtime.
    tokio::spawn(connection);
    let mut codes = Vec::new();
    let asked = async {
        while codes.last() != Some(&401) {
            let request = Request::get("/api").header("host", "x").body(Body::empty()).unwrap();
            sender.ready().await.unwrap();
            let answer = sender.send_request(request).await.unwrap();
            codes.push(answer.status().as_u16());
            http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(wire::PATIENCE, asked).await.expect("it expires");
    assert_eq!(codes[0], 200);
    assert!(codes.iter().all(|code| matches!(code, 200 | 401)), "{codes:?}");
}
