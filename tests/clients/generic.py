"""What works on any kind: the dynamic client with server-side apply, manifests, patches of each sort, tokens, collections, a
leader."""

import json
import os
import tempfile
import threading
import time

import yaml
from kubernetes import client, config, dynamic, utils
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock import leaselock

from kube import NAMESPACE, meta, refused, until

core = client.CoreV1Api()


def the_dynamic_client_finds_and_applies():
    any_kind = dynamic.DynamicClient(client.ApiClient())
    assert any_kind.version["kubernetes"]["major"] == "1"
    maps = any_kind.resources.get(api_version="v1", kind="ConfigMap")
    deployments = any_kind.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.subresources.keys() >= {"scale", "status"}, deployments.subresources
    assert any_kind.resources.get(short_names=["cj"], api_version="batch/v1").kind == "CronJob"

    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1", "b": "1"}}
    made = any_kind.server_side_apply(maps, wanted, namespace=NAMESPACE, field_manager="one")
    assert [entry.manager for entry in made.metadata.managedFields] == ["one"]
    other = {**wanted, "data": {"a": "2"}}
    try:
        any_kind.server_side_apply(maps, other, namespace=NAMESPACE, field_manager="two")
        raise AssertionError("no conflict")
    except ConflictError as error:
        assert 'conflict with \\"one\\": .data.a' in error.body, error.body
    forced = any_kind.server_side_apply(maps, other, namespace=NAMESPACE, field_manager="two", force_conflicts=True)
    assert forced.data.to_dict() == {"a": "2", "b": "1"}, forced
    # What its owner no longer wants goes, what another has taken stays.
    less = {**wanted, "data": {}}
    assert any_kind.server_side_apply(maps, less, namespace=NAMESPACE, field_manager="one").data.to_dict() == {"a": "2"}

    for event in maps.watch(namespace=NAMESPACE, name="applied", timeout=5):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "applied")
        break
    maps.patch(name="applied", namespace=NAMESPACE, body={"data": {"c": "3"}}, content_type="application/merge-patch+json")
    listed = maps.get(namespace=NAMESPACE, field_selector="metadata.name=applied")
    assert [found.data.c for found in listed.items] == ["3"], listed
    maps.delete(name="applied", namespace=NAMESPACE)
    try:
        maps.get(name="applied", namespace=NAMESPACE)
        raise AssertionError("still there")
    except NotFoundError:
        pass


MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: from-yaml}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, namespace: from-yaml}}
- {apiVersion: v1, kind: Secret, metadata: {name: s, namespace: from-yaml}, stringData: {a: b}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: from-yaml}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: "x:1"}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick, namespace: from-yaml}
spec:
  schedule: "@yearly"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "x:1"}]}}}}
"""


def manifests_are_created():
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(MANIFEST)
        file.flush()
        made = utils.create_from_yaml(client.ApiClient(), file.name)
        kinds = [found.kind for group in made for found in group]
        assert kinds == ["Namespace", "ServiceAccount", "Secret", "Deployment", "CronJob"], kinds
        again = None
        try:
            utils.create_from_yaml(client.ApiClient(), file.name)
        except utils.FailToCreateError as error:
            again = error
        assert [json.loads(one.body)["reason"] for one in again.api_exceptions] == ["AlreadyExists"] * 5, again
    core.delete_namespace("from-yaml")
    until("the namespace is gone", lambda: "from-yaml" not in [found.metadata.name for found in core.list_namespace().items])


def each_sort_of_patch_has_its_media_type():
    core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta("patched"), data={"a": "1"}))
    patch = lambda body, sort: core.patch_namespaced_config_map("patched", NAMESPACE, body, _content_type=sort).data
    operations = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/data/b", "value": "2"}]
    assert patch(operations, "application/json-patch+json") == {"a": "1", "b": "2"}
    assert patch({"data": {"a": None}}, "application/merge-patch+json") == {"b": "2"}
    assert patch({"data": {"c": "3"}}, "application/strategic-merge-patch+json") == {"b": "2", "c": "3"}
    # The client chooses by itself: a list is a JSON patch, all else a strategic one.
    assert core.patch_namespaced_config_map("patched", NAMESPACE, operations[1:]).data["b"] == "2"
    failed = refused(core.patch_namespaced_config_map, "patched", NAMESPACE, operations)
    assert failed.status == 422, failed
    core.delete_namespaced_config_map("patched", NAMESPACE)


def an_account_is_known_by_its_token():
    core.create_namespaced_service_account(NAMESPACE, client.V1ServiceAccount(metadata=meta("clerk")))
    rbac = client.RbacAuthorizationV1Api()
    rule = client.V1PolicyRule(api_groups=[""], resources=["configmaps"], verbs=["list"])
    rbac.create_namespaced_role(NAMESPACE, client.V1Role(metadata=meta("clerk"), rules=[rule]))
    subject = client.RbacV1Subject(kind="ServiceAccount", name="clerk", namespace=NAMESPACE)
    role = client.V1RoleRef(kind="Role", name="clerk", api_group="rbac.authorization.k8s.io")
    rbac.create_namespaced_role_binding(
        NAMESPACE, client.V1RoleBinding(metadata=meta("clerk"), subjects=[subject], role_ref=role))
    asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    answer = core.create_namespaced_service_account_token("clerk", NAMESPACE, asked)
    assert answer.status.expiration_timestamp.tzinfo
    with tempfile.TemporaryDirectory() as place:
        inside = in_cluster(place, answer.status.token)
        as_clerk = client.CoreV1Api(client.ApiClient(inside))
        assert as_clerk.list_namespaced_config_map(NAMESPACE).items
        forbidden = refused(as_clerk.list_namespaced_secret, NAMESPACE)
        assert forbidden.status == 403 and "system:serviceaccount:default:clerk" in forbidden.body, forbidden
        review = client.V1SelfSubjectReview()
        who = client.AuthenticationV1Api(client.ApiClient(inside)).create_self_subject_review(review)
        assert who.status.user_info.username == "system:serviceaccount:default:clerk", who
        # The next request uses the token that is in the file then.
        with open(os.path.join(place, "token"), "w") as file:
            file.write("another")
        assert refused(client.CoreV1Api(client.ApiClient(load(place))).list_namespaced_config_map, NAMESPACE).status == 401
    can = client.V1SubjectAccessReview(spec=client.V1SubjectAccessReviewSpec(
        user="system:serviceaccount:default:clerk",
        resource_attributes=client.V1ResourceAttributes(namespace=NAMESPACE, verb="list", resource="configmaps")))
    assert client.AuthorizationV1Api().create_subject_access_review(can).status.allowed
    core.delete_namespaced_service_account("clerk", NAMESPACE)


def in_cluster(place, token):
    """What a pod has of its account, as files."""
    outside = client.Configuration.get_default_copy()
    for name, text in [("token", token), ("ca.crt", open(outside.ssl_ca_cert).read())]:
        with open(os.path.join(place, name), "w") as file:
            file.write(text)
    return load(place)


def load(place):
    outside = client.Configuration.get_default_copy()
    host, port = outside.host.removeprefix("https://").split(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    inside = client.Configuration()
    config.incluster_config.InClusterConfigLoader(
        token_filename=os.path.join(place, "token"), cert_filename=os.path.join(place, "ca.crt"), environ=environment,
    ).load_and_set(inside)
    return inside


def one_of_several_leads():
    led, lost = [], threading.Event()
    def candidate(name):
        lock = leaselock.LeaseLock("leader", NAMESPACE, name)
        return electionconfig.Config(
            lock, lease_duration=3, renew_deadline=2, retry_period=1, onstarted_leading=lambda: led.append(name),
            onstopped_leading=lost.set)
    first = threading.Thread(target=leaderelection.LeaderElection(candidate("first")).run, daemon=True)
    first.start()
    until("the first leads", lambda: led == ["first"])
    lease = client.CoordinationV1Api().read_namespaced_lease("leader", NAMESPACE)
    assert lease.spec.holder_identity == "first", lease
    # Somebody else writes himself into it: the first sees that at its next renewal.
    lease.spec.holder_identity = "second"
    until("its next renewal", lambda: take_over("second") and lost.wait(0.2), 10)


def take_over(name):
    return client.CoordinationV1Api().patch_namespaced_lease("leader", NAMESPACE, {"spec": {"holderIdentity": name}})


the_dynamic_client_finds_and_applies()
manifests_are_created()
each_sort_of_patch_has_its_media_type()
an_account_is_known_by_its_token()
one_of_several_leads()
