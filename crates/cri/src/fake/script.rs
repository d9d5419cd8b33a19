//! What a test tells the fake: programs that containers run, answers of commands, faults of calls. Plain data.

use std::time::Duration;

use super::call::{Call, Verb};

/// What a container does once it is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Ends by itself after this time; None runs until it is stopped.
    pub runs_for: Option<Duration>,
    /// Exit code of the end by itself.
    pub exit_code: i32,
    /// Reason of the end by itself; "" is `Completed` or `Error`.
    pub reason: String,
    /// What the stop signal does.
    pub on_stop: OnStop,
    /// StartContainer fails with this text and the container is exited (128, `StartError`).
    pub start_error: Option<String>,
}

/// What a container does when the stop signal arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// Ends after a while.
    Exit {
        /// Time between signal and end.
        after: Duration,
        /// Exit code.
        code: i32,
    },
    /// Goes on until SIGKILL.
    Ignore,
}

impl Program {
    /// Runs until stopped; the stop signal ends it at once (143).
    pub fn forever() -> Program {
        Program {
            runs_for: None,
            exit_code: 0,
            reason: String::new(),
            on_stop: OnStop::Exit { after: Duration::ZERO, code: 143 },
            start_error: None,
        }
    }

    /// Ends by itself.
    pub fn ends(after: Duration, exit_code: i32) -> Program {
        Program { runs_for: Some(after), exit_code, ..Program::forever() }
    }

    /// Runs until SIGKILL.
    pub fn stubborn() -> Program {
        Program { on_stop: OnStop::Ignore, ..Program::forever() }
    }
}

/// A command that ExecSync runs.
#[derive(Clone, Debug)]
pub struct Exec {
    /// Id of the container.
    pub container_id: String,
    /// Name of the container.
    pub container: String,
    /// The command.
    pub command: Vec<String>,
}

/// What a command does.
#[derive(Clone, Debug, Default)]
pub struct ExecOutcome {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub exit_code: i32,
    /// How long it takes; beyond the call's timeout it is killed and the call fails with `DeadlineExceeded`.
    pub takes: Duration,
}

impl ExecOutcome {
    /// Ends at once.
    pub fn exits(exit_code: i32) -> ExecOutcome {
        ExecOutcome { exit_code, ..ExecOutcome::default() }
    }
}

/// A call that does not go well.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The verb it strikes.
    pub verb: Verb,
    /// Only calls about this: a container's or sandbox's name or id, or an image. None strikes all.
    pub about: Option<String>,
    /// How many calls it strikes.
    pub times: usize,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// The next call of the verb fails.
    pub fn fail(verb: Verb, status: tonic::Status) -> Fault {
        Fault { verb, about: None, times: 1, effect: Effect::Fail(status) }
    }

    /// The next call of the verb never returns.
    pub fn hang(verb: Verb) -> Fault {
        Fault { verb, about: None, times: 1, effect: Effect::Hang }
    }

    /// The next call of the verb is answered with nothing.
    pub fn blank(verb: Verb) -> Fault {
        Fault { verb, about: None, times: 1, effect: Effect::Blank }
    }

    /// The next call of the verb takes time before it is carried out.
    pub fn delay(verb: Verb, by: Duration) -> Fault {
        Fault { verb, about: None, times: 1, effect: Effect::Delay(by) }
    }

    /// Only calls about this name, id or image.
    pub fn about(mut self, about: &str) -> Fault {
        self.about = Some(about.to_owned());
        self
    }

    /// Strikes so many calls.
    pub fn times(mut self, times: usize) -> Fault {
        self.times = times;
        self
    }

    /// Strikes for ever.
    pub fn always(self) -> Fault {
        self.times(usize::MAX)
    }

    pub(super) fn strikes(&self, call: &Call, subjects: &[String]) -> bool {
        let about = |wanted: &String| subjects.iter().any(|subject| subject == wanted);
        self.times > 0 && call.verb() == self.verb && self.about.as_ref().is_none_or(about)
    }
}

/// How a call goes wrong.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Not carried out; this is the answer.
    Fail(tonic::Status),
    /// Carried out, but the answer is lost and this arrives instead.
    FailAfter(tonic::Status),
    /// Not carried out; the answer has nothing in it.
    Blank,
    /// Waits, then is carried out.
    Delay(Duration),
    /// Never answers and is not carried out.
    Hang,
}
