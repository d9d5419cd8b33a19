//! `/pulls` and `/images/collection`: how far the node's pulls are, and what collection would remove and why.
//!
//! Both are for people and for `sampan images`; the shapes are in docs/walls/node-port.md.

use super::{Answer, Node, json, query::Query, text};
use crate::{
    collection::{decide::Stays, view::Known},
    image::progress::{Board, Line},
};
use bytes::Bytes;
use http::{Response, StatusCode, header, header::HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json as value};
use std::{convert::Infallible, time::Duration};
use tokio::sync::watch;

/// A watcher is told of changes at most this often, and of the passing of time at least so often.
const PAUSE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_secs(1);

/// All pulls as one list; with `watch=true` one list a line, at once and after every change, until the client goes.
pub(super) fn pulls(node: &Node, query: &Query) -> Answer {
    if !query.flag("watch") {
        return json(&list(node.board.lines()));
    }
    let board = node.board.clone();
    let changes = board.changes();
    let chunks = futures_util::stream::unfold((board, changes, None), |(board, mut changes, last)| async move {
        let lines = next(&board, &mut changes, last).await;
        let mut line = list(lines.clone()).to_string();
        line.push('\n');
        Some((Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(line))), (board, changes, Some(lines))))
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(super::logs::sync_wrapper(chunks))));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// The list once it is another than the last one.
async fn next(board: &Board, changes: &mut watch::Receiver<u64>, last: Option<Vec<Line>>) -> Vec<Line> {
    let Some(last) = last else { return board.lines() };
    loop {
        tokio::time::sleep(PAUSE).await;
        changes.borrow_and_update();
        let lines = board.lines();
        if lines != last {
            return lines;
        }
        tokio::select! {
            // The board outlives its watchers: it is the node's.
            _ = changes.changed() => {}
            // The words tell how long it has taken.
            () = tokio::time::sleep(TICK), if !lines.is_empty() => {}
        }
    }
}

fn list(lines: Vec<Line>) -> Value {
    value!({ "kind": "PullList", "apiVersion": "node.sampan.dev/v1", "items": lines })
}

/// One round of collection now: what would have gone is told as gone, unless it failed.
pub(super) async fn collect(node: &Node) -> Answer {
    let before = match node.collector.plan().await {
        Ok(plan) => plan,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let known: Vec<&Known> = before.aged.iter().chain(&before.spare).collect();
    match node.collector.collect().await {
        Ok(done) => {
            let gone = known.iter().filter(|image| done.removed.contains(&image.id));
            let items: Vec<Value> = gone
                .map(|image| {
                    value!({ "id": image.id, "names": image.names, "sizeBytes": image.size_bytes, "action": "removed", "reason": "" })
                })
                .collect();
            json(&value!({ "kind": "CollectionPlan", "apiVersion": "node.sampan.dev/v1", "items": items }))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// What a round of collection would do now.
pub(super) async fn collection(node: &Node) -> Answer {
    let plan = match node.collector.plan().await {
        Ok(plan) => plan,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let image = |image: &Known, action: &str, reason: &str| {
        value!({
            "id": image.id, "names": image.names, "sizeBytes": image.size_bytes, "action": action, "reason": reason,
            "lastUsed": image.last_used.map(|at| at.to_string()),
        })
    };
    let removals = plan.removals().into_iter().map(|(removed, why)| image(removed, "remove", why.label()));
    let kept = plan.kept().into_iter().map(|kept| image(kept, "keep", stays(Stays::RoomEnough)));
    let stay = plan.stays.iter().map(|(kept, why)| image(kept, "keep", stays(*why)));
    let items: Vec<Value> = removals.chain(kept).chain(stay).collect();
    json(&value!({
        "kind": "CollectionPlan", "apiVersion": "node.sampan.dev/v1", "usagePercent": plan.usage_percent,
        "goalBytes": plan.goal_bytes, "items": items,
    }))
}

fn stays(why: Stays) -> &'static str {
    match why {
        Stays::Used => "in use",
        Stays::Pinned => "pinned by the runtime",
        Stays::Young => "too young",
        Stays::RoomEnough => "there is room enough",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::clock::Clock;
    use jiff::Timestamp;

    #[tokio::test(start_paused = true)]
    async fn a_watcher_hears_at_once_and_then_of_changes_and_of_time() {
        let board = Board::new(Clock::virtual_from(Timestamp::from_second(1_000_000).unwrap()));
        let mut changes = board.changes();
        let first = next(&board, &mut changes, None).await;
        assert!(first.is_empty());
        let quiet = tokio::time::timeout(Duration::from_secs(60), next(&board, &mut changes, Some(first.clone())));
        assert!(quiet.await.is_err(), "nothing happens, nothing is said");
        let _turn = board.begin("app");
        let _waits = board.wait("u", "ns/p".into(), "app");
        let second = next(&board, &mut changes, Some(first)).await;
        assert_eq!(second[0].message, "Pulling image \"app\": 0s");
        let third = next(&board, &mut changes, Some(second)).await;
        assert_eq!(third[0].message, "Pulling image \"app\": 1s");
    }
}
