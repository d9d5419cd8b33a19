//! Progress of a pull on a terminal: one bar a layer, on standard error.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use cri::sampan::pull_update::What;
use cri::sampan::{LayerProgress, LayerState, PullRequest};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

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
    fn digests_are_cut_for_people() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("odd"), "odd");
    }
}
