//! A virtual machine for tests: Debian's kernel, the host's own programs, cgroup v2 alone, a disk that can lose power.
//!
//! Owns the boot and the conversation; [`image`] makes the root disk, [`kernel`] fetches the kernel, [`power`] is what is
//! left on a disk after its power was cut. The processor is emulated (TCG), so it works wherever the tests do. A guest has
//! no network but its own loopback. Start at [`Guest::boot`].

pub mod image;
pub mod kernel;
pub mod power;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::shell;
use image::Image;
use power::{Disk, Loss};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// The guest's own directory for a second disk.
pub const DISK_DIR: &str = "/disk";
/// What the guest says last, before the exit code of its script.
const EXIT_MARK: &str = "@exit ";
/// What the guest says when its script begins.
const READY_MARK: &str = "@ready";
const COMMAND_LINE: &str = "console=ttyS0 quiet root=/dev/nvme0n1 rootfstype=ext4 rw rootwait init=/init panic=-1 \
     cgroup_no_v1=all mitigations=off random.trust_cpu=on";

/// What a guest is to do.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// Run by `sh` as root; its standard output and error are the guest's lines.
    pub script: String,
    /// Files laid over the root first: absolute path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// A second disk, mounted at [`DISK_DIR`] (and made a file system the first time).
    pub disk: Option<&'a Disk>,
    /// Megabytes of memory.
    pub memory_mb: u32,
    /// How long it may live.
    pub limit: Duration,
}

impl Job<'_> {
    /// A job of one script on a machine of 2 GiB.
    pub fn new(script: &str, limit: Duration) -> Job<'static> {
        Job { script: script.into(), files: Vec::new(), disk: None, memory_mb: 2048, limit }
    }
}

/// A machine that runs. Dropping it cuts its power.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    lines: Receiver<String>,
    deadline: Instant,
    scratch: PathBuf,
    disk: Option<Disk>,
}

/// How a guest's script ended.
#[derive(Debug)]
pub struct Finished {
    /// Everything that it printed.
    pub text: String,
    /// Its exit code.
    pub code: i32,
}

impl Guest {
    /// Starts a machine. What it writes to its root is gone with it.
    ///
    /// # Errors
    /// When the kernel is missing or the emulator does not start.
    pub fn boot(image: &Image, job: &Job<'_>) -> anyhow::Result<Guest> {
        let kernel = kernel::find()?;
        let scratch = image.scratch()?;
        let archive = scratch.join("job.tar");
        archive_job(&scratch, job)?;
        let mut command = Command::new(QEMU);
        let on = |id: &str, nsid: u32| format!("nvme-ns,bus=n,nsid={nsid},drive={id}");
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &job.memory_mb.to_string()])
            .args(["-machine", "q35,usb=off", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(kernel.image)
            .args(["-append", COMMAND_LINE])
            .arg("-serial")
            .arg(format!("file:{}", scratch.join("console").display()))
            .args(["-serial", "stdio", "-device", "nvme,id=n,serial=sampan"])
            .arg("-drive")
            .arg(format!("id=root,if=none,format=raw,snapshot=on,file={}", image.root().display()))
            .args(["-device", &on("root", 1), "-drive"])
            .arg(format!("id=job,if=none,format=raw,snapshot=on,file={}", archive.display()))
            .args(["-device", &on("job", 2)]);
        if let Some(disk) = job.disk {
            let socket = scratch.join("disk");
            disk.serve(&socket)?;
            let door =
                format!("driver=nbd,node-name={},server.type=unix,server.path={}", power::DRIVE, socket.display());
            // Not NVMe: qemu's ignores the bit by which Linux asks it to force a write, and so breaks what fsync promises.
            let device = format!("virtio-blk-pci,drive={}", power::DRIVE);
            command.args(["-blockdev", &door, "-device", &device]);
        }
        let errors = std::fs::File::create(scratch.join("qemu"))?;
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().context("start qemu")?;
        let stdout = child.stdout.take().context("qemu has no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut guest = Guest { child, lines, deadline: Instant::now() + job.limit, scratch, disk: job.disk.cloned() };
        guest.await_ready()?;
        Ok(guest)
    }

    fn await_ready(&mut self) -> anyhow::Result<()> {
        let mut said = String::new();
        while let Some(line) = self.line()? {
            if line == READY_MARK {
                return Ok(());
            }
            said = said + &line + "\n";
        }
        bail!("the guest did not come up: {said}{}", self.story())
    }

    /// The next line that the guest prints; None when it has ended.
    ///
    /// # Errors
    /// When its time is over.
    pub fn line(&mut self) -> anyhow::Result<Option<String>> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the guest's time is over: {}", self.story()),
        }
    }

    /// Waits for the end of the script.
    ///
    /// # Errors
    /// When the guest ends without one, or its time is over; the error holds what it said.
    pub fn finish(mut self) -> anyhow::Result<Finished> {
        let mut text = String::new();
        loop {
            match self.line().with_context(|| text.clone())? {
                Some(line) => match line.strip_prefix(EXIT_MARK) {
                    Some(code) => return Ok(Finished { text, code: code.trim().parse()? }),
                    None => text = text + &line + "\n",
                },
                None => bail!("the guest ended before its script: {text}{}", self.story()),
            }
        }
    }

    /// Cuts the power: nothing in the guest hears of it. Returns the lines that were on the way, and what the second
    /// disk lost.
    ///
    /// # Errors
    /// When the process cannot be ended.
    pub fn cut_power(mut self, seed: u64) -> anyhow::Result<(Vec<String>, Loss)> {
        let loss = self.disk.as_ref().map(|disk| disk.cut(seed)).unwrap_or_default();
        self.end()?;
        Ok((self.lines.iter().collect(), loss))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What the kernel and the emulator said, for an error.
    fn story(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read(self.scratch.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
        };
        format!("kernel: {}\nqemu: {}", tail("console"), tail("qemu"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.end();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Boots, runs a job to its end, and ends the machine.
///
/// # Errors
/// As those of [`Guest::boot`] and [`Guest::finish`].
pub fn run(image: &Image, job: &Job<'_>) -> anyhow::Result<Finished> {
    Guest::boot(image, job)?.finish()
}

/// The script and the files, as the guest unpacks them over its root.
fn archive_job(scratch: &Path, job: &Job<'_>) -> anyhow::Result<()> {
    let dir = scratch.join("job");
    let script = ("/job/script".to_owned(), job.script.clone().into_bytes());
    for (path, content) in job.files.iter().chain([&script]) {
        let path = dir.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().context("a file needs a directory")?)?;
        std::fs::write(path, content)?;
    }
    let text = |path: &Path| path.to_str().map(str::to_owned).context("the scratch directory's path is no text");
    shell::run("tar", &["-C", &text(&dir)?, "-cf", &text(&scratch.join("job.tar"))?, "."])
}
