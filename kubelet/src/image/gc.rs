//! Removes images nobody uses when the disk fills, or when they are too old. Upstream: pkg/kubelet/images/image_gc_manager.go

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use client::events::Kind;
use tokio::time::Instant;

use crate::cri::v1;
use crate::kubelet::Shared;

/// Upstream: ImageGCPeriod.
const PERIOD: Duration = Duration::from_secs(300);

/// When an image was first seen and last used.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Instant,
    used: Instant,
}

/// Looks every five minutes until the tasks stop.
pub async fn run(kubelet: Shared) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    loop {
        if let Err(why) = collect(&kubelet, &mut seen).await {
            tracing::warn!(err = why, "Image garbage collection failed");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn collect(kubelet: &Shared, seen: &mut HashMap<String, Seen>) -> Result<(), String> {
    let words = |status: tonic::Status| status.message().to_owned();
    let (images, containers, info) =
        tokio::try_join!(kubelet.cri.list_images(), kubelet.cri.list_containers(None), kubelet.cri.image_fs_info())
            .map_err(words)?;
    let used: HashSet<&str> =
        containers.iter().flat_map(|container| [container.image_ref.as_str(), container.image_id.as_str()]).collect();
    let now = Instant::now();
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in &images {
        let entry = seen.entry(image.id.clone()).or_insert(Seen { first: now, used: now });
        if in_use(image, &used) {
            entry.used = now;
        }
    }
    let config = &kubelet.config.kubelet;
    let mount =
        info.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref()).map(|id| id.mountpoint.clone()).unwrap_or_default();
    let (total, available) =
        crate::node::facts::file_system(std::path::Path::new(&mount)).map_or((0, 0), |(total, available, ..)| (total, available));
    let usage = if total > 0 { 100 - available * 100 / total } else { 0 };
    let to_free = if total > 0 && usage >= i64::from(config.image_gc_high) {
        total * (100 - i64::from(config.image_gc_low)) / 100 - available
    } else {
        0
    };
    let candidates: Vec<(&v1::Image, Seen)> = images
        .iter()
        .filter(|image| !image.pinned && !in_use(image, &used))
        .filter_map(|image| Some((image, *seen.get(&image.id)?)))
        .collect();
    let plan = plan(candidates, to_free, config.image_minimum_gc_age.0, config.image_maximum_gc_age.0, now);
    let mut freed = 0;
    for image in plan {
        tracing::info!(image = image.id, size = image.size, "Removing image to free bytes");
        match kubelet.cri.remove_image(&image.id).await {
            Ok(()) => freed += i64::try_from(image.size).unwrap_or(0),
            Err(status) => tracing::warn!(image = image.id, err = %status, "Failed to remove image"),
        }
    }
    if to_free > 0 && freed < to_free {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found {freed} bytes eligible to free."
        );
        kubelet.node_event(Kind::Warning, "FreeDiskSpaceFailed", message);
    }
    Ok(())
}

fn in_use(image: &v1::Image, used: &HashSet<&str>) -> bool {
    used.contains(image.id.as_str()) || image.repo_digests.iter().chain(&image.repo_tags).any(|name| used.contains(name.as_str()))
}

/// Which images to remove: the too old ones, then the least recently used until enough is free. Pure.
fn plan(
    mut candidates: Vec<(&v1::Image, Seen)>,
    to_free: i64,
    min_age: Duration,
    max_age: Duration,
    now: Instant,
) -> Vec<&v1::Image> {
    candidates.sort_by_key(|(_, seen)| (seen.used, seen.first));
    let mut freed = 0;
    let mut out = Vec::new();
    for (image, seen) in candidates {
        let too_old = !max_age.is_zero() && now.saturating_duration_since(seen.used) > max_age;
        let old_enough = now.saturating_duration_since(seen.first) >= min_age;
        if too_old || (freed < to_free && old_enough) {
            freed += i64::try_from(image.size).unwrap_or(0);
            out.push(image);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_go_first_and_the_young_stay() {
        let image = |id: &str| v1::Image { id: id.into(), size: 10, ..Default::default() };
        let images = [image("old"), image("older"), image("young")];
        let start = Instant::now();
        tokio::time::advance(Duration::from_secs(1000)).await;
        let now = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let candidates = || {
            vec![
                (&images[0], Seen { first: start, used: at(500) }),
                (&images[1], Seen { first: start, used: at(100) }),
                (&images[2], Seen { first: at(990), used: at(990) }),
            ]
        };
        let ids = |plan: Vec<&v1::Image>| plan.iter().map(|image| image.id.clone()).collect::<Vec<_>>();
        let minute = Duration::from_secs(60);
        assert_eq!(ids(plan(candidates(), 5, minute, Duration::ZERO, now)), ["older"]);
        assert_eq!(ids(plan(candidates(), 100, minute, Duration::ZERO, now)), ["older", "old"]);
        assert_eq!(ids(plan(candidates(), 0, minute, Duration::from_secs(800), now)), ["older"]);
        assert!(plan(candidates(), 0, minute, Duration::ZERO, now).is_empty());
    }
}
