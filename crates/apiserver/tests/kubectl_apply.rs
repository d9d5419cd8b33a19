//! kubectl 1.32 as it comes: server-side apply, its conflicts, its migrations, and what it shows of owners.
#![allow(missing_docs)]

use cluster::cluster;

mod cluster;
mod pki;

const WEB: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  \
                   template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - {name: c, image: 'nginx:1', ports: [{containerPort: 80}]}\n";

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_creates_changes_conflicts_and_is_forced() {
    let cluster = cluster().await;
    let web = cluster.file("web.yaml", WEB);
    let said = cluster.ok(&["apply", "--server-side", "-f", &web]).await;
    assert!(said.contains("deployment.apps/web serverside-applied"), "{said}");
    cluster.ok(&["apply", "--server-side", "-f", &web]).await;
    let shown = cluster.ok(&["get", "deployment", "web", "-o", "yaml", "--show-managed-fields"]).await;
    assert!(shown.contains("manager: kubectl\n") && shown.contains("operation: Apply"), "{shown}");
    assert!(shown.contains("k:{\"containerPort\":80,\"protocol\":\"TCP\"}:"), "{shown}");
    assert!(!cluster.ok(&["get", "deployment", "web", "-o", "yaml"]).await.contains("managedFields"));
    cluster.ok(&["scale", "deployment", "web", "--replicas=5"]).await;
    let refused = cluster.fails(&["apply", "--server-side", "-f", &web]).await;
    let words = "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert!(refused.contains(words) && refused.contains("--force-conflicts"), "{refused}");
    cluster.ok(&["apply", "--server-side", "--force-conflicts", "-f", &web]).await;
    let other = cluster.file("other.yaml", &WEB.replace("nginx:1", "nginx:2"));
    let refused = cluster.fails(&["apply", "--server-side", "--field-manager=robot", "-f", &other]).await;
    assert!(
        refused.contains("conflict with \"kubectl\": .spec.template.spec.containers[name=\"c\"].image"),
        "{refused}"
    );
    let dry = cluster
        .ok(&[
            "apply",
            "--server-side",
            "--dry-run=server",
            "--force-conflicts",
            "--field-manager=robot",
            "-f",
            &other,
            "-o",
            "jsonpath={.spec.template.spec.containers[0].image}",
        ])
        .await;
    assert_eq!(dry, "nginx:2");
    // Two managers that want the same share it.
    cluster.ok(&["apply", "--server-side", "--field-manager=robot", "-f", &web]).await;
    let small = cluster.file("small.yaml", &WEB.replace("  replicas: 2\n", ""));
    cluster.ok(&["apply", "--server-side", "-f", &small]).await;
    assert_eq!(cluster.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]).await, "2");
    cluster.ok(&["apply", "--server-side", "--field-manager=robot", "-f", &small]).await;
    assert_eq!(cluster.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]).await, "1");
    let unknown = cluster.file("unknown.yaml", &WEB.replace("  replicas: 2", "  replicaz: 2"));
    let refused = cluster.fails(&["apply", "--server-side", "--validate=false", "-f", &unknown]).await;
    assert!(refused.contains(".spec.replicaz: field not declared in schema"), "{refused}");
    let diff = cluster.run(&["diff", "--server-side", "--force-conflicts", "-f", &other]).await.1;
    assert!(diff.contains("+") && diff.contains("nginx:2"), "{diff}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_apply_becomes_server_side_apply_and_back() {
    let cluster = cluster().await;
    let web = cluster.file("web.yaml", WEB);
    cluster.ok(&["apply", "-f", &web]).await;
    assert!(cluster.ok(&["apply", "view-last-applied", "deployment", "web"]).await.contains("replicas: 2"));
    let owners = |path: &'static str| {
        let cluster = &cluster;
        async move { cluster.ok(&["get", "deployment", "web", "--show-managed-fields", "-o", path]).await }
    };
    let managers = "jsonpath={range .metadata.managedFields[*]}{.manager}/{.operation} {end}";
    assert_eq!(owners(managers).await, "kubectl-client-side-apply/Update ");
    // kubectl moves its own entry with a JSON patch, so that what goes from the file goes from the object.
    let changed = WEB.replace("  replicas: 2\n", "").replace("nginx:1", "nginx:3");
    let changed = cluster.file("web.yaml", &changed);
    cluster.ok(&["apply", "--server-side", "-f", &changed]).await;
    // The annotation itself it hands to a manager of its own.
    assert_eq!(owners(managers).await, "kubectl/Apply kubectl-last-applied/Apply ");
    let now = cluster
        .ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}"])
        .await;
    assert_eq!(now, "1 nginx:3");
    // The annotation is kept true, so that client-side apply may come back.
    assert!(cluster.ok(&["apply", "view-last-applied", "deployment", "web"]).await.contains("nginx:3"));
    let back = cluster.file("web.yaml", WEB);
    assert!(cluster.ok(&["apply", "-f", &back]).await.contains("configured"));
    let now = cluster
        .ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}"])
        .await;
    assert_eq!(now, "2 nginx:1");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_that_kubectl_makes_is_applied() {
    let cluster = cluster().await;
    let many = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {a: b}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n---\n\
                apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot}\nimagePullSecrets: [{name: s}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, finalizers: [x/y]}\n\
                spec: {containers: [{name: c, image: nginx, env: [{name: A, value: b}], resources: {limits: {cpu: 1}}}], volumes: [{name: v, emptyDir: {}}]}\n---\n\
                apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: r}\nhandler: runc\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\n\
                spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: space}\n---\n\
                apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 7\n";
    let many = cluster.file("many.yaml", many);
    for _ in 0..2 {
        let said = cluster.ok(&["apply", "--server-side", "--field-manager=me", "-f", &many]).await;
        assert_eq!(said.matches("serverside-applied").count(), 8, "{said}");
    }
    let generation = cluster.ok(&["get", "job", "j", "-o", "jsonpath={.metadata.generation}"]).await;
    assert_eq!(generation, "1");
    cluster.end().await;
}
