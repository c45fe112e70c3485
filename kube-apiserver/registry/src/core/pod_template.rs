//! PodTemplates.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::column::{self, text};
use crate::pod_spec::{defaults, template, warnings};
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::Tree;

/// Rules and columns of PodTemplates.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: defaults::template,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        warnings: |_, new, _| warnings::pod(new.at("template"), "template"),
        generation: Generation::Fields(&["template"]),
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("template.spec")).into()
        }),
        text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("template.spec")).into()
        }),
        text("Pod Labels", "The labels for the pod template.", |object, _| {
            column::labels(object.path("template.metadata.labels")).into()
        }),
    ];
}

fn validate(object: &Value, errors: &mut Errors) {
    template::template(object.at("template"), &Path::new("template"), errors);
}
