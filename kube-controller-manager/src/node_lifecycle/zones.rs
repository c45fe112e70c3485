//! How fast nodes may be emptied, zone by zone: when much of a zone is down at once, the fault is more likely ours than the nodes'.
//!
//! Upstream: ComputeZoneState, setLimiterInZone (pkg/controller/nodelifecycle/node_lifecycle_controller.go)

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::time::Instant;

use super::plan::readiness;
use crate::options::Options;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

/// Token buckets by zone, of depth one.
#[derive(Default)]
pub struct Zones {
    buckets: HashMap<String, Bucket>,
    rates: HashMap<String, f64>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// The zone of a node: region and zone labels.
pub fn zone(node: &Node) -> String {
    let label = |key: &str| node.labels().get(key).cloned().unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

impl Zones {
    /// Judges all zones anew.
    pub fn assess<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>, options: &Options) {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for node in nodes {
            let (ready, not_ready) = counts.entry(zone(node)).or_default();
            if readiness(node) == "True" { *ready += 1 } else { *not_ready += 1 }
        }
        self.rates = rates(&counts, options);
    }

    /// Whether a node of this zone may be emptied now; takes the turn.
    pub fn take(&mut self, zone: &str, now: Instant) -> bool {
        let rate = self.rates.get(zone).copied().unwrap_or(0.0);
        let bucket = self.buckets.entry(zone.to_owned()).or_insert(Bucket { tokens: 1.0, filled: now });
        bucket.tokens = (bucket.tokens + now.duration_since(bucket.filled).as_secs_f64() * rate).min(1.0);
        bucket.filled = now;
        if rate > 0.0 && bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        false
    }
}

fn state(ready: usize, not_ready: usize, threshold: f64) -> State {
    #[allow(clippy::cast_precision_loss)] // counts of nodes
    let share = not_ready as f64 / (ready + not_ready).max(1) as f64;
    match (ready, not_ready) {
        (0, 1..) => State::Full,
        (_, 3..) if share >= threshold => State::Partial,
        _ => State::Normal,
    }
}

/// Evictions per second by zone. When every zone is down, none: then it is us who are cut off.
fn rates(counts: &HashMap<String, (usize, usize)>, options: &Options) -> HashMap<String, f64> {
    let threshold = options.unhealthy_zone_threshold;
    let large = usize::try_from(options.large_cluster_size_threshold).unwrap_or(0);
    let all_down =
        !counts.is_empty() && counts.values().all(|&(ready, not_ready)| state(ready, not_ready, threshold) == State::Full);
    let rate = |&(ready, not_ready): &(usize, usize)| match state(ready, not_ready, threshold) {
        _ if all_down => 0.0,
        State::Normal | State::Full => options.node_eviction_rate,
        State::Partial if ready + not_ready > large => options.secondary_node_eviction_rate,
        State::Partial => 0.0,
    };
    counts.iter().map(|(zone, count)| (zone.clone(), rate(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn rates_fall_with_the_share_of_dead_nodes() {
        let options = Options::parse_from(["kcm"]);
        let one = |ready: usize, not_ready: usize| {
            rates(&[("a".to_owned(), (ready, not_ready)), ("b".to_owned(), (3, 0))].into(), &options)["a"]
        };
        assert_eq!(one(9, 1), 0.1);
        assert_eq!(one(2, 4), 0.0, "a small cluster, most of it down");
        assert_eq!(one(20, 40), 0.01);
        assert_eq!(one(0, 4), 0.1, "the whole zone is down and others are not");
        assert_eq!(rates(&[("a".to_owned(), (0, 4))].into(), &options)["a"], 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_rate() {
        let mut zones = Zones { rates: [("a".to_owned(), 0.1)].into(), ..Zones::default() };
        assert!(zones.take("a", Instant::now()));
        assert!(!zones.take("a", Instant::now()));
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        assert!(zones.take("a", Instant::now()));
        assert!(!zones.take("unknown", Instant::now()));
    }
}
