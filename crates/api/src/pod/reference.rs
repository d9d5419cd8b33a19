//! Which kinds of objects in the API a pod spec needs. A pod that comes from a file of the node may need none.
//!
//! Start at [`references`].

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, expected: &[Reference]) {
        assert_eq!(references(&spec), expected.iter().copied().collect(), "{spec}");
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
