//! The project's own tasks: `cargo xtask demo`, `test`, `bench`, `setup`.
//!
//! Each installs what it needs from the distribution and works as root on a fresh Debian or Ubuntu machine.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

#[cfg(feature = "bench")]
mod bench;
mod demo;

mod setup;

mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a Pod from a private registry, from an empty machine to `kubectl logs`
    Demo {
        /// Stop and remove everything that the demo made
        #[arg(long)]
        stop: bool,
    },
    /// Run all tests
    Test,
    /// Install what the tests and the demo need
    Setup,
    /// Measure, and print ratios with medians
    Bench {
        /// What to measure: start, pull
        #[arg(default_value = "start")]
        what: String,
        /// How many pods to start one after another
        #[arg(long, default_value_t = 30)]
        pods: u32,
    },
}

fn main() -> anyhow::Result<()> {
    match Command::parse().task {
        Task::Demo { stop: false } => demo::run(),
        Task::Demo { stop: true } => demo::stop(),
        Task::Test => test::run(),
        Task::Setup => setup::everything(),
        #[cfg(feature = "bench")]
        Task::Bench { what, pods } => bench::run(&what, pods),
        #[cfg(not(feature = "bench"))]
        Task::Bench { what, pods } => xtask::shell::run(
            "cargo",
            &[
                "run",
                "--quiet",
                // The client's own time is part of what is measured.
                "--release",
                "--package",
                "xtask",
                "--features",
                "bench",
                "--",
                "bench",
                &what,
                "--pods",
                &pods.to_string(),
            ],
        ),
    }
}
