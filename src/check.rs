//! `sampan check`: what works on this machine and what would fail, before it does.
//!
//! Each finding says what it is about, what was seen and what to do. [`refuse_if_unable`] is the part that `up` cannot do
//! without; it only looks.

mod cgroups;
mod disk;
mod shutdown;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use ipnet::Ipv4Net;

use crate::handlers;
use crate::output::line;
use crate::settings::{Resolved, Settings};

/// How a finding matters.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Weight {
    /// Works.
    Good,
    /// Works with less than a user may expect.
    Less,
    /// `up` or a pod would fail.
    Bad,
}

/// One line of the report.
struct Finding {
    weight: Weight,
    subject: &'static str,
    seen: String,
}

fn good(subject: &'static str, seen: impl Into<String>) -> Finding {
    Finding { weight: Weight::Good, subject, seen: seen.into() }
}

fn less(subject: &'static str, seen: impl Into<String>) -> Finding {
    Finding { weight: Weight::Less, subject, seen: seen.into() }
}

fn bad(subject: &'static str, seen: impl Into<String>) -> Finding {
    Finding { weight: Weight::Bad, subject, seen: seen.into() }
}

/// Prints the report; an error if something would fail.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let resolved = settings.resolve()?;
    let mut findings = essentials(&resolved);
    findings.push(api_port(&resolved));
    findings.push(disk::finding(&resolved));
    findings.push(oom_score());
    findings.push(docker_forwarding());
    findings.push(shutdown::finding(&resolved.shutdown)?);
    findings.extend(handler_tests(&resolved));
    for finding in &findings {
        let mark = match finding.weight {
            Weight::Good => "ok  ",
            Weight::Less => "less",
            Weight::Bad => "FAIL",
        };
        line(&format!("{mark}  {:<18} {}", finding.subject, finding.seen));
    }
    match findings.iter().filter(|finding| finding.weight == Weight::Bad).count() {
        0 => Ok(()),
        count => bail!("{count} of {} checks say that `sampan up` or a pod would fail here", findings.len()),
    }
}

/// What a start should say though it succeeds.
pub fn warn_if_tight(resolved: &Resolved) {
    let disk = disk::finding(resolved);
    if disk.weight != Weight::Good {
        line(&format!("warning: {}: {}", disk.subject, disk.seen));
    }
}

/// Refuses a start that cannot succeed.
pub fn refuse_if_unable(resolved: &Resolved) -> anyhow::Result<()> {
    let mut reasons: Vec<String> = essentials(resolved)
        .into_iter()
        .filter(|finding| finding.weight == Weight::Bad)
        .map(|finding| format!("{}: {}", finding.subject, finding.seen))
        .collect();
    reasons.extend(refused_handlers(resolved));
    if !reasons.is_empty() {
        bail!("sampan cannot start here:\n  {}", reasons.join("\n  "));
    }
    Ok(())
}

/// Why no handler could be the default.
fn refused_handlers(resolved: &Resolved) -> Option<String> {
    let inventory = match handlers::load(resolved) {
        Ok(inventory) => inventory,
        Err(error) => return Some(format!("handlers: {error:#}")),
    };
    if !inventory.can_run_any() {
        let text = "neither crun nor runc was found in PATH; install one, for example: apt-get install runc";
        return Some(format!("OCI runtime: {text}"));
    }
    if let Some(named) = resolved.default_handler.as_ref().filter(|named| !inventory.can_run(named)) {
        return Some(format!(
            "--default-handler {named}: its binary was not found in PATH; install it or choose another handler"
        ));
    }
    handlers::named_default(resolved, &inventory).err().map(|error| format!("handlers: {error:#}"))
}

fn essentials(_resolved: &Resolved) -> Vec<Finding> {
    let root = if rustix::process::geteuid().is_root() {
        good("root", "yes")
    } else {
        bad("root", "no; sampan makes namespaces, mounts and cgroups: run it with sudo")
    };
    let overlay = match std::fs::read_to_string("/proc/filesystems") {
        Ok(text) if text.contains("\toverlay\n") => good("overlay", "the kernel has overlayfs"),
        _ if Path::new("/sys/module/overlay").exists() => good("overlay", "the kernel has overlayfs"),
        _ => bad("overlay", "the kernel offers no overlayfs; try: modprobe overlay"),
    };
    let nft = match runtime::find_program("nft") {
        Some(path) => good("nft", path.display().to_string()),
        None => bad("nft", "not found; the pod network needs it: apt-get install nftables"),
    };
    vec![root, overlay, nft, cgroups::finding()]
}

fn api_port(resolved: &Resolved) -> Finding {
    match resolved.instance.running() {
        Some(pid) => good("API address", format!("{} is served by sampan, process {pid}", resolved.listen)),
        None => match TcpListener::bind(resolved.listen) {
            Ok(_) => good("API address", format!("{} is free", resolved.listen)),
            Err(error) => bad("API address", format!("{}: {error}; choose another with --listen", resolved.listen)),
        },
    }
}

/// Whether this process may lower an OOM score: without it, containers run with the score that they inherit.
fn oom_score() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim).unwrap_or_default();
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    match u64::from_str_radix(effective, 16) {
        Ok(held) if held & CAP_SYS_RESOURCE != 0 => good("OOM scores", "may be lowered"),
        _ => less(
            "OOM scores",
            "CAP_SYS_RESOURCE is missing: scores below this process's own and raised hard rlimits are left out",
        ),
    }
}

/// Another program's DROP policy on forwarded packets would cut pods off; ours cannot overrule it.
fn docker_forwarding() -> Finding {
    let rules = ruleset();
    let drops = rules.lines().any(|line| line.contains("hook forward") && line.contains("policy drop"));
    if drops {
        return less(
            "forwarding",
            "a netfilter chain drops forwarded packets by default; let those of the pod network pass, for example: iptables -I FORWARD -i sampan0 -j ACCEPT",
        );
    }
    good("forwarding", "no chain drops forwarded packets by default")
}

fn handler_tests(resolved: &Resolved) -> Vec<Finding> {
    if !rustix::process::geteuid().is_root() {
        return vec![less("handlers", "not tried: needs root")];
    }
    let inventory = match handlers::load(resolved) {
        Ok(inventory) => inventory,
        Err(error) => return vec![bad("handlers", format!("{error:#}"))],
    };
    let mut findings = vec![match handlers::named_default(resolved, &inventory) {
        Ok(Some((name, says))) => good("default handler", format!("{name} ({says})")),
        Ok(None) => good("default handler", "crun if its test passes, else runc"),
        Err(error) => bad("default handler", format!("{error:#}")),
    }];
    findings.extend(inventory.known.iter().map(|known| handler_test(known, resolved.handler_timeout)));
    findings.extend(inventory.unusable.iter().map(|handlers::Unusable { name, origin, reason }| {
        less("handler", format!("{name} (from {origin}) cannot be served here: {reason}"))
    }));
    findings
}

/// Runs a container: what was found, its version, how long it took, and what of its settings has no effect.
fn handler_test(known: &handlers::Known, patience: Duration) -> Finding {
    let handlers::Known { handler, origin, notes } = known;
    let named = format!("{} (from {origin})", handler.name);
    let noted: String = notes.iter().map(|note| format!("; {note}")).collect();
    match handlers::test(handler, patience) {
        Ok(passed) => good(
            "handler",
            format!(
                "{named}: {}, {}, ran a container in {} ms{noted}",
                passed.binary.display(),
                passed.version,
                passed.cold_start.as_millis()
            ),
        ),
        Err(error) => less("handler", format!("{named}: {error:#}{noted}")),
    }
}

/// The machine's netfilter rules; empty if they cannot be read.
#[allow(clippy::disallowed_methods)]
fn ruleset() -> String {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Refuses addresses of pods that this machine reaches by another link: it would be cut off from them.
pub fn refuse_shared_network(resolved: &Resolved) -> anyhow::Result<()> {
    let bridge = resolved.instance.bridge();
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let loopback = ("lo", Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    for (link, net) in routes.lines().filter_map(route).chain([loopback]) {
        let shares = net.contains(&resolved.pod_cidr) || resolved.pod_cidr.contains(&net);
        if link != bridge && net.prefix_len() > 0 && shares {
            bail!("--pod-cidr {}: {net} is reached by {link}; choose addresses that nothing uses", resolved.pod_cidr);
        }
    }
    Ok(())
}

/// A line of `/proc/net/route`: link, network and mask as little-endian hexadecimal numbers.
fn route(line: &str) -> Option<(&str, Ipv4Net)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address =
        |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok().map(|number| Ipv4Addr::from(number.swap_bytes()));
    Some((fields.first()?, Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read() {
        let line = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(route(line), Some(("eth0", "192.0.2.0/24".parse().unwrap())));
        assert_eq!(route("Iface\tDestination\tGateway"), None);
    }
}
