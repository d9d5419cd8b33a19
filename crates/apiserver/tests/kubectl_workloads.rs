//! kubectl 1.32 as it comes, on the kinds that hold a pod template.
#![allow(missing_docs)]

use cluster::cluster;

mod cluster;
mod pki;

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_made_changed_scaled_and_shown() {
    let cluster = cluster().await;
    let made = cluster.ok(&["create", "deployment", "web", "--image=nginx:1", "--replicas=2", "--port=80"]).await;
    assert!(made.contains("deployment.apps/web created") && !made.contains("Warning"), "{made}");
    let wide = cluster.ok(&["get", "deploy", "-o", "wide"]).await;
    let lines: Vec<Vec<&str>> = wide.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert_eq!((&lines[1][..4], &lines[1][5..]), (&["web", "0/2", "0", "0"][..], &["nginx", "nginx:1", "app=web"][..]));
    // IMG-25: the policy does not follow the image.
    cluster.ok(&["set", "image", "deployment/web", "nginx=nginx:latest"]).await;
    let shown = cluster
        .ok(&[
            "get",
            "deploy",
            "web",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].imagePullPolicy} {.metadata.generation}",
        ])
        .await;
    assert_eq!(shown, "IfNotPresent 2");
    cluster.ok(&["scale", "deploy/web", "--replicas=5"]).await;
    assert!(
        cluster
            .fails(&["scale", "deploy/web", "--replicas=3", "--current-replicas=2"])
            .await
            .contains("Expected replicas")
    );
    assert_eq!(cluster.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]).await, "5");
    let scale =
        cluster.ok(&["get", "deploy", "web", "--subresource=scale", "-o", "jsonpath={.kind} {.status.selector}"]).await;
    assert_eq!(scale, "Scale app=web");
    let described = cluster.ok(&["describe", "deployment", "web"]).await;
    assert!(described.contains("5 desired") && described.contains("25% max unavailable, 25% max surge"), "{described}");
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"nginx","env":[{"name":"A","value":"b"}]}]}}}}"#;
    cluster.ok(&["patch", "deploy", "web", "-p", patch]).await;
    cluster.ok(&["set", "env", "deploy/web", "C=d"]).await;
    cluster.ok(&["rollout", "restart", "deploy/web"]).await;
    let env =
        cluster.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[*].name}"]).await;
    assert_eq!(env, "A C");
    assert!(cluster.ok(&["get", "all"]).await.contains("deployment.apps/web"));
    cluster.ok(&["delete", "deploy", "web"]).await;
    assert!(cluster.fails(&["get", "deploy", "web"]).await.contains("deployments.apps \"web\" not found"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_cron_jobs_are_made_by_kubectls_own_commands() {
    let cluster = cluster().await;
    cluster.ok(&["create", "job", "once", "--image=busybox", "--", "date"]).await;
    let listed = cluster.ok(&["get", "jobs"]).await;
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"]);
    assert_eq!(lines[1][..3], ["once", "Running", "0/1"]);
    let template = "jsonpath={.spec.template.spec.restartPolicy} {.spec.template.spec.containers[0].imagePullPolicy} {.spec.backoffLimit}";
    assert_eq!(cluster.ok(&["get", "job", "once", "-o", template]).await, "Never Always 6");
    cluster.ok(&["create", "cronjob", "hourly", "--image=busybox:1", "--schedule=0 * * * *", "--", "date"]).await;
    assert!(cluster.ok(&["get", "cj"]).await.contains("0 * * * *"));
    assert!(cluster.ok(&["describe", "cronjob", "hourly"]).await.contains("Allow"));
    cluster.ok(&["create", "job", "now", "--from=cronjob/hourly"]).await;
    let owner = cluster.ok(&["get", "job", "now", "-o", "jsonpath={.metadata.ownerReferences[0].kind}"]).await;
    assert_eq!(owner, "CronJob");
    let wrong = cluster.fails(&["create", "cronjob", "x", "--image=a", "--schedule=60 * * * *"]).await;
    assert!(
        wrong.contains("spec.schedule: Invalid value: \"60 * * * *\": end of range (60) above maximum (59): 60"),
        "{wrong}"
    );
    cluster.end().await;
}

const REST: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: pg:1}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: log}
spec:
  selector: {matchLabels: {app: log}}
  template: {metadata: {labels: {app: log}}, spec: {nodeSelector: {a: b}, containers: [{name: c, image: log:1}]}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: set}
spec:
  selector: {matchLabels: {app: set}}
  template: {metadata: {labels: {app: set}}, spec: {containers: [{name: c, image: set:1}]}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  template: {metadata: {labels: {app: old}}, spec: {containers: [{name: c, image: old:1}]}}
---
apiVersion: v1
kind: PodTemplate
metadata: {name: plan}
template: {metadata: {labels: {app: plan}}, spec: {containers: [{name: c, image: plan:1}]}}
";

#[tokio::test(flavor = "multi_thread")]
async fn every_other_kind_is_applied_listed_scaled_and_described() {
    let cluster = cluster().await;
    let file = cluster.file("rest.yaml", REST);
    cluster.ok(&["apply", "-f", &file]).await;
    let again = cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(again.matches("unchanged").count(), 5, "{again}");
    let all = cluster.ok(&["get", "all"]).await;
    for name in ["statefulset.apps/db", "daemonset.apps/log", "replicaset.apps/set", "replicationcontroller/old"] {
        assert!(all.contains(name), "{name} in {all}");
        cluster.ok(&["describe", name]).await;
        cluster.ok(&["set", "image", name, "c=new:latest"]).await;
        let policy = "jsonpath={.spec.template.spec.containers[0].imagePullPolicy}";
        assert_eq!(cluster.ok(&["get", name, "-o", policy]).await, "IfNotPresent");
    }
    for name in ["sts/db", "rs/set", "rc/old"] {
        cluster.ok(&["scale", name, "--replicas=3"]).await;
        assert_eq!(cluster.ok(&["get", name, "-o", "jsonpath={.spec.replicas}"]).await, "3");
    }
    let daemons = cluster.ok(&["get", "ds"]).await;
    assert!(daemons.lines().next().unwrap().contains("NODE SELECTOR") && daemons.contains("a=b"), "{daemons}");
    assert!(cluster.ok(&["get", "podtemplates"]).await.contains("plan:1"));
    let fixed = r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#;
    assert!(cluster.fails(&["patch", "rs", "set", "-p", fixed]).await.contains("field is immutable"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_discovery_know_the_workloads() {
    let cluster = cluster().await;
    let text = cluster.ok(&["explain", "deployment.spec.template"]).await;
    assert!(text.contains("PodTemplateSpec") && text.contains("GROUP:      apps"), "{text}");
    assert!(cluster.ok(&["explain", "cronjob.spec.jobTemplate.spec.backoffLimit"]).await.contains("<integer>"));
    let resources = cluster.ok(&["api-resources", "--categories=all", "-o", "name"]).await;
    let mut names: Vec<&str> = resources.lines().collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cronjobs.batch",
            "daemonsets.apps",
            "deployments.apps",
            "jobs.batch",
            "pods",
            "replicasets.apps",
            "replicationcontrollers",
            "statefulsets.apps",
        ]
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn img_29_debug_adds_an_ephemeral_container_to_a_stored_pod() {
    let cluster = cluster().await;
    cluster.ok(&["run", "web", "--image=nginx:1"]).await;
    // The pod never runs here, so kubectl has nothing to attach to.
    cluster.ok(&["debug", "web", "--image=busybox", "--target=web", "--container=dbg", "--attach=false"]).await;
    let shown = "jsonpath={.spec.ephemeralContainers[0].name} {.spec.ephemeralContainers[0].imagePullPolicy} {.metadata.generation}";
    assert_eq!(cluster.ok(&["get", "pod", "web", "-o", shown]).await, "dbg Always 2");
    cluster.end().await;
}
