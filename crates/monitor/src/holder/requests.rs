//! The answer to each request.
//!
//! Owns the checks; what takes time is begun here and finished in [`super::Holder::finish_step`].

use super::{ExecProcess, Holder, Purpose, Requester, Step};
use crate::container::Container;
use crate::oci::{Plan, Run, Stdio3, words};
use crate::sys;
use crate::wire::socket::Frame;
use crate::wire::{self, Event, Failure, Reply, Request, code, status};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// `None`: the reply comes when a run of the OCI runtime has ended.
type Answer = Result<Option<Reply>, Failure>;

impl Holder {
    pub(super) fn answer(&mut self, connection: u32, frame: Frame) {
        let requester = Requester { connection, id: frame.header.id };
        let request = match Request::decode(frame.header.kind, &frame.body) {
            Ok(Some(request)) => request,
            Ok(None) => {
                let message = format!("this monitor does not know request {}", frame.header.kind);
                return self.fail(Some(requester), Failure::new(code::UNKNOWN_REQUEST, "request", message));
            }
            Err(error) => return self.fail(Some(requester), Failure::new(code::INVALID, "request", error.0)),
        };
        let answer = match request {
            Request::Hello(hello) => {
                self.notes.put(&format!("client {:.64}", hello.agent));
                Ok(Some(Reply::Hello(self.welcome.clone())))
            }
            Request::Create(create) => self.create(create, requester),
            Request::Start(start) => self.start(&start, requester),
            Request::Signal(signal) => self.signal(&signal, requester),
            Request::Delete(delete) => self.delete(&delete, requester),
            Request::Exec(exec) => self.exec(exec, frame.descriptors, requester),
            Request::Resize(resize) => self.resize(&resize),
            Request::Attach(attach) => self.attach(&attach, requester),
            Request::ReopenLog(reopen) => self.reopen_log(reopen),
            Request::State(_) => Ok(Some(self.snapshot())),
            Request::Subscribe(_) => {
                self.connections.iter_mut().filter(|it| it.key == connection).for_each(|it| it.subscribed = true);
                Ok(Some(self.snapshot()))
            }
            Request::Shutdown(shutdown) => self.shutdown(&shutdown, requester),
        };
        match answer {
            Ok(Some(reply)) => self.reply(requester, &reply, Vec::new()),
            Ok(None) => {}
            Err(failure) => self.fail(Some(requester), failure),
        }
    }

    fn find(&mut self, id: &str, step: &str) -> Result<&mut Container, Failure> {
        let missing = || Failure::new(code::NOT_FOUND, step, format!("no container {id:?}"));
        self.containers.iter_mut().find(|container| container.id == id).ok_or_else(missing)
    }

    fn begin(
        &mut self,
        purpose: Purpose,
        requester: Requester,
        run: impl FnOnce(u64) -> std::io::Result<Run>,
    ) -> std::io::Result<()> {
        let key = self.next_key();
        let run = run(u64::from(key))?;
        self.steps.push(Step { key, purpose, run, requester: Some(requester) });
        Ok(())
    }

    fn create(&mut self, request: wire::Create, requester: Requester) -> Answer {
        self.ready_for_steps("create")?;
        check_name(&request.container, "create")?;
        for (path, name) in [(&request.bundle, "bundle"), (&request.binary, "binary")] {
            if path.as_os_str().is_empty() {
                return Err(Failure::new(code::INVALID, "create", format!("{name} is missing")));
            }
        }
        if let Some(known) = self.containers.iter().find(|container| container.id == request.container) {
            return match known.status {
                status::CREATED | status::RUNNING => Ok(Some(known.told())),
                status::CREATING => self.join(known.key, "create", requester),
                _ => Err(Failure::new(code::EXISTS, "create", format!("container {:?} exists", request.container))),
            };
        }
        let key = self.next_key();
        let (step, mut arguments) = if request.and_start {
            ("run", words([OsStr::new("run"), OsStr::new("--detach")]))
        } else {
            ("create", words([OsStr::new("create")]))
        };
        arguments.extend(words([OsStr::new("--bundle"), request.bundle.as_os_str()]));
        let plan = Plan {
            arguments,
            container: request.container.clone(),
            makes_process: true,
            terminal: request.terminal,
            timeout_milliseconds: request.timeout_milliseconds,
            ..Plan::default()
        };
        let (container, ends) = Container::open(key, request)
            .map_err(|error| Failure::new(code::SYSTEM, "log", format!("opening log and streams: {error}")))?;
        let runtime = container.runtime.clone();
        let stdio = Stdio3 { stdin: ends.stdin, stdout: ends.stdout, stderr: ends.stderr };
        self.begin(Purpose::Create { container: key }, requester, |number| {
            Run::start(step, &runtime, number, plan, stdio)
        })
        .map_err(|error| unstartable(step, &runtime.binary, &error))?;
        self.containers.push(container);
        Ok(None)
    }

    fn start(&mut self, request: &wire::Start, requester: Requester) -> Answer {
        self.ready_for_steps("start")?;
        let container = self.find(&request.container, "start")?;
        match (container.status, container.busy) {
            (status::CREATED, false) => {}
            (status::RUNNING, _) => return Ok(Some(Reply::Done(wire::Done {}))),
            (status::CREATED, true) => {
                let key = container.key;
                return self.join(key, "start", requester);
            }
            _ => return Err(Failure::new(code::WRONG_STATE, "start", "the container is not waiting for its start")),
        }
        let (key, runtime) = (container.key, container.runtime.clone());
        let plan = Plan {
            arguments: words([OsStr::new("start")]),
            container: container.id.clone(),
            timeout_milliseconds: request.timeout_milliseconds,
            ..Plan::default()
        };
        self.begin(Purpose::Start { container: key }, requester, |number| {
            Run::start("start", &runtime, number, plan, Stdio3::default())
        })
        .map_err(|error| unstartable("start", &runtime.binary, &error))?;
        self.find(&request.container, "start")?.busy = true;
        Ok(None)
    }

    /// A step that is under way for a client that has gone is continued for the one that asks now: an agent was killed,
    /// and the next one takes over.
    fn join(&mut self, container: u32, name: &str, requester: Requester) -> Answer {
        let lives = |connection: u32| self.connections.iter().any(|it| it.key == connection && !it.finished);
        let step = self.steps.iter().position(|step| match step.purpose {
            Purpose::Create { container: of } => of == container && name == "create",
            Purpose::Start { container: of } => of == container && name == "start",
            _ => false,
        });
        let orphan = step.filter(|at| !self.steps[*at].requester.is_some_and(|former| lives(former.connection)));
        match orphan {
            Some(at) => {
                self.steps[at].requester = Some(requester);
                Ok(None)
            }
            None => Err(Failure::new(code::WRONG_STATE, name, "another step of the container is under way")),
        }
    }

    fn signal(&mut self, request: &wire::Signal, requester: Requester) -> Answer {
        let Some(signal) = i32::try_from(request.signal).ok().filter(|signal| (1..=64).contains(signal)) else {
            return Err(Failure::new(code::INVALID, "kill", format!("no signal {}", request.signal)));
        };
        if request.all {
            return self.signal_all(&request.container, signal, requester);
        }
        let pidfd = if request.exec.is_empty() {
            self.find(&request.container, "kill")?.pidfd.as_ref()
        } else {
            let exec = self.execs.iter().find(|exec| exec.name == request.exec);
            exec.ok_or_else(|| Failure::new(code::NOT_FOUND, "kill", format!("no process {:?}", request.exec)))?
                .pidfd
                .as_ref()
        };
        let pidfd = pidfd.ok_or_else(|| Failure::new(code::WRONG_STATE, "kill", "the process does not run"))?;
        match sys::signal_process(pidfd.as_fd(), signal) {
            Ok(()) => Ok(Some(Reply::Done(wire::Done {}))),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                Err(Failure::new(code::WRONG_STATE, "kill", "the process has ended"))
            }
            Err(error) => Err(Failure::new(code::SYSTEM, "kill", error.to_string())),
        }
    }

    fn signal_all(&mut self, id: &str, signal: i32, requester: Requester) -> Answer {
        self.ready_for_steps("kill")?;
        let container = self.find(id, "kill")?;
        let runtime = container.runtime.clone();
        let plan = Plan {
            arguments: words([OsStr::new("kill"), OsStr::new("--all")]),
            container: container.id.clone(),
            trailing: vec![signal.to_string().into()],
            ..Plan::default()
        };
        self.begin(Purpose::KillAll, requester, |number| Run::start("kill", &runtime, number, plan, Stdio3::default()))
            .map_err(|error| unstartable("kill", &runtime.binary, &error))?;
        Ok(None)
    }

    fn delete(&mut self, request: &wire::Delete, requester: Requester) -> Answer {
        let Ok(container) = self.find(&request.container, "delete") else {
            return Ok(Some(Reply::Done(wire::Done {})));
        };
        if container.busy {
            return Err(Failure::new(code::WRONG_STATE, "delete", "another step of the container is under way"));
        }
        let (key, binary) = (container.key, container.runtime.binary.clone());
        self.ready_for_steps("delete")?;
        let purpose = Purpose::Delete { container: key, forget: request.forget };
        let begun = self.begin_delete(key, purpose, Some(requester), request.timeout_milliseconds);
        if let Err(error) = begun {
            if request.forget {
                self.forget(key);
            }
            return Err(unstartable("delete", &binary, &error));
        }
        self.find(&request.container, "delete")?.busy = true;
        Ok(None)
    }

    fn exec(&mut self, request: wire::Exec, descriptors: Vec<OwnedFd>, requester: Requester) -> Answer {
        self.ready_for_steps("exec")?;
        check_name(&request.exec, "exec")?;
        if descriptors.len() != if request.terminal { 0 } else { 3 } {
            return Err(Failure::new(code::INVALID, "exec", "wrong number of descriptors"));
        }
        if self.execs.iter().any(|exec| exec.name == request.exec) {
            return Err(Failure::new(code::EXISTS, "exec", format!("process {:?} exists", request.exec)));
        }
        let container = self.find(&request.container, "exec")?;
        if container.status != status::RUNNING {
            return Err(Failure::new(code::WRONG_STATE, "exec", "the container does not run"));
        }
        let runtime = container.runtime.clone();
        let mut arguments = words([OsStr::new("exec"), OsStr::new("--detach")]);
        arguments.extend(words([OsStr::new("--process"), request.process.as_os_str()]));
        let plan = Plan {
            arguments,
            container: request.container.clone(),
            makes_process: true,
            terminal: request.terminal,
            timeout_milliseconds: request.timeout_milliseconds,
            ..Plan::default()
        };
        let mut descriptors = descriptors.into_iter();
        let stdio = Stdio3 { stdin: descriptors.next(), stdout: descriptors.next(), stderr: descriptors.next() };
        let key = self.next_key();
        self.begin(Purpose::Exec { exec: key }, requester, |number| Run::start("exec", &runtime, number, plan, stdio))
            .map_err(|error| unstartable("exec", &runtime.binary, &error))?;
        let (name, container) = (request.exec, request.container);
        self.execs.push(ExecProcess { key, name, container, pid: 0, pidfd: None, requester });
        Ok(None)
    }

    fn resize(&mut self, request: &wire::Resize) -> Answer {
        let clamp = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
        let container = self.find(&request.container, "resize")?;
        container
            .resize(clamp(request.columns), clamp(request.rows))
            .map_err(|error| Failure::new(code::WRONG_STATE, "resize", error.to_string()))?;
        Ok(Some(Reply::Done(wire::Done {})))
    }

    fn attach(&mut self, request: &wire::Attach, requester: Requester) -> Answer {
        let container = self.find(&request.container, "attach")?;
        let (granted, descriptors) = container
            .attach(request)
            .map_err(|error| Failure::new(code::SYSTEM, "attach", format!("making pipes: {error}")))?;
        self.reply(requester, &Reply::Attached(granted), descriptors);
        Ok(None)
    }

    fn reopen_log(&mut self, request: wire::ReopenLog) -> Answer {
        let container = self.find(&request.container, "log")?;
        container
            .reopen_log(request.log_path)
            .map_err(|error| Failure::new(code::SYSTEM, "log", format!("opening the log: {error}")))?;
        self.tell(&Event::LogReopened(wire::LogReopened { container: request.container }), None);
        Ok(Some(Reply::Done(wire::Done {})))
    }

    fn shutdown(&mut self, request: &wire::Shutdown, requester: Requester) -> Answer {
        if !request.force && !self.containers.is_empty() {
            return Err(Failure::new(code::WRONG_STATE, "shutdown", "containers are left"));
        }
        self.ending = Some(requester);
        Ok(None)
    }
}

fn check_name(name: &str, step: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(&byte);
    if name.is_empty() || name.len() > 255 || name.starts_with('-') || !name.bytes().all(plain) {
        return Err(Failure::new(code::INVALID, step, format!("{name:?} is no name")));
    }
    Ok(())
}

fn unstartable(step: &str, binary: &Path, error: &std::io::Error) -> Failure {
    Failure::new(code::SYSTEM, step, format!("starting {}: {error}", binary.display()))
}
