//! ControllerRevisions.
//!
//! Upstream: pkg/registry/apps/controllerrevision, printControllerRevision

use api::field::Path;

use crate::check;
use crate::column::{self, integer, text};
use crate::metadata::immutable;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Columns of ControllerRevisions.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| {
            if !object.has("data") {
                errors.required(&Path::new("data"), "data is mandatory");
            } else if !object.at("data").is_object() {
                errors.required(&Path::new("data"), "data must be a valid JSON object");
            }
            check::non_negative(object.at("revision"), &Path::new("revision"), errors);
        },
        validate_update: |_, new, old, errors| {
            check::non_negative(new.at("revision"), &Path::new("revision"), errors);
            immutable(new.at("data"), old.at("data"), &Path::new("data"), errors);
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Controller", "Controller of the object", |object, _| controller(object).into()),
        integer("Revision", "Revision indicates the revision of the state represented by Data.", |object, _| {
            object.int("revision").unwrap_or(0).into()
        }),
        column::age(),
    ];
}

fn controller(object: &serde_json::Value) -> String {
    let Some(owner) = object.at("metadata").items("ownerReferences").iter().find(|owner| owner.truth("controller")) else {
        return "<none>".to_owned();
    };
    let (group, _) = crate::names::split_api_version(owner.text("apiVersion"));
    let kind = owner.text("kind").to_lowercase();
    let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
    format!("{kind}/{}", owner.text("name"))
}
