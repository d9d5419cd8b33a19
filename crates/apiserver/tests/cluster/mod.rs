//! A cluster for kubectl: an API server over TLS on the memory store, and a directory with its kubeconfig.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use apiserver::{ApiServer, Options};
use tokio_util::sync::CancellationToken;

use crate::pki;

pub struct Cluster {
    pub dir: tempfile::TempDir,
    cancel: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

/// A cluster with the default plugins.
pub async fn cluster() -> Cluster {
    cluster_with(|_| {}).await
}

/// A cluster whose options are changed before it starts.
pub async fn cluster_with(change: impl FnOnce(&mut Options)) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki::Pki::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kubeconfig = pki.kubeconfig(listener.local_addr().unwrap(), "kubernetes-admin", "system:masters");
    std::fs::write(dir.path().join("config"), kubeconfig).unwrap();
    let cancel = CancellationToken::new();
    let mut options = Options::new(Arc::new(store::memory::MemoryStore::new()));
    options.client_ca_pem = Some(pki.ca_pem());
    change(&mut options);
    let server = ApiServer::start(options, cancel.clone()).await.unwrap();
    let (tls, ending) = (pki.api_config(), cancel.clone());
    #[allow(clippy::disallowed_methods)] // The test awaits it in `end`.
    let serving = tokio::spawn(async move { server.serve(listener, tls, ending).await.unwrap() });
    Cluster { dir, cancel, serving }
}

impl Cluster {
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The same without a client certificate.
    pub async fn anonymous(&self, arguments: &[&str]) -> (bool, String) {
        let config = std::fs::read_to_string(self.dir.path().join("config")).unwrap();
        let lines = config.lines().filter(|line| !line.contains("client-"));
        let config: String = lines.map(|line| format!("{line}\n")).collect();
        let file = self.file("anonymous", &config);
        self.run(&[&["--kubeconfig", &file], arguments].concat()).await
    }

    /// Standard output and standard error of kubectl, and whether it succeeded.
    pub async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let home: &Path = self.dir.path();
        let output = tokio::process::Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", home.join("config"))
            .env("HOME", home)
            .output()
            .await
            .expect("kubectl is installed");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub async fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments).await;
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }

    pub async fn fails(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments).await;
        assert!(!success, "kubectl {arguments:?}: {text}");
        text
    }

    pub async fn end(self) {
        self.cancel.cancel();
        self.serving.await.unwrap();
    }
}
