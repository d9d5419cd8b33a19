"""What a running pod has: commands with their streams, ends and terminal; ports; logs; attaching; and how it is evicted."""

import json
import threading

from kubernetes import client, watch
from kubernetes.stream import portforward, stream

from kube import IMAGE, NAMESPACE, meta, refused, selector, template, until

core = client.CoreV1Api()
SERVER = "nc -ll -p 7007 -e cat & for i in 1 2 3; do echo line $i; done; trap 'exit 0' TERM; while true; do sleep 0.05; done"


def pod(name, command, **more):
    spec = template(name, ["sh", "-c", command], "Never").spec
    for key, value in more.items():
        setattr(spec.containers[0], key, value)
    return core.create_namespaced_pod(NAMESPACE, client.V1Pod(metadata=meta(name, labels={"app": name}), spec=spec))


def ready(name):
    def is_ready():
        conditions = core.read_namespaced_pod(name, NAMESPACE).status.conditions or []
        return any(one.type == "Ready" and one.status == "True" for one in conditions)
    until(f"{name} is ready", is_ready)


def execute(command, **more):
    words = {"stderr": True, "stdin": False, "stdout": True, "tty": False, **more}
    return stream(core.connect_get_namespaced_pod_exec, "box", NAMESPACE, command=command, **words)


def commands_have_their_streams_and_ends():
    assert execute(["echo", "hello"]) == "hello\n"
    both = execute(["sh", "-c", "echo out; echo err >&2; exit 42"], _preload_content=False)
    both.run_forever(timeout=20)
    assert (both.read_stdout(), both.read_stderr(), both.returncode) == ("out\n", "err\n", 42)
    good = execute(["true"], _preload_content=False)
    good.run_forever(timeout=20)
    assert good.returncode == 0
    talk = execute(["sh", "-c", "while read line; do echo got $line; done"], stdin=True, _preload_content=False)
    for line in ("one", "two"):
        talk.write_stdin(line + "\n")
        assert talk.readline_stdout(timeout=20) == f"got {line}"
    talk.close()
    big = execute(["sh", "-c", "dd if=/dev/zero bs=65536 count=64 2>/dev/null"], _preload_content=False, binary=True)
    big.run_forever(timeout=20)
    assert big.read_stdout() == bytes(64 * 65536)
    missing = execute(["no-such-program"], _preload_content=False)
    missing.run_forever(timeout=20)
    status = json.loads(missing.read_channel(3))
    assert status["status"] == "Failure" and "executable file not found" in status["message"], status
    nowhere = refused(stream, core.connect_get_namespaced_pod_exec, "nowhere", NAMESPACE, command=["true"], stdout=True)
    assert nowhere.status == 0 and "404" in nowhere.reason, nowhere


def a_terminal_has_the_size_that_it_is_given():
    wait = "until stty size 2>/dev/null | grep '33 77'; do sleep 0.05; done; exit 3"
    terminal = execute(["sh", "-c", wait], stdin=True, tty=True, _preload_content=False)
    terminal.write_channel(4, '{"Width": 77, "Height": 33}')
    terminal.run_forever(timeout=20)
    assert terminal.read_stdout().replace("\r", "") == "33 77\n" and terminal.returncode == 3, terminal.returncode


def ports_are_forwarded():
    listens = "grep -q :1B5F /proc/net/tcp /proc/net/tcp6 && echo yes"
    until("the pod listens", lambda: execute(["sh", "-c", listens]) == "yes\n")
    ports = portforward(core.connect_get_namespaced_pod_portforward, "box", NAMESPACE, ports="7007,9")
    echo = ports.socket(7007)
    echo.settimeout(20)
    sent = b"x" * 300_000
    threading.Thread(target=echo.sendall, args=(sent,)).start()
    got = b""
    while len(got) < len(sent):
        more = echo.recv(65536)
        assert more, "ended too early"
        got += more
    assert got == sent
    closed = ports.socket(9)
    closed.settimeout(20)
    # Nobody listens there: the connection ends, and says why.
    try:
        assert closed.recv(1) == b""
    except ConnectionError:
        pass
    until("the error of the other port", lambda: ports.error(9))
    assert "refused" in ports.error(9), ports.error(9)
    echo.close()


def logs_are_read_and_followed():
    assert core.read_namespaced_pod_log("box", NAMESPACE) == "line 1\nline 2\nline 3\n"
    assert core.read_namespaced_pod_log("box", NAMESPACE, tail_lines=1, timestamps=True).endswith("Z line 3\n")
    pod("short", "for i in 1 2 3; do echo line $i; done")
    lines = until("the pod has begun", lambda: following("short"))
    assert lines == ["line 1", "line 2", "line 3"], lines
    waiting = refused(core.read_namespaced_pod_log, "box", NAMESPACE, container="other")
    assert waiting.status == 400 and "container other is not valid for pod box" in waiting.body, waiting


def following(name):
    """The lines to the end; nothing while the container waits to start."""
    try:
        return list(watch.Watch().stream(core.read_namespaced_pod_log, name, NAMESPACE))
    except client.ApiException as error:
        assert error.status == 400, error
        return None


def streams_are_attached():
    pod("ear", "while read line; do echo got $line; done; echo end", stdin=True, stdin_once=True)
    ready("ear")
    ear = stream(core.connect_get_namespaced_pod_attach, "ear", NAMESPACE, stdin=True, stdout=True, stderr=True, _preload_content=False)
    ear.write_stdin("one\n")
    assert ear.readline_stdout(timeout=20) == "got one"
    ear.close()


def an_eviction_keeps_to_the_budget():
    budget = client.V1PodDisruptionBudget(metadata=meta("one"), spec=client.V1PodDisruptionBudgetSpec(selector=selector("box"), min_available=1))
    policy = client.PolicyV1Api()
    policy.create_namespaced_pod_disruption_budget(NAMESPACE, budget)
    until("the budget counts", lambda: policy.read_namespaced_pod_disruption_budget("one", NAMESPACE).status.current_healthy == 1)
    eviction = client.V1Eviction(metadata=meta("box", namespace=NAMESPACE))
    held = refused(core.create_namespaced_pod_eviction, "box", NAMESPACE, eviction)
    assert held.status == 429 and "disruption budget" in held.body, held
    policy.delete_namespaced_pod_disruption_budget("one", NAMESPACE)
    version = core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    core.create_namespaced_pod_eviction("box", NAMESPACE, eviction)
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=box", resource_version=version):
        if event["type"] == "DELETED":
            watcher.stop()
    conditions = {one.type: one.reason for one in event["object"].status.conditions}
    assert conditions["DisruptionTarget"] == "EvictionByEvictionAPI", conditions


def the_whole_list_is_understood():
    """Pods that ran, their node, its Lease and their events, through the models of the client."""
    pods = core.list_pod_for_all_namespaces().items
    assert all(found.status.pod_ips and found.spec.node_name for found in pods if found.status.phase == "Running"), pods
    node = core.list_node().items[0]
    assert node.status.node_info.container_runtime_version and node.status.allocatable["pods"], node
    leases = client.CoordinationV1Api().list_namespaced_lease("kube-node-lease").items
    assert [lease.spec.holder_identity for lease in leases] == [node.metadata.name] and leases[0].spec.renew_time.microsecond is not None
    events = core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=box").items
    assert {"Scheduled", "Started"} <= {event.reason for event in events}, events
    # Not through the model, which wants an `eventTime`: events that a node records have none, as in Kubernetes.
    newer = json.loads(client.EventsV1Api().list_namespaced_event(NAMESPACE, _preload_content=False).data)
    assert {event["reason"] for event in newer["items"]} >= {"Scheduled", "Started"}, newer


pod("box", SERVER)
ready("box")
commands_have_their_streams_and_ends()
a_terminal_has_the_size_that_it_is_given()
ports_are_forwarded()
logs_are_read_and_followed()
streams_are_attached()
the_whole_list_is_understood()
an_eviction_keeps_to_the_budget()
