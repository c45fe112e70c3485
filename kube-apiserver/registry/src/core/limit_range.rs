//! LimitRanges.
//!
//! Upstream: pkg/registry/core/limitrange, ValidateLimitRange

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column;
use crate::pod_spec::defaults::resource_list;
use crate::pod_spec::resources::limit_range_name;
use crate::quantity;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of LimitRanges.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        create: |_, object| {
            // A nameless LimitRange gets a name.
            if object.at("metadata").text("name").is_empty() {
                object.child("metadata").set("name", crate::metadata::random_suffix(10));
            }
        },
        default,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![column::name(), column::created_at()];
}

/// A container's default limit comes from its maximum; its default request from the default limit, then from the minimum.
fn default(object: &mut Value) {
    for item in object.child("spec").items_mut("limits") {
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = item.child_if(key) {
                resource_list(list);
            }
        }
        if item.text("type") != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            for (name, amount) in item.at(from).as_object().cloned().unwrap_or_default() {
                item.child(to).fill(&name, amount);
            }
        }
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, limit) in object.at("spec").items("limits").iter().enumerate() {
        let path = Path::new("spec.limits").index(index);
        let kind = limit.text("type");
        let complaints = errors.0.len();
        check::qualified(kind, &path.child("type"), errors);
        let known = matches!(kind, "Container" | "PersistentVolumeClaim" | "Pod") || kind.contains('/');
        if errors.0.len() == complaints && !known {
            errors.invalid(&path.child("type"), kind, "must be a standard limit type or fully qualified");
        }
        if seen.contains(&kind) {
            errors.duplicate(&path.child("type"), kind);
        }
        seen.push(kind);
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if kind == "Pod" && matches!(key, "default" | "defaultRequest") {
                if limit.len_of(key) > 0 {
                    errors.forbidden(&path.child(key), "may not be specified when `type` is 'Pod'");
                }
                continue;
            }
            for (name, _) in limit.entries(key) {
                limit_range_name(name, kind == "Container", &path.child(key).key(name), errors);
            }
        }
        if kind == "PersistentVolumeClaim" && !limit.at("min").has("storage") && !limit.at("max").has("storage") {
            errors
                .required(&path.child("limits"), "either minimum or maximum storage value is required, but neither was provided");
        }
        bounds(limit, &path, errors);
    }
}

fn bounds(limit: &Value, path: &Path, errors: &mut Errors) {
    let mut names: Vec<&str> = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]
        .iter()
        .flat_map(|key| limit.entries(key))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let text = |key: &str| limit.at(key).text(name).to_owned();
        let greater = |a: &str, b: &str| match (quantity::parse(limit.at(a).at(name)), quantity::parse(limit.at(b).at(name))) {
            (Some(a), Some(b)) => a > b,
            _ => false,
        };
        for (big, small, at, words) in [
            ("min", "max", "min", "min value {a} is greater than max value {b}"),
            ("min", "defaultRequest", "defaultRequest", "min value {a} is greater than default request value {b}"),
            ("defaultRequest", "max", "defaultRequest", "default request value {a} is greater than max value {b}"),
            ("defaultRequest", "default", "defaultRequest", "default request value {a} is greater than default limit value {b}"),
            ("min", "default", "default", "min value {a} is greater than default value {b}"),
            ("default", "max", "default", "default value {a} is greater than max value {b}"),
        ] {
            if greater(big, small) {
                let why = words.replace("{a}", &text(big)).replace("{b}", &text(small));
                errors.invalid(&path.child(at).key(name), text(at), why);
            }
        }
        if let Some(ratio) = quantity::parse(limit.at("maxLimitRequestRatio").at(name)) {
            let at = path.child("maxLimitRequestRatio").key(name);
            if quantity::millis(ratio) < 1000 {
                errors.invalid(
                    &at,
                    text("maxLimitRequestRatio"),
                    format!("ratio {} is less than 1", text("maxLimitRequestRatio")),
                );
            }
        }
    }
}
