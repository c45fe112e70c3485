//! Which pods end when the machine goes down, and how long they have. Pure.
//!
//! Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager.go

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::config::KubeletConfiguration;
use crate::pod::{self, spec};

/// A line of `shutdownGracePeriodByPodPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Line {
    /// From this priority on.
    pub priority: i32,
    /// What these pods have.
    pub shutdown_grace_period_seconds: i64,
}

/// Pods that end together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Seconds they have.
    pub seconds: i64,
    /// The pods, with the grace period of each.
    pub pods: Vec<(Arc<Pod>, i64)>,
}

/// The lines in force, from the lowest priority up; none where shutdowns are not waited for.
///
/// # Errors
/// The settings contradict each other.
pub fn lines(config: &KubeletConfiguration) -> Result<Vec<Line>, String> {
    let by_priority = config.other.get("shutdownGracePeriodByPodPriority").filter(|value| !value.is_null());
    let mut lines: Vec<Line> = match by_priority {
        Some(value) => {
            serde_json::from_value(value.clone()).map_err(|error| format!("shutdownGracePeriodByPodPriority: {error}"))?
        }
        None => Vec::new(),
    };
    let (all, critical) = (config.shutdown_grace_period.0.as_secs(), config.shutdown_grace_period_critical_pods.0.as_secs());
    if critical > all {
        return Err(format!("shutdownGracePeriodCriticalPods {critical}s must be <= ShutdownGracePeriod {all}s"));
    }
    if !lines.is_empty() {
        if all > 0 || critical > 0 {
            return Err("Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".into());
        }
        if lines.iter().any(|line| line.shutdown_grace_period_seconds < 0) {
            return Err("shutdownGracePeriodByPodPriority must not hold negative periods".into());
        }
    } else if all > 0 {
        const CRITICAL: i32 = 2_000_000_000;
        let seconds = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        lines.push(Line { priority: 0, shutdown_grace_period_seconds: seconds(all - critical) });
        lines.push(Line { priority: CRITICAL, shutdown_grace_period_seconds: seconds(critical) });
    }
    lines.sort_by_key(|line| line.priority);
    Ok(lines)
}

/// Seconds that a shutdown takes at most.
pub fn total(lines: &[Line]) -> i64 {
    lines.iter().map(|line| line.shutdown_grace_period_seconds).sum()
}

/// The pods by line, lowest first: each under the highest line not above its priority, those below all under the first.
pub fn groups(lines: &[Line], pods: Vec<Arc<Pod>>) -> Vec<Group> {
    let mut out: Vec<Group> =
        lines.iter().map(|line| Group { seconds: line.shutdown_grace_period_seconds, pods: Vec::new() }).collect();
    for pod in pods {
        let priority = spec(&pod).priority.unwrap_or(0);
        let index = lines.iter().rposition(|line| line.priority <= priority).unwrap_or(0);
        let Some(group) = out.get_mut(index) else { continue };
        let grace = pod::grace_period_seconds(&pod).min(group.seconds);
        group.pods.push((pod, grace));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: serde_json::Value) -> KubeletConfiguration {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn both_ways_to_configure_make_lines() {
        let of = |value| {
            lines(&config(value))
                .map(|lines| lines.iter().map(|line| (line.priority, line.shutdown_grace_period_seconds)).collect::<Vec<_>>())
        };
        assert_eq!(of(json!({})).unwrap(), []);
        let both = json!({"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"});
        assert_eq!(of(both).unwrap(), [(0, 20), (2_000_000_000, 10)]);
        let by_priority = json!({"shutdownGracePeriodByPodPriority": [{"priority": 1000, "shutdownGracePeriodSeconds": 5}, {"priority": 0, "shutdownGracePeriodSeconds": 60}]});
        assert_eq!(of(by_priority).unwrap(), [(0, 60), (1000, 5)]);
        assert!(of(json!({"shutdownGracePeriod": "5s", "shutdownGracePeriodCriticalPods": "10s"})).is_err());
        assert!(of(json!({"shutdownGracePeriod": "5s", "shutdownGracePeriodByPodPriority": [{"priority": 0, "shutdownGracePeriodSeconds": 5}]})).is_err());
    }

    #[test]
    fn pods_end_with_their_line_and_no_later_than_it() {
        let pod = |name: &str, priority: i32, grace: i64| -> Arc<Pod> {
            let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
        };
        let line = |priority, shutdown_grace_period_seconds| Line { priority, shutdown_grace_period_seconds };
        let lines = [line(0, 20), line(1000, 10)];
        let got = groups(&lines, vec![pod("a", 0, 30), pod("b", 1000, 5), pod("c", -5, 30), pod("d", 5000, 30)]);
        let shown: Vec<Vec<(&str, i64)>> =
            got.iter().map(|group| group.pods.iter().map(|(pod, grace)| (pod::name(pod), *grace)).collect()).collect();
        assert_eq!(shown, [vec![("a", 20), ("c", 20)], vec![("b", 5), ("d", 10)]]);
    }
}
