"""Lists and watches: versions, bookmarks, ends, what is too old, pages, the informer."""

import json
import logging
import time

from kubernetes import client, informer, watch

from kube import NAMESPACE, meta, refused, until

core = client.CoreV1Api()
# The informer's thread complains of its own end.
logging.getLogger("kubernetes.informer").setLevel(logging.CRITICAL)
LABEL = "seen=by-python"


def config_map(name, **data):
    return client.V1ConfigMap(metadata=meta(name, labels={"seen": "by-python"}), data=data)


def make(name, **data):
    return core.create_namespaced_config_map(NAMESPACE, config_map(name, **data))


def a_watch_tells_what_happens_after_a_version():
    first = make("w0")
    version = core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL).metadata.resource_version
    make("w1", a="b")
    core.patch_namespaced_config_map("w1", NAMESPACE, {"data": {"a": "c"}})
    core.delete_namespaced_config_map("w1", NAMESPACE)
    core.patch_namespaced_config_map("w0", NAMESPACE, {"metadata": {"labels": {"seen": None}}})
    seen = []
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_config_map, NAMESPACE, label_selector=LABEL, resource_version=version):
        assert isinstance(event["object"], client.V1ConfigMap)
        seen.append((event["type"], event["object"].metadata.name, (event["object"].data or {}).get("a")))
        if len(seen) == 4:
            watcher.stop()
    # What no longer matches is gone for this watcher.
    assert seen == [("ADDED", "w1", "b"), ("MODIFIED", "w1", "c"), ("DELETED", "w1", "c"), ("DELETED", "w0", None)], seen
    assert int(watcher.resource_version) > int(first.metadata.resource_version)
    core.delete_namespaced_config_map("w0", NAMESPACE)


def a_watch_ends_in_time_with_a_bookmark():
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    # Not seen by the watch, but told by the bookmark.
    other = core.create_namespaced_secret(NAMESPACE, client.V1Secret(metadata=meta("bookmarked")))
    watcher, began = watch.Watch(), time.monotonic()
    events = list(watcher.stream(
        core.list_namespaced_config_map, NAMESPACE, label_selector=LABEL, resource_version=version,
        allow_watch_bookmarks=True, timeout_seconds=1))
    assert 0.9 < time.monotonic() - began < 30, "the server ends it"
    assert [event["type"] for event in events] == ["BOOKMARK"], events
    assert int(watcher.resource_version) >= int(other.metadata.resource_version)
    assert events[0]["object"]["kind"] == "ConfigMap"
    core.delete_namespaced_secret("bookmarked", NAMESPACE)


def versions_of_nowhere_are_refused():
    newest = int(core.list_namespaced_config_map(NAMESPACE).metadata.resource_version)
    future = refused(core.list_namespaced_config_map, NAMESPACE, resource_version=str(newest + 100000))
    assert future.status == 504 and "Too large resource version" in future.body, future
    wrong = refused(core.list_namespaced_config_map, NAMESPACE, resource_version="yesterday")
    assert wrong.status == 400, wrong
    token = refused(core.list_namespaced_config_map, NAMESPACE, limit=1, _continue="nonsense")
    assert token.status == 400 and "continue key is not valid" in token.body, token


def a_watch_begins_with_what_there_is_if_asked():
    make("i0")
    watcher, shown = watch.Watch(), []
    for event in watcher.stream(
        core.list_namespaced_config_map, NAMESPACE, label_selector=LABEL, allow_watch_bookmarks=True,
        send_initial_events=True, resource_version_match="NotOlderThan"):
        shown.append(event)
        if event["type"] == "BOOKMARK":
            watcher.stop()
    assert [event["type"] for event in shown] == ["ADDED", "BOOKMARK"], shown
    assert shown[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}, shown[1]
    core.delete_namespaced_config_map("i0", NAMESPACE)


def is_gone(call):
    try:
        call()
    except client.ApiException as error:
        return error.status == 410
    return False


def who_lags_behind_the_history_begins_anew():
    for number in range(3):
        make(f"old-{number}", text="x" * 1_000_000)
    page = core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL, limit=1)
    old = page.metadata.resource_version
    # More than the server keeps of what was replaced.
    for number in range(36):
        core.patch_namespaced_config_map("old-0", NAMESPACE, {"data": {"number": str(number)}})
    exact = lambda: core.list_namespaced_config_map(NAMESPACE, resource_version=old, resource_version_match="Exact")
    until("the history is cut", lambda: is_gone(exact))
    lagging = refused(lambda: list(watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, label_selector=LABEL, resource_version=old)))
    assert lagging.status == 410 and lagging.reason.startswith("Expired: too old resource version"), lagging
    # A list that was begun goes on, as things are now.
    late = refused(core.list_namespaced_config_map, NAMESPACE, label_selector=LABEL, _continue=page.metadata._continue)
    assert late.status == 410, late
    token = json.loads(late.body)["metadata"]["continue"]
    rest = core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL, _continue=token)
    assert [item.metadata.name for item in rest.items] == ["old-1", "old-2"], rest
    events = watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, label_selector=LABEL, timeout_seconds=1)
    assert sorted(event["object"].metadata.name for event in events) == ["old-0", "old-1", "old-2"]
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector=LABEL)


def lists_come_in_pages():
    for number in range(7):
        make(f"page-{number}")
    names, token, pages, versions = [], None, [], set()
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL, limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        pages.append(len(page.items))
        versions.add(page.metadata.resource_version)
        if page.metadata._continue:
            # Nothing that is made meanwhile is in the list.
            make(f"page-{len(pages)}-later")
        token = page.metadata._continue or ""
    assert names == [f"page-{number}" for number in range(7)] and pages == [3, 3, 1], (names, pages)
    assert len(versions) == 1, versions
    first = core.list_namespaced_config_map(NAMESPACE, limit=1)
    assert first.metadata.remaining_item_count >= 8
    # Under a selector nobody knows how many remain.
    assert core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL, limit=1).metadata.remaining_item_count is None
    gone = core.delete_collection_namespaced_config_map(NAMESPACE, label_selector=LABEL)
    assert gone is not None
    assert core.list_namespaced_config_map(NAMESPACE, label_selector=LABEL).items == []


def an_informer_holds_what_there_is():
    seen = []
    kept = informer.SharedInformer(core.list_namespaced_config_map, namespace=NAMESPACE, label_selector=LABEL)
    for kind in (informer.ADDED, informer.MODIFIED, informer.DELETED):
        kept.add_event_handler(kind, lambda found, kind=kind: seen.append((kind, found.metadata.name)))
    make("inf-0")
    kept.start()
    until("the informer has what there was", lambda: ("ADDED", "inf-0") in seen)
    make("inf-1")
    core.patch_namespaced_config_map("inf-0", NAMESPACE, {"data": {"x": "y"}})
    core.delete_namespaced_config_map("inf-1", NAMESPACE)
    until("the informer saw it all", lambda: ("DELETED", "inf-1") in seen)
    assert seen == [("ADDED", "inf-0"), ("ADDED", "inf-1"), ("MODIFIED", "inf-0"), ("DELETED", "inf-1")], seen
    assert [found.metadata.name for found in kept.cache.list()] == ["inf-0"]
    kept.stop()
    core.delete_namespaced_config_map("inf-0", NAMESPACE)


a_watch_tells_what_happens_after_a_version()
a_watch_ends_in_time_with_a_bookmark()
versions_of_nowhere_are_refused()
a_watch_begins_with_what_there_is_if_asked()
lists_come_in_pages()
who_lags_behind_the_history_begins_anew()
an_informer_holds_what_there_is()
