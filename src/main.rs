//! The binary: chooses the role of this process, nothing else.
//!
//! `sampan monitor` is looked for before anything is set up: a monitor must start in milliseconds and stay small.
//! Everything else goes through the command line in [`cli`]. Start reading there.

mod bootstrap_tokens;
mod certificates;
mod check;
mod cli;
mod clock;
mod detach;
mod down;
mod handlers;
mod hooks;
mod image_collection;
mod images;
mod instance;
mod join;
mod kubeconfig;
mod memory;
mod node_identity;
mod output;
mod pins;
mod progress;
mod reach;
mod roles;
mod secrets;
mod settings;
mod supervise;
mod tokens;
mod up;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "monitor") {
        return monitor::main(arguments);
    }
    cli::run()
}
