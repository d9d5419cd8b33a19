//! The embedded runtime alone: `criserver DATA_DIR RUN_DIR CGROUP BRIDGE POD_CIDR HANDLER [down]`.
//!
//! Serves CRI on `RUN_DIR/cri.sock` and says `ready` on standard output. With `down` it takes everything off the
//! machine instead. `criserver monitor …` is a monitor. For tests and for trying crictl by hand.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "monitor") {
        return monitor::main(arguments.skip(1));
    }
    let arguments: Vec<String> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
    let served =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(run(&arguments)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "criserver: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [data, run, cgroup, bridge, cidr, handler, rest @ ..] = arguments else {
        return Err("usage: criserver DATA_DIR RUN_DIR CGROUP BRIDGE POD_CIDR HANDLER [down]".into());
    };
    let data = PathBuf::from(data);
    let images = images::Images::open(images::Options::new(data.join("images"))).await?;
    let cancel = CancellationToken::new();
    let runtime = runtime::Runtime::start(
        runtime::Options {
            run_dir: run.into(),
            cgroup_top: cgroup.clone(),
            handlers: ["runc", "crun"].map(|name| runtime::Handler::new(name, format!("/usr/bin/{name}"))).into(),
            default_handler: handler.clone(),
            command_timeout: runtime::COMMAND_TIMEOUT,
            network: network::Options {
                bridge: bridge.clone(),
                pod_cidr: cidr.parse()?,
                state_dir: data.join("network"),
                table: bridge.clone(),
            },
            images,
            monitor_command: vec!["/proc/self/exe".into(), "monitor".into()],
            data_dir: data,
        },
        cancel.clone(),
    )
    .await?;
    if rest.first().is_some_and(|word| word == "down") {
        return Ok(runtime.tear_down().await?);
    }
    let socket = Path::new(run).join("cri.sock");
    let served = runtime.serve(&socket, cancel);
    tokio::pin!(served);
    tokio::select! {
        biased;
        ended = &mut served => return Ok(ended?),
        () = std::future::ready(()) => {}
    }
    // The first poll has bound the socket.
    writeln!(std::io::stdout(), "ready")?;
    Ok(served.await?)
}
