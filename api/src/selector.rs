//! Label and field selectors: parsing with upstream's errors, and matching.
//!
//! Upstream: apimachinery/pkg/labels/selector.go, apimachinery/pkg/fields/selector.go

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};
