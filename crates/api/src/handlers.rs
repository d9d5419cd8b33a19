//! What nodes say of their runtime handlers, and how it reads beside a RuntimeClass (RTC-19, RTC-49).
//!
//! A node writes its figures into an annotation of its own Node. Pure. Start at [`Figures`] and [`of_nodes`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::look;
use crate::quantity::Quantity;

/// The annotation: a JSON object, handler → figures.
pub const ANNOTATION: &str = "sampan.dev/handlers";

/// A declared overhead this far from what was measured is worth a warning: by this factor, either way …
const FAR_FACTOR: i64 = 2;
/// … and by more than this.
const FAR_BYTES: i64 = 8 << 20;

/// One handler on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// A test container ran.
    pub works: bool,
    /// Why it did not.
    pub reason: String,
    /// First line of the program's `--version`.
    pub version: String,
    /// How long the test container took.
    pub cold_start_ms: i64,
    /// Median memory of a pod's sandbox beyond its containers' processes; 0 if there was no pod yet.
    pub sandbox_memory_bytes: i64,
    /// Live pods at the time of the measurement.
    pub pods: i64,
}

impl Figures {
    /// From one value of the annotation's object; what is missing or odd is empty.
    pub fn read(value: &Value) -> Figures {
        let number = |name: &str| look::get(value, name).and_then(Value::as_i64).unwrap_or_default().max(0);
        Figures {
            works: look::flag(value, "works"),
            reason: look::text(value, "reason").to_owned(),
            version: look::text(value, "version").to_owned(),
            cold_start_ms: number("coldStartMs"),
            sandbox_memory_bytes: number("sandboxMemoryBytes"),
            pods: number("pods"),
        }
    }

    /// The annotation's form.
    pub fn write(&self) -> Value {
        let mut out = json!({
            "works": self.works, "version": self.version, "coldStartMs": self.cold_start_ms,
            "sandboxMemoryBytes": self.sandbox_memory_bytes, "pods": self.pods,
        });
        if !self.reason.is_empty() {
            out["reason"] = Value::from(self.reason.as_str());
        }
        out
    }

    /// Whether a reader would care for the difference. Noise of measurements and comings and goings of pods are none.
    fn differs(&self, other: &Figures) -> bool {
        let apart = |a: i64, b: i64, least: i64| (a - b).abs() > least.max(a.max(b) / 4);
        self.works != other.works
            || self.reason != other.reason
            || self.version != other.version
            || apart(self.cold_start_ms, other.cold_start_ms, 50)
            || apart(self.sandbox_memory_bytes, other.sandbox_memory_bytes, 256 << 10)
            || (self.pods == 0) != (other.pods == 0)
    }
}

/// Handlers by name.
pub type ByHandler = BTreeMap<String, Figures>;

/// The annotation's text, read.
pub fn parse(text: &str) -> ByHandler {
    let read: Value = serde_json::from_str(text).unwrap_or_default();
    let all = read.as_object().into_iter().flatten();
    all.map(|(name, value)| (name.clone(), Figures::read(value))).collect()
}

/// The annotation's text.
pub fn render(all: &ByHandler) -> String {
    Value::Object(all.iter().map(|(name, figures)| (name.clone(), figures.write())).collect()).to_string()
}

/// Whether new figures are worth a write.
pub fn have_moved(old: &ByHandler, new: &ByHandler) -> bool {
    old.len() != new.len() || new.iter().any(|(name, figures)| old.get(name).is_none_or(|known| figures.differs(known)))
}

/// What all Nodes say of one handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Figures of the nodes that know the handler.
    pub figures: Vec<Figures>,
    /// Handlers that some node offers.
    pub offered: BTreeSet<String>,
    /// Some node says nothing of what it offers.
    pub is_incomplete: bool,
}

/// Gathers what Nodes say of a handler.
pub fn of_nodes(handler: &str, nodes: &[Value]) -> Health {
    let mut health = Health { is_incomplete: nodes.is_empty(), ..Health::default() };
    for node in nodes {
        let list = look::list_at(node, &["status", "runtimeHandlers"]);
        health.is_incomplete |= list.is_empty();
        health.offered.extend(list.iter().map(|it| look::text(it, "name").to_owned()).filter(|name| !name.is_empty()));
        let text = look::text_at(node, &["metadata", "annotations", ANNOTATION]);
        health.figures.extend(parse(text).remove(handler));
    }
    health
}

impl Health {
    fn measured(&self) -> impl Iterator<Item = i64> {
        self.figures.iter().map(|figures| figures.sandbox_memory_bytes).filter(|bytes| *bytes > 0)
    }

    /// What a client that writes the class should hear.
    pub fn warnings(&self, class: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        let handler = look::text(class, "handler");
        if !handler.is_empty() && !self.is_incomplete && !self.offered.contains(handler) {
            let offered: Vec<&str> = self.offered.iter().map(String::as_str).collect();
            warnings.push(format!("handler: no node offers {handler:?}; offered are: {}", offered.join(", ")));
        }
        let broken = self.figures.iter().find(|_| self.figures.iter().all(|figures| !figures.works));
        if let Some(figures) = broken {
            warnings.push(format!("handler: {handler:?} works on no node: {}", figures.reason));
        }
        let (Some(declared), Some(measured)) = (declared(class), self.measured().max()) else { return warnings };
        let is_far = declared > measured.saturating_mul(FAR_FACTOR) || measured > declared.saturating_mul(FAR_FACTOR);
        if is_far && (declared - measured).abs() > FAR_BYTES {
            warnings.push(format!(
                "overhead.podFixed[memory]: {} is declared, but sandboxes of handler {handler:?} take {} (median of a node's pods)",
                mebibytes(declared),
                mebibytes(measured)
            ));
        }
        warnings
    }

    /// Cells of the wide columns: works, cold start, declared, measured.
    pub fn cells(&self, class: &Value) -> [String; 4] {
        let none = || "<none>".to_owned();
        let range = |values: Vec<i64>, show: &dyn Fn(i64) -> String| match (values.iter().min(), values.iter().max()) {
            (Some(least), Some(most)) if show(*least) != show(*most) => format!("{}-{}", show(*least), show(*most)),
            (Some(least), _) => show(*least),
            _ => none(),
        };
        let works = self.figures.iter().filter(|figures| figures.works);
        let cold: Vec<i64> = works.clone().map(|figures| figures.cold_start_ms).collect();
        let reason = self.figures.iter().find(|figures| !figures.works).map(|figures| format!(": {}", figures.reason));
        let works = match self.figures.len() {
            0 => "<unknown>".to_owned(),
            all => format!("{}/{all}{}", works.count(), reason.unwrap_or_default()),
        };
        let declared = declared(class).map_or_else(none, mebibytes);
        [works, range(cold, &|ms| format!("{ms}ms")), declared, range(self.measured().collect(), &mebibytes)]
    }
}

fn declared(class: &Value) -> Option<i64> {
    let memory = look::at(class, &["overhead", "podFixed", "memory"])?;
    Quantity::from_value(memory).ok().map(Quantity::value)
}

/// Bytes for people: `1.4Mi`, `120Mi`.
fn mebibytes(bytes: i64) -> String {
    let tenths = (i128::from(bytes) * 10 + (1 << 19)) >> 20;
    match tenths % 10 {
        0 => format!("{}Mi", tenths / 10),
        rest => format!("{}.{rest}Mi", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(memory_kib: i64) -> Figures {
        Figures {
            works: true,
            version: "runc version 1".into(),
            cold_start_ms: 80,
            sandbox_memory_bytes: memory_kib << 10,
            pods: 3,
            ..Figures::default()
        }
    }

    fn node(offered: &[&str], said: &[(&str, Figures)]) -> Value {
        let said: ByHandler = said.iter().map(|(name, figures)| ((*name).to_owned(), figures.clone())).collect();
        let list: Vec<Value> = offered.iter().map(|name| json!({ "name": name })).collect();
        json!({ "metadata": { "annotations": { ANNOTATION: render(&said) } }, "status": { "runtimeHandlers": list } })
    }

    fn class(handler: &str, memory: &str) -> Value {
        json!({ "handler": handler, "overhead": { "podFixed": { "memory": memory } } })
    }

    #[test]
    fn the_annotation_is_read_as_it_was_written() {
        let broken = Figures { reason: "no \"cgroup\"".into(), ..Figures::default() };
        let all = ByHandler::from([("runc".to_owned(), figures(1400)), ("crun".to_owned(), broken)]);
        assert_eq!(parse(&render(&all)), all);
        for odd in ["", "[]", "{\"runc\":3}", "{"] {
            assert!(parse(odd).values().all(|figures| *figures == Figures::default()), "{odd}");
        }
    }

    #[test]
    fn only_a_noticeable_move_is_worth_a_write() {
        let with = |change: &dyn Fn(&mut Figures)| {
            let mut one = figures(4096);
            change(&mut one);
            ByHandler::from([("runc".to_owned(), one)])
        };
        let old = with(&|_| {});
        let moved = |change: &dyn Fn(&mut Figures)| have_moved(&old, &with(change));
        assert!(!moved(&|_| {}) && !moved(&|it| it.pods = 40) && !moved(&|it| it.cold_start_ms = 120));
        assert!(!moved(&|it| it.sandbox_memory_bytes += 900 << 10));
        assert!(moved(&|it| it.pods = 0) && moved(&|it| it.cold_start_ms = 300) && moved(&|it| it.works = false));
        assert!(moved(&|it| it.sandbox_memory_bytes *= 2) && moved(&|it| it.version.push('1')));
        assert!(have_moved(&old, &ByHandler::new()) && have_moved(&ByHandler::new(), &old));
    }

    #[test]
    fn a_declared_overhead_far_from_the_measured_one_is_warned_of() {
        let nodes = [node(&["", "runc"], &[("runc", figures(20 << 10))])];
        let warned = |memory: &str| of_nodes("runc", &nodes).warnings(&class("runc", memory));
        for near in ["20Mi", "40Mi", "10Mi", "12500Ki"] {
            assert_eq!(warned(near), [""; 0], "{near}");
        }
        assert_eq!(
            warned("41Mi"),
            [
                "overhead.podFixed[memory]: 41Mi is declared, but sandboxes of handler \"runc\" take 20Mi (median of a node's pods)"
            ]
        );
        assert_eq!(warned("9Mi").len(), 1);
        // Far by the factor, but little: nobody loses a pod's place for it.
        let small = [node(&["runc"], &[("runc", figures(1 << 10))])];
        assert_eq!(of_nodes("runc", &small).warnings(&class("runc", "8Mi")), [""; 0]);
        assert_eq!(of_nodes("runc", &small).warnings(&json!({ "handler": "runc" })), [""; 0]);
        // Nothing was measured yet.
        assert_eq!(
            of_nodes("runc", &[node(&["runc"], &[("runc", figures(0))])]).warnings(&class("runc", "1Gi")),
            [""; 0]
        );
    }

    #[test]
    fn a_handler_that_no_node_offers_is_warned_of_with_those_that_are() {
        let nodes = [node(&["", "runc"], &[]), node(&["", "crun", "runc"], &[])];
        let warned = |nodes: &[Value]| of_nodes("kata", nodes).warnings(&json!({ "handler": "kata" }));
        assert_eq!(warned(&nodes), ["handler: no node offers \"kata\"; offered are: crun, runc"]);
        // A node that publishes no list may offer anything (RTC-53); without nodes there is nothing to say.
        assert_eq!(warned(&[nodes[0].clone(), node(&[], &[])]), [""; 0]);
        assert_eq!(warned(&[]), [""; 0]);
        let broken = Figures { reason: "it hangs".into(), ..Figures::default() };
        let broken = [node(&["kata"], &[("kata", broken)])];
        assert_eq!(warned(&broken), ["handler: \"kata\" works on no node: it hangs"]);
    }

    #[test]
    fn wide_cells_sum_up_the_nodes() {
        let slow = Figures { cold_start_ms: 200, ..figures(1500) };
        let broken = Figures { reason: "no cgroup".into(), ..Figures::default() };
        let cells = |said: Vec<Figures>| {
            let nodes: Vec<Value> = said.into_iter().map(|figures| node(&["runc"], &[("runc", figures)])).collect();
            of_nodes("runc", &nodes).cells(&class("runc", "120Mi"))
        };
        assert_eq!(cells(vec![]), ["<unknown>", "<none>", "120Mi", "<none>"]);
        assert_eq!(cells(vec![figures(1024)]), ["1/1", "80ms", "120Mi", "1Mi"]);
        assert_eq!(cells(vec![figures(1024), slow, broken]), ["2/3: no cgroup", "80ms-200ms", "120Mi", "1Mi-1.5Mi"]);
        assert_eq!(of_nodes("runc", &[]).cells(&json!({}))[2], "<none>");
    }
}
