//! How fast and how hesitantly replicas may change.
//!
//! Upstream: normalizeDesiredReplicas(WithBehaviors) (pkg/controller/podautoscaler/horizontal.go)

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerSpec};

/// What happened to one target, newest last. Kept in memory, as upstream keeps it.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    /// (when, recommendation).
    pub recommendations: Vec<(Timestamp, i32)>,
    /// (when, change of replicas; negative for down).
    pub changes: Vec<(Timestamp, i32)>,
}

/// The longest that anything is remembered: the largest window and period that the API allows.
const KEEP: SignedDuration = SignedDuration::from_secs(3600);

impl Memory {
    pub fn forget_old(&mut self, now: Timestamp) {
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= KEEP);
        self.changes.retain(|(at, _)| now.duration_since(*at) <= KEEP);
    }
}

/// The replicas to have, with (status, reason, message) of the conditions `AbleToScale` (where stabilization spoke) and `ScalingLimited`.
#[derive(Debug, PartialEq)]
pub struct Limited {
    pub replicas: i32,
    pub stabilized: Option<(&'static str, &'static str)>,
    pub limited: Option<(&'static str, &'static str)>,
}

/// `window` is `--horizontal-pod-autoscaler-downscale-stabilization`, for autoscalers that do not set their own.
pub fn limit(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    wanted: i32,
    memory: &Memory,
    window: SignedDuration,
    now: Timestamp,
) -> Limited {
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let behavior = spec.behavior.as_ref();
    let up = behavior.and_then(|b| b.scale_up.as_ref());
    let down = behavior.and_then(|b| b.scale_down.as_ref());
    let seconds = |rules: Option<&HPAScalingRules>| rules.and_then(|rules| rules.stabilization_window_seconds);
    let up_window = SignedDuration::from_secs(seconds(up).unwrap_or(0).into());
    let down_window = seconds(down).map_or(window, |seconds| SignedDuration::from_secs(seconds.into()));
    let within = |span: SignedDuration| {
        memory.recommendations.iter().filter(move |(at, _)| now.duration_since(*at) < span).map(|(_, n)| *n).chain([wanted])
    };
    // Growing follows the least, shrinking the most of what was recommended lately.
    let (lowest, highest) = (within(up_window).min().unwrap_or(wanted), within(down_window).max().unwrap_or(wanted));
    let steady = if current < lowest {
        lowest
    } else if current > highest {
        highest
    } else {
        current
    };
    let stabilized = match () {
        () if steady > wanted => Some((
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )),
        () if steady < wanted => Some((
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )),
        () => Some(("ReadyForNewScale", "recommended size matches current size")),
    };
    let ceiling = if behavior.is_some() { up_limit(up, current, memory, now) } else { (current * 2).max(4) };
    let floor = if behavior.is_some() { down_limit(down, current, memory, now) } else { 0 };
    let (top, bottom) = (ceiling.max(current).min(max), floor.min(current).max(min));
    let (replicas, limited) = match () {
        () if steady > top && top == max => {
            (max, Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count")))
        }
        () if steady > top => {
            (top, Some(("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")))
        }
        () if steady < bottom && bottom == min => {
            (min, Some(("TooFewReplicas", "the desired replica count is less than the minimum replica count")))
        }
        () if steady < bottom => {
            (bottom, Some(("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")))
        }
        () => (steady, None),
    };
    Limited { replicas, stabilized, limited }
}

fn changed(memory: &Memory, period: i32, now: Timestamp, up: bool) -> i32 {
    let span = SignedDuration::from_secs(period.into());
    let recent = memory.changes.iter().filter(|(at, change)| now.duration_since(*at) < span && (*change > 0) == up);
    recent.map(|(_, change)| change.abs()).sum()
}

fn up_limit(rules: Option<&HPAScalingRules>, current: i32, memory: &Memory, now: Timestamp) -> i32 {
    let choice = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if choice == "Disabled" {
        return current;
    }
    let default = [("Pods", 4, 15), ("Percent", 100, 15)];
    let limits = policies(rules, &default).into_iter().map(|(type_, value, period)| {
        let start = current - changed(memory, period, now, true);
        match type_.as_str() {
            "Pods" => start.saturating_add(value),
            _ => i32::try_from((i64::from(start) * (100 + i64::from(value)) + 99).div_euclid(100)).unwrap_or(i32::MAX),
        }
    });
    if choice == "Min" { limits.min() } else { limits.max() }.unwrap_or(current)
}

fn down_limit(rules: Option<&HPAScalingRules>, current: i32, memory: &Memory, now: Timestamp) -> i32 {
    let choice = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if choice == "Disabled" {
        return current;
    }
    let limits = policies(rules, &[("Percent", 100, 15)]).into_iter().map(|(type_, value, period)| {
        let start = current + changed(memory, period, now, false);
        match type_.as_str() {
            "Pods" => start - value,
            _ => i32::try_from((i64::from(start) * (100 - i64::from(value))).div_euclid(100)).unwrap_or(0),
        }
    });
    // The greatest change is the lowest floor.
    if choice == "Min" { limits.max() } else { limits.min() }.unwrap_or(current)
}

fn policies(rules: Option<&HPAScalingRules>, default: &[(&str, i32, i32)]) -> Vec<(String, i32, i32)> {
    let given = rules.and_then(|rules| rules.policies.as_ref()).filter(|list| !list.is_empty());
    match given {
        Some(list) => list.iter().map(|policy| (policy.type_.clone(), policy.value, policy.period_seconds)).collect(),
        None => default.iter().map(|(type_, value, period)| ((*type_).to_owned(), *value, *period)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn changes_are_bounded_and_shrinking_hesitates() {
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().unwrap();
        let ago = |seconds: i64| now - SignedDuration::from_secs(seconds);
        let run = |behavior: Value, current: i32, wanted: i32, memory: &Memory| {
            let spec: HorizontalPodAutoscalerSpec = serde_json::from_value(
                json!({"maxReplicas": 50, "minReplicas": 2, "scaleTargetRef": {"kind": "x", "name": "y"}, "behavior": behavior}),
            )
            .unwrap();
            let out = limit(&spec, current, wanted, memory, SignedDuration::from_mins(5), now);
            (out.replicas, out.limited.map(|(reason, _)| reason))
        };
        let fresh = Memory::default();
        assert_eq!(run(Value::Null, 3, 20, &fresh), (6, Some("ScaleUpLimit")));
        assert_eq!(run(Value::Null, 1, 20, &fresh), (4, Some("ScaleUpLimit")));
        assert_eq!(run(Value::Null, 40, 99, &fresh), (50, Some("TooManyReplicas")));
        assert_eq!(run(Value::Null, 5, 1, &fresh), (2, Some("TooFewReplicas")));
        let busy = Memory { recommendations: vec![(ago(400), 30), (ago(100), 8)], ..Memory::default() };
        assert_eq!(run(Value::Null, 10, 3, &busy), (8, None));
        let slow = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}, "scaleDown": {"stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}});
        assert_eq!(run(slow.clone(), 10, 30, &fresh), (12, Some("ScaleUpLimit")));
        let just = Memory { changes: vec![(ago(30), 2)], ..Memory::default() };
        assert_eq!(run(slow.clone(), 12, 30, &just), (12, Some("ScaleUpLimit")));
        assert_eq!(run(slow, 20, 5, &fresh), (18, Some("ScaleDownLimit")));
        assert_eq!(run(json!({"scaleDown": {"selectPolicy": "Disabled"}}), 20, 5, &fresh).0, 20);
    }
}
