"""What the scripts share: the client's configuration, names of their own, waiting."""

import faulthandler
import os
import time

from kubernetes import client, config

NAMESPACE = "default"
IMAGE = os.environ.get("IMAGE", "example.com/box:1")
FOREVER = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.05; done"]

config.load_kube_config()
# Who hangs says where.
faulthandler.dump_traceback_later(240, exit=True)


def meta(name, **more):
    return client.V1ObjectMeta(name=name, **more)


def template(name, command=FOREVER, restart="Always"):
    """A pod of one container, as workloads have it."""
    container = client.V1Container(name="c", image=IMAGE, command=command)
    spec = client.V1PodSpec(
        containers=[container],
        restart_policy=restart,
        termination_grace_period_seconds=1,
        image_pull_secrets=[client.V1LocalObjectReference(name="regcred")],
    )
    return client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": name}), spec=spec)


def selector(name):
    return client.V1LabelSelector(match_labels={"app": name})


def until(what, is_so, seconds=30):
    """Waits for something that has no event to wait for."""
    end = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return answer


def refused(call, *words, **more):
    """The error of a call that the server refuses."""
    try:
        answer = call(*words, **more)
    except client.ApiException as error:
        return error
    raise AssertionError(f"not refused: {answer}")
