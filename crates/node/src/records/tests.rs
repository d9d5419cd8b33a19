//! Records across pulls, crashes and restarts, on a real file system.

use super::*;
use crate::credentials::{Account, Source};
use std::fs;

fn secret(name: &str) -> Source {
    Source::Secret { uid: format!("u-{name}"), namespace: "ns".into(), name: name.into() }
}

fn with(password: &str, source: Source) -> Try {
    let auth = v1::AuthConfig { username: "user".into(), password: password.into(), ..Default::default() };
    let auth = (source != Source::Anonymous).then_some(auth);
    Try { auth, source, ..Try::anonymous() }
}

fn looked_up(tries: Vec<Try>) -> Lookup {
    Lookup { tries, ..Lookup::default() }
}

const IMAGE: &str = "r.io/team/app:1";
const ID: &str = "sha256:1234";

struct Node {
    directory: tempfile::TempDir,
    records: Records,
}

impl Node {
    fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let records = open(&directory);
        Node { directory, records }
    }

    /// As after `kill -9`: nothing but the files is left.
    fn killed(self) -> Node {
        let records = open(&self.directory);
        Node { directory: self.directory, records }
    }

    async fn pull(&self, image: &str, with: &Try) {
        let intended = self.records.intent(image).await.unwrap();
        self.records.pulled(image, ID, with).await.unwrap();
        self.records.ended(intended).await;
    }

    async fn ask(&self, tries: Vec<Try>) -> Verdict {
        self.records.must_pull(IMAGE, ID, &looked_up(tries)).await
    }

    fn files(&self, directory: &str) -> usize {
        fs::read_dir(self.directory.path().join("image_manager").join(directory)).unwrap().count()
    }
}

fn open(directory: &tempfile::TempDir) -> Records {
    Records::open(&directory.path().join("image_manager"), Rules::default(), Clock::System).unwrap()
}

fn image(tags: &[&str]) -> v1::Image {
    v1::Image { id: ID.into(), repo_tags: tags.iter().map(|t| (*t).to_owned()).collect(), ..Default::default() }
}

#[tokio::test]
async fn what_nobody_pulled_here_is_open_and_what_a_secret_pulled_is_open_to_that_secret() {
    let node = Node::new();
    assert_eq!(node.ask(vec![Try::anonymous()]).await, Verdict::PolicyAllows);
    node.pull(IMAGE, &with("good", secret("a"))).await;
    assert_eq!(node.files("pulling"), 0);
    assert_eq!(node.ask(vec![Try::anonymous()]).await, Verdict::MustAuthenticate);
    assert_eq!(node.ask(vec![with("bad", secret("b"))]).await, Verdict::MustAuthenticate);
    assert_eq!(node.ask(vec![with("good", secret("a"))]).await, Verdict::RecordFound);
    let node = node.killed();
    assert_eq!(node.ask(vec![with("good", secret("b"))]).await, Verdict::RecordFound, "same credential, other Secret");
    assert_eq!(
        node.ask(vec![with("other", secret("b"))]).await,
        Verdict::RecordFound,
        "learned from the last question"
    );
    assert_eq!(node.ask(vec![with("other", secret("c"))]).await, Verdict::RecordFound, "the record knows its new hash");
    assert_eq!(node.ask(vec![with("third", secret("d"))]).await, Verdict::MustAuthenticate);
}

#[tokio::test]
async fn a_source_that_holds_the_same_credential_counts_too() {
    let node = Node::new();
    node.pull(IMAGE, &with("good", secret("a"))).await;
    let twice = Try { also: vec![secret("a")], ..with("changed", secret("z")) };
    assert_eq!(node.ask(vec![twice]).await, Verdict::RecordFound);
}

#[tokio::test]
async fn each_kind_of_pull_opens_the_image_to_whom_it_may() {
    let account = |name: &str| Source::Plugin {
        service_account: Some(Account { namespace: "ns".into(), name: name.into(), uid: format!("u-{name}") }),
    };
    for (source, stranger) in [
        (Source::NodeFile, Verdict::RecordFound),
        (Source::Anonymous, Verdict::RecordFound),
        (Source::Plugin { service_account: None }, Verdict::RecordFound),
        (account("robot"), Verdict::MustAuthenticate),
    ] {
        let node = Node::new();
        node.pull(IMAGE, &with("p", source.clone())).await;
        assert_eq!(node.ask(vec![Try::anonymous()]).await, stranger, "{source:?}");
        assert_eq!(node.ask(vec![with("fresh", source.clone())]).await, Verdict::RecordFound, "{source:?}");
        assert_eq!(node.ask(vec![with("p", account("other"))]).await, stranger, "{source:?}");
    }
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_an_image_that_is_verified() {
    let ask = |node: &Node| {
        let records = node.records.clone();
        async move { records.must_pull(IMAGE, ID, &looked_up(vec![Try::anonymous()])).await }
    };
    // Before the intent: nothing was pulled.
    let node = Node::new().killed();
    assert_eq!(ask(&node).await, Verdict::PolicyAllows);
    // After the intent, with and without the image having arrived.
    let intended = node.records.intent(IMAGE).await.unwrap();
    assert_eq!(ask(&node).await, Verdict::MustAuthenticate);
    let node = node.killed();
    drop(intended);
    assert_eq!(ask(&node).await, Verdict::MustAuthenticate);
    node.records.reconcile(&[]).await;
    assert_eq!((ask(&node).await, node.files("pulling")), (Verdict::MustAuthenticate, 1));
    node.records.reconcile(&[image(&[IMAGE])]).await;
    assert_eq!((node.files("pulling"), node.files("pulled")), (0, 1));
    assert_eq!(ask(&node).await, Verdict::MustAuthenticate);
    // After the record and before the intent's end.
    let intended = node.records.intent(IMAGE).await.unwrap();
    node.records.pulled(IMAGE, ID, &with("good", secret("a"))).await.unwrap();
    let node = node.killed();
    drop(intended);
    node.records.reconcile(&[image(&[IMAGE])]).await;
    assert_eq!(ask(&node).await, Verdict::MustAuthenticate);
    assert_eq!(node.ask(vec![with("good", secret("a"))]).await, Verdict::RecordFound);
}

#[tokio::test]
async fn an_interrupted_pull_is_recognised_by_any_spelling_of_its_name() {
    let node = Node::new();
    drop(node.records.intent("nginx").await.unwrap());
    drop(node.records.intent("other").await.unwrap());
    node.records.reconcile(&[image(&["docker.io/library/nginx:latest"])]).await;
    assert_eq!((node.files("pulling"), node.files("pulled")), (1, 1));
    let verdict = node.records.must_pull("nginx", ID, &looked_up(vec![Try::anonymous()])).await;
    assert_eq!(verdict, Verdict::MustAuthenticate);
}

#[tokio::test]
async fn a_failed_pull_leaves_the_image_as_it_was_unless_another_pull_goes_on() {
    let node = Node::new();
    let (first, second) = (node.records.intent(IMAGE).await.unwrap(), node.records.intent(IMAGE).await.unwrap());
    node.records.ended(first).await;
    assert_eq!((node.files("pulling"), node.records.numbers().await.intents_in_memory), (1, 1));
    node.records.ended(second).await;
    assert_eq!((node.files("pulling"), node.records.numbers().await.intents_in_memory), (0, 0));
    assert_eq!(node.ask(vec![]).await, Verdict::PolicyAllows);
}

#[tokio::test]
async fn without_a_place_for_the_intent_there_is_no_pull() {
    let node = Node::new();
    fs::remove_dir_all(node.directory.path().join("image_manager/pulling")).unwrap();
    let error = node.records.intent(IMAGE).await.unwrap_err().to_string();
    assert!(error.starts_with("failed to record image pull intent of \"r.io/team/app:1\""), "{error}");
    assert_eq!(node.records.numbers().await.intents_in_memory, 0);
}

#[tokio::test]
async fn a_record_that_cannot_be_written_leaves_the_intent() {
    let node = Node::new();
    let intended = node.records.intent(IMAGE).await.unwrap();
    let pulled = node.directory.path().join("image_manager/pulled");
    fs::remove_dir_all(&pulled).unwrap();
    node.records.pulled(IMAGE, ID, &with("p", secret("a"))).await.unwrap_err();
    drop(intended);
    fs::create_dir(&pulled).unwrap();
    assert_eq!(node.ask(vec![Try::anonymous()]).await, Verdict::MustAuthenticate);
}

#[tokio::test]
async fn a_damaged_record_asks_the_registry_and_the_next_pull_mends_it() {
    let node = Node::new();
    node.pull(IMAGE, &with("good", Source::NodeFile)).await;
    let pulled = node.directory.path().join("image_manager/pulled");
    let file = fs::read_dir(&pulled).unwrap().next().unwrap().unwrap().path();
    fs::write(&file, "{}").unwrap();
    assert_eq!(node.ask(vec![]).await, Verdict::Unreadable);
    let node = node.killed();
    assert_eq!(node.ask(vec![]).await, Verdict::Unreadable);
    node.pull(IMAGE, &with("good", Source::NodeFile)).await;
    assert_eq!(node.ask(vec![]).await, Verdict::RecordFound);
}

#[tokio::test]
async fn pruning_keeps_what_is_on_the_node_and_what_is_newer_than_the_collection() {
    let node = Node::new();
    let clock = Clock::System.now();
    node.pull(IMAGE, &with("good", secret("a"))).await;
    node.records.prune(&BTreeSet::new(), clock).await;
    assert_eq!(node.files("pulled"), 1, "written after the collection began");
    let later = clock + jiff::SignedDuration::from_secs(5);
    node.records.prune(&BTreeSet::from([ID.to_owned()]), later).await;
    assert_eq!(node.files("pulled"), 1, "a private image in use keeps its record");
    node.records.prune(&BTreeSet::from(["sha256:other".to_owned()]), later).await;
    assert_eq!((node.files("pulled"), node.ask(vec![]).await), (0, Verdict::PolicyAllows));
}

#[tokio::test]
async fn a_look_up_is_spared_where_credentials_do_not_matter() {
    let node = Node::new();
    let ask = || node.records.verdict_without_credentials(IMAGE, ID);
    assert_eq!(ask().await, Some(Verdict::PolicyAllows));
    node.records.reconcile(&[]).await;
    drop(node.records.intent(IMAGE).await.unwrap());
    assert_eq!(ask().await, Some(Verdict::MustAuthenticate));
    node.pull(IMAGE, &with("good", secret("a"))).await;
    assert_eq!(ask().await, None);
    node.pull(IMAGE, &with("good", Source::NodeFile)).await;
    assert_eq!(ask().await, Some(Verdict::RecordFound));
    let numbers = node.records.numbers().await;
    let wanted = [("credentialPolicyAllowed", 1), ("credentialRecordFound", 1), ("mustAuthenticate", 1)];
    assert_eq!(numbers.checks, BTreeMap::from(wanted));
    let text = numbers.to_string();
    for line in [
        "kubelet_imagemanager_image_mustpull_checks_total{result=\"mustAuthenticate\"} 1",
        "kubelet_imagemanager_ondisk_pullintents 0",
        "kubelet_imagemanager_ondisk_pulledrecords 1",
        "sampan_imagemanager_inmemory_pullintents 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn the_same_content_under_another_name_is_another_question() {
    let node = Node::new();
    node.pull(IMAGE, &with("good", Source::Anonymous)).await;
    let other = node.records.must_pull("r.io/private/app:1", ID, &looked_up(vec![Try::anonymous()])).await;
    assert_eq!(other, Verdict::MustAuthenticate);
    let no_id = node.records.must_pull(IMAGE, "", &Lookup::default()).await;
    assert_eq!(no_id, Verdict::MustAuthenticate);
}

#[tokio::test]
async fn an_image_that_was_there_stays_open_when_its_content_is_pulled_under_another_name() {
    let node = Node::new();
    let ask = |image: &'static str| {
        let records = node.records.clone();
        async move { records.must_pull(image, ID, &looked_up(vec![Try::anonymous()])).await }
    };
    assert_eq!(ask("r.io/placed:1").await, Verdict::PolicyAllows);
    let intended = node.records.intent(IMAGE).await.unwrap();
    let also = node.records.intent("r.io/coming").await.unwrap();
    let digest = format!("sha256:{}", "a".repeat(64));
    let names = ["r.io/placed:1".to_owned(), IMAGE.to_owned(), format!("r.io/coming@{digest}")];
    node.records.observe(IMAGE, ID, &names).await;
    node.records.pulled(IMAGE, ID, &with("good", secret("a"))).await.unwrap();
    node.records.ended(intended).await;
    node.records.ended(also).await;
    assert_eq!(ask("r.io/placed:2").await, Verdict::PolicyAllows, "one repository, whatever the tag");
    assert_eq!(ask(IMAGE).await, Verdict::MustAuthenticate);
    assert_eq!(ask("r.io/coming").await, Verdict::MustAuthenticate, "its own pull was under way");
    // Names that appear later are the node's own.
    node.records.observe(IMAGE, ID, &["r.io/later:1".to_owned()]).await;
    assert_eq!(ask("r.io/later:1").await, Verdict::MustAuthenticate);
    let later = Clock::System.now() + jiff::SignedDuration::from_secs(5);
    node.records.prune(&BTreeSet::new(), later).await;
    assert_eq!(node.files("observed-preloaded"), 0);
}
