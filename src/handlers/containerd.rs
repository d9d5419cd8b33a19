//! containerd's `config.toml`: the handlers of its three forms (RTC-74 … RTC-77). Pure.
//!
//! Each version of the file names the CRI plugin's table otherwise. All are read whatever the file's version says, the
//! newest form last, because the table's name leaves no doubt. Start at [`parse`], then [`Layers::foreign`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::foreign::{Declared, Foreign, Malformed, Others, Served, Source, unknown_keys};

/// Keys of a handler that containerd knows and that mean nothing here.
const KEYS_WITHOUT_MEANING: &[&str] = &[
    "cni_max_conf_num",
    "cgroup_writable",
    "io_type",
    "privileged_without_host_devices_all_devices_allowed",
    "sandbox_mode",
];
/// The newest version of the file that is known.
const VERSION_MAX: i64 = 4;

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawFile {
    version: Option<Spanned<i64>>,
    imports: Vec<String>,
    plugins: RawPlugins,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPlugins {
    cri: RawPlugin,
    #[serde(rename = "io.containerd.grpc.v1.cri")]
    grpc: RawPlugin,
    #[serde(rename = "io.containerd.cri.v1.runtime")]
    runtime: RawPlugin,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPlugin {
    containerd: RawContainerd,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawContainerd {
    default_runtime_name: Option<Spanned<String>>,
    runtimes: BTreeMap<Spanned<String>, RawRuntime>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct RawRuntime {
    runtime_type: Option<String>,
    runtime_path: Option<String>,
    runtime_engine: Option<String>,
    pod_annotations: Option<Vec<String>>,
    container_annotations: Option<Vec<String>>,
    options: RawOptions,
    /// What is known to have no effect here, if it is said.
    runtime_root: Option<String>,
    base_runtime_spec: Option<String>,
    cni_conf_dir: Option<String>,
    snapshotter: Option<String>,
    sandboxer: Option<String>,
    privileged_without_host_devices: Option<bool>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct RawOptions {
    #[serde(rename = "BinaryName", alias = "binary_name")]
    binary_name: Option<String>,
    #[serde(rename = "ConfigPath")]
    config_path: Option<String>,
    #[serde(rename = "Root")]
    root: Option<String>,
    #[serde(rename = "SystemdCgroup")]
    systemd_cgroup: Option<bool>,
}

/// A handler with the place where it was first named.
#[derive(Clone)]
struct Layered {
    at: String,
    raw: RawRuntime,
}

/// What a file and those that it imports say, one over the other.
#[derive(Default)]
pub struct Layers {
    runtimes: BTreeMap<String, Layered>,
    default: Option<(String, String)>,
}

/// Reads a file over those before it. Returns the files that it imports, as they are written.
pub fn parse(source: Source<'_>, layers: &mut Layers) -> Result<Vec<String>, Malformed> {
    let file: RawFile = source.read()?;
    if let Some(version) = &file.version
        && !(0..=VERSION_MAX).contains(version.get_ref())
    {
        let text = format!("version {} is not known; known are 1 to {VERSION_MAX}", version.get_ref());
        return Err(source.malformed(version.span().start, text));
    }
    for plugin in [file.plugins.cri, file.plugins.grpc, file.plugins.runtime] {
        if let Some(name) = plugin.containerd.default_runtime_name.filter(|name| !name.get_ref().is_empty()) {
            let at = source.at(name.span().start);
            layers.default = Some((name.into_inner(), at));
        }
        for (name, raw) in plugin.containerd.runtimes {
            let at = source.at(name.span().start);
            let below = layers.runtimes.remove(name.get_ref());
            let raw = raw.over(below.map(|layered| layered.raw).unwrap_or_default());
            layers.runtimes.insert(name.into_inner(), Layered { at, raw });
        }
    }
    Ok(file.imports)
}

impl RawRuntime {
    /// Field by field, as containerd lays an imported file over another.
    fn over(self, below: RawRuntime) -> RawRuntime {
        let more = |own: Option<Vec<String>>, below: Option<Vec<String>>| match (own, below) {
            (Some(own), Some(below)) => Some(below.into_iter().chain(own).collect()),
            (own, below) => own.or(below),
        };
        RawRuntime {
            runtime_type: self.runtime_type.or(below.runtime_type),
            runtime_path: self.runtime_path.or(below.runtime_path),
            runtime_engine: self.runtime_engine.or(below.runtime_engine),
            pod_annotations: more(self.pod_annotations, below.pod_annotations),
            container_annotations: more(self.container_annotations, below.container_annotations),
            options: RawOptions {
                binary_name: self.options.binary_name.or(below.options.binary_name),
                config_path: self.options.config_path.or(below.options.config_path),
                root: self.options.root.or(below.options.root),
                systemd_cgroup: self.options.systemd_cgroup.or(below.options.systemd_cgroup),
            },
            runtime_root: self.runtime_root.or(below.runtime_root),
            base_runtime_spec: self.base_runtime_spec.or(below.base_runtime_spec),
            cni_conf_dir: self.cni_conf_dir.or(below.cni_conf_dir),
            snapshotter: self.snapshotter.or(below.snapshotter),
            sandboxer: self.sandboxer.or(below.sandboxer),
            privileged_without_host_devices: self
                .privileged_without_host_devices
                .or(below.privileged_without_host_devices),
            others: below.others.into_iter().chain(self.others).collect(),
        }
    }

    /// The kind of runtime behind the shim: `runc`, `runsc`, `kata`, …; runc if nothing is said.
    fn family(&self) -> String {
        let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let Some(shim) = named(&self.runtime_path).or(named(&self.runtime_type)) else { return "runc".into() };
        if shim == "io.containerd.runtime.v1.linux" {
            return "runc".into();
        }
        // `io.containerd.NAME.vN`, or a path that ends in `containerd-shim-NAME-vN`.
        let last = Path::new(&shim).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(name) = last.strip_prefix("containerd-shim-") {
            return name.rsplit_once("-v").map_or(name, |(name, _)| name).into();
        }
        last.strip_prefix("io.containerd.")
            .and_then(|rest| rest.rsplit_once(".v"))
            .map_or(shim, |(name, _)| name.into())
    }

    fn served(&self) -> Result<Served, String> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty()).map(PathBuf::from);
        let binary = given(&self.options.binary_name).or(given(&self.runtime_engine));
        let served = Served {
            pod_annotations: self.pod_annotations.clone().unwrap_or_default(),
            container_annotations: self.container_annotations.clone().unwrap_or_default(),
            ..Served::default()
        };
        match self.family().as_str() {
            "runc" => Ok(Served { binary: binary.unwrap_or_else(|| "runc".into()), ..served }),
            "runsc" => Ok(Served {
                binary: binary.unwrap_or_else(|| "runsc".into()),
                runsc_config: given(&self.options.config_path),
                ..served
            }),
            family => Err(format!(
                "{family:?} is run by a containerd shim of its own; sampan runs programs with runc's command line"
            )),
        }
    }

    fn notes(&self) -> Vec<String> {
        let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let notes = [
            (self.options.systemd_cgroup == Some(true), "SystemdCgroup has no effect: cgroups are made by their paths"),
            (
                said(&self.options.root) || said(&self.runtime_root),
                "Root has no effect: state is below the run directory",
            ),
            (said(&self.base_runtime_spec), "base_runtime_spec is not read"),
            (said(&self.cni_conf_dir), "cni_conf_dir has no effect: pods are on sampan's own network"),
            (said(&self.snapshotter), "snapshotter has no effect: images are on overlayfs"),
            (self.sandboxer.as_deref() == Some("shim"), "sandboxer has no effect: there is no shim"),
            (
                self.privileged_without_host_devices == Some(true),
                "privileged_without_host_devices has no effect: privileged containers see the host's devices",
            ),
        ];
        let said = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note.to_owned());
        said.chain(unknown_keys(&self.others, KEYS_WITHOUT_MEANING)).collect()
    }
}

impl Layers {
    /// What all files together say.
    pub fn foreign(self) -> Foreign {
        let declared = |Layered { at, raw }: Layered| Declared { at, how: raw.served(), notes: raw.notes() };
        Foreign {
            handlers: self.runtimes.into_iter().map(|(name, layered)| (name, declared(layered))).collect(),
            default: self.default,
        }
    }
}

/// A file of gVisor's shim, which `options.ConfigPath` names: its flags become arguments.
pub fn parse_runsc(source: Source<'_>, served: &mut Served) -> Result<(), Malformed> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct RawRunsc {
        binary_name: Option<String>,
        runsc_config: BTreeMap<String, Spanned<toml::Value>>,
    }
    let file: RawRunsc = source.read()?;
    if let Some(binary) = file.binary_name.filter(|name| !name.is_empty()) {
        served.binary = binary.into();
    }
    for (flag, value) in file.runsc_config {
        let text = match value.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(on) => on.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            _ => return Err(source.malformed(value.span().start, format!("{flag}: a flag is a string"))),
        };
        served.arguments.push(format!("--{flag}={text}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<(Foreign, Vec<String>), Malformed> {
        let (mut layers, mut imports) = (Layers::default(), Vec::new());
        for text in texts {
            imports.extend(parse(Source { path: Path::new("/c.toml"), text }, &mut layers)?);
        }
        Ok((layers.foreign(), imports))
    }

    fn handlers(text: &str) -> BTreeMap<String, Declared> {
        read(&[text]).unwrap().0.handlers
    }

    #[test]
    fn rtc_74_75_the_table_of_each_version_is_read() {
        for head in [
            "[plugins.cri.containerd.runtimes.X]",
            "version = 1\n[plugins.cri.containerd.runtimes.X]",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.X]",
            // As the page shows it, without a version.
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.X]",
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.X]",
            "version = 4\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.X]",
        ] {
            let options = format!(
                "[{}.options]\nBinaryName = \"/opt/x\"\n",
                head.rsplit('[').next().unwrap().trim_end_matches(']')
            );
            let all = handlers(&format!("{head}\nruntime_type = \"io.containerd.runc.v2\"\n{options}"));
            assert_eq!(all["X"].how.as_ref().unwrap().binary, Path::new("/opt/x"), "{head}");
        }
    }

    #[test]
    fn rtc_76_each_type_has_its_binary_or_says_why_it_has_none() {
        for (keys, binary) in [
            ("", Some("runc")),
            ("runtime_type = 'io.containerd.runc.v2'", Some("runc")),
            ("runtime_type = 'io.containerd.runc.v1'", Some("runc")),
            ("runtime_type = 'io.containerd.runtime.v1.linux'\nruntime_engine = '/opt/old'", Some("/opt/old")),
            ("runtime_type = 'io.containerd.runc.v2'\noptions.BinaryName = 'crun'", Some("crun")),
            ("runtime_type = 'io.containerd.runsc.v1'", Some("runsc")),
            ("runtime_type = 'io.containerd.runsc.v1'\noptions.BinaryName = '/opt/runsc'", Some("/opt/runsc")),
            ("runtime_path = '/opt/containerd-shim-runsc-v1'", Some("runsc")),
            ("runtime_type = 'io.containerd.kata.v2'", None),
            ("runtime_type = 'io.containerd.kata-qemu.v2'\noptions.ConfigPath = '/k.toml'", None),
            ("runtime_type = 'io.containerd.runc.v2'\nruntime_path = '/opt/containerd-shim-spin-v2'", None),
            ("runtime_type = '/opt/my-shim'", None),
        ] {
            let all = handlers(&format!("[plugins.cri.containerd.runtimes.h]\n{keys}\n"));
            let seen = all["h"].how.as_ref().map(|served| served.binary.to_str().unwrap());
            assert_eq!(seen.ok(), binary, "{keys}");
        }
        let all = handlers("[plugins.cri.containerd.runtimes.k]\nruntime_type = 'io.containerd.kata.v2'\n");
        assert!(all["k"].how.as_ref().unwrap_err().starts_with("\"kata\" is run by a containerd shim"));
        assert_eq!(all["k"].at, "/c.toml:1");
    }

    #[test]
    fn what_has_no_effect_is_said_and_the_rest_is_kept() {
        let all = handlers(
            "[plugins.cri.containerd.runtimes.h]\npod_annotations = ['a.*']\ncontainer_annotations = ['b']\nsandbox_mode = 'podsandbox'\npod_anotations = ['c']\n\
             [plugins.cri.containerd.runtimes.h.options]\nSystemdCgroup = true\nNoPivotRoot = false\n",
        );
        let served = all["h"].how.as_ref().unwrap();
        assert_eq!(
            (&served.pod_annotations[..], &served.container_annotations[..]),
            (&["a.*".into()][..], &["b".into()][..])
        );
        let (cgroups, typo) = ("SystemdCgroup has no effect: cgroups are made by their paths", "pod_anotations");
        assert_eq!(all["h"].notes, [cgroups.to_owned(), format!("{typo} is not known and has no effect")]);
    }

    #[test]
    fn a_later_file_wins_key_by_key_and_imports_are_told() {
        let (foreign, imports) = read(&[
            "imports = ['conf.d/*.toml']\n[plugins.cri.containerd]\ndefault_runtime_name = 'a'\n[plugins.cri.containerd.runtimes.a.options]\nBinaryName = '/1'\nSystemdCgroup = true\n",
            "[plugins.cri.containerd]\ndefault_runtime_name = 'b'\n[plugins.cri.containerd.runtimes.a.options]\nBinaryName = '/2'\n",
        ])
        .unwrap();
        assert_eq!(imports, ["conf.d/*.toml"]);
        assert_eq!(foreign.default, Some(("b".into(), "/c.toml:2".into())));
        assert_eq!(foreign.handlers["a"].how.as_ref().unwrap().binary, Path::new("/2"));
        assert_eq!(foreign.handlers["a"].notes.len(), 1);
    }

    #[test]
    fn a_mistake_has_its_line() {
        for (text, line) in [
            ("version = 2\n[plugins\n", 2),
            ("version = 'x'\n", 1),
            ("\nversion = 9\n", 2),
            ("[plugins.cri.containerd.runtimes.h]\nruntime_type = 'a'\nruntime_type = 'b'\n", 3),
            ("[plugins.cri.containerd.runtimes.h]\n\nruntime_type = 7\n", 3),
        ] {
            assert_eq!(read(&[text]).unwrap_err().line, line, "{text}");
        }
        let shown = read(&["\nversion = 9\n"]).unwrap_err().to_string();
        assert_eq!(shown, "/c.toml:2: version 9 is not known; known are 1 to 4");
    }

    #[test]
    fn a_file_without_handlers_says_nothing() {
        let text = "version = 2\n[plugins]\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = '/b'\n";
        assert_eq!(read(&[text]).unwrap().0, Foreign::default());
        assert_eq!(read(&[""]).unwrap().0, Foreign::default());
    }

    #[test]
    fn gvisors_own_file_becomes_arguments() {
        let read = |text: &str| {
            let mut served = Served { binary: "runsc".into(), ..Served::default() };
            parse_runsc(Source { path: Path::new("/r.toml"), text }, &mut served).map(|()| served)
        };
        let served =
            read("log_path = '/l'\n[runsc_config]\nplatform = 'ptrace'\nnetwork = 'host'\ndebug = true\n").unwrap();
        assert_eq!(served.arguments, ["--debug=true", "--network=host", "--platform=ptrace"]);
        assert_eq!(served.binary, Path::new("runsc"));
        assert_eq!(read("binary_name = '/opt/runsc'").unwrap().binary, Path::new("/opt/runsc"));
        assert_eq!(read("[runsc_config]\nplatform = []\n").unwrap_err().line, 2);
    }
}
