//! The difference between two statuses as a strategic merge patch that touches nothing of others. Pure.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use super::conditions::{OWNED, PASSING};

/// The patch for `pods/status`, or `None` where the server's status already says the same.
/// `old` is the status as the server has it, `new` is ours.
pub fn between(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return None;
    };
    let mut out = Map::new();
    for (key, value) in &new {
        if key != "conditions" && old.get(key) != Some(value) {
            match (key.as_str(), old.get(key)) {
                // Merged by address: the old ones must be taken out.
                ("podIPs", Some(Value::Array(before))) if !before.is_empty() => {
                    let mut list = value.as_array().cloned().unwrap_or_default();
                    list.insert(0, json!({"$patch": "replace"}));
                    out.insert(key.clone(), list.into());
                }
                _ => {
                    out.insert(key.clone(), value.clone());
                }
            }
        }
    }
    // Ours and gone.
    const OURS: &[&str] = &[
        "message",
        "reason",
        "podIP",
        "podIPs",
        "hostIP",
        "hostIPs",
        "initContainerStatuses",
        "containerStatuses",
        "ephemeralContainerStatuses",
    ];
    for key in OURS.iter().filter(|key| old.contains_key(**key) && !new.contains_key(**key)) {
        out.insert((*key).to_owned(), Value::Null);
    }
    let conditions = |of: &Map<String, Value>| of.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = conditions(&old);
    let changed: Vec<Value> = conditions(&new)
        .into_iter()
        .filter(|condition| OWNED.contains(&condition["type"].as_str().unwrap_or("")) || condition["type"] == "DisruptionTarget")
        .filter_map(|mut condition| {
            let was = before.iter().find(|was| was["type"] == condition["type"]);
            if was.is_some_and(|was| same_condition(was, &condition)) {
                return None;
            }
            for key in ["reason", "message"] {
                if was.is_some_and(|was| was.get(key).is_some()) && condition.get(key).is_none() {
                    condition[key] = Value::Null;
                }
            }
            Some(condition)
        })
        .collect();
    let now = conditions(&new);
    let has = |list: &[Value], kind: &str| list.iter().any(|condition| condition["type"] == kind);
    let passed = PASSING.iter().filter(|kind| has(&before, kind) && !has(&now, kind));
    let changed: Vec<Value> = changed.into_iter().chain(passed.map(|kind| json!({"type": kind, "$patch": "delete"}))).collect();
    if !changed.is_empty() {
        out.insert("conditions".to_owned(), changed.into());
    }
    if out.is_empty() { None } else { Some(json!({"metadata": {"uid": uid}, "status": out})) }
}

/// The same but for `lastProbeTime: null`, which servers add.
fn same_condition(a: &Value, b: &Value) -> bool {
    ["type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"]
        .iter()
        .all(|key| a.get(*key) == b.get(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_is_sent() {
        let old = status(json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": [
            {"type": "PodScheduled", "status": "True"}, {"type": "mine/x", "status": "True"}, {"type": "Ready", "status": "False", "reason": "R"}]}));
        let new = status(json!({"phase": "Running", "qosClass": "BestEffort", "podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]}));
        assert_eq!(
            between("u", &old, &new).unwrap(),
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}]}})
        );
        assert_eq!(between("u", &new, &new), None);
    }

    #[test]
    fn conditions_that_passed_are_taken_out() {
        let old =
            status(json!({"conditions": [{"type": "PodResizePending", "status": "True"}, {"type": "mine/x", "status": "True"}]}));
        let got = between("u", &old, &status(json!({}))).unwrap();
        assert_eq!(got["status"]["conditions"], json!([{"type": "PodResizePending", "$patch": "delete"}]));
    }

    #[test]
    fn lost_values_are_taken_back_and_addresses_replaced() {
        let old = status(json!({"message": "m", "podIPs": [{"ip": "1.1.1.1"}], "podIP": "1.1.1.1"}));
        let new = status(json!({"podIPs": [{"ip": "1.1.1.2"}], "podIP": "1.1.1.2"}));
        let got = between("u", &old, &new).unwrap();
        assert_eq!(got["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "1.1.1.2"}]));
        assert_eq!(got["status"]["message"], Value::Null);
        assert!(got["status"].as_object().unwrap().contains_key("message"));
    }
}
