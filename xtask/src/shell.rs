//! Running other programs: every failure names the program, its words and what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Beginnings of the variables by which `cargo run` tells a program of its own package.
const OWN_VARIABLES: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];

/// Runs a program with our standard streams.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    // What cargo tells this task of itself would make a nested cargo build native crates anew.
    for (name, _) in std::env::vars_os() {
        if OWN_VARIABLES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let status = command.status().with_context(|| format!("start {program}"))?;
    if !status.success() {
        bail!("`{program} {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Runs a program, feeds it `input` and returns what it printed.
pub fn output(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!(
            "`{program} {}` ended with {}: {}",
            arguments.join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Where PATH finds a program.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The checkout's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Prints a headline and the command that a reader would type.
pub fn show(title: &str, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    println!("\n\x1b[1m# {title}\x1b[0m\n$ {program} {}", arguments.join(" "));
    run(program, arguments)
}
