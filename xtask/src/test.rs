//! All tests, in the rings of the house, each within its written time budget.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::{setup, shell};

/// A ring: its name, its budget in seconds on two cores once everything is built, and what nextest runs for it.
const RINGS: &[(&str, u64, &[&str])] = &[
    // Rings 0 to 2: tidiness, cores, properties. No root, no network, no other program.
    ("cores", 300, &["--lib", "--bins", "--test", "tidy"]),
    // Rings 3 to 5: walls and metal. Real registry, runc, crun, kubectl; as root.
    ("metal", 900, &["--test", "*"]),
];

/// Builds once, then runs ring after ring.
pub fn run() -> anyhow::Result<()> {
    setup::everything()?;
    shell::run("cargo", &["nextest", "run", "--workspace", "--no-run"])?;
    for (name, budget_seconds, filter) in RINGS {
        let began = Instant::now();
        let mut arguments = vec!["nextest", "run", "--workspace", "--no-fail-fast"];
        arguments.extend(*filter);
        if *name == "metal" {
            arguments.extend(["--test-threads", "2", "-E", "not binary(tidy)"]);
        }
        shell::run("cargo", &arguments)?;
        let took = began.elapsed();
        println!("ring {name}: {} s of {budget_seconds} s", took.as_secs());
        if took > Duration::from_secs(*budget_seconds) {
            bail!("ring {name} took longer than its budget; make it faster or move a test to another ring");
        }
    }
    Ok(())
}
