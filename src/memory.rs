//! Memory that was freed goes back to the machine.
//!
//! glibc keeps what was freed between blocks that are in use: after five thousand pods had come and gone, that was two
//! thirds of the process. Start at [`give_back`].

use std::time::Duration;

use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_secs(20);
/// So much growth makes a walk through the heap worth its time.
const GROWTH_BYTES: u64 = 8 << 20;

/// Looks now and then until it is cancelled.
pub async fn give_back(cancel: CancellationToken) -> anyhow::Result<()> {
    let mut least = resident_bytes()?;
    while cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if resident_bytes()? > least + GROWTH_BYTES {
            tokio::task::spawn_blocking(monitor::trim_memory).await?;
            least = resident_bytes()?;
        }
        least = least.min(resident_bytes()?);
    }
    Ok(())
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_freed_goes_back() {
        let cancel = CancellationToken::new();
        let mut looks = tokio::task::JoinSet::new();
        let (before, stop) = (resident_bytes().unwrap(), cancel.clone());
        looks.spawn(async move { give_back(stop).await.unwrap() });
        tokio::task::yield_now().await;
        // Blocks below the size that is given back alone, with some between them that stay.
        let mut blocks: Vec<Vec<u8>> = (0..4000).map(|_| vec![1; 16 << 10]).collect();
        let kept: Vec<Vec<u8>> = (0..blocks.len()).step_by(100).map(|nth| std::mem::take(&mut blocks[nth])).collect();
        assert!(resident_bytes().unwrap() > before + (40 << 20));
        drop(blocks);
        tokio::time::sleep(LOOK_EVERY * 2).await;
        cancel.cancel();
        looks.join_next().await.unwrap().unwrap();
        assert!(resident_bytes().unwrap() < before + (20 << 20), "{} {before}", resident_bytes().unwrap());
        assert!(kept.iter().all(|block| block[0] == 1));
    }
}
