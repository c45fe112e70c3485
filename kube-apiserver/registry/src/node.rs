//! The node.k8s.io group.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::metadata::immutable_text;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// RuntimeClasses.
pub fn runtime_class(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            immutable_text(new.text("handler"), old.text("handler"), &Path::new("handler"), errors);
        },
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text(
            "Handler",
            "handler specifies the underlying runtime and configuration that the CRI implementation will use to handle pods of this class.",
            |object, _| object.text("handler").into(),
        ),
        column::age(),
    ];
}

fn validate(object: &Value, errors: &mut Errors) {
    let handler = object.text("handler");
    if handler.is_empty() {
        errors.required(&Path::new("handler"), "");
    } else {
        check::label_name(handler, &Path::new("handler"), errors);
    }
    if object.has("overhead") {
        let wrapped = serde_json::json!({"limits": object.path("overhead.podFixed")});
        crate::pod_spec::resources::requirements(&wrapped, &[], &Path::new("overhead.podFixed"), errors);
    }
    let scheduling = object.at("scheduling");
    if !scheduling.is_null() {
        crate::metadata::validate_labels(scheduling.at("nodeSelector"), &Path::new("scheduling.nodeSelector"), errors);
        crate::pod_spec::affinity::tolerations(scheduling.items("tolerations"), &Path::new("scheduling.tolerations"), errors);
    }
}
