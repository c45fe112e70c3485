//! The coordination.k8s.io group.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Leases.
pub fn lease(resource: &mut Resource) {
    resource.strategy = Rules { create_on_update: true, unconditional_update: false, ..Rules::GENERIC }.strategy();
    resource.columns = vec![
        column::name(),
        text("Holder", "holderIdentity contains the identity of the holder of a current lease.", |object, _| {
            object.at("spec").text("holderIdentity").into()
        }),
        column::age(),
    ];
}
