//! What is to become of static pods and of their mirrors. Pure.
//!
//! Owns the merge of the sources ([`Sources::wanted`]), the order of old and new pods of one name ([`steps`], HOOK-102)
//! and what a mirror needs ([`acts`]).

use super::view::{MIRROR, Origin, StaticPod};
use crate::{object::Pod, shutdown};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Namespace and name of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Name {
    /// Of this pod.
    pub fn of(pod: &Pod) -> Self {
        Self { namespace: pod.namespace().to_owned(), name: pod.name().to_owned() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All that a source holds now.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Which source.
    pub origin: Origin,
    /// Its pods.
    pub pods: Vec<StaticPod>,
}

/// What the sources hold; `None` for one that has not been looked at yet.
#[derive(Debug, Default)]
pub struct Sources {
    all: BTreeMap<Origin, Option<Vec<StaticPod>>>,
}

impl Sources {
    /// Sources of which nothing is known yet.
    pub fn awaited(origins: impl IntoIterator<Item = Origin>) -> Self {
        Self { all: origins.into_iter().map(|origin| (origin, None)).collect() }
    }

    /// Takes in what a source holds.
    pub fn take(&mut self, update: Update) {
        self.all.insert(update.origin, Some(update.pods));
    }

    /// True once every source has been looked at.
    pub fn are_complete(&self) -> bool {
        self.all.values().all(Option::is_some)
    }

    /// The pods that are to run, and those that cannot because another one has their name or UID: files go before the
    /// URL, and files by their names.
    pub fn wanted(&self) -> (BTreeMap<Name, StaticPod>, Vec<StaticPod>) {
        let (mut wanted, mut shadowed, mut uids) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for source in self.all.values().flatten() {
            let mut pods: Vec<&StaticPod> = source.iter().collect();
            pods.sort_by(|a, b| a.from.cmp(&b.from));
            for pod in pods {
                if wanted.contains_key(&pod.name()) || uids.contains(pod.uid()) {
                    shadowed.push(pod.clone());
                    continue;
                }
                uids.insert(pod.uid().to_owned());
                wanted.insert(pod.name(), pod.clone());
            }
        }
        (wanted, shadowed)
    }
}

/// A static pod that has a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// What it is.
    pub pod: StaticPod,
    /// Its manifest is gone; it is being stopped, and that is never taken back (HOOK-75).
    pub is_ending: bool,
}

/// What is to be done to a static pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Run it.
    Begin(StaticPod),
    /// Its manifest says something else under the same UID.
    Change(StaticPod),
    /// Stop it with its grace: its manifest is gone, or is another one now.
    End(String),
}

/// From what is wanted and what has a task to what is to be done now. Of one name the new one begins when the old one's
/// task has ended (HOOK-102).
#[must_use]
pub fn steps(wanted: &BTreeMap<Name, StaticPod>, begun: &[Begun]) -> Vec<Step> {
    let uids: BTreeSet<&str> = wanted.values().map(StaticPod::uid).collect();
    let over = begun.iter().filter(|known| !known.is_ending && !uids.contains(known.pod.uid()));
    let mut steps: Vec<Step> = over.map(|known| Step::End(known.pod.uid().to_owned())).collect();
    for (name, pod) in wanted {
        let in_the_way = begun.iter().find(|known| known.pod.name() == *name || known.pod.uid() == pod.uid());
        match in_the_way {
            None => steps.push(Step::Begin(pod.clone())),
            Some(known) if known.is_ending || known.pod.uid() != pod.uid() || known.pod.name() != *name => {}
            Some(known) if known.pod.says_the_same(pod) => {}
            Some(_) => steps.push(Step::Change(pod.clone())),
        }
    }
    steps
}

/// A mirror as the API has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Its own UID.
    pub uid: String,
    /// The UID of the static pod that it shows.
    pub of: String,
    /// Somebody deleted it.
    pub is_deleting: bool,
    /// It shows how a shutdown of the machine ended the pod, or kept it out.
    pub tells_of_shutdown: bool,
}

impl Sight {
    /// Of a pod that is a mirror.
    pub fn of(pod: &Pod) -> Self {
        let of = pod.annotation(MIRROR).unwrap_or_default().to_owned();
        let tells_of_shutdown = shutdown::has_ended(&pod.status);
        Self { uid: pod.uid().to_owned(), of, is_deleting: pod.is_deleting(), tells_of_shutdown }
    }
}

/// What the mirror of a name is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// There, showing this pod.
    Shown(StaticPod),
    /// As it is until its pod has ended (HOOK-101).
    Ending,
}

/// All mirrors of the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mirrors {
    /// The API has told which there are.
    pub is_synced: bool,
    /// The sources have told which are wanted.
    pub is_settled: bool,
    /// The machine is shutting down.
    pub is_shutting_down: bool,
    /// By the name of the static pod.
    pub wanted: BTreeMap<Name, Wanted>,
    /// As the API has them.
    pub seen: BTreeMap<Name, Sight>,
}

/// One call that brings a mirror nearer to what is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Make it.
    Create(StaticPod),
    /// Remove the one with this UID at once.
    Delete(String),
}

/// What the mirrors need now. Only the hash is compared: admission may have changed what a mirror says, and to make it
/// anew for that would never end (IMG-225).
#[must_use]
pub fn acts(mirrors: &Mirrors) -> BTreeMap<Name, Act> {
    if !mirrors.is_synced || !mirrors.is_settled {
        return BTreeMap::new();
    }
    let names: BTreeSet<&Name> = mirrors.wanted.keys().chain(mirrors.seen.keys()).collect();
    let act = |name: &Name| {
        let (wanted, seen) = (mirrors.wanted.get(name), mirrors.seen.get(name));
        match (wanted, seen) {
            (Some(Wanted::Shown(pod)), None) => Some(Act::Create(pod.clone())),
            // HOOK-97: what a shutdown ended that is over runs again, and is shown anew.
            (Some(Wanted::Shown(_)), Some(seen)) if seen.tells_of_shutdown && !mirrors.is_shutting_down => {
                Some(Act::Delete(seen.uid.clone()))
            }
            (Some(Wanted::Shown(pod)), Some(seen)) if seen.of == pod.uid() && !seen.is_deleting => None,
            (Some(Wanted::Ending), Some(seen)) if !seen.is_deleting => None,
            (_, Some(seen)) => Some(Act::Delete(seen.uid.clone())),
            (_, None) => None,
        }
    };
    names.into_iter().filter_map(|name| Some((name.clone(), act(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(origin: Origin, from: &str, name: &str, uid: &str) -> StaticPod {
        let object = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "annotations": {}}, "spec": {}});
        StaticPod::new(origin, from.to_owned(), object).unwrap()
    }

    fn pod(name: &str, uid: &str) -> StaticPod {
        of(Origin::File, name, name, uid)
    }

    fn wanted(pods: &[StaticPod]) -> BTreeMap<Name, StaticPod> {
        pods.iter().map(|pod| (pod.name(), pod.clone())).collect()
    }

    fn begun(pod: &StaticPod, is_ending: bool) -> Begun {
        Begun { pod: pod.clone(), is_ending }
    }

    #[test]
    fn nothing_is_settled_before_every_source_has_been_looked_at() {
        let mut sources = Sources::awaited([Origin::File, Origin::Url]);
        sources.take(Update { origin: Origin::File, pods: vec![] });
        assert!(!sources.are_complete());
        sources.take(Update { origin: Origin::Url, pods: vec![pod("a", "1")] });
        assert!(sources.are_complete() && Sources::default().are_complete());
    }

    #[test]
    fn of_one_name_or_uid_the_first_file_runs() {
        let mut sources = Sources::default();
        let url = of(Origin::Url, "a-url", "b", "5");
        sources.take(Update { origin: Origin::Url, pods: vec![url.clone(), of(Origin::Url, "u", "d", "4")] });
        let files = [("2.yaml", "a", "2"), ("1.yaml", "a", "1"), ("3.yaml", "b", "3"), ("4.yaml", "c", "3")];
        let pods: Vec<StaticPod> = files.iter().map(|(from, name, uid)| of(Origin::File, from, name, uid)).collect();
        sources.take(Update { origin: Origin::File, pods });
        let (wanted, shadowed) = sources.wanted();
        let uids: Vec<&str> = wanted.values().map(StaticPod::uid).collect();
        assert_eq!(uids, ["1", "3", "4"]);
        let left: Vec<&str> = shadowed.iter().map(|pod| pod.from.as_str()).collect();
        assert_eq!(left, ["2.yaml", "4.yaml", "a-url"]);
    }

    #[test]
    fn hook_102_a_new_uid_of_a_name_waits_until_the_old_task_has_ended() {
        let (old, new) = (pod("a", "1"), pod("a", "2"));
        let wanted = wanted(std::slice::from_ref(&new));
        assert_eq!(steps(&wanted, &[begun(&old, false)]), [Step::End("1".into())]);
        assert_eq!(steps(&wanted, &[begun(&old, true)]), []);
        assert_eq!(steps(&wanted, &[]), [Step::Begin(new)]);
    }

    #[test]
    fn a_manifest_that_comes_back_waits_too_and_then_begins_anew() {
        let a = pod("a", "1");
        assert_eq!(steps(&wanted(std::slice::from_ref(&a)), &[begun(&a, true)]), []);
        assert_eq!(steps(&wanted(std::slice::from_ref(&a)), &[begun(&a, false)]), []);
        assert_eq!(steps(&BTreeMap::new(), &[begun(&a, false)]), [Step::End("1".into())]);
    }

    #[test]
    fn another_manifest_with_the_same_uid_changes_the_pod_in_place() {
        let a = pod("a", "1");
        let mut changed = a.clone();
        changed.object["spec"]["hostname"] = json!("x");
        assert_eq!(
            steps(&wanted(std::slice::from_ref(&changed)), &[begun(&a, false)]),
            [Step::Change(changed.clone())]
        );
        // Under another name it is another pod.
        assert_eq!(steps(&wanted(&[pod("b", "1")]), &[begun(&a, false)]), []);
    }

    fn sight(uid: &str, of: &str, is_deleting: bool) -> Sight {
        Sight { uid: uid.into(), of: of.into(), is_deleting, tells_of_shutdown: false }
    }

    fn check(wanted: Option<Wanted>, seen: Option<Sight>, expected: Option<Act>) {
        let name = pod("a", "1").name();
        let mut mirrors = Mirrors {
            is_synced: true,
            is_settled: true,
            is_shutting_down: false,
            wanted: wanted.clone().map(|wanted| (name.clone(), wanted)).into_iter().collect(),
            seen: seen.clone().map(|seen| (name.clone(), seen)).into_iter().collect(),
        };
        assert_eq!(acts(&mirrors).get(&name), expected.as_ref(), "{wanted:?} {seen:?}");
        for (is_synced, is_settled) in [(false, true), (true, false)] {
            (mirrors.is_synced, mirrors.is_settled) = (is_synced, is_settled);
            assert!(acts(&mirrors).is_empty(), "nothing is done before it is known what is there and what is wanted");
        }
    }

    #[test]
    fn hook_101_a_mirror_is_made_kept_made_anew_and_removed_last() {
        let shown = Some(Wanted::Shown(pod("a", "1")));
        let delete = Some(Act::Delete("m".into()));
        check(shown.clone(), None, Some(Act::Create(pod("a", "1"))));
        check(shown.clone(), Some(sight("m", "1", false)), None);
        check(shown.clone(), Some(sight("m", "1", true)), delete.clone());
        check(shown, Some(sight("m", "0", false)), delete.clone());
        check(Some(Wanted::Ending), Some(sight("m", "1", false)), None);
        check(Some(Wanted::Ending), Some(sight("m", "1", true)), delete.clone());
        check(Some(Wanted::Ending), None, None);
        check(None, Some(sight("m", "1", false)), delete);
    }
}
