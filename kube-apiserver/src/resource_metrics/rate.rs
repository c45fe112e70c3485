//! Counters of two readings to rates. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

/// One value of a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Seconds of CPU so far, and when they were read (milliseconds of the epoch).
    pub cpu: Option<(f64, i64)>,
    /// Bytes of the working set.
    pub memory: Option<f64>,
    /// Seconds of the epoch.
    pub started: Option<f64>,
}

/// Namespace, pod, container; all empty for the node.
pub type Key = (String, String, String);
/// What a kubelet told at one time.
pub type Reading = HashMap<Key, Point>;

/// Usage between two readings.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Billionths of a core.
    pub nano_cores: u64,
    /// Bytes.
    pub memory: u64,
    /// Of the later reading.
    pub at: Timestamp,
    /// Between the readings.
    pub window: Duration,
}

/// What runs on a node uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// The node.
    pub node: Option<Usage>,
    /// Containers by (namespace, pod) and name.
    pub pods: HashMap<(String, String), BTreeMap<String, Usage>>,
}

/// Reads `/metrics/resource` of a kubelet: `name{labels} value [milliseconds]`. `now` stands in for a missing time.
pub fn parse(text: &str, now: i64) -> Reading {
    let mut out = Reading::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels, rest) = match line.split_once('{') {
            Some((name, rest)) => match rest.split_once('}') {
                Some((labels, rest)) => (name, labels, rest),
                None => continue,
            },
            None => match line.split_once(' ') {
                Some((name, rest)) => (name, "", rest),
                None => continue,
            },
        };
        let mut numbers = rest.split_whitespace();
        let Some(value) = numbers.next().and_then(|text| text.parse::<f64>().ok()).filter(|value| value.is_finite()) else {
            continue;
        };
        let at = numbers.next().and_then(|text| text.parse().ok()).unwrap_or(now);
        let of_node = name.starts_with("node_");
        if !of_node && !name.starts_with("container_") {
            continue;
        }
        let label = |wanted: &str| {
            let mut pairs = labels.split(',').filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(key, _)| *key == wanted).map_or(String::new(), |(_, value)| value.trim_matches('"').to_owned())
        };
        let point = out.entry((label("namespace"), label("pod"), label("container"))).or_default();
        match name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => point.cpu = Some((value, at)),
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => point.memory = Some(value),
            "container_start_time_seconds" => point.started = Some(value),
            _ => {}
        }
    }
    out
}

/// The rates between two readings. A container that started between them counts from its start.
pub fn rates(before: &Reading, after: &Reading) -> Rates {
    let mut out = Rates::default();
    for (key, point) in after {
        let Some(usage) = between(before.get(key), point) else { continue };
        if key.1.is_empty() {
            out.node = Some(usage);
        } else {
            out.pods.entry((key.0.clone(), key.1.clone())).or_default().insert(key.2.clone(), usage);
        }
    }
    out
}

fn between(before: Option<&Point>, after: &Point) -> Option<Usage> {
    /// A rate over less says little. Upstream's metrics-server asks for 10 s of life where there is no earlier reading.
    const LEAST_MILLIS: i64 = 500;
    let (cpu, at) = after.cpu?;
    let same_run = |before: &&Point| match (before.started, after.started) {
        (Some(a), Some(b)) => (a - b).abs() < 1.0,
        _ => true,
    };
    let earlier = before.filter(same_run).and_then(|point| point.cpu).filter(|(seconds, then)| *seconds <= cpu && *then < at);
    let (used, millis) = match (earlier, after.started) {
        (Some((seconds, then)), _) => (cpu - seconds, at - then),
        (None, Some(started)) => (cpu, at - (started * 1000.0) as i64),
        (None, None) => return None,
    };
    if millis < LEAST_MILLIS {
        return None;
    }
    Some(Usage {
        nano_cores: (used / millis as f64 * 1e12) as u64,
        memory: after.memory? as u64,
        at: Timestamp::from_millisecond(at).ok()?,
        window: Duration::from_millis(u64::try_from(millis).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(cpu: f64, at: i64, started: f64) -> Reading {
        let text = format!(
            "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {cpu} {at}\nnode_memory_working_set_bytes 1.024e+03 {at}\n\
             container_cpu_usage_seconds_total{{container=\"c\",namespace=\"ns\",pod=\"p\"}} {cpu} {at}\n\
             container_memory_working_set_bytes{{container=\"c\",namespace=\"ns\",pod=\"p\"}} 2048 {at}\n\
             container_start_time_seconds{{container=\"c\",namespace=\"ns\",pod=\"p\"}} {started}\n\
             pod_cpu_usage_seconds_total{{namespace=\"ns\",pod=\"p\"}} 9 {at}\nbroken{{\n"
        );
        parse(&text, 0)
    }

    #[test]
    fn rates_are_what_was_used_between_the_readings() {
        let got = rates(&reading(10.0, 100_000, 50.0), &reading(12.0, 110_000, 50.0));
        let node = got.node.unwrap();
        assert_eq!((node.nano_cores, node.memory, node.window), (200_000_000, 1024, Duration::from_secs(10)));
        assert_eq!(got.pods[&("ns".to_owned(), "p".to_owned())]["c"].memory, 2048);
        assert_eq!(got.pods.len(), 1);
    }

    #[test]
    fn a_restarted_container_counts_from_its_start_and_a_repeated_reading_says_nothing() {
        let container = |rates: Rates| rates.pods.into_values().next().and_then(|mut pod| pod.remove("c"));
        let restarted = rates(&reading(10.0, 100_000, 50.0), &reading(1.0, 110_000, 105.0));
        assert_eq!(container(restarted).map(|usage| usage.nano_cores), Some(200_000_000));
        let young = rates(&reading(10.0, 100_000, 50.0), &reading(0.1, 110_000, 109.9));
        assert_eq!(container(young), None, "too young for a rate");
        assert_eq!(rates(&reading(10.0, 100_000, 50.0), &reading(10.0, 100_000, 50.0)).node, None);
    }
}
