//! `sampan images gc`: what the node's collection of images would remove and why, or one round of it now.
//!
//! Asks the node through the API, because only the node knows who needs an image. Start at [`run`].

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::images::{Output, bytes, print};
use crate::output::line;
use crate::settings::Settings;
use crate::wiring;

/// Words of `images gc`.
#[derive(Args)]
pub struct Arguments {
    /// Only say what would be removed, and why the rest stays
    #[arg(long)]
    dry_run: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// Asks the node of the running instance.
pub fn run(settings: Settings, arguments: &Arguments) -> anyhow::Result<()> {
    let instance = settings.instance();
    let kubeconfig = instance.data_dir.join("admin.kubeconfig");
    wiring::executor()?.block_on(async {
        let (client, _) = wiring::client_from(&kubeconfig).await?;
        let name = node_name(&client).await?;
        let method = if arguments.dry_run { http::Method::GET } else { http::Method::POST };
        let path = format!("/api/v1/nodes/{name}/proxy/images/collection");
        let request = http::Request::builder().method(method).uri(path).body(Vec::new())?;
        let answer = client.request_text(request).await.context("ask the node")?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("the node says {answer:?}"))?;
        match arguments.output {
            Output::Json | Output::Yaml => print(&answer, arguments.output),
            other => {
                lines(&answer, other == Output::Wide || arguments.dry_run).iter().for_each(|text| line(text));
                Ok(())
            }
        }
    })
}

async fn node_name(client: &kube::Client) -> anyhow::Result<String> {
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client.clone());
    let mut names = nodes.list(&kube::api::ListParams::default()).await.context("list the nodes")?.items.into_iter();
    match (names.next().and_then(|node| node.metadata.name), names.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => bail!("there is no node"),
        (Some(_), Some(_)) => bail!("there are several nodes; ask one at its /images/collection"),
    }
}

/// A table of what goes and what stays, with a last line for the sum.
fn lines(plan: &Value, with_rest: bool) -> Vec<String> {
    let none = Vec::new();
    let items = plan["items"].as_array().unwrap_or(&none);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = vec![format!("{:<52} {:>9}  {:<7} {}", "IMAGE", "SIZE", "ACTION", "REASON")];
    let mut sum = 0;
    for item in items {
        let action = text(&item["action"]);
        let size = item["sizeBytes"].as_u64().unwrap_or(0);
        sum += if action == "keep" { 0 } else { size };
        if action != "keep" || with_rest {
            let name = item["names"][0].as_str().or(item["id"].as_str()).unwrap_or_default();
            out.push(format!("{name:<52} {:>9}  {action:<7} {}", bytes(size), text(&item["reason"])));
        }
    }
    let usage =
        plan["usagePercent"].as_u64().map_or(String::new(), |percent| format!(", {percent}% of the disk in use"));
    out.push(format!("{} to free{usage}", bytes(sum)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_goes_and_why_the_rest_stays() {
        let plan = serde_json::json!({"usagePercent": 91, "items": [
            {"id": "sha256:1", "names": ["r/a:1"], "sizeBytes": 1_500_000, "action": "remove", "reason": "space"},
            {"id": "sha256:2", "names": [], "sizeBytes": 7, "action": "keep", "reason": "in use"},
        ]});
        let all = lines(&plan, true);
        assert!(all[1].starts_with("r/a:1 ") && all[1].ends_with("1.5 MB  remove  space"), "{all:?}");
        assert!(all[2].starts_with("sha256:2 ") && all[2].ends_with("keep    in use"), "{all:?}");
        assert_eq!(all[3], "1.5 MB to free, 91% of the disk in use");
        assert_eq!(lines(&plan, false).len(), 3);
    }
}
