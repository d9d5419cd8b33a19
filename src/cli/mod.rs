//! The command line: its grammar, and which verb runs where.
//!
//! A verb's work is in the module of its name; this one parses, sets up logging and turns errors into exit codes:
//! 0 done, 1 failed, 2 wrong usage (clap's own).

mod areas;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::output::complain;
use crate::settings::Settings;

#[derive(Parser)]
#[command(
    name = "sampan",
    version,
    about = "A Kubernetes-compatible container node in one binary",
    long_about = "A Kubernetes-compatible container node in one binary.\n\n\
        First steps, as root:\n  \
        sampan up --detach                 start a cluster of one node; returns when the node is Ready\n  \
        kubectl apply -f pod.yaml          the context `sampan` is in your kubeconfig\n  \
        kubectl get pods -o wide\n  \
        sampan down                        stop all pods in order and leave the machine as it was\n\n\
        `sampan check` says before a failure what would fail on this machine.",
    max_term_width = 110
)]
struct Command {
    /// Read settings from this file (apiVersion: sampan.dev/v1, kind: Config); flags and SAMPAN_* variables win
    #[arg(long, env = "SAMPAN_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a cluster of one node: API server, scheduler, node agent and container runtime in this process
    ///
    /// Stays in the foreground; SIGINT or SIGTERM ends sampan only: pods run on, and the next `up` takes them over.
    Up {
        #[command(flatten)]
        settings: Settings,
        /// Return when the node is Ready and go on in the background (log: <data-dir>/sampan.log)
        #[arg(long)]
        detach: bool,
    },
    /// Stop all pods in order (hooks run), stop sampan, and leave nothing behind but the data
    Down {
        #[command(flatten)]
        settings: Settings,
        /// Remove the data too: objects, images, certificates, logs
        #[arg(long)]
        purge: bool,
    },
    /// Only the control plane: API server, scheduler, controllers
    Server {
        #[command(flatten)]
        settings: Settings,
    },
    /// Only the node agent, with its runtime, for the API server that a kubeconfig names
    Node {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        by: crate::roles::By,
    },
    /// Print the kubeconfig by which the node agent of another machine joins this cluster
    ///
    /// On this machine:   sampan kubeconfig edge-1 --address 192.0.2.7 > edge-1.kubeconfig
    /// On the other one:  sampan node --kubeconfig edge-1.kubeconfig --node-name edge-1 --node-ip 192.0.2.7
    /// The file holds a key: who has it is that node.
    #[command(verbatim_doc_comment)]
    Kubeconfig {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        arguments: crate::join::Arguments,
    },
    /// The tokens by which machines without a certificate join this cluster
    Token {
        #[command(flatten)]
        settings: Settings,
        #[command(subcommand)]
        verb: crate::bootstrap_tokens::Verb,
    },
    /// Only the container runtime: CRI v1 on <run-dir>/cri.sock
    Runtime {
        #[command(flatten)]
        settings: Settings,
    },
    /// Say what works on this machine and what would fail, with what to do about it
    Check {
        #[command(flatten)]
        settings: Settings,
    },
    /// Look into the image store: list, inspect, pull, import, export, pin, remove, collect
    Images {
        #[command(flatten)]
        settings: Settings,
        #[command(subcommand)]
        verb: crate::images::Verb,
    },
    /// Show the recorded runs of a pod's lifecycle hooks, with what they printed
    Hooks {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        arguments: crate::hooks::Arguments,
    },
    /// The keys with which Secrets are encrypted in the store
    Secrets {
        #[command(flatten)]
        settings: Settings,
        #[command(subcommand)]
        verb: crate::secrets::Verb,
    },
    /// Print the version
    Version {
        /// How to print it
        #[arg(short, long, value_enum, default_value = "text")]
        output: crate::images::Output,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Parses the command line and runs it.
pub fn run() -> ExitCode {
    // This memory holds Secrets and pull credentials: no crash may write them to a file. Ends with exec, so that
    // containers and OCI runtimes keep their own habits.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    match dispatch(parse(std::env::args_os()).unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn grammar() -> clap::Command {
    areas::grouped(Command::command())
}

fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let mut grammar = grammar();
    let given = grammar.try_get_matches_from_mut(words)?;
    match areas::misplaced(&grammar, &given) {
        Some(text) => Err(grammar.error(ErrorKind::ArgumentConflict, text)),
        None => Command::from_arg_matches(&given),
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let file = command.config;
    let ready = |settings: Settings| -> anyhow::Result<Settings> {
        let settings = settings.over_file(file.as_deref())?;
        log_to_stderr(settings.log.as_deref())?;
        Ok(settings)
    };
    match command.verb {
        Verb::Up { settings, detach: true } => crate::detach::up(&ready(settings)?),
        Verb::Up { settings, detach: false } => crate::up::run(ready(settings)?),
        Verb::Down { settings, purge } => crate::down::run(ready(settings)?, purge),
        Verb::Server { settings } => crate::roles::server(ready(settings)?),
        Verb::Node { settings, by } => crate::roles::node(ready(settings)?, &by),
        Verb::Runtime { settings } => crate::roles::runtime(ready(settings)?),
        Verb::Kubeconfig { settings, arguments } => crate::join::print(ready(settings)?, &arguments),
        Verb::Check { settings } => crate::check::run(ready(settings)?),
        Verb::Images { settings, verb } => crate::images::run(ready(settings)?, verb),
        Verb::Hooks { settings, arguments } => crate::hooks::run(ready(settings)?, &arguments),
        Verb::Secrets { settings, verb } => crate::secrets::run(ready(settings)?, &verb),
        Verb::Token { settings, verb } => crate::bootstrap_tokens::run(ready(settings)?, &verb),
        Verb::Version { output } => crate::images::version(output),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut grammar(), "sampan", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn log_to_stderr(level: Option<&str>) -> anyhow::Result<()> {
    let level: LevelFilter = level
        .unwrap_or("info")
        .parse()
        .map_err(|_| anyhow::anyhow!("--log: choose error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn a_flag_is_shown_and_taken_where_it_has_an_effect() {
        let parse =
            |words: &[&str]| parse(words.iter().map(OsString::from)).map(drop).map_err(|error| error.to_string());
        assert_eq!(parse(&["sampan", "up", "--max-pods", "3", "--listen", "127.0.0.1:1"]), Ok(()));
        assert_eq!(parse(&["sampan", "down", "--max-pods", "3"]), Ok(()));
        let error = parse(&["sampan", "server", "--max-pods", "3"]).unwrap_err();
        assert!(
            error.contains(
                "--max-pods has no effect on `sampan server`; it is a setting of `sampan up` and `sampan node`"
            ),
            "{error}"
        );
        let mut grammar = grammar();
        let mut help = |verb: &str| grammar.find_subcommand_mut(verb).unwrap().render_long_help().to_string();
        assert!(help("up").contains("Eviction under pressure:") && help("up").contains("--max-pods"));
        assert!(!help("server").contains("--max-pods") && help("server").contains("--listen"));
        assert!(!help("down").contains("--listen") && help("down").contains("--purge"));
    }
}
