//! `/metrics/probes`. Upstream: pkg/kubelet/prober/prober_manager.go

use super::page::{Family, Page};
use crate::kubelet::Shared;
use crate::pod;
use crate::probe::tally::{BUCKETS, RESULTS};

/// The page.
pub(super) fn page(kubelet: &Shared) -> String {
    let mut total = Family::new(
        "prober_probe_total",
        "counter",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    let mut duration =
        Family::new("prober_probe_duration_seconds", "histogram", "[ALPHA] Duration in seconds for a probe response.");
    for handle in kubelet.workers.list() {
        let pod = handle.request().pod;
        let (uid, name, namespace) = (pod::uid(&pod), pod::name(&pod), pod::namespace(&pod));
        for ((container, kind), tally) in kubelet.probes.tallies(uid) {
            let common = [("container", container.as_str()), ("namespace", namespace), ("pod", name)];
            for (result, count) in RESULTS.iter().zip(tally.counts).filter(|(_, count)| *count > 0) {
                let mut labels = common.to_vec();
                labels.extend([("pod_uid", uid), ("probe_type", kind), ("result", result)]);
                total.add(&labels, count as f64, None);
            }
            let mut labels = common.to_vec();
            labels.push(("probe_type", kind));
            let mut sum = 0;
            for (bound, count) in BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(tally.buckets) {
                sum += count;
                let mut labels = labels.clone();
                labels.push(("le", &bound));
                duration.add_as("prober_probe_duration_seconds_bucket", &labels, sum as f64, None);
            }
            duration.add_as("prober_probe_duration_seconds_sum", &labels, tally.seconds, None);
            duration.add_as("prober_probe_duration_seconds_count", &labels, sum as f64, None);
        }
    }
    let mut page = Page::default();
    page.put(duration);
    page.put(total);
    page.finish()
}
