//! All tests, in the rings of the house, each within its written time budget.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use xtask::shell;

use crate::setup;

/// One ring of tests.
struct Ring {
    name: &'static str,
    /// Seconds on two cores once everything is built.
    budget_seconds: u64,
    /// Which tests, in nextest's language. Never a selection of packages: that would build everything a second time
    /// with other features.
    tests: &'static str,
    threads: &'static str,
}

const RINGS: &[Ring] = &[
    // Rings 0 to 2: tidiness, cores, properties. No root, no network, no other program.
    Ring { name: "cores", budget_seconds: 300, tests: "kind(lib) + kind(bin) + binary(tidy)", threads: "2" },
    // Rings 3 and 4: walls. Real registry, runc, crun, kubectl; as root.
    Ring {
        name: "walls",
        budget_seconds: 400,
        tests: "kind(test) & not package(sampan) & not package(xtask)",
        threads: "2",
    },
    // Ring 5: metal. The whole program; tests that compare what it leaves on the machine run alone (nextest.toml).
    Ring {
        name: "metal",
        budget_seconds: 1100,
        tests: "kind(test) & package(sampan) & not binary(tidy) & not binary(cgroup_v2) & not binary(power_loss)",
        threads: "2",
    },
    // Ring 5 where this machine is not enough: cgroup v2 alone and losses of power, in emulated machines.
    Ring {
        name: "virtual",
        budget_seconds: 900,
        tests: "kind(test) & (package(xtask) + binary(cgroup_v2) + binary(power_loss))",
        threads: "1",
    },
];

/// Builds once, then runs ring after ring. A ring that fails does not hide what the later ones would have found.
pub fn run() -> anyhow::Result<()> {
    setup::everything()?;
    shell::run("cargo", &["nextest", "run", "--workspace", "--no-run"])?;
    let failures: Vec<String> = RINGS.iter().filter_map(|ring| ring.run().err()).map(|e| e.to_string()).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

impl Ring {
    fn run(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let words =
            ["nextest", "run", "--workspace", "--no-fail-fast", "--test-threads", self.threads, "-E", self.tests];
        let tests = shell::run("cargo", &words);
        let took = began.elapsed();
        println!("ring {}: {} s of {} s", self.name, took.as_secs(), self.budget_seconds);
        if took > Duration::from_secs(self.budget_seconds) {
            bail!("ring {} took longer than its budget; make it faster or move a test to another ring", self.name);
        }
        tests.with_context(|| format!("ring {} failed", self.name))
    }
}
