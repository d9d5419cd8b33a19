//! Memory that was freed goes back to the machine.
//!
//! glibc keeps what was freed between blocks that are in use: after five thousand pods had come and gone, that was two
//! thirds of the process. Start at [`give_back`].

use std::time::Duration;

use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_secs(20);
/// So much growth makes a walk through the heap worth its time; a walk that gave back so much is followed by another.
const GROWTH_BYTES: u64 = 8 << 20;
/// After so many looks there is a walk in any case: for what was freed without growth.
const WALK_EVERY: u32 = 15;

/// Looks now and then until it is cancelled.
pub async fn give_back(cancel: CancellationToken) -> anyhow::Result<()> {
    let (mut least, mut gave_much, mut looks) = (resident_bytes()?, false, 0_u32);
    while cancel.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        looks = looks.wrapping_add(1);
        let before = resident_bytes()?;
        if gave_much || looks.is_multiple_of(WALK_EVERY) || before > least + GROWTH_BYTES {
            tokio::task::spawn_blocking(monitor::trim_memory).await?;
            least = resident_bytes()?;
            gave_much = before > least + GROWTH_BYTES;
        }
        least = least.min(before);
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
