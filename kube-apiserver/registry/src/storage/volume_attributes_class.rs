//! VolumeAttributesClasses.

use crate::column::{self, text};
use crate::resource::{Column, Resource};
use crate::tree::Tree;

/// Columns of VolumeAttributesClasses.
pub fn build(resource: &mut Resource) {
    resource.columns = vec![
        Column {
            cell: |object, _| {
                let name = object.at("metadata").text("name");
                let default =
                    object.at("metadata").at("annotations").text("volumeattributesclass.alpha.kubernetes.io/is-default-class")
                        == "true";
                if default { format!("{name} (default)").into() } else { name.into() }
            },
            ..column::name()
        },
        text("DriverName", "Name of the CSI driver", |object, _| object.text("driverName").into()),
        column::age(),
    ];
}
