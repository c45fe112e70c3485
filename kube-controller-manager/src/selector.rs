//! Label selectors as controllers meet them: already validated by the API server.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether `labels` satisfy `selector`. An empty selector matches everything; an unknown operator matches nothing.
/// Upstream: metav1.LabelSelectorAsSelector.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_label = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    by_label
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let among = |value: &String| requirement.values.iter().flatten().any(|v| v == value);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(among),
                "NotIn" => !value.is_some_and(among),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether the selector selects every object. Controllers refuse such selectors on workloads.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A plain `key=value` map as ReplicationControllers and Services have it; an absent or empty map matches nothing.
pub fn matches_map(selector: Option<&BTreeMap<String, String>>, labels: &BTreeMap<String, String>) -> bool {
    selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// The selector as a query string, for messages and `scale` subresources.
pub fn format(selector: &LabelSelector) -> String {
    let mut parts: Vec<String> = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    for requirement in selector.match_expressions.iter().flatten() {
        let values = || {
            let mut values = requirement.values.clone().unwrap_or_default();
            values.sort();
            values.join(",")
        };
        parts.push(match requirement.operator.as_str() {
            "In" => format!("{} in ({})", requirement.key, values()),
            "NotIn" => format!("{} notin ({})", requirement.key, values()),
            "DoesNotExist" => format!("!{}", requirement.key),
            _ => requirement.key.clone(),
        });
    }
    parts.sort();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requirements_follow_the_operators() {
        let labels: BTreeMap<String, String> =
            [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())].into();
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db", "web"]}]}), false),
            (json!({"matchExpressions": [{"key": "nope", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ] {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&parsed, &labels), expected, "{selector}");
        }
    }
}
