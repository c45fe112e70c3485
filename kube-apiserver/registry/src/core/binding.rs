//! Bindings: a create-only kind that puts a pod onto a node.

use crate::identifier;
use crate::resource::Resource;
use crate::rules::Rules;

/// Rules of Bindings; the server acts on them and stores nothing.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules { name: identifier::path_segment, ..Rules::GENERIC }.strategy();
}
