//! kubectl 1.32 as it comes, over TLS, against the memory store.
#![allow(missing_docs)]

use cluster::cluster;

mod cluster;
mod pki;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  containers:\n  - name: c\n    image: \
                   nginx:1\n    env: [{name: A, value: one}, {name: B, value: two}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_changes_and_prunes() {
    let cluster = cluster().await;
    let pod = cluster.file("pod.yaml", POD);
    assert!(cluster.ok(&["apply", "-f", &pod]).await.contains("pod/web created"));
    assert!(cluster.ok(&["apply", "-f", &pod]).await.contains("pod/web unchanged"));
    let changed = POD.replace("nginx:1", "nginx:2").replace("labels: {app: web}", "labels: {tier: front}");
    let pod = cluster.file("pod.yaml", &changed);
    assert!(cluster.ok(&["apply", "-f", &pod]).await.contains("pod/web configured"));
    let image =
        cluster.ok(&["get", "pod", "web", "-o", "jsonpath={.spec.containers[*].image} {.metadata.labels}"]).await;
    assert_eq!(image, "nginx:2 {\"tier\":\"front\"}");
    let text = cluster.fails(&["create", "-f", &pod]).await;
    assert!(text.contains("(AlreadyExists)") && text.contains("pods \"web\" already exists"), "{text}");
    cluster.file("kustomization.yaml", "resources: [cm.yaml]\nnamePrefix: x-\n");
    cluster.file("cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {a: b}\n");
    let dir = cluster.dir.path().display().to_string();
    assert!(cluster.ok(&["apply", "-k", &dir]).await.contains("configmap/x-cm created"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_changing_and_deleting_work() {
    let cluster = cluster().await;
    let pod = cluster.file("pod.yaml", POD);
    cluster.ok(&["create", "-f", &pod]).await;
    assert!(cluster.ok(&["get", "pods", "-o", "wide"]).await.contains("NOMINATED NODE"));
    assert!(cluster.ok(&["get", "pods", "-A", "--no-headers"]).await.starts_with("default"));
    assert!(cluster.ok(&["describe", "pod", "web"]).await.contains("nginx:1"));
    cluster.ok(&["label", "pod", "web", "x=y"]).await;
    cluster.ok(&["annotate", "pod", "web", "a=b"]).await;
    assert!(cluster.ok(&["get", "pods", "-l", "x in (y)", "-o", "name"]).await.contains("pod/web"));
    assert!(cluster.ok(&["get", "pods", "-l", "x!=y"]).await.contains("No resources found"));
    assert!(cluster.ok(&["get", "pods", "--field-selector", "status.phase=Pending"]).await.contains("web"));
    assert!(cluster.ok(&["run", "b", "--image=busybox", "--dry-run=server", "-o", "name"]).await.contains("pod/b"));
    assert!(cluster.ok(&["run", "b", "--image=busybox"]).await.contains("created"));
    cluster.ok(&["wait", "--for=jsonpath={.status.phase}=Pending", "pod/b", "--timeout=5s"]).await;
    cluster.ok(&["delete", "pod", "web", "b"]).await;
    assert!(cluster.fails(&["get", "pod", "web"]).await.contains("pods \"web\" not found"));
    assert!(cluster.fails(&["delete", "ns", "default"]).await.contains("this namespace may not be deleted"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectls_own_create_commands_are_understood() {
    let cluster = cluster().await;
    let secret = [
        "create",
        "secret",
        "docker-registry",
        "reg",
        "--docker-server=h",
        "--docker-username=u",
        "--docker-password=p",
    ];
    cluster.ok(&secret).await;
    assert!(cluster.ok(&["get", "secrets"]).await.contains("kubernetes.io/dockerconfigjson"));
    cluster.ok(&["create", "configmap", "cm", "--from-literal=a=b"]).await;
    assert_eq!(cluster.ok(&["get", "cm", "cm", "-o", "jsonpath={.data.a}"]).await, "b");
    cluster.ok(&["create", "namespace", "other"]).await;
    cluster.ok(&["create", "serviceaccount", "robot", "-n", "other"]).await;
    cluster.ok(&["create", "priorityclass", "high", "--value=10", "--description=x"]).await;
    let missing = cluster.fails(&["create", "configmap", "cm", "-n", "nowhere"]).await;
    assert!(missing.contains("namespaces \"nowhere\" not found"), "{missing}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_manifests_are_refused_with_the_field() {
    let cluster = cluster().await;
    let unknown = cluster.file("a.yaml", &POD.replace("    env:", "    imagee: x\n    env:"));
    let text = cluster.fails(&["apply", "-f", &unknown]).await;
    assert!(text.contains("unknown field \"spec.containers[0].imagee\""), "{text}");
    let text = cluster.ok(&["apply", "--validate=warn", "-f", &unknown]).await;
    assert!(text.contains("Warning: unknown field \"spec.containers[0].imagee\""), "{text}");
    let invalid = cluster.file("b.yaml", &POD.replace("name: web", "name: Web"));
    assert!(cluster.fails(&["create", "-f", &invalid]).await.contains("The Pod \"Web\" is invalid: metadata.name"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_explain_tell_what_is_served() {
    let cluster = cluster().await;
    assert!(cluster.ok(&["api-resources"]).await.contains("runtimeclasses"));
    assert!(cluster.ok(&["api-versions"]).await.contains("node.k8s.io/v1"));
    let text = cluster.ok(&["explain", "pod.spec.containers.imagePullPolicy"]).await;
    assert!(text.contains("IfNotPresent") && text.contains("<string>"), "{text}");
    assert!(cluster.ok(&["explain", "runtimeclass.overhead.podFixed"]).await.contains("map[string]Quantity"));
    assert!(cluster.ok(&["version"]).await.contains("+sampan"));
    assert!(cluster.ok(&["get", "events"]).await.contains("No resources found"));
    cluster.end().await;
}
