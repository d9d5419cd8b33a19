//! CRI-O's `crio.conf` and its drop-ins: handlers in `[crio.runtime.runtimes.NAME]` (RTC-79). Pure.
//!
//! A later file replaces a handler as a whole, as CRI-O does. Start at [`parse`], then [`Layers::foreign`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::foreign::{Declared, Foreign, Malformed, Others, Served, Source, unknown_keys};

/// Keys of a handler that CRI-O knows and that mean nothing here.
const KEYS_WITHOUT_MEANING: &[&str] = &[
    "container_create_timeout",
    "container_min_memory",
    "exec_cpu_affinity",
    "monitor_cgroup",
    "monitor_env",
    "monitor_exec_cgroup",
    "monitor_path",
    "no_sync_log",
    "runtime_config_path",
    "runtime_pull_image",
    "stream_websockets",
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawFile {
    crio: RawCrio,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCrio {
    runtime: RawRuntimeTable,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRuntimeTable {
    default_runtime: Option<Spanned<String>>,
    runtimes: BTreeMap<Spanned<String>, RawRuntime>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct RawRuntime {
    runtime_path: String,
    runtime_type: String,
    runtime_root: String,
    inherit_default_runtime: bool,
    platform_runtime_paths: BTreeMap<String, String>,
    allowed_annotations: Vec<String>,
    default_annotations: BTreeMap<String, String>,
    privileged_without_host_devices: bool,
    seccomp_profile: String,
    #[serde(flatten)]
    others: Others,
}

/// What a file and its drop-ins say, one over the other.
#[derive(Default)]
pub struct Layers {
    runtimes: BTreeMap<String, (String, RawRuntime)>,
    default: Option<(String, String)>,
}

/// Reads a file over those before it.
pub fn parse(source: Source<'_>, layers: &mut Layers) -> Result<(), Malformed> {
    let file: RawFile = source.read()?;
    let table = file.crio.runtime;
    if let Some(name) = table.default_runtime.filter(|name| !name.get_ref().is_empty()) {
        let at = source.at(name.span().start);
        layers.default = Some((name.into_inner(), at));
    }
    for (name, raw) in table.runtimes {
        if !matches!(raw.runtime_type.as_str(), "" | "oci" | "vm" | "pod") {
            let text = format!("runtime_type {:?} is not known; known are oci, vm, pod", raw.runtime_type);
            return Err(source.malformed(name.span().start, text));
        }
        let at = source.at(name.span().start);
        layers.runtimes.insert(name.into_inner(), (at, raw));
    }
    Ok(())
}

impl Layers {
    /// What all files together say, on a machine of this architecture (`amd64`, `arm64`, …).
    pub fn foreign(self, architecture: &str) -> Foreign {
        let platform = format!("linux/{architecture}");
        let default = self.default.as_ref().and_then(|(name, _)| Some((name, &self.runtimes.get(name)?.1)));
        let declared = |(name, (at, raw)): (&String, &(String, RawRuntime))| {
            let (name, raw) = match default {
                Some((default, inherited)) if raw.inherit_default_runtime => (
                    default,
                    RawRuntime {
                        runtime_path: inherited.runtime_path.clone(),
                        runtime_type: inherited.runtime_type.clone(),
                        runtime_root: inherited.runtime_root.clone(),
                        platform_runtime_paths: inherited.platform_runtime_paths.clone(),
                        ..raw.clone()
                    },
                ),
                _ => (name, raw.clone()),
            };
            Declared { at: at.clone(), how: raw.served(name, &platform), notes: raw.notes() }
        };
        Foreign {
            handlers: self.runtimes.iter().map(|entry| (entry.0.clone(), declared(entry))).collect(),
            default: self.default,
        }
    }
}

/// The globs of all annotations that begin so, which is what CRI-O allows.
fn beginning_with(name: &str) -> Vec<String> {
    let in_prefix = (!name.contains('/')).then(|| format!("{name}*/*"));
    [format!("{name}*")].into_iter().chain(in_prefix).collect()
}

impl RawRuntime {
    fn served(&self, name: &str, platform: &str) -> Result<Served, String> {
        if self.runtime_type == "vm" {
            return Err(format!(
                "runtime_type \"vm\" is run by a containerd shim ({}); sampan runs programs with runc's command line",
                self.runtime_path
            ));
        }
        let path = self.platform_runtime_paths.get(platform).unwrap_or(&self.runtime_path);
        // CRI-O looks a handler without a path up by its name.
        let binary = if path.is_empty() { PathBuf::from(name) } else { PathBuf::from(path) };
        let pod_annotations = self.allowed_annotations.iter().flat_map(|name| beginning_with(name)).collect();
        Ok(Served { binary, pod_annotations, ..Served::default() })
    }

    fn notes(&self) -> Vec<String> {
        let notes = [
            (!self.runtime_root.is_empty(), "runtime_root has no effect: state is below the run directory"),
            (!self.default_annotations.is_empty(), "default_annotations are not set"),
            (!self.seccomp_profile.is_empty(), "seccomp_profile is not read: RuntimeDefault is sampan's own"),
            (
                self.privileged_without_host_devices,
                "privileged_without_host_devices has no effect: privileged containers see the host's devices",
            ),
        ];
        let said = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note.to_owned());
        said.chain(unknown_keys(&self.others, KEYS_WITHOUT_MEANING)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(texts: &[&str]) -> Result<Foreign, Malformed> {
        let mut layers = Layers::default();
        for text in texts {
            parse(Source { path: Path::new("/crio.conf"), text }, &mut layers)?;
        }
        Ok(layers.foreign("arm64"))
    }

    #[test]
    fn rtc_79_handlers_of_crio_have_their_binaries() {
        for (keys, binary) in [
            ("runtime_path = '/usr/bin/crun'", Some("/usr/bin/crun")),
            ("runtime_type = 'oci'\nruntime_root = '/run/x'", Some("h")),
            ("runtime_path = '/p'\nruntime_type = 'pod'", Some("/p")),
            (
                "runtime_path = '/p'\nplatform_runtime_paths = {'linux/arm64' = '/arm', 'linux/amd64' = '/amd'}",
                Some("/arm"),
            ),
            ("inherit_default_runtime = true\nruntime_path = '/not-this'", Some("/usual")),
            ("runtime_path = '/usr/bin/containerd-shim-kata-v2'\nruntime_type = 'vm'", None),
        ] {
            let text = format!(
                "[crio.runtime]\ndefault_runtime = 'usual'\n[crio.runtime.runtimes.usual]\nruntime_path = '/usual'\n[crio.runtime.runtimes.h]\n{keys}\n"
            );
            let foreign = read(&[&text]).unwrap();
            let seen = foreign.handlers["h"].how.as_ref().map(|served| served.binary.to_str().unwrap());
            assert_eq!(seen.ok(), binary, "{keys}");
            assert_eq!(foreign.default, Some(("usual".into(), "/crio.conf:2".into())));
        }
    }

    #[test]
    fn a_later_file_replaces_a_handler_and_adds_others() {
        let foreign = read(&[
            "[crio.runtime.runtimes.a]\nruntime_path = '/1'\nallowed_annotations = ['x']\n[crio.runtime.runtimes.b]\nruntime_path = '/b'\n",
            "[crio.runtime.runtimes.a]\nruntime_path = '/2'\n[crio.runtime.runtimes.c]\nallowed_annotations = ['io.x/']\n",
        ])
        .unwrap();
        let served = |name: &str| foreign.handlers[name].how.clone().unwrap();
        assert_eq!(served("a"), Served { binary: "/2".into(), ..Served::default() });
        assert_eq!(served("b").binary, Path::new("/b"));
        assert_eq!(served("c").pod_annotations, ["io.x/*"]);
    }

    #[test]
    fn a_mistake_has_its_line_and_what_has_no_effect_is_said() {
        for (text, line) in [
            ("[crio.runtime.runtimes.h]\nruntime_path = 1\n", 2),
            ("\n[crio.runtime.runtimes.h]\nruntime_type = 'wasm'\n", 2),
            ("[crio\n", 1),
        ] {
            assert_eq!(read(&[text]).unwrap_err().line, line, "{text}");
        }
        let foreign = read(&["[crio.runtime.runtimes.h]\nruntime_root = '/run/h'\n"]).unwrap();
        assert_eq!(foreign.handlers["h"].notes, ["runtime_root has no effect: state is below the run directory"]);
    }
}
