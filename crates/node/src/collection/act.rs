//! Carrying out a plan: one removal after another, none of them able to stop the rest (IMG-266).

use super::decide::{Plan, Why};
use crate::{
    image::metrics::Metrics,
    pod::act::{limited, rpc, rpc_text},
};
use cri::v1;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(120);

/// What came of a plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    /// Bytes that removals for want of space have freed.
    pub freed_bytes: u64,
    /// The removals that failed, in words.
    pub failures: Vec<String>,
    /// The ids of the images that went.
    pub removed: Vec<String>,
}

/// Removes what is aged, then what is spare until the goal is reached: one that cannot be removed is made up for by
/// the next.
pub async fn carry_out(cri: &cri::Client, metrics: &Metrics, plan: &Plan) -> Done {
    let mut done = Done::default();
    let aged = plan.aged.iter().map(|image| (image, Why::Age));
    let spare = plan.spare.iter().map(|image| (image, Why::Space));
    for (image, why) in aged.chain(spare) {
        if why == Why::Space && done.freed_bytes >= plan.goal_bytes {
            break;
        }
        let (id, runtime_handler) = (image.id.clone(), image.handler.clone());
        let spec = v1::ImageSpec { image: id, runtime_handler, ..v1::ImageSpec::default() };
        let request = limited(v1::RemoveImageRequest { image: Some(spec) }, TIMEOUT);
        match rpc(cri.images.clone().remove_image(request)).await {
            Ok(_) => {
                tracing::info!(image = image.id, names = ?image.names, why = why.label(), "an unused image is removed");
                metrics.collected(why.label());
                if why == Why::Space {
                    done.freed_bytes = done.freed_bytes.saturating_add(image.size_bytes);
                }
                done.removed.push(image.id.clone());
            }
            Err(status) => done.failures.push(rpc_text(&status)),
        }
    }
    done
}
