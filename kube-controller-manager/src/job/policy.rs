//! What a Job's failure and success policies say.
//!
//! Upstream: pkg/controller/job/{pod_failure_policy,success_policy}.go

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use super::indexes;
use crate::pods;

/// What the first matching rule makes of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    FailJob { message: String },
    FailIndex,
    Ignore,
    Count,
}

pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let Some(policy) = policy else { return Verdict::Count };
    if pods::phase(pod) != "Failed" {
        return Verdict::Count;
    }
    let place = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    for (at, rule) in policy.rules.iter().enumerate() {
        let cause = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(requirement), _) => by_exit_code(requirement, pod)
                .map(|(container, code)| format!("Container {container} for pod {place} failed with exit code {code}")),
            (None, Some(patterns)) => patterns
                .iter()
                .find(|pattern| {
                    let wanted = pattern.status.as_deref().unwrap_or("True");
                    pods::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted)
                })
                .map(|pattern| format!("Pod {place} has condition {}", pattern.type_)),
            (None, None) => None,
        };
        let Some(cause) = cause else { continue };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob { message: format!("{cause} matching FailJob rule at index {at}") },
            "FailIndex" => Verdict::FailIndex,
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn by_exit_code(requirement: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |container: &ContainerStatus| {
        container.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
    };
    let relevant = |container: &&ContainerStatus| requirement.container_name.as_ref().is_none_or(|name| *name == container.name);
    all.filter(relevant).find_map(|container| {
        let code = code(container).filter(|code| *code != 0)?;
        let listed = requirement.values.contains(&code);
        let matches = if requirement.operator == "NotIn" { !listed } else { listed };
        matches.then(|| (container.name.clone(), code))
    })
}

/// The message of the success rule that the succeeded indexes fulfil.
pub fn success(spec: &JobSpec, succeeded: &BTreeSet<i32>) -> Option<String> {
    let completions = spec.completions?;
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(at, rule)| {
        let wanted = rule.succeeded_indexes.as_ref().map(|text| indexes::parse(text, completions));
        let reached = match &wanted {
            Some(wanted) => succeeded.intersection(wanted).count(),
            None => succeeded.len(),
        };
        let needed = match (rule.succeeded_count, &wanted) {
            (Some(count), _) => usize::try_from(count).unwrap_or(0),
            (None, Some(wanted)) => wanted.len(),
            (None, None) => return None,
        };
        (reached >= needed).then(|| format!("Matched rules at index {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_first_matching_rule_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}}]}))
        .unwrap();
        let pod = |name: &str, code: i32, conditions: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "status": {"phase": "Failed", "conditions": conditions,
                "containerStatuses": [{"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}})).unwrap()
        };
        let message = "Container main for pod d/p failed with exit code 42 matching FailJob rule at index 1".to_owned();
        assert_eq!(judge(Some(&policy), &pod("main", 42, json!([]))), Verdict::FailJob { message });
        assert_eq!(
            judge(Some(&policy), &pod("main", 42, json!([{"type": "DisruptionTarget", "status": "True"}]))),
            Verdict::Ignore
        );
        assert_eq!(judge(Some(&policy), &pod("side", 42, json!([]))), Verdict::FailIndex);
        assert_eq!(judge(Some(&policy), &pod("side", 1, json!([]))), Verdict::Count);
        assert_eq!(judge(None, &pod("side", 1, json!([]))), Verdict::Count);
    }

    #[test]
    fn success_rules_count_indexes() {
        let spec = |rule: Value| -> JobSpec {
            serde_json::from_value(json!({"completions": 10, "template": {}, "successPolicy": {"rules": [rule]}})).unwrap()
        };
        let done: BTreeSet<i32> = [0, 2, 3].into();
        for (rule, expected) in [
            (json!({"succeededIndexes": "0,2"}), true),
            (json!({"succeededIndexes": "0-3"}), false),
            (json!({"succeededIndexes": "0-5", "succeededCount": 3}), true),
            (json!({"succeededCount": 3}), true),
            (json!({"succeededCount": 4}), false),
        ] {
            assert_eq!(success(&spec(rule.clone()), &done).is_some(), expected, "{rule}");
        }
    }
}
