//! The project's own tasks: `cargo xtask demo`, `test`, `bench`, `setup`.
//!
//! Each installs what it needs from the distribution and works as root on a fresh Debian or Ubuntu machine.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

#[cfg(feature = "bench")]
mod bench;
mod demo;

mod setup;

mod test;

use std::path::PathBuf;

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
    Bench(Measurement),
}

/// One benchmark.
#[derive(clap::Args)]
#[cfg_attr(not(feature = "bench"), allow(dead_code))]
struct Measurement {
    /// What to measure: start, pull, handlers, hooks, workloads
    #[arg(default_value = "start")]
    what: String,
    /// How many pods to start one after another
    #[arg(long, default_value_t = 30)]
    pods: u32,
    /// Of hooks: two hundred pods deleted at once instead of one after another; of workloads: five thousand pods
    /// instead of one thousand
    #[arg(long)]
    load: bool,
    /// This binary, instead of a release build of the tree
    #[arg(long)]
    sampan: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match Command::parse().task {
        Task::Demo { stop: false } => demo::run(),
        Task::Demo { stop: true } => demo::stop(),
        Task::Test => test::run(),
        Task::Setup => setup::everything(),
        #[cfg(feature = "bench")]
        Task::Bench(measurement) => bench::run(&measurement),
        #[cfg(not(feature = "bench"))]
        Task::Bench(_) => {
            // The client's own time is part of what is measured.
            let build = ["run", "--quiet", "--release", "--package", "xtask", "--features", "bench", "--"];
            let own: Vec<String> = std::env::args().skip(1).collect();
            xtask::shell::run(
                "cargo",
                &[&build, own.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat(),
            )
        }
    }
}
