//! kubectl and requests for certificates: what it shows, approves and denies. Needs kubectl.
#![allow(missing_docs)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cluster::{Cluster, cluster};
use rcgen::{CertificateParams, DnType, KeyPair};

mod cluster;
mod pki;

async fn request(cluster: &Cluster, name: &str) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ann");
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let manifest = format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  \
         request: {}\n  signerName: kubernetes.io/kube-apiserver-client\n  expirationSeconds: 86400\n  \
         usages: [client auth]\n",
        STANDARD.encode(pem)
    );
    let file = cluster.file(&format!("{name}.yaml"), &manifest);
    cluster.ok(&["create", "-f", &file]).await;
}

#[tokio::test]
async fn requests_are_shown_approved_and_denied() {
    let cluster = cluster().await;
    request(&cluster, "a").await;
    request(&cluster, "b").await;
    let table = cluster.ok(&["get", "csr"]).await;
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[2..], ["kubernetes.io/kube-apiserver-client", "kubernetes-admin", "24h", "Pending"]);
    let told = cluster.ok(&["certificate", "approve", "a"]).await;
    assert!(told.contains("certificatesigningrequest.certificates.k8s.io/a approved"), "{told}");
    cluster.ok(&["certificate", "deny", "b"]).await;
    let table = cluster.ok(&["get", "csr", "--no-headers"]).await;
    let conditions: Vec<&str> = table.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(conditions, ["Approved", "Denied"]);
    let told = cluster.fails(&["certificate", "deny", "a"]).await;
    assert!(told.contains("certificate signing request \"a\" is already Approved"), "{told}");
    let described = cluster.ok(&["describe", "csr", "a"]).await;
    for part in ["Requesting User:", "kubernetes-admin", "Common Name:", "ann", "Status:", "Approved"] {
        assert!(described.contains(part), "{part} in {described}");
    }
    cluster.ok(&["delete", "csr", "a", "b"]).await;
    cluster.end().await;
}
