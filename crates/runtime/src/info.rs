//! Version and Status: who we are, which handlers there are, what each can.

use std::collections::BTreeMap;

use cri::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusResponse,
    VersionResponse,
};

use crate::core::Core;
use crate::handlers::DOCKER;

pub(crate) fn version() -> VersionResponse {
    VersionResponse {
        version: "0.1.0".into(),
        runtime_name: "sampan".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    }
}

pub(crate) fn status(core: &Core, is_verbose: bool) -> StatusResponse {
    let ready = |kind: &str| RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
    let mut info = BTreeMap::new();
    if is_verbose {
        let table = core.handlers.table();
        let handlers: BTreeMap<&str, _> = table.all.values().map(|h| (h.name.as_str(), &h.binary)).collect();
        let text = serde_json::json!({
            "dataDirectory": core.layout.data, "runDirectory": core.layout.run, "cgroup": core.cgroup_top,
            "defaultHandler": table.default, "handlers": handlers,
        });
        info.insert("config".into(), text.to_string());
        info.insert("handlers".into(), core.figures.to_value().to_string());
    }
    StatusResponse {
        status: Some(RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] }),
        info,
        runtime_handlers: handlers(core),
        features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..RuntimeFeatures::default() }),
    }
}

/// Those that can run now.
fn handlers(core: &Core) -> Vec<RuntimeHandler> {
    let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
    let table = core.handlers.table();
    let mut names = table.offered();
    if table.has_alias() && names.first().is_some_and(String::is_empty) {
        names.push(DOCKER.to_owned());
    }
    names.into_iter().map(|name| RuntimeHandler { name, features: Some(features) }).collect()
}
