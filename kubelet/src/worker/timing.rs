//! How long a pod took on its way to running, for the metrics.

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Request, View};
use crate::metrics::metrics;
use crate::pod::spec;
use crate::runtime::observed::State;

/// What was measured of one pod.
pub(super) struct Timing {
    /// The pod is new on this node: its start is ours to measure.
    fresh: bool,
    syncs: u32,
    started: bool,
}

impl Timing {
    /// Of a pod that is `fresh`, or was there before this process.
    pub(super) fn new(fresh: bool) -> Self {
        Self { fresh, syncs: 0, started: false }
    }

    /// Notes a sync that `began` then and left the pod as `view` shows.
    pub(super) fn synced(&mut self, request: &Request, view: &View, began: Instant) {
        let metrics = metrics();
        let operation = if self.syncs == 0 && self.fresh { "create" } else { "sync" };
        metrics.pod_worker_seconds.with_label_values(&[operation]).observe(began.elapsed().as_secs_f64());
        if self.syncs == 0 && self.fresh {
            metrics.pod_worker_start_seconds.observe(began.saturating_duration_since(request.seen).as_secs_f64());
            metrics.containers_per_pod.observe(spec(&request.pod).containers.len() as f64);
        }
        self.syncs = self.syncs.saturating_add(1);
        let runs = |name: &str| view.runtime.latest(name).is_some_and(|record| record.state == State::Running);
        if self.started || !spec(&request.pod).containers.iter().all(|container| runs(&container.name)) {
            return;
        }
        self.started = true;
        if !self.fresh {
            return;
        }
        metrics.pod_start_seconds.observe(request.seen.elapsed().as_secs_f64());
        let created = request.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if let Some(created) = created.filter(|_| !crate::pod::is_static(&request.pod)) {
            let total = (Timestamp::now().as_millisecond() - created.as_millisecond()).max(0) as f64 / 1000.0;
            metrics.pod_start_total_seconds.observe(total);
            // Without init containers and pulls the two are the same; with them the objective does not count the pod's start.
            if crate::pod::init_containers(&request.pod).is_empty() {
                metrics.pod_start_sli_seconds.observe(total);
            }
        }
    }
}
