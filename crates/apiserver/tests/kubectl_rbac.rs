//! kubectl 1.32 as it comes, on roles, bindings and questions about rights.
#![allow(missing_docs)]

use cluster::{Cluster, cluster};

mod cluster;
mod pki;

/// kubectl as somebody else.
async fn as_user(cluster: &Cluster, user: &str, words: &[&str]) -> (bool, String) {
    cluster.run(&[words, &["--as", user]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn can_i_tells_what_requests_then_find() {
    let cluster = cluster().await;
    assert_eq!(cluster.ok(&["auth", "can-i", "delete", "pods"]).await.trim(), "yes");
    let (allowed, text) = as_user(&cluster, "ann", &["auth", "can-i", "list", "pods"]).await;
    assert!(!allowed && text.trim() == "no", "{text}");
    let made = cluster.ok(&["create", "rolebinding", "anns", "--clusterrole=view", "--user=ann", "--group=dev"]).await;
    assert!(made.contains("rolebinding.rbac.authorization.k8s.io/anns created"), "{made}");
    let (allowed, text) = as_user(&cluster, "ann", &["auth", "can-i", "list", "pods"]).await;
    assert!(allowed && text.trim() == "yes", "{text}");
    assert!(as_user(&cluster, "ann", &["get", "pods"]).await.0);
    let (allowed, text) = as_user(&cluster, "ann", &["get", "secrets"]).await;
    assert!(!allowed && text.contains("secrets is forbidden: User \"ann\" cannot list resource \"secrets\""), "{text}");
    assert!(!as_user(&cluster, "ann", &["auth", "can-i", "get", "pods", "--subresource=exec"]).await.0);
    assert!(as_user(&cluster, "ann", &["auth", "can-i", "get", "/api"]).await.0);
    let (_, list) = as_user(&cluster, "ann", &["auth", "can-i", "--list"]).await;
    assert!(list.contains("pods/log") && list.contains("[/openapi/*]") && !list.contains("secrets"), "{list}");
    assert!(!list.contains("Warning"), "{list}");
    let (_, me) = cluster.run(&["auth", "whoami", "--as", "ann", "--as-group", "dev", "--as-uid", "7"]).await;
    assert!(
        me.contains("ann") && me.contains("dev") && me.contains("system:authenticated") && me.contains('7'),
        "{me}"
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_bindings_are_made_shown_and_kept() {
    let cluster = cluster().await;
    cluster.ok(&["create", "role", "reader", "--verb=get,list", "--resource=pods,deployments.apps/scale"]).await;
    cluster.ok(&["create", "clusterrole", "paths", "--verb=get", "--non-resource-url=/metrics"]).await;
    cluster.ok(&["create", "clusterrole", "sum", "--aggregation-rule=part-of-sum=true"]).await;
    cluster.ok(&["create", "clusterrole", "part", "--verb=watch", "--resource=configmaps"]).await;
    cluster.ok(&["label", "clusterrole", "part", "part-of-sum=true"]).await;
    let rules = "jsonpath={.rules[*].resources[*]}";
    assert_eq!(cluster.ok(&["get", "clusterrole", "sum", "-o", rules]).await, "configmaps");
    let admin = cluster.ok(&["get", "clusterrole", "admin", "-o", "yaml"]).await;
    assert!(admin.contains("- rolebindings") && admin.contains("- secrets") && admin.contains("- pods/log"), "{admin}");
    let account = "--serviceaccount=default:robot";
    cluster.ok(&["create", "rolebinding", "b", "--role=reader", account, "--user=ann", "--user=bob"]).await;
    cluster.ok(&["create", "clusterrolebinding", "c", "--clusterrole=paths", "--group=dev"]).await;
    let wide = cluster.ok(&["get", "rolebinding", "-o", "wide"]).await;
    let lines: Vec<&str> = wide.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS"]
    );
    assert!(lines[1].contains("Role/reader") && lines[1].contains("ann, bob") && lines[1].ends_with("default/robot"));
    assert!(cluster.ok(&["get", "roles"]).await.starts_with("NAME     CREATED AT"));
    let told = cluster.ok(&["describe", "clusterrole", "view"]).await;
    assert!(told.contains("pods/log") && told.contains("[get list watch]"), "{told}");
    assert!(cluster.ok(&["describe", "rolebinding", "b"]).await.contains("ServiceAccount  robot  default"));
    assert!(cluster.ok(&["explain", "role.rules.resourceNames"]).await.to_lowercase().contains("is an optional"));
    cluster.ok(&["set", "subject", "clusterrolebinding", "c", "--user=eve"]).await;
    assert_eq!(cluster.ok(&["get", "clusterrolebinding", "c", "-o", "jsonpath={.subjects[*].name}"]).await, "dev eve");
    let other = r#"{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"x"}}"#;
    let text = cluster.fails(&["patch", "rolebinding", "b", "-p", other]).await;
    assert!(text.contains("roleRef: Invalid value") && text.contains("cannot change roleRef"), "{text}");
    cluster.ok(&["delete", "role", "reader"]).await;
    cluster.end().await;
}

const WANTED: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: default}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: r, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}
";

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_makes_mends_and_replaces() {
    let cluster = cluster().await;
    let file = cluster.file("wanted.yaml", WANTED);
    let said = cluster.ok(&["auth", "reconcile", "-f", &file]).await;
    assert!(said.contains("role.rbac.authorization.k8s.io/r reconciled"), "{said}");
    assert!(as_user(&cluster, "ann", &["get", "pods"]).await.0);
    let file = cluster.file("wanted.yaml", &WANTED.replace("[get, list]", "[get, list, watch]").replace("ann", "bob"));
    let said = cluster.ok(&["auth", "reconcile", "-f", &file, "--remove-extra-subjects"]).await;
    assert!(said.contains("missing rules added") && said.contains("extra subjects removed"), "{said}");
    assert!(as_user(&cluster, "bob", &["get", "pods"]).await.0 && !as_user(&cluster, "ann", &["get", "pods"]).await.0);
    let other = WANTED.replace("kind: Role, name: r", "kind: ClusterRole, name: view");
    let file = cluster.file("wanted.yaml", &other);
    cluster.ok(&["auth", "reconcile", "-f", &file]).await;
    assert_eq!(cluster.ok(&["get", "rolebinding", "r", "-o", "jsonpath={.roleRef.name}"]).await, "view");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn escalation_is_refused_in_upstreams_words() {
    let cluster = cluster().await;
    cluster.ok(&["create", "clusterrolebinding", "ann", "--clusterrole=admin", "--user=ann"]).await;
    assert!(as_user(&cluster, "ann", &["create", "role", "r", "--verb=get", "--resource=secrets"]).await.0);
    let words = ["create", "role", "x", "--verb=get", "--resource=nodes"];
    let (made, text) = as_user(&cluster, "ann", &words).await;
    assert!(!made, "{text}");
    assert!(
        text.contains(
            "(groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:"
        )
    );
    assert!(text.contains("{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"), "{text}");
    let words = ["create", "rolebinding", "x", "--clusterrole=cluster-admin", "--user=ann"];
    let (made, text) = as_user(&cluster, "ann", &words).await;
    assert!(!made && text.contains("{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"), "{text}");
    let (made, text) = cluster.run(&["create", "ns", "x", "--as", "ann", "--as-group", "system:masters"]).await;
    assert!(made, "an administrator may be anybody: {text}");
    cluster.end().await;
}
