//! Where pods may go: affinity, tolerations, spreading.
//!
//! Upstream: validateAffinity, ValidateTolerations, validateTopologySpreadConstraints

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::identifier;
use crate::tree::Tree;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity`.
pub fn affinity(affinity: &Value, path: &Path, errors: &mut Errors) {
    if affinity.is_null() {
        return;
    }
    let node = affinity.at("nodeAffinity");
    let node_path = path.child("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(node.at(REQUIRED), &node_path.child(REQUIRED), errors);
    }
    for (index, term) in node.items(PREFERRED).iter().enumerate() {
        let path = node_path.child(PREFERRED).index(index);
        weight(term, &path, errors);
        node_selector_term(term.at("preference"), &path.child("preference"), errors);
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        let part = affinity.at(key);
        let path = path.child(key);
        for (index, term) in part.items(REQUIRED).iter().enumerate() {
            pod_term(term, &path.child(REQUIRED).index(index), errors);
        }
        for (index, term) in part.items(PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(term, &path, errors);
            pod_term(term.at("podAffinityTerm"), &path.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut Errors) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A node selector: at least one term.
pub fn node_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("nodeSelectorTerms");
    if selector.items("nodeSelectorTerms").is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in selector.items("nodeSelectorTerms").iter().enumerate() {
        node_selector_term(term, &path.index(index), errors);
    }
}

fn node_selector_term(term: &Value, path: &Path, errors: &mut Errors) {
    for (index, requirement) in term.items("matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = requirement.items("values");
        let operator = requirement.text("operator");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
        check::qualified(requirement.text("key"), &path.child("key"), errors);
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            check::each(identifier::label_value(value), value, &path.child("values").index(index), errors);
        }
    }
    for (index, requirement) in term.items("matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(index);
        let values = requirement.items("values");
        match requirement.text("operator") {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    errors.required(
                        &path.child("values"),
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    );
                }
            }
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        match requirement.text("key") {
            "metadata.name" => {
                for (index, value) in values.iter().enumerate() {
                    check::subdomain(value.as_str().unwrap_or(""), &path.child("values").index(index), errors);
                }
            }
            key => errors.invalid(&path.child("key"), key, "not a valid field selector key"),
        }
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut Errors) {
    check::label_selector(term.at("labelSelector"), &path.child("labelSelector"), errors);
    check::label_selector(term.at("namespaceSelector"), &path.child("namespaceSelector"), errors);
    for namespace in term.items("namespaces") {
        let namespace = namespace.as_str().unwrap_or("");
        check::each(identifier::dns1123_label(namespace), namespace, &path.child("namespace"), errors);
    }
    for key in ["matchLabelKeys", "mismatchLabelKeys"] {
        label_keys(term, key, path, errors);
    }
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    check::qualified(key, &path.child("topologyKey"), errors);
}

fn label_keys(holder: &Value, field: &str, path: &Path, errors: &mut Errors) {
    let keys = holder.items(field);
    if keys.is_empty() {
        return;
    }
    let path = path.child(field);
    if holder.at("labelSelector").is_null() {
        errors.forbidden(&path, "must not be specified when labelSelector is not set");
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        check::qualified(key.as_str().unwrap_or(""), &path.index(index), errors);
    }
}

/// The effect of a taint or toleration.
pub fn taint_effect(effect: &str, may_be_empty: bool, path: &Path, errors: &mut Errors) {
    match effect {
        "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
        "" if may_be_empty => {}
        "" => errors.required(path, ""),
        other => errors.not_one_of(path, other, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    }
}

/// `tolerations`.
pub fn tolerations(tolerations: &[Value], path: &Path, errors: &mut Errors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, operator, effect) = (toleration.text("key"), toleration.text("operator"), toleration.text("effect"));
        if !key.is_empty() {
            check::qualified(key, &path.child("key"), errors);
        } else if operator != "Exists" {
            errors.invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        let value = toleration.text("value");
        match operator {
            "Equal" | "" => {
                let messages = identifier::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(&path.child("operator"), value, messages.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(
                        &path.child("operator"),
                        toleration.clone(),
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            other => errors.not_one_of(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(effect, true, &path.child("effect"), errors);
        }
    }
}

/// `topologySpreadConstraints`.
pub fn spread(constraints: &[Value], path: &Path, errors: &mut Errors) {
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let skew = constraint.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&path.child("maxSkew"), skew, "must be greater than zero");
        }
        let (key, when) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(&path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let repeated = constraints[index + 1..]
            .iter()
            .any(|other| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == when);
        if repeated {
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {when}}}"));
        }
        if let Some(domains) = constraint.int("minDomains") {
            if domains <= 0 {
                errors.invalid(&path.child("minDomains"), domains, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                errors.invalid(
                    &path.child("minDomains"),
                    domains,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"),
                );
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let value = constraint.text(field);
            if constraint.has(field) && !matches!(value, "Honor" | "Ignore") {
                errors.not_supported(&path.child(field), value, &["Honor", "Ignore"]);
            }
        }
        label_keys(constraint, "matchLabelKeys", &path, errors);
        check::label_selector(constraint.at("labelSelector"), &path.child("labelSelector"), errors);
    }
}
