//! Which objects in the API a pod spec needs: what a node may read for it. A pod that comes from a file of the node may need
//! none.
//!
//! Start at [`references`] for the kinds and at [`named`] for the names.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::look;

/// A kind that a pod spec refers to, in the order in which refusals name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// `serviceAccountName`.
    ServiceAccount,
    /// `imagePullSecrets`.
    PullSecret,
    /// Secrets in volumes and environments.
    Secret,
    /// ConfigMaps in volumes and environments.
    ConfigMap,
    /// `resourceClaims`.
    ResourceClaim,
    /// Claims in volumes.
    PersistentVolumeClaim,
    /// Projected bundles of certificates.
    ClusterTrustBundle,
}

impl Reference {
    /// The resource, as upstream's refusals name it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::PullSecret | Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::ResourceClaim => "resourceclaims",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
            Self::ClusterTrustBundle => "clustertrustbundles",
        }
    }
}

/// Volume sources that carry Secret names in a field of their own.
pub const SECRET_SOURCES: &[(&str, &str)] = &[
    ("cephfs", "secretRef"),
    ("csi", "nodePublishSecretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
];

/// What a pod spec refers to.
pub fn references(spec: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut note = |is: bool, reference| is.then(|| found.insert(reference));
    note(!look::text(spec, "serviceAccountName").is_empty(), Reference::ServiceAccount);
    note(!look::list(spec, "imagePullSecrets").is_empty(), Reference::PullSecret);
    note(!look::list(spec, "resourceClaims").is_empty(), Reference::ResourceClaim);
    for volume in look::list(spec, "volumes") {
        let has = |source: &str| look::get(volume, source).is_some();
        let own = SECRET_SOURCES.iter().any(|(source, field)| look::at(volume, &[source, field]).is_some());
        note(has("secret") || has("azureFile") || own, Reference::Secret);
        note(has("configMap"), Reference::ConfigMap);
        note(has("persistentVolumeClaim") || has("ephemeral"), Reference::PersistentVolumeClaim);
        for source in look::list_at(volume, &["projected", "sources"]) {
            note(look::get(source, "secret").is_some(), Reference::Secret);
            note(look::get(source, "configMap").is_some(), Reference::ConfigMap);
            note(look::get(source, "clusterTrustBundle").is_some(), Reference::ClusterTrustBundle);
        }
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    for container in lists.iter().flat_map(|list| look::list(spec, list)) {
        for variable in look::list(container, "env") {
            note(look::at(variable, &["valueFrom", "secretKeyRef"]).is_some(), Reference::Secret);
            note(look::at(variable, &["valueFrom", "configMapKeyRef"]).is_some(), Reference::ConfigMap);
        }
        for source in look::list(container, "envFrom") {
            note(look::get(source, "secretRef").is_some(), Reference::Secret);
            note(look::get(source, "configMapRef").is_some(), Reference::ConfigMap);
        }
    }
    found
}

/// The resources of which [`named`] tells the names.
const SECRETS: &str = "secrets";
const CONFIG_MAPS: &str = "configmaps";
const ACCOUNTS: &str = "serviceaccounts";

/// Every Secret, ConfigMap and ServiceAccount that a pod spec names, as resource and name.
pub fn named(spec: &Value) -> BTreeSet<(&'static str, &str)> {
    let mut found = BTreeSet::from([(ACCOUNTS, look::text(spec, "serviceAccountName"))]);
    found.extend(look::list(spec, "imagePullSecrets").iter().map(|secret| (SECRETS, look::text(secret, "name"))));
    for volume in look::list(spec, "volumes") {
        let at = |path: &[&str]| look::text_at(volume, path);
        found.extend([(SECRETS, at(&["secret", "secretName"])), (SECRETS, at(&["azureFile", "secretName"]))]);
        found.extend(SECRET_SOURCES.iter().map(|(source, field)| (SECRETS, at(&[source, field, "name"]))));
        found.insert((CONFIG_MAPS, at(&["configMap", "name"])));
        for source in look::list_at(volume, &["projected", "sources"]) {
            found.insert((SECRETS, look::text_at(source, &["secret", "name"])));
            found.insert((CONFIG_MAPS, look::text_at(source, &["configMap", "name"])));
        }
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    for container in lists.iter().flat_map(|list| look::list(spec, list)) {
        for variable in look::list(container, "env") {
            found.insert((SECRETS, look::text_at(variable, &["valueFrom", "secretKeyRef", "name"])));
            found.insert((CONFIG_MAPS, look::text_at(variable, &["valueFrom", "configMapKeyRef", "name"])));
        }
        for source in look::list(container, "envFrom") {
            found.insert((SECRETS, look::text_at(source, &["secretRef", "name"])));
            found.insert((CONFIG_MAPS, look::text_at(source, &["configMapRef", "name"])));
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, expected: &[Reference]) {
        assert_eq!(references(&spec), expected.iter().copied().collect(), "{spec}");
    }

    #[test]
    fn a_pod_names_secrets_by_pull_secret_volume_projection_and_environment() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}, {}],
            "serviceAccountName": "robot",
            "volumes": [
                {"name": "v", "secret": {"secretName": "vol"}},
                {"azureFile": {"secretName": "azure"}},
                {"csi": {"nodePublishSecretRef": {"name": "csi"}}},
                {"configMap": {"name": "cmv"}},
                {"projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "pcm"}}]}},
            ],
            "initContainers": [{"name": "c", "env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "cm"}}, {"secretRef": {"name": "from"}}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "key"}}}]}],
        });
        let names = |resource: &str| -> Vec<&str> {
            named(&spec).into_iter().filter(|(of, _)| *of == resource).map(|(_, name)| name).collect()
        };
        assert_eq!(names("secrets"), ["azure", "csi", "env", "from", "proj", "pull", "vol"]);
        assert_eq!(names("configmaps"), ["cm", "cmv", "key", "pcm"]);
        assert_eq!(names("serviceaccounts"), ["robot"]);
    }

    #[test]
    fn references_stand_in_the_spec_in_volumes_and_in_environments() {
        check(json!({"containers": [{"env": [{"name": "A", "value": "b"}]}], "volumes": [{"emptyDir": {}}]}), &[]);
        check(json!({"serviceAccountName": "a"}), &[Reference::ServiceAccount]);
        check(json!({"imagePullSecrets": [{"name": "a"}]}), &[Reference::PullSecret]);
        check(json!({"volumes": [{"secret": {}}, {"configMap": {}}]}), &[Reference::Secret, Reference::ConfigMap]);
        check(json!({"volumes": [{"csi": {"nodePublishSecretRef": {"name": "a"}}}]}), &[Reference::Secret]);
        check(json!({"volumes": [{"projected": {"sources": [{"secret": {}}]}}]}), &[Reference::Secret]);
        check(json!({"initContainers": [{"envFrom": [{"configMapRef": {}}]}]}), &[Reference::ConfigMap]);
        check(json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {}}}]}]}), &[Reference::Secret]);
        check(json!({"volumes": [{"persistentVolumeClaim": {}}]}), &[Reference::PersistentVolumeClaim]);
        check(json!({"resourceClaims": [{"name": "a"}]}), &[Reference::ResourceClaim]);
    }
}
