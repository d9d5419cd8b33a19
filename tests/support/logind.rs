//! A system bus of a test's own, with a double of logind on it: its locks, its properties, its announcement.

use std::io::Error;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures_util::StreamExt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{mpsc, oneshot};
use zbus::{Connection, Message, MessageStream, Variant, connection::Builder};

use crate::support::wait;

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";

/// A real dbus-daemon at a socket of its own.
pub struct Bus {
    dir: PathBuf,
    daemon: Child,
}

impl Bus {
    /// Starts it in a directory that is there.
    pub fn start(dir: &Path) -> Bus {
        let socket = dir.join("bus");
        let _ = std::fs::remove_file(&socket);
        let config = dir.join("bus.conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>system</type>\
             <listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>\n",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let config = format!("--config-file={}", config.display());
        let words = [config.as_str(), "--nofork", "--nopidfile", "--nosyslog"];
        let daemon = Command::new("dbus-daemon").args(words).stdin(Stdio::null()).spawn().unwrap();
        wait("the bus listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Bus { dir: dir.into(), daemon }
    }

    /// What `DBUS_SYSTEM_BUS_ADDRESS` is to be.
    pub fn address(dir: &Path) -> String {
        format!("unix:path={}", dir.join("bus").display())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What the double remembers.
#[derive(Default)]
struct Memory {
    /// The other ends of the locks that it has given.
    locks: Vec<OwnedFd>,
    is_preparing: bool,
    delay_max_us: u64,
}

/// The double. It ends when it is dropped, like a logind that is stopped.
pub struct Logind {
    memory: Arc<Mutex<Memory>>,
    announce: Option<mpsc::UnboundedSender<(bool, oneshot::Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Logind {
    /// Starts it; it waits so many seconds for those who hold a lock, and may be in the middle of a shutdown.
    pub fn start(bus: &Bus, delay_max_seconds: u64, is_preparing: bool) -> Logind {
        let delay_max_us = delay_max_seconds * 1_000_000;
        let memory = Arc::new(Mutex::new(Memory { delay_max_us, is_preparing, ..Memory::default() }));
        let (announce, orders) = mpsc::unbounded_channel();
        let (address, shared) = (Bus::address(&bus.dir), memory.clone());
        let (ready, wait_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            executor.block_on(serve(&address, &shared, orders, ready));
        });
        wait_ready.recv().unwrap();
        Logind { memory, announce: Some(announce), thread: Some(thread) }
    }

    /// Announces a shutdown, or cancels it.
    pub fn announce(&self, is_announced: bool) {
        let (done, wait_done) = oneshot::channel();
        self.announce.as_ref().unwrap().send((is_announced, done)).unwrap();
        wait_done.blocking_recv().unwrap();
    }

    /// How many locks are held.
    pub fn locks(&self) -> usize {
        let memory = self.memory.lock().unwrap();
        memory.locks.iter().filter(|lock| is_held(lock)).count()
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        self.announce = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A lock is held as long as somebody has its other end.
fn is_held(lock: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(lock, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    !polled[0].revents().contains(PollFlags::HUP)
}

async fn serve(
    address: &str,
    memory: &Mutex<Memory>,
    mut orders: mpsc::UnboundedReceiver<(bool, oneshot::Sender<()>)>,
    ready: std::sync::mpsc::Sender<()>,
) {
    let connection = Builder::address(address).build().await.unwrap();
    let mut messages = MessageStream::from(&connection);
    connection.request_name(NAME).await.unwrap();
    ready.send(()).unwrap();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) => answer(&connection, memory, &message).await,
                // The bus has gone.
                _ => return,
            },
            order = orders.recv() => {
                let Some((is_announced, done)) = order else { return };
                memory.lock().unwrap().is_preparing = is_announced;
                connection.emit_signal(None::<&str>, PATH, INTERFACE, "PrepareForShutdown", &is_announced).await.unwrap();
                done.send(()).unwrap();
            }
        }
    }
}

async fn answer(connection: &Connection, memory: &Mutex<Memory>, message: &Message) {
    if message.message_type() != zbus::message::Type::MethodCall {
        return;
    }
    let header = message.header();
    let member = header.member().unwrap().to_string();
    match member.as_str() {
        "Get" => {
            let (interface, name): (String, String) = message.body().deserialize().unwrap();
            assert_eq!(interface, INTERFACE);
            let value = {
                let memory = memory.lock().unwrap();
                match name.as_str() {
                    "PreparingForShutdown" => Variant::from(memory.is_preparing),
                    "InhibitDelayMaxUSec" => Variant::from(memory.delay_max_us),
                    other => panic!("who asks for {other}?"),
                }
            };
            connection.reply(&header, &value).await.unwrap();
        }
        "Inhibit" => {
            let (what, _, _, mode): (String, String, String, String) = message.body().deserialize().unwrap();
            assert_eq!((what.as_str(), mode.as_str()), ("shutdown", "delay"));
            match give_lock(memory).unwrap() {
                Some(lock) => connection.reply(&header, &zbus::OwnedFd::from(lock)).await.unwrap(),
                // As the real one does.
                None => {
                    let name = "org.freedesktop.login1.OperationInProgress";
                    connection.reply_error(&header, name, &"The operation is already running").await.unwrap();
                }
            }
        }
        other => panic!("logind is asked for {other}"),
    }
}

fn give_lock(memory: &Mutex<Memory>) -> Result<Option<OwnedFd>, Error> {
    let mut memory = memory.lock().unwrap();
    if memory.is_preparing {
        return Ok(None);
    }
    let (kept, given) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    memory.locks.push(kept);
    Ok(Some(given))
}
