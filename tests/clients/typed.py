"""Every kind through the typed client: create, read, list, patch, replace, delete. The client checks what it gets: a field
that is required and not there, or of another type, is an error on its side."""

from kubernetes import client
from kubernetes.client import ApiException

from kube import NAMESPACE, meta, refused, selector, template, until

core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
rbac, policy, node = client.RbacAuthorizationV1Api(), client.PolicyV1Api(), client.NodeV1Api()


def workloads():
    job = client.V1JobSpec(template=template("job", ["true"], "Never"), suspend=True)
    cron = client.V1CronJobSpec(schedule="0 0 1 1 *", job_template=client.V1JobTemplateSpec(spec=job), suspend=True)
    idle = template("x")
    idle.spec.node_selector = {"no": "node"}
    return [
        (apps, "deployment", client.V1Deployment(metadata=meta("d"), spec=client.V1DeploymentSpec(selector=selector("x"), template=idle))),
        (apps, "replica_set", client.V1ReplicaSet(metadata=meta("r"), spec=client.V1ReplicaSetSpec(selector=selector("r"), template=template("r"), replicas=0))),
        (apps, "stateful_set", client.V1StatefulSet(metadata=meta("s"), spec=client.V1StatefulSetSpec(selector=selector("x"), template=idle, service_name="s"))),
        (apps, "daemon_set", client.V1DaemonSet(metadata=meta("d"), spec=client.V1DaemonSetSpec(selector=selector("x"), template=idle))),
        (batch, "job", client.V1Job(metadata=meta("j"), spec=job)),
        (batch, "cron_job", client.V1CronJob(metadata=meta("c"), spec=cron)),
        (core, "replication_controller", client.V1ReplicationController(metadata=meta("rc"), spec=client.V1ReplicationControllerSpec(template=template("rc"), replicas=0))),
        (core, "pod_template", client.V1PodTemplate(metadata=meta("t"), template=template("t"))),
        (core, "pod", client.V1Pod(metadata=meta("p"), spec=idle.spec)),
    ]


def others():
    rule = client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["get"])
    subject = client.RbacV1Subject(kind="User", name="alice", api_group="rbac.authorization.k8s.io")
    role = client.V1RoleRef(kind="Role", name="reader", api_group="rbac.authorization.k8s.io")
    hard = {"pods": "1000", "count/secrets": "100"}
    limit = client.V1LimitRangeItem(type="PersistentVolumeClaim", max={"storage": "1Gi"})
    lease = client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15)
    return [
        (core, "config_map", client.V1ConfigMap(metadata=meta("m"), data={"a": "b"}, binary_data={"c": "ZA=="})),
        (core, "secret", client.V1Secret(metadata=meta("s"), string_data={"user": "u"})),
        (core, "service_account", client.V1ServiceAccount(metadata=meta("robot"))),
        (core, "limit_range", client.V1LimitRange(metadata=meta("l"), spec=client.V1LimitRangeSpec(limits=[limit]))),
        (core, "resource_quota", client.V1ResourceQuota(metadata=meta("q"), spec=client.V1ResourceQuotaSpec(hard=hard))),
        (rbac, "role", client.V1Role(metadata=meta("reader"), rules=[rule])),
        (rbac, "role_binding", client.V1RoleBinding(metadata=meta("b"), subjects=[subject], role_ref=role)),
        (policy, "pod_disruption_budget", client.V1PodDisruptionBudget(metadata=meta("pdb"), spec=client.V1PodDisruptionBudgetSpec(selector=selector("x"), min_available="50%"))),
        (client.CoordinationV1Api(), "lease", client.V1Lease(metadata=meta("l"), spec=lease)),
    ]


def of_the_cluster():
    rule = client.V1PolicyRule(api_groups=["apps"], resources=["*"], verbs=["list"])
    subject = client.RbacV1Subject(kind="ServiceAccount", name="robot", namespace=NAMESPACE)
    role = client.V1RoleRef(kind="ClusterRole", name="py", api_group="rbac.authorization.k8s.io")
    hook = client.V1ValidatingWebhook(
        name="a.example.com", side_effects="None", admission_review_versions=["v1"], rules=[],
        client_config=client.AdmissionregistrationV1WebhookClientConfig(url="https://127.0.0.1:1/"),
    )
    return [
        (core, "namespace", client.V1Namespace(metadata=meta("py"))),
        (node, "runtime_class", client.V1RuntimeClass(metadata=meta("py"), handler="runc")),
        (client.SchedulingV1Api(), "priority_class", client.V1PriorityClass(metadata=meta("py"), value=7)),
        (rbac, "cluster_role", client.V1ClusterRole(metadata=meta("py"), rules=[rule])),
        (rbac, "cluster_role_binding", client.V1ClusterRoleBinding(metadata=meta("py"), subjects=[subject], role_ref=role)),
        (client.AdmissionregistrationV1Api(), "validating_webhook_configuration", client.V1ValidatingWebhookConfiguration(metadata=meta("py"), webhooks=[hook])),
    ]


def replace(call, name, place):
    read = call("read")(name, *place)
    read.metadata.annotations = {**(read.metadata.annotations or {}), "c": "d"}
    try:
        return read, call("replace")(name, *place, read)
    except ApiException as error:
        assert error.status == 409, error
        return None


def lives(api, kind, body, place):
    """An object's whole life; `place` is its namespace, as words of every call."""
    scope = "namespaced_" if place else ""
    call = lambda verb: getattr(api, f"{verb}_{scope}{kind}")
    name = body.metadata.name
    made = call("create")(*place, body)
    assert type(made) is type(body) and made.metadata.uid and made.metadata.creation_timestamp.tzinfo, kind
    assert refused(call("create"), *place, body).status == 409, kind
    assert call("read")(name, *place).metadata.uid == made.metadata.uid, kind
    listed = call("list")(*place)
    assert any(item.metadata.uid == made.metadata.uid for item in listed.items), kind
    assert listed.metadata.resource_version.isdigit() and listed.kind.endswith("List"), kind

    patched = call("patch")(name, *place, {"metadata": {"labels": {"a": "b"}}})
    assert patched.metadata.labels["a"] == "b", kind
    # Written back as it was read, all but an annotation. Its controller may have been faster.
    patched, replaced = until("the replacement", lambda: replace(call, name, place))
    stale = patched.metadata.resource_version
    assert replaced.metadata.annotations["c"] == "d" and replaced.metadata.labels["a"] == "b", kind
    assert replaced.metadata.uid == made.metadata.uid and replaced.metadata.resource_version != stale, kind
    assert refused(call("replace"), name, *place, patched).status == 409, kind
    # An object that began without owned fields has no owners until the first apply, as upstream.
    assert kind == "service_account" or replaced.metadata.managed_fields[0].manager, kind

    assert not replaced.metadata.deletion_timestamp
    call("delete")(name, *place)
    missing = refused(call("read"), "never-made", *place)
    assert missing.status == 404 and '"reason":"NotFound"' in missing.body.replace(" ", ""), kind


for api, kind, body in workloads() + others():
    lives(api, kind, body, (NAMESPACE,))
for api, kind, body in of_the_cluster():
    lives(api, kind, body, ())
