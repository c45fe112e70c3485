//! The apps group.

pub mod controller_revision;
pub mod daemon_set;
pub mod deployment;
pub mod replica_set;
pub mod stateful_set;

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::pod_spec::template;
use crate::tree::Tree;

/// `selector` and `template` of a controller that makes pods: the selector must be there, valid, not empty, and find the pods.
fn selector_and_template(spec: &Value, owner: &str, invalid: &str, path: &Path, errors: &mut Errors) {
    let selector = spec.at("selector");
    let at = path.child("selector");
    if selector.is_null() {
        errors.required(&at, "");
    } else {
        check::label_selector(selector, &at, errors);
        if check::is_empty_selector(selector) {
            check::invalid_selector(selector, &at, &format!("empty selector is invalid for {owner}"), errors);
        }
    }
    if !selector.is_null() && check::selects(selector, &Value::Null).is_none() {
        check::invalid_selector(selector, &at, invalid, errors);
        return;
    }
    let at = path.child("template");
    template::matches(selector, spec.at("template"), &at, errors);
    template::template(spec.at("template"), &at, errors);
}
