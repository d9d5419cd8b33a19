//! Progress of a pull on a terminal: one bar a layer, on standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use anyhow::{Context, bail};
use cri::sampan::pull_update::What;
use cri::sampan::{LayerProgress, LayerState, PullProgress, PullRequest, WatchPullsRequest};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::images::bytes;
use crate::output::line;

/// Pulls an image and draws how far each layer has come. Returns the image's id. Nothing is drawn where standard error
/// is no terminal.
pub async fn pull(client: &cri::Client, request: PullRequest) -> anyhow::Result<String> {
    let mut updates = client.pulls.clone().pull(request).await.map_err(said)?.into_inner();
    let mut bars = Bars::new()?;
    while let Some(update) = updates.message().await.map_err(said)? {
        match update.what {
            Some(What::Layer(layer)) => bars.show(&layer),
            Some(What::ImageId(id)) => {
                bars.end();
                return Ok(id);
            }
            None => {}
        }
    }
    bail!("the runtime ended the pull without a result; see its log")
}

/// Shows the pulls under way on the node: once, or for as long as the user looks. On a terminal each has a bar.
pub async fn pulls(mut client: cri::Client, watch: bool) -> anyhow::Result<()> {
    let mut snapshots = client.pulls.watch_pulls(WatchPullsRequest {}).await.map_err(said)?.into_inner();
    let mut bars = PullBars::new()?;
    while let Some(snapshot) = snapshots.message().await.map_err(said)? {
        if watch && std::io::stderr().is_terminal() {
            bars.show(&snapshot.pulls);
            continue;
        }
        snapshot.pulls.iter().for_each(|pull| line(&told(pull)));
        if !watch {
            return Ok(());
        }
    }
    bail!("the runtime has ended")
}

fn told(pull: &PullProgress) -> String {
    let here = pull.fetched + pull.present;
    let percent = (here * 100).checked_div(pull.total).unwrap_or(0);
    let (here, total) = (bytes(here), bytes(pull.total));
    format!("{:<52} {percent:>3}% {here:>9} of {total:<9} {} of {} layers", pull.image, pull.layers_done, pull.layers)
}

/// One bar a pull.
struct PullBars {
    screen: MultiProgress,
    style: ProgressStyle,
    pulls: BTreeMap<String, ProgressBar>,
}

impl PullBars {
    fn new() -> anyhow::Result<PullBars> {
        let style = ProgressStyle::with_template(
            "{prefix:40} [{bar:30}] {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12} {msg}",
        )
        .context("describe a progress bar")?
        .progress_chars("=> ");
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Ok(PullBars { screen, style, pulls: BTreeMap::new() })
    }

    /// Draws a snapshot. A pull that is not in it has ended, and its bar goes.
    fn show(&mut self, pulls: &[PullProgress]) {
        self.pulls.retain(|image, bar| {
            let goes_on = pulls.iter().any(|pull| pull.image == *image);
            if !goes_on {
                bar.finish_and_clear();
            }
            goes_on
        });
        for pull in pulls {
            let bar = self.pulls.entry(pull.image.clone()).or_insert_with(|| {
                let bar = self.screen.add(ProgressBar::new(pull.total).with_style(self.style.clone()));
                bar.set_prefix(pull.image.clone());
                bar
            });
            bar.set_length(pull.total);
            bar.set_position(pull.fetched + pull.present);
            bar.set_message(format!("{} of {} layers", pull.layers_done, pull.layers));
        }
    }
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

struct Bars {
    screen: MultiProgress,
    running: ProgressStyle,
    layers: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn new() -> anyhow::Result<Bars> {
        let running = ProgressStyle::with_template(
            "{prefix:12} {msg:9} [{bar:30}] {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}",
        )
        .context("describe a progress bar")?
        .progress_chars("=> ");
        Ok(Bars {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            running,
            layers: BTreeMap::new(),
        })
    }

    fn show(&mut self, layer: &LayerProgress) {
        let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
            let bar = self.screen.add(ProgressBar::new(layer.total).with_style(self.running.clone()));
            bar.set_prefix(short(&layer.digest).to_string());
            bar
        });
        bar.set_position(layer.fetched);
        match layer.state() {
            LayerState::Waiting => bar.set_message("waiting"),
            LayerState::Fetching => bar.set_message("fetching"),
            LayerState::Unpacking => bar.set_message("unpacking"),
            LayerState::Done => bar.finish_with_message("done"),
            LayerState::Present => {
                bar.set_position(layer.total);
                bar.finish_with_message("present");
            }
        }
    }

    fn end(&self) {
        for bar in self.layers.values().filter(|bar| !bar.is_finished()) {
            bar.finish_with_message("done");
        }
    }
}

/// The first twelve digits of a digest.
fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_in_one_line() {
        let pull = PullProgress {
            image: "r.io/a:1".into(),
            total: 4_000_000,
            fetched: 500_000,
            present: 500_000,
            layers: 3,
            layers_done: 1,
        };
        let words: Vec<String> = told(&pull).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), "r.io/a:1 25% 1.0 MB of 4.0 MB 1 of 3 layers");
        assert!(told(&PullProgress::default()).contains("0%"));
    }

    #[test]
    fn digests_are_cut_for_people() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("odd"), "odd");
    }
}
