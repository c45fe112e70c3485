//! IPAddresses.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::Tree;

/// Rules and columns of IPAddresses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules { generation: Generation::None, unconditional_update: false, ..Rules::GENERIC }.strategy();
    resource.selectable = vec![];
    resource.columns = vec![
        column::name(),
        text("ParentRef", "ParentRef is a reference to the object that uses the IP address.", |object, _| {
            let parent = object.path("spec.parentRef");
            if parent.is_null() {
                return "<none>".into();
            }
            let (group, resource) = (parent.text("group"), parent.text("resource"));
            let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
            format!("{resource}/{}/{}", parent.text("namespace"), parent.text("name")).into()
        }),
        column::age(),
    ];
}
