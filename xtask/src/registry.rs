//! A private registry on loopback: Debian's docker-registry with one user, its data in a directory of ours.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::shell;

/// The registry's user.
pub const USER: &str = "demo";
/// The registry's password; it guards a demo image on loopback.
pub const PASSWORD: &str = "three-planks";

/// How long a registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry that runs in the background, also after this program has ended.
pub struct Registry {
    dir: PathBuf,
    is_private: bool,
    /// Who may enter, if it is private, and by which password.
    user: (String, String),
    /// `host:port`, as image names spell it.
    pub address: String,
}

impl Registry {
    /// The registry in a directory, at a port of loopback. Nothing is started.
    pub fn new(dir: &Path, port: u16) -> Registry {
        let user = (USER.to_owned(), PASSWORD.to_owned());
        Registry { dir: dir.into(), is_private: true, user, address: format!("127.0.0.1:{port}") }
    }

    /// One from which everybody may pull.
    pub fn open(dir: &Path, port: u16) -> Registry {
        Registry { is_private: false, ..Registry::new(dir, port) }
    }

    /// The same with another user.
    #[must_use]
    pub fn with_user(self, name: &str, password: &str) -> Registry {
        Registry { user: (name.to_owned(), password.to_owned()), ..self }
    }

    /// Starts it unless it runs.
    pub fn ensure(&self) -> anyhow::Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        if TcpStream::connect(&self.address).is_ok() {
            bail!("{} is in use by another program; stop that first", self.address);
        }
        std::fs::create_dir_all(&self.dir)?;
        let dir = self.dir.display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {dir}/data}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{}\"}}\n",
            self.address
        );
        if self.is_private {
            let (user, password) = &self.user;
            let passwords = shell::output("htpasswd", &["-Bbn", user, password], "")?;
            std::fs::write(self.dir.join("htpasswd"), passwords)?;
            config += &format!("auth: {{htpasswd: {{realm: sampan, path: {dir}/htpasswd}}}}\n");
        }
        std::fs::write(self.dir.join("config.yml"), config)?;
        let log = std::fs::File::create(self.dir.join("log"))?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(self.dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry")?;
        std::fs::write(self.dir.join("pid"), child.id().to_string())?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE && child.try_wait()?.is_none() {
            if TcpStream::connect(&self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("docker-registry does not answer; its log is {dir}/log")
    }

    /// Stops it if it is ours and runs.
    pub fn stop(&self) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            shell::run("kill", &[&pid.to_string()])?;
        }
        let _ = std::fs::remove_file(self.dir.join("pid"));
        Ok(())
    }

    /// Copies an image, or an index with all its images, into the registry.
    pub fn push(&self, layout: &Path, name: &str) -> anyhow::Result<()> {
        shell::output(
            "skopeo",
            &[
                "copy",
                "--quiet",
                "--all",
                "--insecure-policy",
                "--dest-tls-verify=false",
                &format!("--dest-creds={}:{}", self.user.0, self.user.1),
                &format!("oci:{}", layout.display()),
                &format!("docker://{}/{name}", self.address),
            ],
            "",
        )?;
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&words).contains("docker-registry").then_some(pid)
    }
}
