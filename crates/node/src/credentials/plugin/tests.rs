//! Plugins as real scripts, service accounts of an API in miniature.

use super::*;
use axum::{Json, Router, body::Bytes, extract::State, http::StatusCode, routing};
use serde_json::{Value, json};
use std::{fs, io::Write as _, sync::atomic::AtomicU32, sync::atomic::Ordering};

const V1: &str = "credentialprovider.kubelet.k8s.io/v1";
const CANARY: &str = "s3cr3t-canary";

/// An API with one service account; tokens are given if `tokens` says so.
#[derive(Clone, Default)]
struct Api {
    annotations: Value,
    tokens: bool,
    requests: Arc<Mutex<Vec<Value>>>,
    given: Arc<AtomicU32>,
}

impl Api {
    fn sources(&self) -> Sources {
        let router = Router::new()
            .route("/api/v1/namespaces/ns/serviceaccounts/robot", routing::get(account))
            .route("/api/v1/namespaces/ns/serviceaccounts/robot/token", routing::post(token))
            .fallback(|| async { refusal(404, "the server could not find the requested resource") })
            .with_state(self.clone());
        Sources::new(kube::Client::new(router, "ns"))
    }
}

async fn account(State(api): State<Api>) -> Json<Value> {
    Json(json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "robot", "namespace": "ns", "uid": "u-robot", "annotations": api.annotations}}))
}

async fn token(State(api): State<Api>, body: Bytes) -> (StatusCode, Json<Value>) {
    if !api.tokens {
        return refusal(404, "the server could not find the requested resource");
    }
    let mut request: Value = serde_json::from_slice(&body).unwrap();
    api.requests.lock().unwrap().push(request.clone());
    let number = api.given.fetch_add(1, Ordering::Relaxed);
    request["status"] =
        json!({"token": format!("token-{number}-{CANARY}"), "expirationTimestamp": "2030-01-01T00:00:00Z"});
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    (StatusCode::CREATED, Json(request))
}

fn refusal(code: u16, message: &str) -> (StatusCode, Json<Value>) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    (StatusCode::from_u16(code).unwrap(), Json(status))
}

fn pod(name: &str, account: &str) -> Pod {
    let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}")},
        "spec": {"serviceAccountName": account}});
    serde_json::from_value(pod).unwrap()
}

/// A directory with one plugin, which counts its runs and keeps what it was asked.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new(script: &str) -> Bench {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let mut file = fs::File::create(directory.path().join("p")).unwrap();
        let at = directory.path().display();
        write!(file, "#!/bin/sh\ncat >> {at}/asked; echo run >> {at}/runs\n{script}\n").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        Bench { directory }
    }

    /// One that answers with these fields.
    fn answering(fields: &str) -> Bench {
        let kind = "CredentialProviderResponse";
        Bench::new(&format!(r#"echo '{{"kind":"{kind}","apiVersion":"{V1}",{fields}}}'"#))
    }

    fn plugin(&self, provider: Provider) -> Plugin {
        Plugin::new(provider, self.directory.path())
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.directory.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.directory.path().join("asked")).unwrap_or_default()
    }
}

fn provider() -> Provider {
    Provider {
        name: "p".into(),
        api_version: V1.into(),
        match_images: vec!["*.r.io".into()],
        default_cache_duration: Duration::from_secs(3600),
        arguments: Vec::new(),
        environment: Vec::new(),
        token: None,
    }
}

fn with_token(cached_by_token: bool) -> Provider {
    let token = Token {
        audience: "registry".into(),
        account_required: true,
        cached_by_token,
        required_annotations: Vec::new(),
        optional_annotations: vec!["team".into()],
    };
    Provider { token: Some(token), ..provider() }
}

const AUTH: &str = r#""auth":{"a.r.io":{"username":"u","password":"p"}}"#;

#[tokio::test]
async fn a_plugin_is_run_for_images_that_match_and_no_others() {
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Image",{AUTH}"#));
    let plugins = Plugins { plugins: vec![bench.plugin(provider())] };
    let sources = Api::default().sources();
    for (repository, runs) in [("r.io/x", 0), ("a.b.r.io/x", 0), ("a.r.io/x", 1)] {
        let (ring, problems) = plugins.for_image(&sources, &pod("a", ""), repository).await;
        assert_eq!((bench.runs(), ring.candidates.len(), problems.len()), (runs, runs, 0), "{repository}");
    }
    assert_eq!(
        bench.asked(),
        format!("{{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"{V1}\",\"image\":\"a.r.io/x\"}}\n")
    );
}

#[tokio::test]
async fn arguments_and_variables_reach_the_program() {
    let kind = "CredentialProviderResponse";
    let answer = format!(
        r#"printf '{{"kind":"{kind}","apiVersion":"{V1}","cacheKeyType":"Image","auth":{{"a.r.io":{{"username":"%s %s","password":"%s"}}}}}}' "$1" "$PLUGIN_KEY" "${{PATH:+inherited}}""#
    );
    let bench = Bench::new(&answer);
    let variables = [("PLUGIN_KEY", "one"), ("PLUGIN_KEY", "two")];
    let environment = variables.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let plugin = bench.plugin(Provider { arguments: vec!["get".into()], environment, ..provider() });
    let (logins, _) = plugin.ask(&Api::default().sources(), &pod("a", ""), "a.r.io/x").await.unwrap();
    assert_eq!((logins[0].1.username.as_str(), logins[0].1.password.as_str()), ("get two", "inherited"));
}

#[tokio::test]
async fn answers_are_kept_for_image_registry_or_everything() {
    for (scope, runs) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
        let bench = Bench::answering(&format!(r#""cacheKeyType":"{scope}",{AUTH}"#));
        let plugin = bench.plugin(provider());
        let sources = Api::default().sources();
        for repository in ["a.r.io/x", "a.r.io/x", "a.r.io/y", "b.r.io/x"] {
            plugin.ask(&sources, &pod("a", ""), repository).await.unwrap();
        }
        assert_eq!(bench.runs(), runs, "{scope}");
    }
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Global","cacheDuration":"0s",{AUTH}"#));
    let plugin = bench.plugin(provider());
    for _ in 0..2 {
        plugin.ask(&Api::default().sources(), &pod("a", ""), "a.r.io/x").await.unwrap();
    }
    assert_eq!(bench.runs(), 2, "a duration of zero keeps nothing");
}

#[tokio::test]
async fn those_who_ask_the_same_at_once_share_one_run() {
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Image","cacheDuration":"0s",{AUTH}"#));
    let plugin = bench.plugin(provider());
    let (sources, pod) = (Api::default().sources(), pod("a", ""));
    let answers = join_all((0..8).map(|_| plugin.ask(&sources, &pod, "a.r.io/x"))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|(logins, _)| logins.len() == 1)));
    assert_eq!(bench.runs(), 1);
    assert!(plugin.flights.lock().unwrap().is_empty());
}

#[tokio::test]
async fn whoever_began_a_run_may_go_away() {
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Image","cacheDuration":"0s",{AUTH}"#));
    let plugin = bench.plugin(provider());
    let (sources, pod) = (Api::default().sources(), pod("a", ""));
    {
        let gone = plugin.ask(&sources, &pod, "a.r.io/x");
        // One step begins the run; then its owner is dropped.
        let _ = futures_util::FutureExt::now_or_never(gone);
    }
    assert_eq!(plugin.ask(&sources, &pod, "a.r.io/x").await.unwrap().0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_hangs_is_killed_after_a_minute() {
    let bench = Bench::new("sleep 10000");
    let plugin = bench.plugin(provider());
    let began = Instant::now();
    let error = plugin.ask(&Api::default().sources(), &pod("a", ""), "a.r.io/x").await.unwrap_err();
    assert!(error.ends_with("was killed after 60 s"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn faults_are_told_without_what_was_answered_or_given() {
    for (script, words) in [
        (format!("echo {CANARY}; exit 3"), "exit status: 3"),
        (
            format!("echo '{{\"kind\":\"X\",\"password\":\"{CANARY}\"'"),
            "error decoding credential provider plugin response",
        ),
        (format!("echo \"oh $PLUGIN_KEY\" >&2; exit 1 # {CANARY}"), "oh <redacted>"),
    ] {
        let bench = Bench::new(&script);
        let environment = vec![("PLUGIN_KEY".to_owned(), CANARY.to_owned())];
        let plugin = bench.plugin(Provider { environment, ..provider() });
        let error = plugin.ask(&Api::default().sources(), &pod("a", ""), "a.r.io/x").await.unwrap_err();
        assert!(error.contains(words) && error.contains("plugin p") && !error.contains(CANARY), "{error}");
    }
}

#[tokio::test]
async fn a_token_is_bound_to_the_pod_and_the_answer_belongs_to_the_account() {
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Image",{AUTH}"#));
    let plugin = bench.plugin(with_token(false));
    let api = Api { annotations: json!({"team": "blue", "other": "x"}), tokens: true, ..Api::default() };
    let (_, source) = plugin.ask(&api.sources(), &pod("a", "robot"), "a.r.io/x").await.unwrap();
    let account = crate::credentials::Account { namespace: "ns".into(), name: "robot".into(), uid: "u-robot".into() };
    assert_eq!(source, Source::Plugin { service_account: Some(account) });
    let request = api.requests.lock().unwrap()[0].clone();
    assert_eq!(request["spec"]["audiences"], json!(["registry"]));
    assert_eq!(
        request["spec"]["boundObjectRef"],
        json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u-a"})
    );
    assert!(request["spec"].get("expirationSeconds").is_none());
    let asked = bench.asked();
    let wanted = r#""serviceAccountAnnotations":{"team":"blue"}"#;
    assert!(asked.contains("\"serviceAccountToken\":\"token-0-") && asked.contains(wanted), "{asked}");
}

#[tokio::test]
async fn pods_of_one_account_share_an_answer_unless_it_belongs_to_a_token() {
    for (by_token, runs) in [(false, 1), (true, 2)] {
        let bench = Bench::answering(&format!(r#""cacheKeyType":"Image",{AUTH}"#));
        let plugin = bench.plugin(with_token(by_token));
        let api = Api { tokens: true, ..Api::default() };
        for name in ["a", "b"] {
            plugin.ask(&api.sources(), &pod(name, "robot"), "a.r.io/x").await.unwrap();
        }
        assert_eq!(bench.runs(), runs, "by token: {by_token}");
    }
}

#[tokio::test]
async fn without_an_account_or_a_required_annotation_the_plugin_is_passed_over() {
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Image",{AUTH}"#));
    let sources = Api { tokens: true, ..Api::default() }.sources();
    let ask = |plugin: Plugin, account: &'static str| {
        let sources = sources.clone();
        async move { plugin.ask(&sources, &pod("a", account), "a.r.io/x").await }
    };
    let (logins, _) = ask(bench.plugin(with_token(false)), "").await.unwrap();
    assert_eq!((logins.len(), bench.runs()), (0, 0), "an account is required");
    let mut need = with_token(false);
    need.token.as_mut().unwrap().required_annotations = vec!["need".into()];
    let (logins, _) = ask(bench.plugin(need), "robot").await.unwrap();
    assert_eq!((logins.len(), bench.runs()), (0, 0), "the annotation is missing");
    let mut loose = with_token(false);
    loose.token.as_mut().unwrap().account_required = false;
    let (logins, source) = ask(bench.plugin(loose), "").await.unwrap();
    assert_eq!((logins.len(), source), (1, Source::Plugin { service_account: None }), "asked without a token");
    assert!(!bench.asked().contains("serviceAccountToken"));
}

#[tokio::test]
async fn without_tokens_from_the_api_the_plugin_is_passed_over_with_a_reason() {
    let bench = Bench::answering(&format!(r#""cacheKeyType":"Image",{AUTH}"#));
    let plugins = Plugins { plugins: vec![bench.plugin(with_token(false))] };
    let (ring, problems) = plugins.for_image(&Api::default().sources(), &pod("a", "robot"), "a.r.io/x").await;
    assert_eq!((ring.candidates.len(), bench.runs()), (0, 0));
    let wanted = "credential provider plugin p: request a token of service account ns/robot: the server could not find";
    assert!(problems[0].starts_with(wanted), "{problems:?}");
    let (_, problems) = plugins.for_image(&Api::default().sources(), &pod("a", "nobody"), "a.r.io/x").await;
    assert!(problems[0].contains("get service account ns/nobody"), "{problems:?}");
}

#[tokio::test]
async fn the_configuration_is_a_file_or_all_files_of_a_directory() {
    let bench = Bench::new("exit 0");
    let root = bench.directory.path();
    fs::copy(root.join("p"), root.join("q")).unwrap();
    let text = |name: &str| {
        json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [{"name": name,
            "apiVersion": V1, "matchImages": ["r.io"], "defaultCacheDuration": "1m"}]})
        .to_string()
    };
    let config = root.join("config.d");
    fs::create_dir(&config).unwrap();
    let files = |path: &Path| Files { config: path.to_owned(), bin_dir: root.to_owned() };
    assert!(matches!(files(&config).load(), Err(ConfigError::Empty(_))));
    fs::write(config.join("b.json"), text("p")).unwrap();
    fs::write(config.join("a.yml"), text("q")).unwrap();
    fs::write(config.join("ignored.txt"), "{").unwrap();
    let names: Vec<String> = files(&config).load().unwrap().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["q", "p"]);
    assert_eq!(files(&config.join("b.json")).load().unwrap().len(), 1);
    fs::write(config.join("c.yaml"), text("p")).unwrap();
    let error = files(&config).load().unwrap_err().to_string();
    assert_eq!(error, "duplicate provider name \"p\" found in configuration file(s)");
    fs::write(config.join("c.yaml"), text("absent")).unwrap();
    assert!(matches!(files(&config).load(), Err(ConfigError::NoProgram(_))));
    fs::write(config.join("c.yaml"), "kind: [").unwrap();
    assert!(files(&config).load().unwrap_err().to_string().contains("c.yaml"));
    let no_bin = Files { config, bin_dir: root.join("nowhere") };
    assert!(no_bin.load().unwrap_err().to_string().ends_with("nowhere did not exist"));
}
