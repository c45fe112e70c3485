//! Notices what happens to containers: by the runtime's events where it has them, and by looking at all of them, slowly or every second.
//!
//! Upstream: pkg/kubelet/pleg

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use component::metrics::prometheus;
use tokio::time::Instant;

use crate::kubelet::Shared;
use crate::runtime::label;

/// Between two looks without events. Upstream: genericPlegRelistPeriod.
const RELIST: Duration = Duration::from_secs(1);
/// With events, as a safety net. Upstream: eventedPlegRelistPeriod.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(30);
/// Without a good look for so long, the node is not ready. Upstream: genericPlegRelistThreshold.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(180);

static RELIST_SECONDS: std::sync::LazyLock<Option<prometheus::Histogram>> = std::sync::LazyLock::new(|| {
    prometheus::register_histogram!("kubelet_pleg_relist_duration_seconds", "Duration in seconds for relisting pods in PLEG.")
        .ok()
});

/// What one look sees of a pod: (id, state) of its sandboxes and containers.
type Seen = HashMap<String, Vec<(String, i32)>>;

/// Looks until the tasks stop.
pub async fn run(kubelet: Shared) {
    let events = kubelet.clone();
    let (has_events, mut watch) = tokio::sync::watch::channel(false);
    kubelet.tasks.spawn("runtime-events", async move {
        let stop = events.tasks.token();
        stop.run_until_cancelled(follow_events(&events, has_events)).await;
    });
    let mut before = Seen::new();
    let mut first = true;
    let mut good = Instant::now();
    let mut last_began: Option<Instant> = None;
    let metrics = crate::metrics::metrics();
    loop {
        let began = Instant::now();
        if let Some(last) = last_began.replace(began) {
            metrics.pleg_relist_interval_seconds.observe((began - last).as_secs_f64());
        }
        match look(&kubelet).await {
            Ok(now) => {
                good = Instant::now();
                metrics.pleg_last_seen.set(jiff::Timestamp::now().as_second() as f64);
                if first {
                    let _ = kubelet.node.known_at_start.set(now.keys().cloned().collect());
                }
                if let Some(histogram) = &*RELIST_SECONDS {
                    histogram.observe(began.elapsed().as_secs_f64());
                }
                for uid in now.keys().chain(before.keys()).filter(|uid| !first && now.get(*uid) != before.get(*uid)) {
                    kubelet.workers.poke(uid);
                }
                crate::housekeeping::orphans(&kubelet, now.keys().cloned().collect()).await;
                before = now;
                first = false;
            }
            Err(status) => tracing::debug!(err = %status, "Failed to list containers"),
        }
        kubelet.node.pleg_healthy.store(good.elapsed() < UNHEALTHY_AFTER, Ordering::Relaxed);
        let wait = if *watch.borrow_and_update() { RELIST_WITH_EVENTS } else { RELIST };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = watch.changed() => {}
        }
    }
}

async fn look(kubelet: &Shared) -> crate::cri::Result<Seen> {
    let (sandboxes, containers) = tokio::try_join!(kubelet.cri.list_pod_sandboxes(None), kubelet.cri.list_containers(None))?;
    let mut out = Seen::new();
    for (labels, id, state) in
        sandboxes.into_iter().map(|s| (s.labels, s.id, s.state)).chain(containers.into_iter().map(|c| (c.labels, c.id, c.state)))
    {
        if let Some((uid, ..)) = label::owner(&labels) {
            out.entry(uid).or_default().push((id, state));
        }
    }
    for list in out.values_mut() {
        list.sort();
    }
    Ok(out)
}

/// Pokes workers as the runtime tells; says whether it does.
async fn follow_events(kubelet: &Shared, has_events: tokio::sync::watch::Sender<bool>) {
    loop {
        match kubelet.cri.events().await {
            Ok(mut stream) => {
                tracing::info!("Following the runtime's container events");
                crate::metrics::metrics().evented_pleg_successes.inc();
                let _ = has_events.send(true);
                while let Ok(Some(event)) = stream.message().await {
                    let labels = event.pod_sandbox_status.map(|status| status.labels).unwrap_or_default();
                    match label::owner(&labels) {
                        Some((uid, ..)) => kubelet.workers.poke(&uid),
                        None => {
                            let _ = has_events.send(true);
                        }
                    }
                }
                let _ = has_events.send(false);
            }
            // The sender must stay: without one the looks would follow each other without a pause.
            Err(status) if status.code() == tonic::Code::Unimplemented => std::future::pending().await,
            Err(_) => crate::metrics::metrics().evented_pleg_errors.inc(),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
