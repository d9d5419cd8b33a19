//! Ensuring images against the scripted runtime, on virtual time: who is asked for what, and what is told of it.

mod bench;

use bench::{Bench, one, pod, told};
use cri::fake::{Call, Fake, Fault, Verb};
use jiff::Timestamp;
use node::{
    image::{Cause, queue::Limits},
    pod::{act::Outcome, clock::Clock, decide::Action},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tonic::Status;

const IMAGE: &str = "registry.test/web:1";

fn bench(fake: &Fake) -> Bench {
    limited(fake, Limits { parallel_max: 5, per_second: 0, burst: 0 })
}

fn limited(fake: &Fake, limits: Limits) -> Bench {
    let clock = Clock::virtual_from(Timestamp::from_second(1_800_000_000).unwrap());
    Bench::new(fake.client(), limits, clock)
}

fn verbs(fake: &Fake) -> Vec<Verb> {
    fake.calls().iter().map(|recorded| recorded.call.verb()).collect()
}

fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Image(_) => "ready",
        Outcome::Refused(refusal) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_decision_table_makes_these_calls_and_these_events() {
    let never = format!("Container image {IMAGE:?} is not present with pull policy of Never");
    let local = format!("Container image {IMAGE:?} already present on machine and can be accessed by the pod");
    let pulled = [Verb::PullImage, Verb::ImageStatus];
    for (policy, present, outcome, calls, events) in [
        ("Always", false, "ready", pulled.to_vec(), vec!["Pulling", "Pulled"]),
        ("Always", true, "ready", pulled.to_vec(), vec!["Pulling", "Pulled"]),
        ("IfNotPresent", false, "ready", [&[Verb::ImageStatus], &pulled[..]].concat(), vec!["Pulling", "Pulled"]),
        ("IfNotPresent", true, "ready", vec![Verb::ImageStatus], vec![local.as_str()]),
        ("Never", false, "ErrImageNeverPull", vec![Verb::ImageStatus], vec![&never, "Error: ErrImageNeverPull"]),
        ("Never", true, "ready", vec![Verb::ImageStatus], vec![local.as_str()]),
    ] {
        let fake = Fake::new();
        if present {
            fake.add_image(IMAGE);
        }
        let bench = bench(&fake);
        let got = bench.ensure(&one("p", IMAGE, policy), "c").await;
        assert_eq!(reason(&got), outcome, "{policy} {present}");
        assert_eq!(verbs(&fake), calls, "{policy} {present}");
        let seen = bench.events(events.len()).await;
        assert_eq!(seen.len(), events.len(), "{policy} {present} {seen:?}");
        for (event, wanted) in seen.iter().zip(&events) {
            assert!(event.reason == *wanted || event.message == *wanted, "{policy} {present}: {event:?} {wanted}");
            assert_eq!(event.field_path, "spec.containers{c}");
        }
        let metrics = bench.actor.pulls.metrics.render();
        let present = if policy == "Always" {
            "unknown"
        } else if present {
            "true"
        } else {
            "false"
        };
        let labels = format!(
            "present_locally=\"{present}\",pull_policy=\"{}\",pull_required=\"{}\"",
            policy.to_lowercase(),
            calls.contains(&Verb::PullImage)
        );
        assert!(metrics.contains(&format!("ensure_image_requests_total{{{labels}}} 1")), "{labels}\n{metrics}");
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_tells_how_long_it_took_with_and_without_waiting() {
    let fake = Fake::new();
    fake.inject(Fault::delay(Verb::PullImage, Duration::from_millis(1405)));
    let bench = bench(&fake);
    bench.ensure(&one("p", IMAGE, "Always"), "c").await;
    let message =
        format!("Successfully pulled image {IMAGE:?} in 1.405s (1.405s including waiting). Image size: 1048576 bytes.");
    assert_eq!(
        bench.events(2).await,
        [told("Normal", "Pulling", &format!("Pulling image {IMAGE:?}")), told("Normal", "Pulled", &message)]
    );
    // The size is a courtesy (IMG-49).
    fake.inject(Fault::fail(Verb::ImageStatus, Status::internal("no")).always());
    bench.ensure(&one("p", IMAGE, "Always"), "c").await;
    assert!(bench.events(3).await[2].message.ends_with("Image size: 0 bytes."), "a size that nobody knows is 0");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_look_and_a_bad_name_have_their_own_words_and_no_back_off() {
    let fake = Fake::new();
    let bench = bench(&fake);
    fake.inject(Fault::fail(Verb::ImageStatus, Status::unknown("disk on fire")));
    let Outcome::Refused(refusal) = bench.ensure(&one("p", IMAGE, "IfNotPresent"), "c").await else { panic!() };
    let message = format!("Failed to inspect image {IMAGE:?}: disk on fire");
    assert_eq!((refusal.reason, &refusal.message, refusal.fault.is_none()), ("ImageInspectError", &message, true));
    fake.forget_calls();
    let Outcome::Refused(bad) = bench.ensure(&one("p", "UPPER/Bad Name", "Always"), "c").await else { panic!() };
    assert_eq!((bad.reason, bad.fault), ("InvalidImageName", None));
    let prefix = "Failed to apply default image tag \"UPPER/Bad Name\": couldn't parse image name \"UPPER/Bad Name\": ";
    assert!(bad.message.starts_with(prefix), "{}", bad.message);
    assert!(fake.calls().is_empty());
    let wanted = [
        told("Warning", "InspectFailed", &message),
        told("Warning", "Failed", "Error: ImageInspectError"),
        told("Warning", "InspectFailed", &bad.message),
        told("Warning", "Failed", "Error: InvalidImageName"),
    ];
    assert_eq!(bench.events(4).await, wanted);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_tells_its_text_and_then_its_reason() {
    let fake = Fake::new();
    let bench = bench(&fake);
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("RegistryUnavailable: connection refused")));
    let Outcome::Refused(refusal) = bench.ensure(&one("p", IMAGE, "Always"), "c").await else { panic!() };
    assert_eq!(refusal.reason, "RegistryUnavailable");
    assert_eq!(
        refusal.message,
        format!("image pull failed for {IMAGE} because the registry is unavailable: connection refused")
    );
    fake.inject(Fault::fail(Verb::PullImage, Status::not_found("no such thing")));
    bench.ensure(&one("p", IMAGE, "Always"), "c").await;
    let text = |text: &str| format!("Failed to pull image {IMAGE:?}: {text}");
    let wanted = [
        told("Normal", "Pulling", &format!("Pulling image {IMAGE:?}")),
        told("Warning", "Failed", &text("RegistryUnavailable: connection refused")),
        told("Warning", "Failed", "Error: RegistryUnavailable"),
        told("Warning", "Failed", &text("rpc error: code = NotFound desc = no such thing")),
        told("Warning", "Failed", "Error: ErrImagePull"),
    ];
    assert_eq!(bench.events(5).await, wanted, "the second Pulling is the first, counted");
    let metrics = bench.actor.pulls.metrics.render();
    assert!(metrics.contains("kubelet_started_containers_errors_total{code=\"ErrImagePull\"} 1"), "{metrics}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn each_credential_is_tried_and_several_failures_are_one() {
    let fake = Fake::new();
    let bench = bench(&fake);
    bench.secret("wide", "registry.test", "wide", "x");
    bench.secret("near", "registry.test/web", "near", "y");
    bench.raw_secret("broken", "{");
    let spec = json!({
        "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Always"}],
        "imagePullSecrets": [{"name": "broken"}, {"name": "gone"}, {"name": "wide"}, {"name": "near"}, {"name": "lost"}],
    });
    let pod = Arc::new(serde_json::from_value(pod("p", spec)).unwrap());
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("401 near")));
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("RegistryUnavailable: 503 Service Unavailable")));
    let Outcome::Refused(refusal) = bench.ensure(&pod, "c").await else { panic!() };
    assert_eq!(refusal.reason, "RegistryUnavailable", "also among several texts (IMG-51)");
    assert_eq!(refusal.fault.unwrap().text, "[401 near, RegistryUnavailable: 503 Service Unavailable]");
    let users = |fake: &Fake| -> Vec<String> {
        let calls = fake.calls_of(Verb::PullImage);
        let auth = |call: &Call| match call {
            Call::PullImage(pull) => pull.auth.clone().map(|auth| auth.username).unwrap_or_default(),
            _ => unreachable!(),
        };
        calls.iter().map(|recorded| auth(&recorded.call)).collect()
    };
    assert_eq!(users(&fake), ["near", "wide"], "never anonymously beside credentials (IMG-181)");
    fake.forget_calls();
    assert_eq!(reason(&bench.ensure(&pod, "c").await), "ready");
    assert_eq!(users(&fake), ["near"], "the first that works ends it");
    let events = bench.events(4).await;
    let missing = events.iter().find(|event| event.reason == "FailedToRetrieveImagePullSecret").unwrap();
    assert_eq!(
        missing.message,
        "Unable to retrieve some image pull secrets (gone, lost); attempting to pull the image may not succeed."
    );
    assert_eq!(missing.field_path, "", "of the pod, not of the container (IMG-58)");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn annotations_and_sandbox_go_with_the_question() {
    let fake = Fake::new();
    let bench = bench(&fake);
    bench.ensure(&one("p", "registry.test/web", "Always"), "c").await;
    let Call::PullImage(pull) = &fake.calls_of(Verb::PullImage)[0].call else { panic!() };
    let spec = pull.image.clone().unwrap();
    assert_eq!(spec.image, "registry.test/web:latest", "the tag is said (IMG-11)");
    assert_eq!(spec.annotations["note"], "hello");
    assert_eq!(pull.sandbox_config.as_ref().unwrap().metadata.as_ref().unwrap().name, "p");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_want_the_same_share_one_pull_and_each_has_its_events() {
    let fake = Fake::new();
    fake.inject(Fault::delay(Verb::PullImage, Duration::from_secs(5)));
    let bench = Arc::new(bench(&fake));
    let mut pods = JoinSet::new();
    for name in ["a", "b", "c", "d", "e"] {
        let bench = bench.clone();
        pods.spawn(async move { reason(&bench.ensure(&one(name, IMAGE, "Always"), "c").await).to_owned() });
    }
    assert_eq!(pods.join_all().await, ["ready"; 5]);
    assert_eq!(fake.calls_of(Verb::PullImage).len(), 1);
    let events = bench.events(10).await;
    let count = |reason: &str| events.iter().filter(|event| event.reason == reason).count();
    assert_eq!((count("Pulling"), count("Pulled")), (5, 5));
    Arc::into_inner(bench).unwrap().end().await;
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_pulls_run_and_a_deleted_pod_leaves_the_queue() {
    let fake = Fake::new();
    fake.inject(Fault::delay(Verb::PullImage, Duration::from_secs(10)).always());
    let bench = Arc::new(limited(&fake, Limits { parallel_max: 3, per_second: 0, burst: 0 }));
    let mut pods: Vec<JoinSet<()>> = Vec::new();
    for number in 0..10 {
        let (bench, mut task) = (bench.clone(), JoinSet::new());
        task.spawn(async move {
            bench.ensure(&one(&format!("p{number}"), &format!("registry.test/i{number}:1"), "Always"), "c").await;
        });
        pods.push(task);
        tokio::task::yield_now().await;
    }
    fake.until(|fake| fake.calls_of(Verb::PullImage).len() == 3).await;
    // One that waits is deleted: the machine drops what it has begun.
    let waits = pods.remove(6);
    drop(waits);
    for mut pod in pods {
        pod.join_next().await.unwrap().unwrap();
    }
    let pulls = fake.calls_of(Verb::PullImage);
    let images: Vec<String> = pulls.iter().map(|recorded| recorded.call.subject().unwrap().to_owned()).collect();
    assert!(!images.contains(&"registry.test/i6:1".to_owned()), "{images:?}");
    assert_eq!(images.len(), 9);
    for begun in &pulls {
        let same_time = pulls.iter().filter(|p| p.at <= begun.at && begun.at < p.at + Duration::from_secs(10)).count();
        assert!(same_time <= 3, "{same_time} pulls at {:?}", begun.at);
    }
    Arc::into_inner(bench).unwrap().end().await;
}

#[tokio::test(start_paused = true)]
async fn a_volumes_image_is_told_of_the_pod() {
    let fake = Fake::new();
    let bench = bench(&fake);
    let spec = json!({
        "containers": [{"name": "c", "image": IMAGE, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "image": {"reference": "registry.test/data:1", "pullPolicy": "Always"}}],
    });
    let pod = Arc::new(serde_json::from_value(pod("p", spec)).unwrap());
    let action = Action::EnsureVolumeImage { volume: "v".into() };
    let Outcome::Image(ready) = bench.run(&pod, &action).await else { panic!() };
    assert!(ready.digest.starts_with("registry.test/data@sha256:"), "{ready:?}");
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("not found")));
    assert_eq!(reason(&bench.run(&pod, &action).await), "ErrImagePull");
    let events = bench.events(3).await;
    assert!(events.iter().all(|event| event.field_path.is_empty()), "{events:?}");
    let texts: Vec<&str> = events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(texts[0], "Pulling image \"registry.test/data:1\"");
    assert_eq!(texts[2], "Failed to pull image \"registry.test/data:1\": not found");
    assert_eq!(events.len(), 3, "the reason is told of the containers that mount it");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_five_minutes_and_comes_up_at_once_when_its_secret_is_repaired() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("pull access denied")).always());
    let spec = json!({
        "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Always"}],
        "imagePullSecrets": [{"name": "mine"}],
    });
    let _wishes = bench.begin(pod("p", spec));
    let long = Duration::from_secs(3600);
    let waiting = |status: &serde_json::Value| status["containerStatuses"][0]["state"]["waiting"].clone();
    let status = bench
        .until("p", long, |status| waiting(status)["message"].as_str().is_some_and(|text| text.contains("in 5m0s")))
        .await;
    assert_eq!(waiting(&status)["reason"], "ImagePullBackOff");
    let wanted = format!(
        "Back-off pulling image {IMAGE:?}: ErrImagePull: pull access denied; waiting for credentials that registry.test accepts, next try in 5m0s"
    );
    assert_eq!(waiting(&status)["message"], wanted);
    let times: Vec<u64> = fake.calls_of(Verb::PullImage).iter().map(|recorded| recorded.at.as_secs()).collect();
    assert_eq!(times, [0, 10, 30, 70, 150, 310]);
    fake.heal();
    let repaired = tokio::time::Instant::now();
    bench.actor.pulls.causes.tell(Cause::Secret { namespace: "ns".into(), name: "mine".into() });
    bench.until("p", long, |status| status["phase"] == "Running").await;
    assert!(repaired.elapsed() < Duration::from_secs(1), "{:?}", repaired.elapsed());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_looked_at_for_a_minute_says_one_of_the_two_reasons_each_time() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    fake.inject(Fault::fail(Verb::PullImage, Status::not_found("no such image")).always());
    let _wishes = bench.begin(pod("p", json!({"containers": [{"name": "c", "image": IMAGE}]})));
    let waiting = |status: &serde_json::Value| status["containerStatuses"][0]["state"]["waiting"].clone();
    bench.until("p", Duration::from_secs(5), |status| waiting(status)["reason"] == "ErrImagePull").await;
    let mut seen = std::collections::BTreeMap::new();
    for second in 0..60 {
        let now = bench.until("p", Duration::ZERO, |_| true).await;
        let reason = waiting(&now)["reason"].as_str().unwrap_or_default().to_owned();
        assert!(["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()), "second {second}: {now}");
        assert!(waiting(&now)["message"].as_str().is_some_and(|text| text.contains("no such image")), "{now}");
        *seen.entry(reason).or_insert(0) += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(fake.calls_of(Verb::PullImage).len() >= 3);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_pull_says_so_at_most_once_a_second() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    fake.inject(Fault::delay(Verb::PullImage, Duration::from_secs(30)));
    let mut pods = bench.api.pods.subscribe();
    let spec = json!({"containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Always"}]});
    let _wishes = bench.begin(pod("p", spec));
    let mut seen: Vec<(u64, String)> = Vec::new();
    let began = tokio::time::Instant::now();
    while pods.changed().await.is_ok() {
        let pod = pods.borrow_and_update()["p"].clone();
        let text = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().map(str::to_owned);
        if let Some(text) = text.filter(|text| seen.last().is_none_or(|(_, last)| last != text)) {
            seen.push((began.elapsed().as_millis() as u64, text));
        }
        if pod["status"]["phase"] == "Running" {
            break;
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 1000), "{seen:?}");
    assert_eq!(seen[4].1, format!("Pulling image {IMAGE:?}: 5s"));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_again_has_its_pulls_tried_within_seconds() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    // Taken, and nobody listens there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let image = format!("{}/web:1", socket.local_addr().unwrap());
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("connection refused")).always());
    let spec = json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": "Always"}]});
    let _wishes = bench.begin(pod("p", spec));
    let waits = |status: &serde_json::Value| {
        let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
        message.as_str().is_some_and(|text| text.contains("next try in 5m0s"))
    };
    bench.until("p", Duration::from_secs(3600), waits).await;
    // From here on the time is the machine's: the pull waits for five minutes, and the registry comes up before.
    tokio::time::resume();
    fake.heal();
    let pulls = fake.calls_of(Verb::PullImage).len();
    bench.ask_registries();
    let listener = socket.listen(16).unwrap();
    let mut server = JoinSet::new();
    let app = axum::Router::new().route("/v2/", axum::routing::get(|| async { axum::http::StatusCode::UNAUTHORIZED }));
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    bench.until("p", Duration::from_secs(120), |status| status["phase"] == "Running").await;
    assert_eq!(fake.calls_of(Verb::PullImage).len(), pulls + 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_the_gate_images_are_asked_for_with_the_handler_of_the_class_and_without_it_with_none() {
    for (gate, class, wanted) in [
        (true, Some("known"), Some("special")),
        (true, None, Some("")),
        (false, Some("known"), Some("")),
        (true, Some("gone"), None),
    ] {
        let fake = Fake::new();
        let clock = Clock::virtual_from(Timestamp::from_second(1_800_000_000).unwrap());
        let bench = Bench::with_handlers(fake.client(), Limits::default(), clock, gate);
        let spec = json!({
            "runtimeClassName": class,
            "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}],
        });
        let pod = Arc::new(serde_json::from_value(pod("p", spec)).unwrap());
        let outcome = bench.ensure(&pod, "c").await;
        let handlers: Vec<String> = fake
            .calls()
            .iter()
            .filter_map(|recorded| match &recorded.call {
                Call::ImageStatus(request) => request.image.clone(),
                Call::PullImage(request) => request.image.clone(),
                _ => None,
            })
            .map(|spec| spec.runtime_handler)
            .collect();
        match wanted {
            Some(handler) => assert!(handlers.len() == 3 && handlers.iter().all(|h| h == handler), "{handlers:?}"),
            None => {
                assert!(handlers.is_empty());
                let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
                assert!(refusal.message.contains("\"gone\" not found"), "{refusal:?}");
            }
        }
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_private_image_that_the_node_pulled_is_for_those_who_have_the_credential() {
    let fake = Fake::new();
    let bench = bench(&fake);
    bench.secret("right", "registry.test", "u", "p");
    let with = |name: &str, policy: &str, secrets: &[&str]| {
        let secrets: Vec<_> = secrets.iter().map(|name| json!({"name": name})).collect();
        let spec = json!({
            "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": policy}],
            "imagePullSecrets": secrets,
        });
        Arc::new(serde_json::from_value(pod(name, spec)).unwrap())
    };
    assert_eq!(reason(&bench.ensure(&with("owner", "IfNotPresent", &["right"]), "c").await), "ready");
    let pulling = bench.directory().join("image_manager/pulling");
    assert_eq!(std::fs::read_dir(&pulling).unwrap().count(), 0, "the intent is a record now");
    let pulls = |fake: &Fake| fake.calls_of(Verb::PullImage).len();
    assert_eq!(pulls(&fake), 1);
    assert_eq!(reason(&bench.ensure(&with("friend", "Never", &["right"]), "c").await), "ready");
    assert_eq!(reason(&bench.ensure(&with("friend", "IfNotPresent", &["right"]), "c").await), "ready");
    assert_eq!(pulls(&fake), 1, "whoever has the credential uses what is there");
    // A stranger: Never tells the same as of an image that is absent, IfNotPresent asks the registry.
    let Outcome::Refused(never) = bench.ensure(&with("stranger", "Never", &[]), "c").await else { panic!() };
    assert_eq!(never.message, format!("Container image {IMAGE:?} is not present with pull policy of Never"));
    fake.inject(Fault::fail(Verb::PullImage, Status::unknown("pull access denied")));
    assert_eq!(reason(&bench.ensure(&with("stranger", "IfNotPresent", &[]), "c").await), "ErrImagePull");
    assert_eq!(pulls(&fake), 2);
    assert_eq!(std::fs::read_dir(&pulling).unwrap().count(), 0, "a failed pull leaves no intent");
    // What was pulled by nobody here is for all (IMG-230).
    let placed = "registry.test/placed:1";
    fake.add_image(placed);
    assert_eq!(reason(&bench.ensure(&one("anybody", placed, "Never"), "c").await), "ready");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn always_asks_the_registry_whatever_a_record_says_and_leaves_one() {
    let fake = Fake::new();
    let bench = bench(&fake);
    bench.secret("right", "registry.test", "u", "p");
    let owner: Arc<_> = serde_json::from_value(pod(
        "owner",
        json!({"containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Always"}], "imagePullSecrets": [{"name": "right"}]}),
    ))
    .map(Arc::new)
    .unwrap();
    let pulled = bench.directory().join("image_manager/pulled");
    for round in 1..=2 {
        // The second time the record allows it, and nobody looks: not at the image either.
        assert_eq!(reason(&bench.ensure(&owner, "c").await), "ready");
        assert_eq!(verbs(&fake), [Verb::PullImage, Verb::ImageStatus], "round {round}");
        assert_eq!(std::fs::read_dir(&pulled).unwrap().count(), 1, "round {round}");
        fake.forget_calls();
    }
    // What it left is what others are judged by.
    let stranger = bench.ensure(&one("stranger", IMAGE, "Never"), "c").await;
    assert_eq!(reason(&stranger), "ErrImageNeverPull");
    // A stranger's own pull with Always is recorded too: the registry let anybody have it.
    assert_eq!(reason(&bench.ensure(&one("stranger", IMAGE, "Always"), "c").await), "ready");
    assert_eq!(reason(&bench.ensure(&one("stranger", IMAGE, "Never"), "c").await), "ready");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_intent_is_on_disk_while_the_runtime_is_asked_and_a_pull_without_one_is_not_begun() {
    let fake = Fake::new();
    fake.inject(Fault::delay(Verb::PullImage, Duration::from_secs(5)));
    let bench = Arc::new(bench(&fake));
    let pulling = bench.directory().join("image_manager/pulling");
    let (inner, mut task) = (bench.clone(), JoinSet::new());
    task.spawn(async move { reason(&inner.ensure(&one("p", IMAGE, "Always"), "c").await).to_owned() });
    fake.until(|fake| fake.calls_of(Verb::PullImage).len() == 1).await;
    assert_eq!(std::fs::read_dir(&pulling).unwrap().count(), 1);
    assert_eq!(task.join_next().await.unwrap().unwrap(), "ready");
    assert_eq!(std::fs::read_dir(&pulling).unwrap().count(), 0);
    fake.forget_calls();
    std::fs::remove_dir_all(&pulling).unwrap();
    std::fs::write(&pulling, "no directory").unwrap();
    let Outcome::Refused(refusal) = bench.ensure(&one("q", IMAGE, "Always"), "c").await else { panic!() };
    assert_eq!(refusal.reason, "ErrImagePull", "a word, whatever the detail (IMG-63)");
    assert!(refusal.message.starts_with("failed to record image pull intent of "), "{refusal:?}");
    assert!(fake.calls().is_empty());
    Arc::into_inner(bench).unwrap().end().await;
}
