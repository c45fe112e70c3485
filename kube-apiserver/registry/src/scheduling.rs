//! The scheduling.k8s.io group.

use crate::column::{self, boolean, integer, text};
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::Tree;

/// PriorityClasses.
pub fn priority_class(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| object.fill("preemptionPolicy", "PreemptLowerPriority"),
        generation: Generation::Once,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer("Value", "value represents the integer value of this priority class.", |object, _| {
            object.int("value").unwrap_or(0).into()
        }),
        boolean(
            "Global-Default",
            "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
            |object, _| object.truth("globalDefault").into(),
        ),
        column::age(),
        text("PreemptionPolicy", "preemptionPolicy is the Policy for preempting pods with lower priority.", |object, _| {
            object.text("preemptionPolicy").into()
        }),
    ];
}
