//! IngressClasses.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of IngressClasses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            if let Some(parameters) = object.child("spec").child_if("parameters") {
                parameters.fill("scope", "Cluster");
            }
        },
        generation: SPEC,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Controller", "Controller that is responsible for handling this class", |object, _| {
            object.at("spec").text("controller").into()
        }),
        text("Parameters", "A reference to a resource with additional parameters", |object, _| {
            let parameters = object.path("spec.parameters");
            if parameters.is_null() {
                return "<none>".into();
            }
            let group = parameters.text("apiGroup");
            let kind = if group.is_empty() {
                parameters.text("kind").to_owned()
            } else {
                format!("{}.{group}", parameters.text("kind"))
            };
            format!("{kind}/{}", parameters.text("name")).into()
        }),
        column::age(),
    ];
}
