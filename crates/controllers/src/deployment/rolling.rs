//! How many pods each set may have while one template follows another.

use std::cmp::Reverse;

use api::look;

use super::{Deployment, Set, Sets, revision};

/// Whether the Deployment was scaled since its sets were last told.
pub fn is_resized(deployment: &Deployment<'_>, sets: &Sets) -> bool {
    let told = |set: &Set| revision::number(&set.object, revision::DESIRED);
    sets.all().any(|set| set.replicas > 0 && told(set).is_some_and(|told| told != deployment.replicas))
}

/// Gives a new total to the sets there are, each in proportion.
pub fn resize(deployment: &Deployment<'_>, sets: &mut Sets) {
    let active = sets.all().filter(|set| set.replicas > 0).count();
    if active <= 1 {
        let latest = match active {
            1 => sets.all_mut().find(|set| set.replicas > 0),
            _ if sets.new.is_some() => sets.new.as_mut(),
            _ => sets.old.last_mut(),
        };
        if let Some(set) = latest {
            set.replicas = deployment.replicas;
        }
        return;
    }
    if is_saturated(deployment, sets) {
        sets.old.iter_mut().for_each(|set| set.replicas = 0);
        return;
    }
    if !deployment.recreates {
        proportion(deployment, sets);
    }
}

fn is_saturated(deployment: &Deployment<'_>, sets: &Sets) -> bool {
    sets.new.as_ref().is_some_and(|new| {
        new.replicas == deployment.replicas
            && new.available == deployment.replicas
            && revision::number(&new.object, revision::DESIRED) == Some(deployment.replicas)
    })
}

fn proportion(deployment: &Deployment<'_>, sets: &mut Sets) {
    let total: i64 = sets.all().map(|set| set.replicas).sum();
    let allowed = if deployment.replicas > 0 { deployment.replicas_max() } else { 0 };
    let to_add = allowed - total;
    let mut active: Vec<&mut Set> = sets.all_mut().filter(|set| set.replicas > 0).collect();
    // Of equal ones the newest grows first and the oldest shrinks first.
    active.sort_by_key(|set| (Reverse(set.replicas), set.age.clone()));
    if to_add > 0 {
        active.sort_by_key(|set| (Reverse(set.replicas), Reverse(set.age.clone())));
    }
    let mut added = 0;
    for set in &mut active {
        let left = to_add - added;
        let fraction = fraction(deployment, set);
        let part = if to_add > 0 { fraction.min(left) } else { fraction.max(left) };
        let part = if left == 0 { 0 } else { part };
        set.replicas += part;
        added += part;
    }
    if let Some(first) = active.first_mut() {
        first.replicas = (first.replicas + to_add - added).max(0);
    }
}

/// By how much a set grows when it keeps its share.
fn fraction(deployment: &Deployment<'_>, set: &Set) -> i64 {
    if deployment.replicas == 0 {
        return -set.replicas;
    }
    let before = revision::number(&set.object, revision::MAX).filter(|max| *max > 0);
    let before = before.or_else(|| look::integer(deployment.view.status(), "replicas").filter(|count| *count > 0));
    let Some(before) = before else { return 0 };
    // Rounded to the nearest.
    let wanted = (2 * set.replicas * deployment.replicas_max() + before).div_euclid(2 * before);
    wanted - set.replicas
}

/// Takes the next step from old sets to the new one, which is there.
pub fn roll(deployment: &Deployment<'_>, sets: &mut Sets) {
    let total: i64 = sets.all().map(|set| set.replicas).sum();
    let Some(new) = &mut sets.new else { return };
    let wanted = match new.replicas > deployment.replicas {
        true => deployment.replicas,
        false => grown(deployment, new.replicas, total),
    };
    if wanted != new.replicas {
        new.replicas = wanted;
        return;
    }
    let new_unavailable = new.replicas - new.available;
    let at_least = deployment.replicas - deployment.unavailable;
    let mut spare = total - at_least - new_unavailable;
    if spare <= 0 {
        return;
    }
    // Old pods that are not available serve nobody: they go first.
    for set in &mut sets.old {
        let gone = spare.min(set.replicas - set.available).max(0);
        set.replicas -= gone;
        spare -= gone;
    }
    let available: i64 = sets.all().map(|set| set.available).sum();
    let mut left = available - at_least;
    for set in &mut sets.old {
        let gone = left.min(set.replicas).max(0);
        set.replicas -= gone;
        left -= gone;
    }
}

/// How many pods the new set may have.
pub fn grown(deployment: &Deployment<'_>, replicas: i64, total: i64) -> i64 {
    if deployment.recreates {
        return deployment.replicas;
    }
    let room = (deployment.replicas_max() - total).max(0);
    replicas + room.min(deployment.replicas - replicas)
}
