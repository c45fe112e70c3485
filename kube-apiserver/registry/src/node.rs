//! The node.k8s.io group.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// RuntimeClasses.
pub fn runtime_class(resource: &mut Resource) {
    resource.strategy = Rules { create_on_update: false, ..Rules::GENERIC }.strategy();
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
