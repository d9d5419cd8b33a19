#!/usr/bin/env python3
"""Derives crates/api/src/schema/facts.txt from the PyPI package kubernetes-validate.

    pip download --no-deps -d /tmp/schema kubernetes-validate==1.37.0
    xtask/schema_facts.py /tmp/schema/*.whl > crates/api/src/schema/facts.txt

Only facts are taken (field names, types, merge keys, list types); no descriptions. The format of the table is
documented in crates/api/src/schema/mod.rs. Only types reachable from the roots below are kept.
"""

import json
import sys
import zipfile

VERSION = "v1.36.0"
ROOTS = """
core.v1.Namespace core.v1.NamespaceList core.v1.Node core.v1.NodeList core.v1.Pod core.v1.PodList
core.v1.PodTemplate core.v1.PodTemplateList core.v1.Secret core.v1.SecretList core.v1.ConfigMap core.v1.ConfigMapList
core.v1.ServiceAccount core.v1.ServiceAccountList core.v1.Event core.v1.EventList core.v1.Binding
events.v1.Event events.v1.EventList coordination.v1.Lease coordination.v1.LeaseList
core.v1.LimitRange core.v1.LimitRangeList core.v1.ResourceQuota core.v1.ResourceQuotaList
apps.v1.ControllerRevision apps.v1.ControllerRevisionList
node.v1.RuntimeClass node.v1.RuntimeClassList scheduling.v1.PriorityClass scheduling.v1.PriorityClassList
core.v1.ReplicationController core.v1.ReplicationControllerList
apps.v1.ReplicaSet apps.v1.ReplicaSetList apps.v1.Deployment apps.v1.DeploymentList
apps.v1.StatefulSet apps.v1.StatefulSetList apps.v1.DaemonSet apps.v1.DaemonSetList
batch.v1.Job batch.v1.JobList batch.v1.CronJob batch.v1.CronJobList autoscaling.v1.Scale
admissionregistration.v1.MutatingWebhookConfiguration admissionregistration.v1.MutatingWebhookConfigurationList
admissionregistration.v1.ValidatingWebhookConfiguration admissionregistration.v1.ValidatingWebhookConfigurationList
rbac.v1.Role rbac.v1.RoleList rbac.v1.ClusterRole rbac.v1.ClusterRoleList
rbac.v1.RoleBinding rbac.v1.RoleBindingList rbac.v1.ClusterRoleBinding rbac.v1.ClusterRoleBindingList
certificates.v1.CertificateSigningRequest certificates.v1.CertificateSigningRequestList
policy.v1.Eviction policy.v1.PodDisruptionBudget policy.v1.PodDisruptionBudgetList authentication.v1.TokenRequest authentication.v1.TokenReview authentication.v1.SelfSubjectReview
authorization.v1.SelfSubjectAccessReview authorization.v1.SelfSubjectRulesReview
authorization.v1.SubjectAccessReview authorization.v1.LocalSubjectAccessReview meta.v1.Status meta.v1.DeleteOptions meta.v1.Condition
meta.v1.WatchEvent
""".split()
# Types that are written as one letter instead of a reference.
LEAVES = {
    "resource.Quantity": "q",
    "intstr.IntOrString": "x",
    "meta.v1.Time": "t",
    "meta.v1.MicroTime": "m",
    "meta.v1.FieldsV1": "o",
    "runtime.RawExtension": "o",
    "meta.v1.Patch": "o",
}
SCALARS = {
    ("string", None): "s", ("string", "byte"): "y", ("boolean", None): "b",
    ("integer", "int32"): "i", ("integer", "int64"): "l", ("number", "double"): "n",
}


def short(name):
    for prefix in ("io.k8s.api.", "io.k8s.apimachinery.pkg.apis.", "io.k8s.apimachinery.pkg.api.",
                   "io.k8s.apimachinery.pkg.util.", "io.k8s.apimachinery.pkg."):
        if name.startswith(prefix):
            return name[len(prefix):]
    return name


def plain(kind):
    """The one type beside "null"."""
    if isinstance(kind, list):
        kind = [k for k in kind if k != "null"][0]
    return kind


def type_text(schema, wanted):
    if "$ref" in schema:
        target = short(schema["$ref"].rsplit("/", 1)[1])
        if target in LEAVES:
            return LEAVES[target]
        wanted.append(target)
        return "@" + target
    kind = plain(schema.get("type", "object"))
    if kind == "array":
        return "[" + type_text(schema["items"], wanted)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return "{" + type_text(inner, wanted) if isinstance(inner, dict) else "o"
    return SCALARS[(kind, schema.get("format"))]


def flags(name, schema, required):
    out = []
    if name in required:
        out.append("!")
    if "x-kubernetes-patch-merge-key" in schema:
        out.append("k=" + schema["x-kubernetes-patch-merge-key"])
    if "x-kubernetes-patch-strategy" in schema:
        out.append("p=" + schema["x-kubernetes-patch-strategy"])
    if "x-kubernetes-list-type" in schema:
        keys = schema.get("x-kubernetes-list-map-keys", [])
        out.append("l=" + schema["x-kubernetes-list-type"] + (":" + ",".join(keys) if keys else ""))
    if schema.get("x-kubernetes-map-type"):
        out.append("a=" + schema["x-kubernetes-map-type"])
    return out


def main(wheel):
    member = "kubernetes_validate/kubernetes-json-schema/%s-local/_definitions.json" % VERSION
    with zipfile.ZipFile(wheel) as archive:
        definitions = json.loads(archive.read(member))["$defs"]
    types = {short(name): schema for name, schema in definitions.items()}
    # Printed in order of name, so that a new version gives a small diff.
    seen, queue, texts = set(), list(ROOTS), {}
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        schema, required = types[name], types[name].get("required", [])
        head = "=" + name
        if schema.get("x-kubernetes-map-type"):
            head += " a=" + schema["x-kubernetes-map-type"]
        rows = [head]
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        for kind in kinds if len(kinds) == 1 else []:
            rows.append("+%s/%s/%s" % (kind["group"], kind["version"], kind["kind"]))
        for field, value in sorted(schema.get("properties", {}).items()):
            rows.append(" ".join([field, type_text(value, queue)] + flags(field, value, required)))
        texts[name] = rows
    lines = ["#" + VERSION]
    for name in sorted(texts):
        lines += texts[name]
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1])
