//! From measured values to a number of replicas.
//!
//! Upstream: pkg/controller/podautoscaler/replica_calculator.go

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pods;

/// One pod's value, in thousandths, and when it was measured over which window.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub milli: i64,
    pub at: Timestamp,
    pub window: Duration,
}

pub type Samples = BTreeMap<String, Sample>;

/// How exact to be, and whom to believe.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A ratio that is this much above one is no reason to grow.
    pub up_tolerance: f64,
    pub down_tolerance: f64,
    pub cpu_initialization: Duration,
    pub initial_readiness: Duration,
}

impl Rules {
    fn tolerates(&self, ratio: f64) -> bool {
        (1.0 - self.down_tolerance..=1.0 + self.up_tolerance).contains(&ratio)
    }
}

#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: Vec<String>,
    missing: Vec<String>,
    ignored: Vec<String>,
}

fn group(all: &[Arc<Pod>], samples: &Samples, is_cpu: bool, rules: &Rules, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    let past = |at: Timestamp, wait: Duration| at + SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    for pod in all {
        let name = pod.name_any();
        if pods::is_deleting(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.push(name);
            continue;
        }
        if pods::phase(pod) == "Pending" {
            groups.unready.push(name);
            continue;
        }
        let Some(sample) = samples.get(&name) else {
            groups.missing.push(name);
            continue;
        };
        let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let ready = pods::condition(pod, "Ready");
        let unready = is_cpu
            && match (ready, start) {
                (Some(ready), Some(start)) => {
                    let changed = ready.last_transition_time.as_ref().map_or(start, |time| time.0);
                    let down = ready.status == "False";
                    if past(start, rules.cpu_initialization) > now {
                        // While it starts, a value counts only if it was measured wholly after the last change.
                        down || sample.at < past(changed, sample.window)
                    } else {
                        down && past(start, rules.initial_readiness) > changed
                    }
                }
                _ => true,
            };
        if unready { groups.unready.push(name) } else { groups.ready += 1 }
    }
    groups
}

/// A target for each pod: either a share of what it requests, or a plain value.
pub enum Target<'a> {
    /// Percent of each pod's request (thousandths, by name).
    Utilization { percent: i32, requests: &'a BTreeMap<String, i64> },
    /// Thousandths.
    Average { milli: i64 },
}

/// The proposal, with the current average: (replicas, percent where there is one, thousandths).
#[derive(Debug, PartialEq)]
pub struct Proposal {
    pub replicas: i32,
    pub percent: Option<i32>,
    pub average: i64,
}

/// # Errors
/// Nothing was measured, or a request is missing.
pub fn per_pod(
    current: i32,
    all: &[Arc<Pod>],
    mut samples: Samples,
    target: &Target<'_>,
    is_cpu: bool,
    rules: &Rules,
    now: Timestamp,
) -> Result<Proposal, String> {
    let groups = group(all, &samples, is_cpu, rules, now);
    samples.retain(|name, _| all.iter().any(|pod| pod.name_any() == *name));
    for name in groups.unready.iter().chain(&groups.ignored) {
        samples.remove(name);
    }
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let mut values: BTreeMap<String, i64> = samples.iter().map(|(name, sample)| (name.clone(), sample.milli)).collect();
    let ratio = |values: &BTreeMap<String, i64>| ratio(values, target);
    let (first, percent, average) = ratio(&values)?;
    let grow_unready = !groups.unready.is_empty() && first > 1.0;
    if !grow_unready && groups.missing.is_empty() {
        let replicas = if rules.tolerates(first) { current } else { ceil(first * count(groups.ready)) };
        return Ok(Proposal { replicas, percent, average });
    }
    // Who says nothing is taken to confirm the status quo: idle before growing, busy before shrinking.
    for name in &groups.missing {
        let assumed = match target {
            _ if first > 1.0 => 0,
            Target::Utilization { percent, requests } => {
                requests.get(name).copied().unwrap_or(0) * i64::from((*percent).max(100)) / 100
            }
            Target::Average { milli } => *milli,
        };
        values.insert(name.clone(), assumed);
    }
    if grow_unready {
        values.extend(groups.unready.iter().map(|name| (name.clone(), 0)));
    }
    let (second, ..) = ratio(&values)?;
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    let proposed = ceil(second * count(values.len()));
    let wrong_way = (second < 1.0 && proposed > current) || (second > 1.0 && proposed < current);
    let replicas = if rules.tolerates(second) || turned || wrong_way { current } else { proposed };
    Ok(Proposal { replicas, percent, average })
}

fn ratio(values: &BTreeMap<String, i64>, target: &Target<'_>) -> Result<(f64, Option<i32>, i64), String> {
    let total: i64 = values.values().sum();
    let average = total / i64::try_from(values.len()).unwrap_or(1).max(1);
    #[allow(clippy::cast_precision_loss)] // measured values
    Ok(match target {
        Target::Utilization { percent, requests } => {
            let mut requested = 0;
            for name in values.keys() {
                requested += requests.get(name).ok_or_else(|| format!("missing request for Pod {name}"))?;
            }
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let used = i32::try_from(total * 100 / requested).unwrap_or(i32::MAX);
            (f64::from(used) / f64::from((*percent).max(1)), Some(used), average)
        }
        Target::Average { milli } => (average as f64 / (*milli).max(1) as f64, None, average),
    })
}

/// A value for the whole (an object, a queue) against a target for the whole.
pub fn whole(current: i32, ready: usize, milli: i64, target: i64, rules: &Rules) -> i32 {
    #[allow(clippy::cast_precision_loss)]
    let ratio = milli as f64 / target.max(1) as f64;
    if current == 0 {
        return ceil(ratio);
    }
    if rules.tolerates(ratio) { current } else { ceil(ratio * count(ready)) }
}

/// A value for the whole against a target for each replica.
pub fn shared(current: i32, milli: i64, target: i64, rules: &Rules) -> i32 {
    #[allow(clippy::cast_precision_loss)]
    let needed = milli as f64 / target.max(1) as f64;
    if current != 0 && rules.tolerates(needed / f64::from(current)) { current } else { ceil(needed) }
}

fn count(length: usize) -> f64 {
    f64::from(u32::try_from(length).unwrap_or(u32::MAX))
}

#[allow(clippy::cast_possible_truncation)] // `as` saturates
fn ceil(value: f64) -> i32 {
    value.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RULES: Rules = Rules {
        up_tolerance: 0.1,
        down_tolerance: 0.1,
        cpu_initialization: Duration::from_secs(300),
        initial_readiness: Duration::from_secs(30),
    };

    fn pod(n: usize, phase: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("p{n}")}, "status": {"phase": phase, "startTime": "2024-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": if phase == "Running" {"True"} else {"False"}, "lastTransitionTime": "2024-01-01T00:00:30Z"}]}})).unwrap())
    }

    fn run(values: &[Option<i64>], pending: usize, percent: i32) -> Result<i32, String> {
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().unwrap();
        let mut pods: Vec<_> = (0..values.len()).map(|n| pod(n, "Running")).collect();
        pods.extend((0..pending).map(|n| pod(values.len() + n, "Pending")));
        let samples = values.iter().enumerate().filter_map(|(n, milli)| {
            Some((format!("p{n}"), Sample { milli: (*milli)?, at: now, window: Duration::from_secs(60) }))
        });
        let requests = (0..pods.len()).map(|n| (format!("p{n}"), 1000)).collect();
        let current = i32::try_from(pods.len()).unwrap();
        per_pod(current, &pods, samples.collect(), &Target::Utilization { percent, requests: &requests }, true, &RULES, now)
            .map(|p| p.replicas)
    }

    #[test]
    fn utilization_gives_the_replicas_upstream_gives() {
        // The cases of upstream's TestReplicaCalc*.
        assert_eq!(run(&[Some(300), Some(500), Some(700)], 0, 30), Ok(5));
        assert_eq!(run(&[Some(500), Some(700)], 1, 30), Ok(4));
        assert_eq!(run(&[Some(100), Some(300), Some(500), Some(250), Some(250)], 0, 50), Ok(3));
        assert_eq!(run(&[Some(510), Some(490), Some(500)], 0, 50), Ok(3));
        assert_eq!(run(&[Some(600), None, Some(800)], 0, 50), Ok(3));
        assert!(run(&[None, None], 0, 50).is_err());
    }

    #[test]
    fn values_of_the_whole_are_shared_out() {
        assert_eq!(whole(3, 3, 20_000, 15_000, &RULES), 4);
        assert_eq!(whole(3, 3, 15_500, 15_000, &RULES), 3);
        assert_eq!(shared(3, 8_600, 2_150, &RULES), 4);
        assert_eq!(shared(4, 8_600, 2_150, &RULES), 4);
        assert_eq!(shared(0, 8_600, 2_150, &RULES), 4);
    }
}
