//! Addresses of streams: one use, short-lived.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::time::Instant;

use crate::error::Error;
use crate::state::{fresh_id, lock};

/// How long an address is good for.
const LIFE: Duration = Duration::from_secs(60);
/// Addresses that may wait at once.
const TICKETS_MAX: usize = 1000;

/// What an address was given for.
#[derive(Clone, Debug)]
pub(crate) enum Ticket {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

impl Ticket {
    /// A command, if its streams go together.
    pub(crate) fn exec(request: ExecRequest) -> Result<Ticket, Error> {
        check([request.stdin, request.stdout, request.stderr], request.tty)?;
        Ok(Ticket::Exec(request))
    }

    /// A container's streams, if they go together.
    pub(crate) fn attach(request: AttachRequest) -> Result<Ticket, Error> {
        check([request.stdin, request.stdout, request.stderr], request.tty)?;
        Ok(Ticket::Attach(request))
    }

    fn path(&self) -> &'static str {
        match self {
            Ticket::Exec(_) => "exec",
            Ticket::Attach(_) => "attach",
            Ticket::PortForward(_) => "portforward",
        }
    }
}

fn check([stdin, stdout, stderr]: [bool; 3], tty: bool) -> Result<(), Error> {
    if tty && stderr {
        return Err(Error::Invalid("tty and stderr cannot both be true".into()));
    }
    if !(stdin || stdout || stderr) {
        return Err(Error::Invalid("one of stdin, stdout, or stderr must be set".into()));
    }
    Ok(())
}

/// Addresses that were given and not used.
pub(crate) struct Tickets {
    address: SocketAddr,
    waiting: Mutex<HashMap<String, (Instant, Ticket)>>,
}

impl Tickets {
    pub(crate) fn new(address: SocketAddr) -> Tickets {
        Tickets { address, waiting: Mutex::default() }
    }

    /// Gives an address out.
    pub(crate) fn issue(&self, ticket: Ticket) -> Result<String, Error> {
        let token = fresh_id()?;
        let url = format!("http://{}/{}/{token}", self.address, ticket.path());
        let now = Instant::now();
        let mut waiting = lock(&self.waiting);
        waiting.retain(|_, (until, _)| *until > now);
        if waiting.len() >= TICKETS_MAX {
            return Err(Error::WrongState("too many streams wait for their clients".into()));
        }
        waiting.insert(token, (now + LIFE, ticket));
        Ok(url)
    }

    /// Takes an address back: it is good for one use.
    pub(super) fn redeem(&self, path: &str, token: &str) -> Option<Ticket> {
        let mut waiting = lock(&self.waiting);
        let (until, ticket) = waiting.remove(token)?;
        (until > Instant::now() && ticket.path() == path).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> Tickets {
        Tickets::new("127.0.0.1:1".parse().unwrap())
    }

    fn issue(tickets: &Tickets) -> String {
        let url = tickets.issue(Ticket::Exec(ExecRequest::default())).unwrap();
        url.strip_prefix("http://127.0.0.1:1/exec/").unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_good_once_and_for_its_purpose() {
        let tickets = tickets();
        let token = issue(&tickets);
        assert!(tickets.redeem("exec", &token).is_some());
        assert!(tickets.redeem("exec", &token).is_none());
        let token = issue(&tickets);
        assert!(tickets.redeem("attach", &token).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_expires() {
        let tickets = tickets();
        let token = issue(&tickets);
        tokio::time::advance(LIFE).await;
        assert!(tickets.redeem("exec", &token).is_none());
    }

    #[test]
    fn streams_that_do_not_go_together_are_refused() {
        let text = |streams, tty| check(streams, tty).map_err(|error| error.to_string());
        assert_eq!(text([false, true, true], true), Err("tty and stderr cannot both be true".into()));
        assert_eq!(text([false; 3], false), Err("one of stdin, stdout, or stderr must be set".into()));
        assert_eq!(text([true, true, false], true), Ok(()));
    }
}
