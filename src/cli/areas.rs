//! Which settings belong together, and which verbs take which.
//!
//! All verbs parse the same settings, so that one file and one set of `SAMPAN_*` variables serve them all; a flag that a
//! verb has no use for is not shown by its help and refused with where it belongs. Start at [`grouped`].

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// Settings that are needed together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Area {
    /// Where an instance lives, what it logs: every verb's.
    Instance,
    Api,
    Controllers,
    Node,
    Images,
    Credentials,
    Eviction,
    Runtime,
}

impl Area {
    /// The heading in a verb's help.
    fn heading(self) -> Option<&'static str> {
        match self {
            Area::Instance => None,
            Area::Api => Some("API server"),
            Area::Controllers => Some("Controllers"),
            Area::Node => Some("Node"),
            Area::Images => Some("Images of the node"),
            Area::Credentials => Some("Credentials of registries"),
            Area::Eviction => Some("Eviction under pressure"),
            Area::Runtime => Some("Container runtime"),
        }
    }
}

/// Every setting's area, by the name of its field.
const AREAS: &[(Area, &[&str])] = &[
    (Area::Instance, &["data_dir", "run_dir", "log"]),
    (
        Area::Api,
        &[
            "listen",
            "store",
            "enable_admission_plugins",
            "disable_admission_plugins",
            "default_not_ready_toleration_seconds",
            "default_unreachable_toleration_seconds",
            "unresolved_tags",
            "pin_image_digests_allow_local",
            "event_ttl",
            "cluster_signing_duration",
            "token_auth_file",
            "audit_log_path",
            "audit_log_maxsize",
            "audit_log_maxbackup",
            "no_merge_kubeconfig",
        ],
    ),
    (
        Area::Controllers,
        &[
            "node_monitor_grace_period",
            "node_startup_grace_period",
            "node_eviction_rate",
            "secondary_node_eviction_rate",
            "large_cluster_size_threshold",
            "unhealthy_zone_threshold",
            "terminated_pod_gc_threshold",
        ],
    ),
    (
        Area::Node,
        &[
            "node_name",
            "node_ip",
            "node_external_ip",
            "node_port",
            "max_pods",
            "container_log_max_size",
            "container_log_max_files",
            "container_log_monitor_interval",
            "runtime",
            "hook_runs_ttl",
            "shutdown_grace_period",
            "shutdown_grace_period_critical_pods",
            "shutdown_grace_period_by_pod_priority",
            "runtime_class_failure_policy",
            "max_container_restart_period",
            "feature_gates",
            "static_pod_path",
            "static_pod_url",
            "file_check_frequency",
            "http_check_frequency",
        ],
    ),
    (
        Area::Images,
        &[
            "serialize_image_pulls",
            "max_parallel_image_pulls",
            "registry_pull_qps",
            "registry_burst",
            "image_gc_high_threshold_percent",
            "image_gc_low_threshold_percent",
            "image_minimum_gc_age",
            "image_maximum_gc_age",
            "node_status_max_images",
        ],
    ),
    (
        Area::Credentials,
        &[
            "image_credential_provider_config",
            "image_credential_provider_bin_dir",
            "verification_policy",
            "verification_allowlist",
            "allowlist_needs_preloaded",
            "rotated_secret_requires_pull",
            "credential_globs",
            "credential_path_boundary",
            "anonymous_fallback",
            "http_headers",
            "docker_credential_helpers",
        ],
    ),
    (
        Area::Eviction,
        &[
            "eviction_hard",
            "eviction_soft",
            "eviction_soft_grace_period",
            "eviction_max_pod_grace_period",
            "eviction_minimum_reclaim",
            "eviction_transition",
            "eviction_defaults_merged",
        ],
    ),
    (
        Area::Runtime,
        &["pod_cidr", "default_handler", "containerd_config", "crio_config", "crio_config_dir", "handler_timeout"],
    ),
];

const NODE: &[Area] = &[Area::Instance, Area::Node, Area::Images, Area::Credentials, Area::Eviction, Area::Runtime];
const ALL: &[Area] = &[
    Area::Instance,
    Area::Api,
    Area::Controllers,
    Area::Node,
    Area::Images,
    Area::Credentials,
    Area::Eviction,
    Area::Runtime,
];

/// What a verb's help shows, and whether other settings have an effect all the same: over those of the last start.
fn of_verb(verb: &str) -> (&'static [Area], bool) {
    match verb {
        "up" | "check" => (ALL, true),
        "server" => (&[Area::Instance, Area::Api, Area::Controllers], false),
        "node" => (NODE, false),
        "runtime" => (&[Area::Instance, Area::Runtime], false),
        "down" | "secrets" => (&[Area::Instance], true),
        _ => (&[Area::Instance], false),
    }
}

fn area(id: &str) -> Option<Area> {
    AREAS.iter().find(|(_, ids)| ids.contains(&id)).map(|(area, _)| *area)
}

/// The grammar with the settings of each verb under their headings, without those that it has no use for.
pub fn grouped(command: Command) -> Command {
    command.mut_subcommands(|verb| {
        let (shown, _) = of_verb(verb.get_name());
        verb.mut_args(|arg| match area(arg.get_id().as_str()) {
            Some(area) if shown.contains(&area) => arg.help_heading(area.heading()),
            Some(_) => arg.hide(true),
            None => arg,
        })
    })
}

/// The words about a flag that was given to a verb which has no use for it.
pub fn misplaced(command: &Command, given: &ArgMatches) -> Option<String> {
    let (name, given) = given.subcommand()?;
    let (taken, others_count) = of_verb(name);
    if others_count {
        return None;
    }
    let said = |arg: &&Arg| {
        let area = area(arg.get_id().as_str());
        area.is_some_and(|area| !taken.contains(&area))
            && given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let arg = command.find_subcommand(name)?.get_arguments().find(said)?;
    let (flag, area) = (arg.get_long()?, area(arg.get_id().as_str())?);
    let verbs = ["up", "server", "node", "runtime"].into_iter().filter(|verb| of_verb(verb).0.contains(&area));
    let verbs: Vec<String> = verbs.map(|verb| format!("`sampan {verb}`")).collect();
    Some(format!("--{flag} has no effect on `sampan {name}`; it is a setting of {}", verbs.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use std::collections::BTreeSet;

    #[test]
    fn every_setting_has_one_area() {
        let command = <Settings as clap::Args>::augment_args(Command::new("sampan"));
        let settings: BTreeSet<&str> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        let known: Vec<&str> = AREAS.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        assert_eq!(settings, known.iter().copied().collect());
        assert_eq!(settings.len(), known.len());
    }
}
