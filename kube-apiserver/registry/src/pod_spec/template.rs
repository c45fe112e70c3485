//! Validation of pod templates, and of templates with the selector that must find their pods.
//!
//! Upstream: ValidatePodTemplateSpec, ValidatePodTemplateSpecForReplicaSet

use api::field::{Errors, Path};
use serde_json::Value;

use super::validate;
use crate::check;
use crate::metadata::{validate_annotations, validate_labels};
use crate::tree::Tree;

/// A template by itself. Labels are told at `template.labels`, as upstream does.
pub fn template(template: &Value, path: &Path, errors: &mut Errors) {
    validate_labels(template.path("metadata.labels"), &path.child("labels"), errors);
    validate_annotations(template.path("metadata.annotations"), &path.child("annotations"), errors);
    validate::pod_spec(template.at("spec"), &path.child("spec"), errors);
    if template.at("spec").len_of("ephemeralContainers") > 0 {
        errors.forbidden(&path.child("spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Whether a selector finds the template's pods.
pub fn matches(selector: &Value, template: &Value, path: &Path, errors: &mut Errors) {
    let labels = template.path("metadata.labels");
    if check::selects(selector, labels) == Some(false) {
        errors.invalid(&path.child("metadata.labels"), labels.clone(), "`selector` does not match template `labels`");
    }
}

/// Pods of controllers that replace them: always restarted, without deadline.
pub fn always_restarted(template: &Value, owner: &str, path: &Path, errors: &mut Errors) {
    let policy = template.at("spec").text("restartPolicy");
    if policy != "Always" {
        errors.not_one_of(&path.child("spec.restartPolicy"), policy, &["Always"]);
    }
    if template.at("spec").has("activeDeadlineSeconds") {
        errors.forbidden(&path.child("spec.activeDeadlineSeconds"), format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}
