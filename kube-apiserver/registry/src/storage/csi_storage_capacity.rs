//! CSIStorageCapacities.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::tree::Tree;

/// Columns of CSIStorageCapacities.
pub fn build(resource: &mut Resource) {
    resource.columns = vec![
        column::name(),
        text("StorageClassName", "The name of the StorageClass that the reported capacity applies to.", |object, _| {
            object.text("storageClassName").into()
        }),
        text("Capacity", "The value reported by the CSI driver in its GetCapacityResponse.", |object, _| {
            object.text("capacity").into()
        }),
    ];
}
