//! Removes images nobody uses when the disk fills, or when they are too old. Upstream: pkg/kubelet/images/image_gc_manager.go

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use client::events::Kind;
use tokio::time::Instant;

use crate::cri::v1;
use crate::kubelet::{Kubelet, Shared};

/// Upstream: ImageGCPeriod.
const PERIOD: Duration = Duration::from_secs(300);

/// When images were first seen and last used, by id.
#[derive(Default)]
pub(crate) struct Seen(Option<HashMap<String, Times>>);

/// Of one image.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// `None`: it was there before this kubelet looked for the first time, so it is old enough.
    first: Option<Instant>,
    used: Instant,
}

/// Looks every five minutes until the tasks stop.
pub async fn run(kubelet: Shared) {
    loop {
        if let Err(why) = collect(&kubelet).await {
            tracing::warn!(err = why, "Image garbage collection failed");
            kubelet.node_event(Kind::Warning, "ImageGCFailed", why);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What the runtime has, and what of it is in use.
struct Look {
    images: Vec<v1::Image>,
    used: HashSet<String>,
}

async fn look(kubelet: &Kubelet) -> Result<Look, String> {
    let words = |status: tonic::Status| status.message().to_owned();
    let (images, containers) = tokio::try_join!(kubelet.cri.list_images(), kubelet.cri.list_containers(None)).map_err(words)?;
    let mut used: HashSet<String> = containers
        .into_iter()
        .flat_map(|container| [container.image_ref, container.image_id])
        .filter(|id| !id.is_empty())
        .collect();
    used.extend(sandbox_image(kubelet).await);
    for handle in kubelet.workers.list() {
        let pod = handle.request().pod;
        // A pod that is about to start needs its images; on a node without a registry nobody could bring them back.
        let containers = crate::pod::init_containers(&pod).iter().chain(&crate::pod::spec(&pod).containers);
        used.extend(containers.filter_map(|container| super::with_tag(container.image.as_deref().unwrap_or(""))));
        let volumes = crate::pod::spec(&pod).volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
        used.extend(volumes.filter_map(|image| super::with_tag(image.reference.as_deref().unwrap_or(""))));
    }
    let now = Instant::now();
    let mut seen = kubelet.images.seen.lock();
    let first = seen.0.as_ref().map(|_| now);
    let times = seen.0.get_or_insert_default();
    times.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in &images {
        let entry = times.entry(image.id.clone()).or_insert(Times { first, used: now });
        if in_use(image, &used) {
            entry.used = now;
        }
    }
    Ok(Look { images, used })
}

/// The image that sandboxes are made of. Runtimes before containerd 1.7 do not pin it, and every pod needs it.
async fn sandbox_image(kubelet: &Kubelet) -> Option<String> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    if let Some(known) = NAME.get() {
        return known.clone();
    }
    let info = kubelet.cri.status(true).await.ok()?.info;
    let config = serde_json::from_str::<serde_json::Value>(info.get("config")?).ok();
    let name = config.and_then(|config| config["sandboxImage"].as_str().map(str::to_owned));
    NAME.get_or_init(|| name).clone()
}

/// Removes every image that nobody uses, whatever its age (the disk is about to be full); the bytes freed.
pub async fn remove_unused(kubelet: &Kubelet) -> i64 {
    let Ok(look) = look(kubelet).await else { return 0 };
    let mut freed = 0;
    for image in look.images.iter().filter(|image| !image.pinned && !in_use(image, &look.used)) {
        freed += remove(kubelet, image).await;
    }
    freed
}

async fn remove(kubelet: &Kubelet, image: &v1::Image) -> i64 {
    tracing::info!(image = image.id, size = image.size, "Removing image to free bytes");
    match kubelet.cri.remove_image(&image.id).await {
        Ok(()) => i64::try_from(image.size).unwrap_or(0),
        Err(status) => {
            tracing::warn!(image = image.id, err = %status, "Failed to remove image");
            0
        }
    }
}

async fn collect(kubelet: &Kubelet) -> Result<(), String> {
    let info = kubelet.cri.image_fs_info().await.map_err(|status| status.message().to_owned())?;
    let look = look(kubelet).await?;
    let config = &kubelet.config.kubelet;
    let mount =
        info.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref()).map(|id| id.mountpoint.clone()).unwrap_or_default();
    let (total, available) =
        crate::node::facts::file_system(std::path::Path::new(&mount)).map_or((0, 0), |(total, available, ..)| (total, available));
    if total == 0 {
        kubelet.node_event(Kind::Warning, "InvalidDiskCapacity", "invalid capacity 0 on image filesystem");
        return Err("invalid capacity 0 on image filesystem".into());
    }
    let usage = 100 - available * 100 / total;
    let to_free = if usage >= i64::from(config.image_gc_high) {
        total * (100 - i64::from(config.image_gc_low)) / 100 - available
    } else {
        0
    };
    let plan = {
        let seen = kubelet.images.seen.lock();
        let times = |id: &String| seen.0.as_ref()?.get(id).copied();
        let candidates: Vec<(&v1::Image, Times)> = look
            .images
            .iter()
            .filter(|image| !image.pinned && !in_use(image, &look.used))
            .filter_map(|image| Some((image, times(&image.id)?)))
            .collect();
        plan(candidates, to_free, config.image_minimum_gc_age.0, config.image_maximum_gc_age.0, Instant::now())
    };
    let mut freed = 0;
    for image in plan {
        freed += remove(kubelet, image).await;
    }
    if to_free > 0 && freed < to_free {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found {freed} bytes eligible to free."
        );
        kubelet.node_event(Kind::Warning, "FreeDiskSpaceFailed", message);
    }
    Ok(())
}

fn in_use(image: &v1::Image, used: &HashSet<String>) -> bool {
    used.contains(&image.id) || image.repo_digests.iter().chain(&image.repo_tags).any(|name| used.contains(name))
}

/// Which images to remove: the too old ones, then the least recently used until enough is free. Pure.
fn plan(
    mut candidates: Vec<(&v1::Image, Times)>,
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
        let old_enough = seen.first.is_none_or(|first| now.saturating_duration_since(first) >= min_age);
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
                (&images[0], Times { first: None, used: at(500) }),
                (&images[1], Times { first: None, used: at(100) }),
                (&images[2], Times { first: Some(at(990)), used: at(990) }),
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
