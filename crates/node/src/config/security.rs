//! Security contexts: the container's words over the pod's.
//!
//! Pure. Start at [`container`] and [`sandbox`]; [`verify_non_root`] runs first.

use super::{Context, Error, Inputs, is_ephemeral};
use crate::object::{Container, Pod, SeLinuxOptions, SecurityProfile};
use cri::v1;

/// Paths that a container may not see unless it asks for `procMount: Unmasked`.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that a container may only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// True when any container of the pod is privileged.
pub fn is_privileged(pod: &Pod) -> bool {
    pod.containers().any(|(_, c)| c.security_context.privileged == Some(true))
}

/// The sandbox's security context.
pub(super) fn sandbox(pod: &Pod, ctx: &Context) -> v1::LinuxSandboxSecurityContext {
    let own = &pod.spec.security_context;
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: own.se_linux_options.as_ref().map(selinux),
        run_as_user: own.run_as_user.map(int),
        run_as_group: own.run_as_group.map(int),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod) as i32,
        privileged: is_privileged(pod),
        // The sandbox runs no code of the user's; it keeps the runtime's profile whatever the containers ask for.
        seccomp: Some(seccomp(own.seccomp_profile.as_ref(), v1::security_profile::ProfileType::RuntimeDefault, ctx)),
        apparmor: own.app_armor_profile.as_ref().map(apparmor),
        ..Default::default()
    }
}

/// A container's security context.
pub(super) fn container(
    pod: &Pod,
    container: &Container,
    inputs: Inputs<'_>,
    ctx: &Context,
) -> v1::LinuxContainerSecurityContext {
    let (own, shared) = (&container.security_context, &pod.spec.security_context);
    let user = own.run_as_user.or(shared.run_as_user);
    let is_masked = own.proc_mount.as_deref() != Some("Unmasked");
    let listed = |paths: &[&str]| paths.iter().filter(|_| is_masked).map(|p| (*p).to_owned()).collect();
    let mut namespaces = namespaces(pod);
    if let Some(target) = inputs.target_id.filter(|_| is_ephemeral(pod, container)) {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id = target.to_owned();
    }
    v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| v1::Capability {
            add_capabilities: c.add.clone(),
            drop_capabilities: c.drop.clone(),
            ..Default::default()
        }),
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespaces),
        selinux_options: own.se_linux_options.as_ref().or(shared.se_linux_options.as_ref()).map(selinux),
        // An image that names nobody runs as root: said, since a runtime refuses a group without a user.
        run_as_user: user.or(inputs.image_uid).or(inputs.image_user.is_empty().then_some(0)).map(int),
        run_as_group: own.run_as_group.or(shared.run_as_group).map(int),
        run_as_username: if user.is_none() { inputs.image_user.to_owned() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod) as i32,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: listed(&MASKED),
        readonly_paths: listed(&READ_ONLY),
        seccomp: Some(seccomp(
            own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()),
            v1::security_profile::ProfileType::Unconfined,
            ctx,
        )),
        apparmor: own.app_armor_profile.as_ref().or(shared.app_armor_profile.as_ref()).map(apparmor),
        ..Default::default()
    }
}

fn int(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

/// Which namespaces are the pod's, the container's own or the node's.
fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = &pod.spec;
    let host = |is_host: bool| if is_host { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (true, _) => v1::NamespaceMode::Node,
        (false, true) => v1::NamespaceMode::Pod,
        (false, false) => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: host(spec.host_network) as i32,
        pid: pid as i32,
        ipc: host(spec.host_ipc) as i32,
        ..Default::default()
    }
}

/// The volumes' group first, then the groups that the pod lists.
fn groups(pod: &Pod) -> Vec<i64> {
    let own = &pod.spec.security_context;
    own.fs_group.iter().chain(&own.supplemental_groups).copied().collect()
}

fn groups_policy(pod: &Pod) -> v1::SupplementalGroupsPolicy {
    match pod.spec.security_context.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        _ => v1::SupplementalGroupsPolicy::Merge,
    }
}

fn seccomp(
    profile: Option<&SecurityProfile>,
    default: v1::security_profile::ProfileType,
    ctx: &Context,
) -> v1::SecurityProfile {
    let root = ctx.data_dir.join("seccomp");
    let kind = profile.map_or(default, |p| profile_type(&p.type_));
    let path = profile.filter(|_| kind == v1::security_profile::ProfileType::Localhost);
    v1::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: path.map(|p| root.join(&p.localhost_profile).display().to_string()).unwrap_or_default(),
    }
}

fn apparmor(profile: &SecurityProfile) -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: profile_type(&profile.type_) as i32,
        localhost_ref: profile.localhost_profile.clone(),
    }
}

fn profile_type(name: &str) -> v1::security_profile::ProfileType {
    match name {
        "Unconfined" => v1::security_profile::ProfileType::Unconfined,
        "Localhost" => v1::security_profile::ProfileType::Localhost,
        _ => v1::security_profile::ProfileType::RuntimeDefault,
    }
}

fn selinux(options: &SeLinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone(),
        role: options.role.clone(),
        r#type: options.type_.clone(),
        level: options.level.clone(),
    }
}

/// Refuses a container that must not run as root and would, or might (POD-26).
pub(super) fn verify_non_root(pod: &Pod, container: &Container, inputs: Inputs<'_>) -> Result<(), Error> {
    let (own, shared) = (&container.security_context, &pod.spec.security_context);
    if own.run_as_non_root.or(shared.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", pod.full_name(), container.name);
    let refusal = match (own.run_as_user.or(shared.run_as_user), inputs.image_uid, inputs.image_user) {
        (Some(0), _, _) => format!("container's runAsUser breaks non-root policy {place}"),
        (Some(_), _, _) => return Ok(()),
        (None, Some(0), _) | (None, None, "") => {
            format!("container has runAsNonRoot and image will run as root {place}")
        }
        (None, Some(_), _) => return Ok(()),
        (None, None, user) => format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
        ),
    };
    Err(Error::RunAsNonRoot(refusal))
}
