//! RunPodSandbox: record, directories, monitor, network. A step that fails undoes those before it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cri::v1::{ContainerEventType, DnsConfig, NamespaceMode, PodSandboxConfig, RunPodSandboxRequest};

use crate::clock;
use crate::core::Core;
use crate::error::Error;
use crate::record::{self, MADE, SandboxRecord};
use crate::rootfs;
use crate::state::{Sandbox, fresh_id};

/// Makes a sandbox; returns its id.
pub(crate) async fn run(core: Arc<Core>, request: RunPodSandboxRequest) -> Result<String, Error> {
    let config = request.config.ok_or_else(|| Error::Invalid("no sandbox configuration".into()))?;
    refuse_what_we_lack(&config)?;
    let sandbox = Arc::new(Sandbox::new(plan(&core, config, request.runtime_handler)?));
    let _verb = sandbox.verbs.lock().await;
    core.state.insert_sandbox(&sandbox)?;
    match make(&core, &sandbox).await {
        Ok(()) => {
            core.declare_ready(&sandbox).await;
            core.tell_sandbox(&sandbox, ContainerEventType::ContainerCreatedEvent);
            core.tell_sandbox(&sandbox, ContainerEventType::ContainerStartedEvent);
            Ok(sandbox.record.id.clone())
        }
        Err((step, error)) => {
            if let Err(undo) = super::remove::unmake(&core, &sandbox).await {
                // What is left is swept when the runtime starts again.
                tracing::warn!(sandbox = sandbox.id(), error = %undo, "undo a sandbox that failed");
            }
            core.state.forget_sandbox(sandbox.id());
            let handler = sandbox.record.handler.clone();
            Err(Error::Sandbox { handler, step, reason: error.to_string() })
        }
    }
}

fn refuse_what_we_lack(config: &PodSandboxConfig) -> Result<(), Error> {
    let users = super::namespaces(config).userns_options;
    if users.is_some_and(|users| users.mode == NamespaceMode::Pod as i32 && !users.uids.is_empty()) {
        return Err(Error::Invalid("user namespaces are not supported".into()));
    }
    Ok(())
}

fn plan(core: &Core, config: PodSandboxConfig, handler_name: String) -> Result<SandboxRecord, Error> {
    let handler = core.handlers.find(&handler_name)?;
    let id = fresh_id()?;
    let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
    let cgroup = if parent.is_empty() { format!("{}/sandboxes/{id}", core.cgroup_top) } else { parent.to_owned() };
    if cgroup.split('/').any(|part| part == "..") {
        return Err(Error::Invalid(format!("cgroup parent {cgroup:?} leaves the tree")));
    }
    Ok(SandboxRecord {
        id,
        handler: handler_name,
        root: core.oci_root(&handler),
        binary: handler.binary,
        arguments: handler.arguments,
        pod_annotations: handler.pod_annotations,
        container_annotations: handler.container_annotations,
        created_at: clock::now_nanoseconds(),
        own_cgroup: !core.hierarchies.exists(&cgroup),
        cgroup,
        config,
    })
}

type Failed = (&'static str, Error);

async fn make(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Failed> {
    let (inner, own) = (core.clone(), sandbox.clone());
    let prepared = tokio::task::spawn_blocking(move || prepare(&inner, &own)).await;
    prepared.unwrap_or_else(|error| Err(("prepare", Error::step("prepare the sandbox", error))))?;
    core.listen(sandbox).await.map_err(|error| ("connect to the monitor", error))?;
    if !super::is_on_host_network(&sandbox.record.config) {
        attach(core, sandbox).await.map_err(|error| ("attach to the network", error))?;
    }
    let made = core.layout.sandbox_data(sandbox.id()).join(MADE);
    record::write(&made, b"").map_err(|error| ("finish the record", Error::file("write", made)(error)))
}

/// What blocks: files, mounts, cgroup, the start of the monitor.
fn prepare(core: &Core, sandbox: &Sandbox) -> Result<(), Failed> {
    let record = &sandbox.record;
    let data = core.layout.sandbox_data(&record.id);
    record::store(&data, record).map_err(|error| ("write the record", Error::file("write", data)(error)))?;
    let run = core.layout.sandbox_run(&record.id);
    write_files(&run, &record.config).map_err(|error| ("write the sandbox's files", error))?;
    fs::create_dir_all(&record.root)
        .map_err(|error| ("make the handler's directory", Error::file("make directory", &record.root)(error)))?;
    if super::namespaces(&record.config).ipc != NamespaceMode::Node as i32 {
        rootfs::mount_shm(&run.join("shm")).map_err(|error| ("mount the pod's /dev/shm", error))?;
    }
    if record.own_cgroup {
        core.hierarchies
            .make(&record.cgroup)
            .map_err(|error| ("make the pod's cgroup", Error::file("make cgroup", &record.cgroup)(error)))?;
    }
    let arguments = monitor_arguments(core, record, &run);
    core.monitors.start(&arguments).map_err(|error| ("start the monitor", Error::step("run it", error)))?;
    Ok(())
}

fn monitor_arguments(core: &Core, record: &SandboxRecord, run: &Path) -> Vec<OsString> {
    let options = super::namespaces(&record.config);
    let is_on_host = super::is_on_host_network(&record.config);
    let mut namespaces: Vec<&str> = Vec::new();
    if !is_on_host {
        namespaces.extend(["net", "uts"]);
    }
    if options.ipc != NamespaceMode::Node as i32 {
        namespaces.push("ipc");
    }
    if shares_processes(&record.config) {
        namespaces.push("pid");
    }
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    add("--id", record.id.clone().into());
    add("--dir", run.into());
    add("--cgroup", format!("{}/monitors", core.cgroup_top).into());
    add("--namespaces", namespaces.join(",").into());
    if !is_on_host {
        add("--hostname", super::hostname(&record.config).into());
    }
    for (key, value) in record.config.linux.iter().flat_map(|linux| &linux.sysctls) {
        add("--sysctl", format!("{key}={value}").into());
    }
    arguments
}

/// All containers of the pod see each other's processes. Said explicitly: silence is one namespace a container.
pub(crate) fn shares_processes(config: &PodSandboxConfig) -> bool {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    options.is_some_and(|options| options.pid == NamespaceMode::Pod as i32)
}

async fn attach(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let namespace = format!("/proc/{}/ns/net", sandbox.live().pid);
    let ports = port_mappings(&sandbox.record.config)?;
    let attachment = core.network.attach(sandbox.id(), Path::new(&namespace), &ports).await;
    let attachment = attachment.map_err(|error| Error::step("attach", report(&error)))?;
    sandbox.change(|live| live.ips = attachment.ips);
    Ok(())
}

/// An error with its causes, in one line.
pub(crate) fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}

fn port_mappings(config: &PodSandboxConfig) -> Result<Vec<network::PortMapping>, Error> {
    let wanted = config.port_mappings.iter().filter(|mapping| mapping.host_port > 0);
    wanted.map(port_mapping).collect()
}

fn port_mapping(mapping: &cri::v1::PortMapping) -> Result<network::PortMapping, Error> {
    let port =
        |number: i32| u16::try_from(number).map_err(|_| Error::Invalid(format!("port {number} is out of range")));
    let protocol = match cri::v1::Protocol::try_from(mapping.protocol) {
        Ok(cri::v1::Protocol::Tcp) => network::Protocol::Tcp,
        Ok(cri::v1::Protocol::Udp) => network::Protocol::Udp,
        _ => return Err(Error::Invalid("host ports are for TCP and UDP".into())),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" | "0.0.0.0" | "::" => None,
        text => Some(text.parse().map_err(|_| Error::Invalid(format!("host address {text:?} is no IPv4 address")))?),
    };
    Ok(network::PortMapping {
        protocol,
        container_port: port(mapping.container_port)?,
        host_port: port(mapping.host_port)?,
        host_ip,
    })
}

/// resolv.conf and hostname, bound into every container.
fn write_files(run: &Path, config: &PodSandboxConfig) -> Result<(), Error> {
    fs::create_dir_all(run).map_err(Error::file("make directory", run))?;
    let resolv = match config.dns_config.as_ref().map(resolv_conf) {
        Some(text) if !text.is_empty() => text,
        // No wishes: the host's own.
        _ => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    let hostname = format!("{}\n", super::hostname(config));
    for (name, text) in [("resolv.conf", resolv), ("hostname", hostname)] {
        let path = run.join(name);
        fs::write(&path, text).map_err(Error::file("write", path))?;
    }
    Ok(())
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_settings_are_written_as_the_resolver_reads_them() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(resolv_conf(&dns), "search a.svc svc\nnameserver 10.0.0.10\noptions ndots:5\n");
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
