//! The values of `fieldRef` and `resourceFieldRef`, for environments and for downward API files alike.
//!
//! Pure. Start at [`field`].

use super::{Context, Error, quantity};
use crate::object::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// The facts that field references read.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's addresses, primary first.
    pub pod_ips: &'a [String],
    /// The node.
    pub ctx: &'a Context,
}

/// The text of one field of the pod.
///
/// # Errors
/// [`Error::Field`] when the path is not one that the downward API offers.
pub fn field(fields: Fields<'_>, path: &str) -> Result<String, Error> {
    let pod = fields.pod;
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(Error::Field(format!("fieldPath {path:?} does not support subscript"))),
        };
        return Ok(values.as_ref().and_then(|v| v.get(key)).cloned().unwrap_or_default());
    }
    let node_ips = || fields.ctx.node_ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => fields.ctx.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => node_ips().into_iter().next().unwrap_or_default(),
        "status.hostIPs" => node_ips().join(","),
        "status.podIP" => fields.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => fields.pod_ips.join(","),
        other => return Err(Error::Field(format!("unsupported fieldPath: {other}"))),
    })
}

/// Splits `metadata.labels['key']` into map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as one `key="value"` line each, in key order.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quote(v)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A double-quoted string whose special characters are escaped, one line whatever the text is.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The text of one resource field. `own` is the container of the environment; a downward API file has none and names
/// its container instead.
///
/// # Errors
/// [`Error::Field`] when the container or the resource is unknown.
pub fn resource_field(
    fields: Fields<'_>,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, Error> {
    let named = fields.pod.container(&selector.container_name).map(|(_, c)| c);
    let container = if selector.container_name.is_empty() { own } else { named };
    let container =
        container.ok_or_else(|| Error::Field(format!("container {} not found", selector.container_name)))?;
    let unsupported = || Error::Field(format!("unsupported container resource : {}", selector.resource));
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let (list, fallback) = match side {
        "limits" => (&container.resources.limits, allocatable(fields.ctx, resource)),
        "requests" => (&container.resources.requests, 0),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_deref().filter(|d| !d.is_empty() && *d != "0").unwrap_or("1");
    let milli = list.get(resource).and_then(|q| quantity::milli(q)).filter(|v| *v > 0).unwrap_or(fallback);
    let divisor = quantity::milli(divisor).filter(|d| *d > 0).unwrap_or(1000);
    match resource {
        "cpu" | "memory" | "ephemeral-storage" => {}
        r if r.starts_with("hugepages-") => {}
        _ => return Err(unsupported()),
    }
    Ok((milli / divisor + i64::from(milli % divisor != 0)).to_string())
}

/// What the node could give at most, in thousandths.
fn allocatable(ctx: &Context, resource: &str) -> i64 {
    match resource {
        "cpu" => ctx.cpu_milli,
        "memory" => ctx.memory_bytes.saturating_mul(1000),
        "ephemeral-storage" => ctx.storage_bytes.saturating_mul(1000),
        _ => 0,
    }
}
