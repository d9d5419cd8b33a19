//! `sampan hooks`: the runs of a pod's lifecycle hooks that its node has recorded, also for a while after it has gone.
//!
//! Asks through the API, where `get pods/log` decides who may. Start at [`run`].

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::images::{Output, print};
use crate::output::line;
use crate::settings::{Settings, duration};
use crate::wiring;

/// Words of `hooks`.
#[derive(Args)]
pub struct Arguments {
    /// The pod, also one that has gone
    #[arg(value_name = "POD")]
    pod: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Only this container
    #[arg(short, long)]
    container: Option<String>,
    /// How to print them; wide adds what they printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// How much of hooks' runs is kept.
pub fn limits(ttl: Option<&str>) -> anyhow::Result<node::hooks::journal::Limits> {
    let limits = node::hooks::journal::Limits::default();
    let Some(ttl) = ttl else { return Ok(limits) };
    let keep = duration(ttl).and_then(|ttl| Ok(ttl.try_into()?)).context("--hook-runs-ttl")?;
    Ok(node::hooks::journal::Limits { keep, ..limits })
}

/// Asks the API server of the running instance.
pub fn run(settings: Settings, arguments: &Arguments) -> anyhow::Result<()> {
    let instance = settings.instance();
    instance.must_run()?;
    let kubeconfig = instance.admin_kubeconfig();
    wiring::executor()?.block_on(async {
        let (client, _) = wiring::client_from(&kubeconfig).await?;
        let request = http::Request::builder().uri(path(arguments)).body(Vec::new()).context("name the pod")?;
        let answer = client.request_text(request).await.context("ask for the hooks")?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("the node says {answer:?}"))?;
        match arguments.output {
            Output::Json | Output::Yaml => print(&answer, arguments.output),
            other => {
                lines(&answer, other == Output::Wide).iter().for_each(|text| line(text));
                Ok(())
            }
        }
    })
}

fn path(arguments: &Arguments) -> String {
    let Arguments { pod, namespace, container, .. } = arguments;
    let container = container.as_ref().map(|name| format!("&container={name}")).unwrap_or_default();
    format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?hooks=true{container}")
}

/// A table, one run a line; with what they printed if that is wanted.
fn lines(list: &Value, with_output: bool) -> Vec<String> {
    let none = Vec::new();
    let items = list["items"].as_array().unwrap_or(&none);
    if items.is_empty() {
        return vec!["no hook has run".into()];
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |cells: [&str; 8]| {
        let [container, restart, hook, handler, attempt, started, took, result] = cells;
        format!("{container:<16} {restart:<7} {hook:<9} {handler:<9} {attempt:<7} {started:<20} {took:<9} {result}")
    };
    let mut out = vec![row(["CONTAINER", "RESTART", "HOOK", "HANDLER", "ATTEMPT", "STARTED", "DURATION", "RESULT"])];
    for item in items {
        let took = item["durationSeconds"].as_f64().map_or("-".into(), |seconds| format!("{seconds:.3}s"));
        let started: String = text(&item["startedAt"]).chars().take(19).chain("Z".chars()).collect();
        out.push(row([
            &text(&item["container"]),
            &item["restart"].to_string(),
            &text(&item["hook"]),
            &text(&item["handler"]),
            &item["attempt"].to_string(),
            &started,
            &took,
            &result(item),
        ]));
        if with_output {
            ["stdout", "stderr"].iter().for_each(|stream| out.extend(printed(stream, &item[stream])));
        }
    }
    out
}

/// `failed (exit code 7)`.
fn result(item: &Value) -> String {
    let word = item["result"].as_str().unwrap_or_default();
    let status = item["httpStatus"].as_u64().map(|status| format!("HTTP status {status}"));
    match item["reason"].as_str().map(str::to_owned).or(status) {
        Some(reason) => format!("{word} ({reason})"),
        None => word.to_owned(),
    }
}

/// Another's words: control characters must not steer the reader's terminal.
fn printed(stream: &str, output: &Value) -> Vec<String> {
    let whole = |key: &str| output[key].as_str().unwrap_or_default().to_owned();
    let (head, tail, omitted) = (whole("head"), whole("tail"), output["omittedBytes"].as_u64().unwrap_or(0));
    let text = match omitted {
        0 => head + &tail,
        omitted => format!("{head}\n… {omitted} bytes are left out …\n{tail}"),
    };
    let harmless =
        |line: &str| line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    text.lines().map(harmless).map(|line: String| format!("    {stream}: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_a_line_and_what_it_printed_cannot_steer_the_terminal() {
        let list = json!({"items": [{
            "container": "web", "restart": 2, "hook": "postStart", "handler": "exec", "attempt": 1,
            "startedAt": "2026-01-02T03:04:05.678901Z", "durationSeconds": 1.2345, "result": "failed", "exitCode": 7,
            "reason": "exit code 7", "stdout": {"head": "a\u{1b}[2J\nb", "tail": "z", "bytes": 100, "omittedBytes": 93},
        }, {"container": "web", "restart": 0, "hook": "preStop", "handler": "httpGet", "attempt": 1, "result": "succeeded",
            "startedAt": "2026-01-02T03:04:05Z", "httpStatus": 404}]});
        let all = lines(&list, true);
        assert_eq!(
            all[1],
            "web              2       postStart exec      1       2026-01-02T03:04:05Z 1.234s    failed (exit code 7)"
        );
        assert_eq!(
            all[2..6],
            ["    stdout: a\u{fffd}[2J", "    stdout: b", "    stdout: … 93 bytes are left out …", "    stdout: z"]
        );
        assert!(all[6].ends_with("-         succeeded (HTTP status 404)"), "{all:?}");
        assert_eq!(lines(&json!({"items": []}), false), ["no hook has run"]);
    }

    #[test]
    fn how_long_runs_are_kept_is_a_setting() {
        assert_eq!(limits(None).unwrap().keep.as_secs(), 3600);
        assert_eq!(limits(Some("5m")).unwrap().keep.as_secs(), 300);
        assert!(format!("{:#}", limits(Some("x")).unwrap_err()).starts_with("--hook-runs-ttl: "));
    }
}
