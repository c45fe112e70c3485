//! What may change in a pod: images, deadlines, tolerations; and more through subresources.
//!
//! Upstream: ValidatePodUpdate, ValidatePodStatusUpdate, ValidatePodEphemeralContainersUpdate, ValidatePodResize

use api::field::{Errors, Path};
use serde_json::Value;

use super::validate_spec;
use crate::check;
use crate::resource::Context;
use crate::tree::{Tree, same};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(context: &Context, new: &Value, old: &Value, errors: &mut Errors) {
    match context.subresource.as_str() {
        "" => pod(new, old, errors),
        "ephemeralcontainers" => ephemeral(new, old, errors),
        "resize" => resize(new, old, errors),
        _ => {}
    }
}

fn pod(new: &Value, old: &Value, errors: &mut Errors) {
    crate::metadata::validate_labels(new.path("metadata.labels"), &Path::new("metadata.labels"), errors);
    validate_spec(new, errors);
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    for key in ["containers", "initContainers"] {
        let path = path.child(key);
        if after.items(key).len() != before.items(key).len() {
            errors.forbidden(&path, "pod updates may not add or remove containers");
            return;
        }
        for (index, container) in after.items(key).iter().enumerate() {
            if container.text("image").trim().is_empty() {
                errors.required(&path.index(index).child("image"), "");
            }
        }
    }
    let deadline = path.child("activeDeadlineSeconds");
    match (after.int("activeDeadlineSeconds"), before.int("activeDeadlineSeconds")) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errors.invalid(&deadline, now, check::range_error(0, i64::from(i32::MAX)));
            return;
        }
        (Some(now), Some(then)) if then < now => {
            errors.invalid(&deadline, now, "must be less than or equal to previous value");
            return;
        }
        (None, Some(_)) => errors.invalid(&deadline, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
    let kept = |old: &Value| {
        after.items("tolerations").iter().any(|new| {
            let strip = |toleration: &Value| {
                let mut toleration = toleration.clone();
                toleration.drop("tolerationSeconds");
                toleration
            };
            strip(new) == strip(old)
        })
    };
    if !before.items("tolerations").iter().all(kept) {
        errors.forbidden(&path.child("tolerations"), "existing toleration can not be modified except its tolerationSeconds");
    }
    let gates =
        |spec: &Value| -> Vec<String> { spec.items("schedulingGates").iter().map(|gate| gate.text("name").to_owned()).collect() };
    let before_gates = gates(before);
    for (index, gate) in gates(after).iter().enumerate() {
        if !before_gates.contains(gate) {
            errors.forbidden(
                &path.child("schedulingGates").index(index).child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{gate}'"),
            );
        }
    }
    if same(after, before) {
        return;
    }
    let munged = munge(after, before, !before_gates.is_empty());
    if !same(&munged, before) {
        let difference = crate::difference::between("PodSpec", before, &munged);
        errors.forbidden(&path, format!("pod updates may not change fields other than {UPDATABLE}\n{difference}"));
    }
}

/// The new spec with everything that may change put back.
fn munge(after: &Value, before: &Value, gated: bool) -> Value {
    let mut out = after.clone();
    for key in ["containers", "initContainers"] {
        for (container, old) in out.items_mut(key).iter_mut().zip(before.items(key)) {
            container.keep("image", old);
        }
    }
    out.keep("activeDeadlineSeconds", before);
    out.keep("tolerations", before);
    out.keep("schedulingGates", before);
    if before.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0)
        && after.int("terminationGracePeriodSeconds") == Some(1)
    {
        out.keep("terminationGracePeriodSeconds", before);
    }
    if gated {
        // A pod that waits may still be told where to go, more narrowly.
        let narrower = before.entries("nodeSelector").iter().all(|(key, value)| after.at("nodeSelector").at(key) == *value);
        if narrower {
            out.keep("nodeSelector", before);
        }
        if before.path("affinity.nodeAffinity").is_null() {
            out.keep("affinity", before);
        }
    }
    out
}

fn ephemeral(new: &Value, old: &Value, errors: &mut Errors) {
    validate_spec(new, errors);
    let path = Path::new("spec.ephemeralContainers");
    for container in old.at("spec").items("ephemeralContainers") {
        let name = container.text("name");
        match new.at("spec").items("ephemeralContainers").iter().find(|other| other.text("name") == name) {
            None => errors.forbidden(&path, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(other) if !same(other, container) => {
                errors.forbidden(&path, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn resize(new: &Value, old: &Value, errors: &mut Errors) {
    validate_spec(new, errors);
    let path = Path::new("spec");
    if old.at("status").text("qosClass") != crate::pod_spec::qos::class(new.at("spec"))
        && !old.at("status").text("qosClass").is_empty()
    {
        errors.invalid(
            &path,
            crate::pod_spec::qos::class(new.at("spec")),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
}
