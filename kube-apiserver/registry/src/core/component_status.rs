//! ComponentStatuses: computed on read, never stored.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::tree::Tree;

/// Columns of ComponentStatuses.
pub fn build(resource: &mut Resource) {
    resource.deprecation = Some("v1 ComponentStatus is deprecated in v1.19+");
    resource.columns = vec![
        column::name(),
        text("Status", "Status of the component conditions", |object, _| match condition(object, "status").as_str() {
            "True" => "Healthy".into(),
            "False" => "Unhealthy".into(),
            _ => "Unknown".into(),
        }),
        text("Message", "Message of the component conditions", |object, _| condition(object, "message").into()),
        text("Error", "Error of the component conditions", |object, _| condition(object, "error").into()),
    ];
}

fn condition(object: &serde_json::Value, field: &str) -> String {
    object
        .items("conditions")
        .iter()
        .find(|condition| condition.text("type") == "Healthy")
        .map_or("", |c| c.text(field))
        .to_owned()
}
