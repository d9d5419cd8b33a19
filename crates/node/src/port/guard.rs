//! Who may do what at the node port: the API says it, and its answers are kept for a while.
//!
//! A client certificate of the cluster's authority says who calls, else a bearer token that a TokenReview proves; a
//! SubjectAccessReview says whether he may (POD-68). Nothing is allowed because the API cannot be asked. Start at [`Guard::admit`].

use super::{Answer, asked::asked, cache::Cache, identity::Caller, text};
use http::{HeaderMap, Method, StatusCode, header};
use kube::Client;
use ring::hmac;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// What a token proves is believed for so long.
const TOKEN_HOLDS: Duration = Duration::from_secs(2 * 60);
/// That somebody may is believed for so long.
const YES_HOLDS: Duration = Duration::from_secs(5 * 60);
/// That he may not is believed for so long.
const NO_HOLDS: Duration = Duration::from_secs(30);
/// One question, tries and pauses together.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before the second try; later ones are half as long again.
const AGAIN: Duration = Duration::from_millis(500);
const TRIES: u32 = 5;
/// Answers that are kept.
const ANSWERS_MAX: usize = 1024;
/// A longer question is asked each time: nobody fills the memory with names.
const QUESTION_BYTES_MAX: usize = 10_000;
/// A longer token is none.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Why the API gave no answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API refused the question")]
    Ask(#[source] Box<kube::Error>),
    #[error("the API did not answer within {} s", ASK_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the API says both yes and no")]
    Contradicts,
}

/// The judge of all requests.
pub(super) struct Guard {
    client: Client,
    node_name: String,
    /// Tokens are kept as their HMAC under a key of this process.
    key: hmac::Key,
    tokens: Mutex<Cache<Vec<u8>, Option<Caller>>>,
    rights: Mutex<Cache<String, bool>>,
}

impl Guard {
    pub(super) fn new(client: Client, node_name: &str) -> Guard {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let (tokens, rights) = (Mutex::new(Cache::new(ANSWERS_MAX)), Mutex::new(Cache::new(ANSWERS_MAX)));
        Guard { client, node_name: node_name.to_owned(), key, tokens, rights }
    }

    /// Lets the caller pass, or says in the kubelet's words why not. `shown` is the subject of his certificate.
    pub(super) async fn admit(
        &self,
        shown: Option<&Caller>,
        headers: &HeaderMap,
        (method, parts): (&Method, &[&str]),
    ) -> Result<(), Box<Answer>> {
        let caller = match shown {
            Some(caller) => caller.clone(),
            None => self.proven(headers).await.ok_or_else(|| refusal(StatusCode::UNAUTHORIZED, "Unauthorized"))?,
        };
        let asked = asked(method, parts);
        for subresource in asked.subresources {
            match self.may(&caller, asked.verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, user = caller.name, "node port: whether a caller may is not known");
                    let what = format!(
                        "Authorization error (user={}, verb={}, resource=nodes, subresource={subresource})",
                        caller.name, asked.verb
                    );
                    return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, what));
                }
            }
        }
        let what = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
            caller.name,
            asked.verb,
            asked.subresources.join(" ")
        );
        Err(refusal(StatusCode::FORBIDDEN, what))
    }

    /// Whom the bearer token of a request belongs to; None also when that is not known.
    async fn proven(&self, headers: &HeaderMap) -> Option<Caller> {
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let key = hmac::sign(&self.key, token.as_bytes()).as_ref().to_vec();
        if let Some(known) = lock(&self.tokens).get(&key, Instant::now()) {
            return known;
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        match self.ask("/apis/authentication.k8s.io/v1/tokenreviews", &review).await {
            Ok(review) => {
                let (caller, is_sure) = read(&review["status"]);
                if is_sure {
                    let now = Instant::now();
                    lock(&self.tokens).put(key, caller.clone(), now + TOKEN_HOLDS, now);
                }
                caller
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "node port: what a token proves is not known");
                None
            }
        }
    }

    async fn may(&self, caller: &Caller, verb: &str, subresource: &str) -> Result<bool, Error> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": caller.name, "uid": caller.uid, "groups": caller.groups, "extra": caller.extra,
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node_name,
                },
            },
        });
        let key = review["spec"].to_string();
        if let Some(known) = lock(&self.rights).get(&key, Instant::now()) {
            return Ok(known);
        }
        let review = self.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
        let says = |field: &str| review["status"][field].as_bool().unwrap_or(false);
        if says("allowed") && says("denied") {
            return Err(Error::Contradicts);
        }
        let allowed = says("allowed");
        if key.len() <= QUESTION_BYTES_MAX {
            let now = Instant::now();
            let until = now + if allowed { YES_HOLDS } else { NO_HOLDS };
            lock(&self.rights).put(key, allowed, until, now);
        }
        Ok(allowed)
    }

    /// Asks until there is an answer: an API server that restarts is back soon.
    async fn ask(&self, path: &str, review: &Value) -> Result<Value, Error> {
        let tries = async {
            let mut pause = AGAIN;
            for _ in 1..TRIES {
                match self.ask_once(path, review).await {
                    Err(error) if is_passing(&error) => sleep(pause).await,
                    outcome => return outcome,
                }
                pause = pause * 3 / 2;
            }
            self.ask_once(path, review).await
        };
        let outcome = timeout(ASK_TIMEOUT, tries).await.map_err(|_| Error::TimedOut)?;
        outcome.map_err(|error| Error::Ask(Box::new(error)))
    }

    async fn ask_once(&self, path: &str, review: &Value) -> Result<Value, kube::Error> {
        let request = http::Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let body = review.to_string().into_bytes();
        self.client.request(request.body(body).expect("the path is a constant")).await
    }
}

/// Whether another try may end better.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

/// Whom a review proves, and whether that may be kept: what came with an error is asked anew.
fn read(status: &Value) -> (Option<Caller>, bool) {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    if status["authenticated"] != true {
        return (None, status["error"].as_str().unwrap_or_default().is_empty());
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let extra = user["extra"].as_object().into_iter().flatten();
    let extra: BTreeMap<String, Vec<String>> = extra.map(|(key, list)| (key.clone(), texts(list))).collect();
    let caller = Caller { name: text("username"), uid: text("uid"), groups: texts(&user["groups"]), extra };
    (Some(caller.authenticated()), true)
}

fn refusal(status: StatusCode, words: impl Into<bytes::Bytes>) -> Box<Answer> {
    Box::new(text(status, words))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiserver::{ApiServer, UserInfo};
    use axum::{extract::Request, middleware, response::IntoResponse};
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };
    use tokio::time::advance;
    use tokio_util::sync::CancellationToken;

    /// The guard of `n1` before a real API, which counts what it is asked and may be away.
    struct Lab {
        server: ApiServer,
        guard: Guard,
        asked: Arc<AtomicUsize>,
        is_away: Arc<AtomicBool>,
    }

    impl Lab {
        async fn new() -> Lab {
            let options = apiserver::Options::new(Arc::new(store::memory::MemoryStore::new()));
            let server = ApiServer::start(options, CancellationToken::new()).await.unwrap();
            let (asked, is_away) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
            let seen = (asked.clone(), is_away.clone());
            let gate = middleware::from_fn(move |request: Request, next: middleware::Next| {
                let (asked, is_away) = seen.clone();
                async move {
                    asked.fetch_add(1, Ordering::SeqCst);
                    match is_away.load(Ordering::SeqCst) {
                        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                        false => next.run(request).await,
                    }
                }
            });
            let client = Client::new(server.router_as(UserInfo::node("n1")).layer(gate), "default");
            let lab = Lab { server, guard: Guard::new(client, "n1"), asked, is_away };
            let rules = json!([{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]);
            let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
            lab.call("POST", roles, json!({"metadata": {"name": "scrape"}, "rules": rules})).await;
            lab.call("POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}}))
                .await;
            lab
        }

        async fn call(&self, method: &str, path: &str, body: Value) -> Value {
            let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
            let client = Client::new(self.server.router_as(UserInfo::admin()), "default");
            client.request(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap()
        }

        async fn bind(&self) {
            let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
            let subject = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scrape"});
            self.call("POST", bindings, json!({"metadata": {"name": "robot"}, "subjects": [subject], "roleRef": role}))
                .await;
        }

        async fn unbind(&self) {
            self.call("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/robot", Value::Null).await;
        }

        async fn token(&self) -> String {
            let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
            let made = self.call("POST", path, json!({"spec": {"expirationSeconds": 3600}})).await;
            made["status"]["token"].as_str().unwrap().to_owned()
        }

        /// Status and words of a refusal; 200 if he may.
        async fn judge(&self, caller: Option<&Caller>, token: &str, (method, path): (Method, &str)) -> (u16, String) {
            let mut headers = HeaderMap::new();
            if !token.is_empty() {
                headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            }
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            match self.guard.admit(caller, &headers, (&method, &parts)).await {
                Ok(()) => (200, String::new()),
                Err(answer) => {
                    let status = answer.status().as_u16();
                    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
                    (status, String::from_utf8(body.to_vec()).unwrap())
                }
            }
        }

        async fn get(&self, token: &str, path: &str) -> u16 {
            self.judge(None, token, (Method::GET, path)).await.0
        }
    }

    fn caller(name: &str, groups: &[&str]) -> Caller {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Caller { name: name.into(), groups, ..Caller::default() }.authenticated()
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_with_metrics_alone_reads_metrics_and_nothing_else() {
        let lab = Lab::new().await;
        lab.bind().await;
        let token = lab.token().await;
        assert_eq!(lab.get(&token, "/metrics").await, 200);
        assert_eq!(lab.get(&token, "/metrics/cadvisor").await, 200);
        let posted = lab.judge(None, &token, (Method::POST, "/metrics")).await;
        let user = "system:serviceaccount:default:robot";
        let words = format!("Forbidden (user={user}, verb=create, resource=nodes, subresource(s)=[metrics])\n");
        assert_eq!(posted, (403, words));
        let pods = lab.judge(None, &token, (Method::GET, "/pods")).await;
        let words = format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[pods proxy])\n");
        assert_eq!(pods, (403, words));
        for path in ["/exec/ns/p/c", "/stats/summary", "/logs/x", "/healthz", "/pulls", "/"] {
            assert_eq!(lab.get(&token, path).await, 403, "{path}");
        }
        for wrong in ["", "nonsense", "a.b.c", &token[..token.len() - 8]] {
            assert_eq!(
                lab.judge(None, wrong, (Method::GET, "/metrics")).await,
                (401, "Unauthorized".into()),
                "{wrong}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_hold_as_long_as_upstreams_and_no_longer() {
        let lab = Lab::new().await;
        let token = lab.token().await;
        assert_eq!(lab.get(&token, "/metrics").await, 403);
        lab.bind().await;
        advance(NO_HOLDS - Duration::from_secs(1)).await;
        assert_eq!(lab.get(&token, "/metrics").await, 403, "the refusal holds");
        advance(Duration::from_secs(2)).await;
        assert_eq!(lab.get(&token, "/metrics").await, 200);
        let asked = lab.asked.load(Ordering::SeqCst);
        lab.unbind().await;
        for _ in 0..20 {
            advance(Duration::from_secs(3)).await;
            assert_eq!(lab.get(&token, "/metrics").await, 200);
        }
        assert_eq!(lab.asked.load(Ordering::SeqCst), asked, "it was not asked again");
        advance(YES_HOLDS).await;
        assert_eq!(lab.get(&token, "/metrics").await, 403, "the permission has ended");
        lab.call("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", Value::Null).await;
        advance(TOKEN_HOLDS - Duration::from_secs(1)).await;
        assert_eq!(lab.get(&token, "/metrics").await, 403, "the token is believed still");
        advance(Duration::from_secs(2)).await;
        assert_eq!(lab.get(&token, "/metrics").await, 401, "its account has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_are_judged_by_the_same_roles() {
        let lab = Lab::new().await;
        let exec = |caller| (caller, (Method::POST, "/exec/ns/p/c"));
        for (expected, (caller, asked)) in [
            (200, exec(caller("kube-apiserver-kubelet-client", &[]))),
            (200, exec(caller("admin", &["system:masters"]))),
            (403, exec(caller("system:node:n1", &["system:nodes"]))),
            (403, exec(caller("system:node:n2", &["system:nodes"]))),
            (403, exec(caller("ann", &[]))),
        ] {
            assert_eq!(lab.judge(Some(&caller), "", asked).await.0, expected, "{}", caller.name);
        }
        let api = caller("kube-apiserver-kubelet-client", &[]);
        for path in ["/metrics", "/stats/summary", "/logs/x", "/pods", "/healthz", "/configz", "/containerLogs/ns/p/c"]
        {
            assert_eq!(lab.judge(Some(&api), "", (Method::GET, path)).await.0, 200, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_api_nobody_new_comes_in() {
        let lab = Lab::new().await;
        lab.bind().await;
        let (known, unknown) = (lab.token().await, lab.token().await);
        assert_eq!(lab.get(&known, "/metrics").await, 200);
        lab.is_away.store(true, Ordering::SeqCst);
        assert_eq!(lab.get(&known, "/metrics").await, 200, "what is known holds");
        assert_eq!(lab.get(&unknown, "/metrics").await, 401);
        let (status, words) = lab.judge(Some(&caller("ann", &[])), "", (Method::GET, "/metrics")).await;
        let expected = "Authorization error (user=ann, verb=get, resource=nodes, subresource=metrics)";
        assert_eq!((status, words.as_str()), (500, expected));
        lab.is_away.store(false, Ordering::SeqCst);
        assert_eq!(lab.get(&unknown, "/metrics").await, 200, "no failure was kept");
    }
}
