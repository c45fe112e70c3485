//! Which entries of a resource a list or watch wants: a scope that the index knows, and selectors that are tested.

use api::selector::{FieldSelector, LabelSelector, Operator};

use super::entry::{Entry, Tag};

/// The part of a resource that a request reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All objects.
    All,
    /// One namespace.
    Namespace(String),
    /// One object, by key.
    Name(String),
    /// Objects whose field number `.0` has this value (`spec.nodeName`): in all namespaces.
    Field(usize, String),
}

/// Selectors on top of a scope.
#[derive(Clone, Default)]
pub struct Filter {
    /// Empty matches all.
    pub labels: Option<LabelSelector>,
    /// Requirements on fields, resolved to the resource's field numbers.
    pub fields: Vec<FieldMatch>,
}

/// One requirement on a field.
#[derive(Clone, Debug)]
pub struct FieldMatch {
    /// What is compared.
    pub field: Field,
    /// `=` or `!=`.
    pub equal: bool,
    /// With what.
    pub value: String,
}

/// A field that can be selected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// The resource's selectable field of this number.
    Other(usize),
}

impl Filter {
    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.labels.is_none() && self.fields.is_empty()
    }

    /// Whether the entry is wanted.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.fields.iter().all(|want| {
            let have = match want.field {
                Field::Name => entry.name(),
                Field::Namespace => entry.namespace(),
                Field::Other(index) => entry.field(index),
            };
            (have == want.value) == want.equal
        }) && self.labels.as_ref().is_none_or(|labels| labels.matches_with(|key| entry.label(key)))
    }

    /// What the tags of all matching entries have at least.
    pub fn tag(&self) -> Tag {
        let requirements = self.labels.iter().flat_map(|labels| labels.requirements.iter());
        requirements.fold(Tag::default(), |tag, requirement| match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => {
                tag.with(Tag::of_label(&requirement.key, value))
            }
            _ => tag,
        })
    }

    /// Resolves a field selector against a resource's selectable keys.
    ///
    /// # Errors
    /// The key that the resource cannot be selected by.
    pub fn resolve(selector: &FieldSelector, selectable: &[&str], namespaced: bool) -> Result<Vec<FieldMatch>, String> {
        let mut out = Vec::new();
        for want in &selector.requirements {
            let field = match want.field.as_str() {
                "metadata.name" => Field::Name,
                "metadata.namespace" if namespaced => Field::Namespace,
                key => match selectable.iter().position(|have| *have == key) {
                    Some(index) => Field::Other(index),
                    None => return Err(want.field.clone()),
                },
            };
            out.push(FieldMatch { field, equal: !want.negated, value: want.value.clone() });
        }
        Ok(out)
    }
}
