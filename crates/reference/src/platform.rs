//! Platforms: normal form, the list a node accepts, and the rank of an index entry (IMG-97..IMG-101).
//!
//! Owns the comparison; reading `/proc/cpuinfo` is the caller's, [`arm_variant`] only interprets its text.

use std::fmt;

/// What a node is or what an image was built for, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Operating system, such as `linux`. Empty in an entry means the node's own.
    pub os: String,
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Variant, for ARM and amd64 levels: `v7`, `v2`; empty for none.
    pub variant: String,
    /// Features that an entry requires or a node offers (`os.features`).
    pub os_features: Vec<String>,
}

impl Platform {
    /// A platform from its three words, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let plain = Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_features: Vec::new(),
        };
        plain.normalised()
    }

    /// The platform this program was compiled for, with the variant that is right without looking at the processor.
    pub fn compiled_for() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform::new("linux", architecture, "")
    }

    /// The normal form in which platforms are compared (IMG-97).
    pub fn normalised(&self) -> Platform {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match (self.architecture.to_ascii_lowercase().as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64".to_owned(), String::new()),
            ("x86_64" | "x86-64" | "amd64", level) => ("amd64".to_owned(), level.to_owned()),
            ("i386" | "386", _) => ("386".to_owned(), String::new()),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64".to_owned(), String::new()),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64".to_owned(), "v9".to_owned()),
            ("aarch64" | "arm64", level) => ("arm64".to_owned(), level.to_owned()),
            ("armhf", _) | ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
            ("armel", _) => ("arm".to_owned(), "v6".to_owned()),
            ("arm", level @ ("5" | "6" | "8")) => ("arm".to_owned(), format!("v{level}")),
            (other, level) => (other.to_owned(), level.to_owned()),
        };
        Platform { os, architecture, variant, os_features: self.os_features.clone() }
    }

    /// What this node runs, best first (IMG-98).
    pub fn acceptable(&self) -> Vec<Platform> {
        let node = self.normalised();
        let mut list = Vec::new();
        let mut add = |architecture: &str, variant: String| {
            let entry = Platform { architecture: architecture.to_owned(), variant, ..node.clone() };
            list.push(entry.normalised());
        };
        match node.architecture.as_str() {
            "amd64" => {
                let level = number_after(&node.variant, "v").unwrap_or(1);
                (2..=level.min(9)).rev().for_each(|n| add("amd64", format!("v{n}")));
                add("amd64", String::new());
                add("386", String::new());
            }
            "arm" => match number_after(&node.variant, "v") {
                Some(level @ 5..=9) => (5..=level).rev().for_each(|n| add("arm", format!("v{n}"))),
                _ => add("arm", node.variant.clone()),
            },
            "arm64" => {
                arm64_variants(&node.variant).into_iter().for_each(|variant| add("arm64", variant));
                (5..=8).rev().for_each(|n| add("arm", format!("v{n}")));
            }
            other => add(other, node.variant.clone()),
        }
        list
    }

    /// The place of an index entry in this node's acceptable list: 0 is best, `None` is no match (IMG-100).
    /// `os.version` plays no part on Linux.
    pub fn rank(&self, entry: &Platform) -> Option<usize> {
        let mut entry = entry.normalised();
        if entry.os.is_empty() {
            entry.os = self.normalised().os;
        }
        if !entry.os_features.iter().all(|feature| self.os_features.contains(feature)) {
            return None;
        }
        self.acceptable().iter().position(|candidate| {
            candidate.os == entry.os
                && candidate.architecture == entry.architecture
                && candidate.variant == entry.variant
        })
    }

    /// Which entry of an index this node takes: the best rank, then the first in order; an entry without a platform
    /// only when nothing else matches (IMG-101).
    pub fn choose<'a>(&self, entries: impl IntoIterator<Item = Option<&'a Platform>>) -> Option<usize> {
        let ranked = entries.into_iter().enumerate().filter_map(|(index, entry)| match entry {
            Some(platform) => self.rank(platform).map(|rank| (rank, index)),
            None => Some((usize::MAX, index)),
        });
        ranked.min().map(|(_, index)| index)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.variant) }
    }
}

fn number_after(text: &str, prefix: &str) -> Option<u32> {
    text.strip_prefix(prefix)?.parse().ok()
}

/// arm64 variants that a variant includes, best first; the ceiling of the v8 line is v8.9.
fn arm64_variants(variant: &str) -> Vec<String> {
    let eight = |minor: u32| (0..=minor.min(9)).rev().map(|n| if n == 0 { String::new() } else { format!("v8.{n}") });
    if variant.is_empty() {
        return eight(0).collect();
    }
    if let Some(minor) = number_after(variant, "v8.") {
        return eight(minor).collect();
    }
    let nine = if variant == "v9" { Some(0) } else { number_after(variant, "v9.") };
    match nine {
        Some(minor) => {
            let own = (0..=minor.min(99)).rev().map(|n| if n == 0 { "v9".to_owned() } else { format!("v9.{n}") });
            own.chain(eight(minor.saturating_add(5))).collect()
        }
        None => vec![variant.to_owned()],
    }
}

/// The ARM variant from the text of `/proc/cpuinfo` (first core) or else the machine name of uname (IMG-99).
pub fn arm_variant(cpuinfo: &str, machine: &str) -> Option<String> {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim().eq_ignore_ascii_case(name)).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let architecture = field("CPU architecture");
    // Raspberry Pi kernels on ARMv6 report architecture 7 and say the truth in the model name.
    if architecture.as_deref() == Some("7") && field("model name").is_some_and(|name| name.starts_with("armv6")) {
        return Some("v6".to_owned());
    }
    match architecture.as_deref() {
        Some("8" | "aarch64") => return Some("v8".to_owned()),
        Some("7" | "7m" | "?(12)" | "?(13)" | "?(14)" | "?(15)" | "?(16)" | "?(17)") => return Some("v7".to_owned()),
        Some("6" | "6tej") => return Some("v6".to_owned()),
        Some("5" | "5t" | "5te" | "5tej") => return Some("v5".to_owned()),
        _ => {}
    }
    let machine = machine.to_ascii_lowercase();
    let levels = [("aarch64", "v8"), ("armv8", "v8"), ("armv7", "v7"), ("armv6", "v6"), ("armv5", "v5")];
    levels.iter().find(|(prefix, _)| machine.starts_with(prefix)).map(|(_, variant)| (*variant).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        Platform::new(next(), next(), next())
    }

    #[test]
    fn platforms_have_one_normal_form() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/x86-64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("linux/i386", "linux/386"),
            ("linux/386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v8.0", "linux/arm64"),
            ("linux/arm64/9", "linux/arm64/v9"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/5", "linux/arm/v5"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/arm/8", "linux/arm/v8"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(parse(text).to_string(), normal, "{text}");
        }
    }

    #[test]
    fn each_node_accepts_its_list_best_first() {
        #[track_caller]
        fn check(node: &str, list: &str) {
            let words: Vec<String> =
                parse(node).acceptable().iter().map(|p| p.to_string().replace("linux/", "")).collect();
            assert_eq!(words.join(" "), list, "{node}");
        }
        check("linux/amd64", "amd64 386");
        check("linux/amd64/v3", "amd64/v3 amd64/v2 amd64 386");
        check("linux/386", "386");
        check("linux/arm/v7", "arm/v7 arm/v6 arm/v5");
        check("linux/arm64", "arm64 arm/v8 arm/v7 arm/v6 arm/v5");
        check("linux/arm64/v8.2", "arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5");
        check(
            "linux/arm64/v9.1",
            "arm64/v9.1 arm64/v9 arm64/v8.6 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5",
        );
        check("linux/s390x", "s390x");
    }

    #[test]
    fn the_best_entry_wins_and_ties_keep_their_order() {
        let node = parse("linux/amd64");
        let entries = [parse("linux/386"), parse("linux/arm64"), parse("linux/amd64"), parse("linux/amd64")];
        assert_eq!(node.choose(entries.iter().map(Some)), Some(2));
        assert_eq!(node.choose([None, Some(&entries[0])]), Some(1), "an entry without a platform comes last");
        assert_eq!(node.choose([Some(&entries[1]), None]), Some(1));
        assert_eq!(node.choose([Some(&entries[1])]), None);
        let unknown = parse("unknown/unknown");
        assert_eq!(node.choose([Some(&unknown)]), None);
    }

    #[test]
    fn an_entry_that_needs_a_feature_the_node_lacks_is_no_match() {
        let node = parse("linux/amd64");
        let needy = Platform { os_features: vec!["sev".to_owned()], ..parse("linux/amd64") };
        assert_eq!(node.rank(&needy), None);
        let able = Platform { os_features: vec!["sev".to_owned()], ..node };
        assert_eq!(able.rank(&needy), Some(0));
    }

    #[test]
    fn arm_variants_are_read_from_cpuinfo_or_the_machine_name() {
        assert_eq!(arm_variant("CPU architecture: 8\n", "aarch64").as_deref(), Some("v8"));
        assert_eq!(arm_variant("model name\t: ARMv6-compatible\nCPU architecture: 7\n", "").as_deref(), Some("v6"));
        assert_eq!(arm_variant("", "armv7l").as_deref(), Some("v7"));
        assert_eq!(arm_variant("", "x86_64"), None);
    }
}
