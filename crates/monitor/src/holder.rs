//! The monitor's main loop: one thread, one `poll`, nothing that blocks.
//!
//! Owns containers, exec'd processes, runs of the OCI runtime and clients, and carries what happens
//! from one to the other. Start with [`Holder::run`]; requests are answered in [`requests`].

mod requests;

use crate::clock;
use crate::connection::Connection;
use crate::container::{Container, Ending, Scratch, reap_any};
use crate::log::Stream;
use crate::note::Notes;
use crate::oci::{Outcome, Plan, Run, Stdio3, open_told_pidfd, words};
use crate::sys;
use crate::wire::{self, Event, Failure, Reply, code};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// Clients served at once.
const CONNECTIONS_MAX: usize = 32;
/// Runs of the OCI runtime at once.
const STEPS_MAX: usize = 256;

/// Everything that a monitor holds.
#[derive(Debug)]
pub struct Holder {
    welcome: wire::Welcome,
    listener: UnixListener,
    notes: Notes,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    execs: Vec<ExecProcess>,
    steps: Vec<Step>,
    scratch: Scratch,
    last_key: u32,
    /// Tells that a child has ended, also one that nobody follows.
    child_ends: Option<OwnedFd>,
    /// Set by a request for shutdown: no new container, and the end once none is left.
    ending: Option<Requester>,
}

/// Whom to answer.
#[derive(Clone, Copy, Debug)]
struct Requester {
    connection: u32,
    id: u32,
}

#[derive(Debug)]
struct ExecProcess {
    key: u32,
    name: String,
    container: String,
    pid: u32,
    pidfd: Option<OwnedFd>,
    requester: Requester,
}

/// What a run of the OCI runtime is for.
#[derive(Debug)]
enum Purpose {
    Create {
        container: u32,
    },
    Start {
        container: u32,
    },
    KillAll,
    Delete {
        container: u32,
        /// Whatever comes of it, the container is forgotten.
        forget: bool,
    },
    /// Removes what a failed creation has left; then the failure is told.
    Cleanup {
        container: u32,
        failure: Failure,
    },
    Exec {
        exec: u32,
    },
}

#[derive(Debug)]
struct Step {
    key: u32,
    purpose: Purpose,
    run: Run,
    requester: Option<Requester>,
}

/// What a polled descriptor belongs to.
#[derive(Clone, Copy, Debug)]
enum Token {
    Listener,
    Children,
    Connection(u32),
    Step(u32),
    Exit(u32),
    Output(u32, Stream),
    Sink(u32),
    Exec(u32),
}

impl Holder {
    /// A monitor without containers.
    pub fn new(welcome: wire::Welcome, listener: UnixListener, notes: Notes) -> Holder {
        Holder {
            welcome,
            listener,
            notes,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            steps: Vec::new(),
            scratch: Scratch::default(),
            last_key: 0,
            child_ends: None,
            ending: None,
        }
    }

    /// Writes to the monitor's own log.
    pub fn note(&mut self, text: &str) {
        self.notes.put(text);
    }

    /// Serves until a client asks for the end.
    pub fn run(&mut self) -> io::Result<()> {
        match sys::child_ends() {
            Ok(child_ends) => self.child_ends = Some(child_ends),
            Err(error) => self.notes.put(&format!("strays are reaped late: {error}")),
        }
        loop {
            for (token, flags) in self.wait()? {
                self.dispatch(token, flags);
            }
            self.time_out_steps();
            self.connections.retain(|connection| !connection.finished);
            if self.steps.is_empty() {
                self.reap_strays();
            }
            if let Some(requester) = self.ending
                && self.wind_down()
            {
                self.reply(requester, &Reply::Done(wire::Done {}), Vec::new());
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut tokens = vec![Token::Listener];
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        let mut add = |token, fd, flags| {
            tokens.push(token);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        };
        use std::os::fd::AsFd;
        if let Some(child_ends) = &self.child_ends {
            add(Token::Children, child_ends.as_fd(), PollFlags::IN);
        }
        for connection in &self.connections {
            let flags = if connection.has_waiting() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            add(Token::Connection(connection.key), connection.socket.as_fd(), flags);
        }
        for step in &self.steps {
            add(Token::Step(step.key), step.run.pidfd.as_fd(), PollFlags::IN);
        }
        for container in &self.containers {
            for (stream, source) in container.sources() {
                add(Token::Output(container.key, stream), source.as_fd(), PollFlags::IN);
            }
            for sink in container.sinks() {
                add(Token::Sink(container.key), sink.as_fd(), PollFlags::empty());
            }
            // While a step is under way its outcome is told first, then the exit.
            if let Some(pidfd) = container.pidfd.as_ref().filter(|_| !container.busy) {
                add(Token::Exit(container.key), pidfd.as_fd(), PollFlags::IN);
            }
        }
        for exec in &self.execs {
            if let Some(pidfd) = &exec.pidfd {
                add(Token::Exec(exec.key), pidfd.as_fd(), PollFlags::IN);
            }
        }
        let deadline = self.steps.iter().map(|step| step.run.deadline).min().filter(|deadline| *deadline != u64::MAX);
        let timeout = deadline.map(|deadline| {
            let milliseconds = deadline.saturating_sub(clock::monotonic_milliseconds()) + 1;
            Timespec { tv_sec: (milliseconds / 1000) as i64, tv_nsec: (milliseconds % 1000 * 1_000_000) as i64 }
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = polled.iter().map(PollFd::revents);
        Ok(tokens.into_iter().zip(ready).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn dispatch(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Children => self.hear_of_children(),
            Token::Connection(key) => self.serve(key, flags),
            Token::Step(key) => self.finish_step(key),
            Token::Exit(key) => self.notice_exit(key, None),
            Token::Output(key, stream) => {
                if let Some(container) = self.containers.iter_mut().find(|container| container.key == key) {
                    container.pump(stream, &mut self.scratch);
                }
            }
            Token::Sink(key) => {
                if let Some(container) = self.container(key) {
                    container.detach_departed();
                }
            }
            Token::Exec(key) => self.notice_exec_exit(key, None),
        }
    }

    /// Takes the news in; the children themselves are reaped after every round.
    fn hear_of_children(&self) {
        if let Some(child_ends) = &self.child_ends {
            // However many have ended, at most one signal waits.
            let _ = rustix::io::read(child_ends, &mut [0_u8; 1024]);
        }
    }

    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        if self.connections.len() >= CONNECTIONS_MAX {
            self.notes.put("refused a client: too many");
            return;
        }
        let key = self.next_key();
        self.connections.extend(Connection::new(key, socket));
    }

    fn serve(&mut self, key: u32, flags: PollFlags) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == key) else { return };
        if flags.contains(PollFlags::OUT) {
            connection.write();
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            for frame in connection.read() {
                self.answer(key, frame);
            }
        }
    }

    fn next_key(&mut self) -> u32 {
        self.last_key += 1;
        self.last_key
    }

    fn container(&mut self, key: u32) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.key == key)
    }

    fn reply(&mut self, requester: Requester, reply: &Reply, descriptors: Vec<OwnedFd>) {
        let client = self.connections.iter_mut().find(|connection| connection.key == requester.connection);
        if let Some(connection) = client {
            connection.reply(requester.id, reply, descriptors);
        }
    }

    fn fail(&mut self, requester: Option<Requester>, failure: Failure) {
        self.notes.put(&failure.to_string());
        if let Some(requester) = requester {
            self.reply(requester, &Reply::Error(failure), Vec::new());
        }
    }

    fn tell(&mut self, event: &Event, also: Option<u32>) {
        for connection in &mut self.connections {
            if connection.subscribed || also == Some(connection.key) {
                connection.tell(event);
            }
        }
    }

    fn time_out_steps(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        let now = clock::monotonic_milliseconds();
        for step in self.steps.iter_mut().filter(|step| step.run.deadline <= now) {
            step.run.time_out();
        }
    }

    /// Processes that nobody follows come to the monitor as their subreaper. While a run is under way, one of them
    /// may be the process whose pid is about to be told, so they wait.
    fn reap_strays(&mut self) {
        while let Some((pid, ending)) = reap_any() {
            let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
            if let Some(key) = self.containers.iter().find(|it| it.pid == pid && it.pidfd.is_some()).map(|it| it.key) {
                self.notice_exit(key, Some(ending));
            } else if let Some(key) = self.execs.iter().find(|it| it.pid == pid).map(|it| it.key) {
                self.notice_exec_exit(key, Some(ending));
            }
        }
    }

    fn notice_exit(&mut self, key: u32, reaped: Option<Ending>) {
        let Some(container) = self.containers.iter_mut().find(|container| container.key == key) else { return };
        let Some(ending) = reaped.or_else(|| container.pidfd.as_ref().and_then(Ending::of_process)) else { return };
        if let Err(error) = container.ended(ending, &mut self.scratch) {
            self.notes.put(&format!("exit record of {}: {error}", container.id));
        }
        let (id, record) = (container.id.clone(), container.record());
        self.give_up_execs(&id);
        let event = Event::Exited(wire::Exited {
            container: id,
            exit_code: record.exit_code,
            signal: record.signal,
            finished_at: record.finished_at,
            oom: record.oom,
        });
        self.tell(&event, None);
    }

    /// HOOK-110: a runtime that hangs on its way into a container that has ended is not waited for.
    fn give_up_execs(&mut self, container: &str) {
        let execs = &self.execs;
        let is_into = |key: u32| execs.iter().any(|exec| exec.key == key && exec.container == container);
        for step in &mut self.steps {
            if matches!(step.purpose, Purpose::Exec { exec } if is_into(exec)) {
                step.run.give_up();
            }
        }
    }

    fn notice_exec_exit(&mut self, key: u32, reaped: Option<Ending>) {
        let Some(position) = self.execs.iter().position(|exec| exec.key == key) else { return };
        let ending = reaped.or_else(|| self.execs[position].pidfd.as_ref().and_then(Ending::of_process));
        let Some(ending) = ending else { return };
        let exec = self.execs.swap_remove(position);
        let event = Event::ExecExited(wire::ExecExited {
            exec: exec.name,
            container: exec.container,
            exit_code: ending.exit_code,
            signal: ending.signal,
            finished_at: clock::now(),
        });
        self.tell(&event, Some(exec.requester.connection));
    }

    fn finish_step(&mut self, key: u32) {
        let Some(position) = self.steps.iter().position(|step| step.key == key) else { return };
        let step = self.steps.swap_remove(position);
        match step.purpose {
            Purpose::Create { container } => self.finish_create(container, step.run, step.requester),
            Purpose::Start { container } => self.finish_start(container, step.run, step.requester),
            Purpose::Delete { container, forget } => {
                self.finish_delete((container, forget), step.run, step.requester);
            }
            Purpose::KillAll => match step.run.finish(Vec::new) {
                Ok(_) => self.done(step.requester),
                Err(failure) => self.fail(step.requester, failure),
            },
            Purpose::Cleanup { container, failure } => {
                let _ = step.run.finish(Vec::new);
                self.containers.retain(|it| it.key != container);
                self.fail(step.requester, failure);
            }
            Purpose::Exec { exec } => self.finish_exec(exec, step.run, step.requester),
        }
        if self.steps.is_empty() {
            self.scratch = Scratch::default();
            sys::trim_memory();
        }
    }

    fn done(&mut self, requester: Option<Requester>) {
        if let Some(requester) = requester {
            self.reply(requester, &Reply::Done(wire::Done {}), Vec::new());
        }
    }

    fn finish_create(&mut self, key: u32, run: Run, requester: Option<Requester>) {
        let Some(container) = self.containers.iter_mut().find(|container| container.key == key) else { return };
        let step = run.step;
        let result = run.finish(|| container.take_words()).and_then(|Outcome { pid, master }| {
            let system = |error: io::Error| Failure::new(code::SYSTEM, step, error.to_string());
            let pid = pid.ok_or_else(|| system(io::ErrorKind::InvalidData.into()))?;
            container.created(pid, open_told_pidfd(pid).map_err(system)?, master).map_err(system)
        });
        container.busy = false;
        if let Err(failure) = result {
            return self.clean_up(key, failure, requester);
        }
        let event = container.is_started_at_once.then(|| container.started());
        let reply = container.told();
        if let Some(requester) = requester {
            self.reply(requester, &reply, Vec::new());
        }
        if let Some(event) = event {
            self.tell(&event, None);
        }
    }

    /// A failed creation may leave half a container behind, so it is deleted before the failure is told.
    fn clean_up(&mut self, key: u32, failure: Failure, requester: Option<Requester>) {
        let purpose = Purpose::Cleanup { container: key, failure: failure.clone() };
        if self.begin_delete(key, purpose, requester, 0).is_err() {
            self.containers.retain(|container| container.key != key);
            self.fail(requester, failure);
        }
    }

    fn begin_delete(&mut self, key: u32, purpose: Purpose, requester: Option<Requester>, time: u64) -> io::Result<()> {
        let Some(container) = self.container(key) else { return Ok(()) };
        let plan = Plan {
            arguments: words([OsStr::new("delete"), OsStr::new("--force")]),
            container: container.id.clone(),
            timeout_milliseconds: time,
            ..Plan::default()
        };
        let runtime = container.runtime.clone();
        let key = self.next_key();
        let run = Run::start("delete", &runtime, u64::from(key), plan, Stdio3::default())?;
        self.steps.push(Step { key, purpose, run, requester });
        Ok(())
    }

    fn finish_start(&mut self, key: u32, run: Run, requester: Option<Requester>) {
        let result = run.finish(Vec::new);
        let Some(container) = self.container(key) else { return };
        container.busy = false;
        if let Err(failure) = result {
            return self.fail(requester, failure);
        }
        let event = container.started();
        self.done(requester);
        self.tell(&event, None);
    }

    fn finish_delete(&mut self, (key, forget): (u32, bool), run: Run, requester: Option<Requester>) {
        let result = run.finish(Vec::new);
        if let Some(container) = self.container(key) {
            container.busy = false;
        }
        self.notice_exit(key, None);
        // At the end of the monitor there is nobody left to try again.
        let is_final = forget || self.ending.is_some();
        if let Err(failure) = result {
            self.fail(requester, failure);
            if !is_final {
                return;
            }
        } else {
            self.done(requester);
        }
        self.forget(key);
    }

    /// Forgets a container; what is left of its first process ends.
    fn forget(&mut self, key: u32) {
        let Some(position) = self.containers.iter().position(|container| container.key == key) else { return };
        let container = self.containers.swap_remove(position);
        if let Some(pidfd) = &container.pidfd {
            let _ = sys::signal_process(std::os::fd::AsFd::as_fd(pidfd), 9);
        }
        self.tell(&Event::Deleted(wire::Deleted { container: container.id }), None);
    }

    fn finish_exec(&mut self, key: u32, run: Run, requester: Option<Requester>) {
        let result = run.finish(Vec::new).and_then(|outcome| {
            let system = |error: io::Error| Failure::new(code::SYSTEM, "exec", error.to_string());
            let pid = outcome.pid.ok_or_else(|| system(io::ErrorKind::InvalidData.into()))?;
            Ok((pid, open_told_pidfd(pid).map_err(system)?, outcome.master))
        });
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.key == key) else { return };
        match result {
            Ok((pid, pidfd, master)) => {
                (exec.pid, exec.pidfd) = (pid, Some(pidfd));
                let reply = Reply::Exec(wire::ExecStarted { pid });
                if let Some(requester) = requester {
                    self.reply(requester, &reply, master.into_iter().collect());
                }
            }
            Err(failure) => {
                self.execs.retain(|exec| exec.key != key);
                self.fail(requester, failure);
            }
        }
    }

    /// Deletes what is left before the end; true when nothing is.
    fn wind_down(&mut self) -> bool {
        let idle: Vec<u32> = self.containers.iter().filter(|it| !it.busy).map(|it| it.key).collect();
        for key in idle {
            if let Some(container) = self.container(key) {
                container.busy = true;
            }
            if self.begin_delete(key, Purpose::Delete { container: key, forget: true }, None, 0).is_err() {
                self.containers.retain(|container| container.key != key);
            }
        }
        self.containers.is_empty() && self.steps.is_empty()
    }

    fn snapshot(&self) -> Reply {
        Reply::State(wire::Snapshot {
            containers: self.containers.iter().map(Container::snapshot).collect(),
            execs: self
                .execs
                .iter()
                .map(|exec| wire::RunningExec {
                    exec: exec.name.clone(),
                    container: exec.container.clone(),
                    pid: exec.pid,
                })
                .collect(),
        })
    }

    fn ready_for_steps(&self, step: &str) -> Result<(), Failure> {
        if self.ending.is_some() {
            return Err(Failure::new(code::WRONG_STATE, step, "the monitor is ending"));
        }
        if self.steps.len() >= STEPS_MAX {
            return Err(Failure::new(code::SYSTEM, step, "too many steps are under way"));
        }
        Ok(())
    }
}
