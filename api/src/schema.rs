//! The one description of an object's shape that everything generic is driven by.
//!
//! A [`Schema`] points into a [`Table`]: an arena of structs and element types. The table of the built-in kinds is compiled once from
//! `data/schema.txt`; a custom resource gets a table of its own. Decoding ([`Schema::decode`]) yields the tree that Go's decoder and
//! encoder together would yield, so everything downstream compares and stores canonical trees only.

mod decode;
mod normalize;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::sync::{Arc, LazyLock};

use serde_json::Value;

pub(crate) use decode::decode_any;
pub use decode::{DecodeError, Decoded, Problem, restore_empties};
pub(crate) use normalize::{add_always, emit, zero};
pub use table::{Field, Flags, ListKind, Struct, Table, Type};
pub(crate) use text::{format_micro_time, format_time, nearest, parse_time};

/// What is done about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them in silence.
    Ignore,
    /// Drop them and tell (Warning headers).
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

impl FieldValidation {
    /// The value of the `fieldValidation` parameter; empty is Warn.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// The shape of one kind (or of any type within a table). Cheap to clone.
#[derive(Clone)]
pub struct Schema {
    table: Arc<Table>,
    root: Type,
}

static BUILTIN: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::builtin()));

impl Schema {
    /// The schema of a built-in kind (objects, lists, options, reviews, `Status`); `None` for kinds unknown here.
    pub fn builtin(group: &str, version: &str, kind: &str) -> Option<Self> {
        let id = BUILTIN.by_gvk(group, version, kind)?;
        Some(Self { table: BUILTIN.clone(), root: Type::Struct(id) })
    }

    /// The schema of a definition by its OpenAPI name (`io.k8s.api.core.v1.PodSpec`).
    pub fn definition(name: &str) -> Option<Self> {
        let id = BUILTIN.by_name(name)?;
        Some(Self { table: BUILTIN.clone(), root: Type::Struct(id) })
    }

    /// A schema over a table of one's own (custom resources).
    pub fn new(table: Arc<Table>, root: Type) -> Self {
        Self { table, root }
    }

    /// The table it points into.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The type of the object.
    pub fn root(&self) -> Type {
        self.root
    }

    /// The table of the built-in kinds.
    pub fn builtins() -> &'static Arc<Table> {
        &BUILTIN
    }

    /// Parses and normalises a JSON document.
    ///
    /// Unknown fields and nulls are dropped, quantities, times and omitted fields are as a Go decode and encode would leave them.
    /// With [`FieldValidation::Ignore`] unknown and duplicate fields are not collected.
    ///
    /// # Errors
    /// Malformed JSON, nesting too deep, or the first value of a wrong type, in the words of Go's decoder.
    pub fn decode(&self, body: &[u8], validation: FieldValidation) -> Result<Decoded, DecodeError> {
        decode::from_slice(self, body, validation)
    }

    /// The same for a tree that is already parsed (YAML bodies, results of patches). Duplicates cannot be seen here.
    ///
    /// # Errors
    /// The first value of a wrong type.
    pub fn decode_value(&self, value: Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
        decode::from_value(self, value, validation)
    }

    /// The same in the words of upstream's converter from generic maps, through which strategic merges go.
    ///
    /// # Errors
    /// The first value of a wrong type.
    pub fn decode_generic(&self, value: Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
        decode::from_generic(self, value, validation)
    }

    /// The same without taking the tree.
    ///
    /// # Errors
    /// The first value of a wrong type.
    pub fn decode_ref(&self, value: &Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
        decode::from_ref(self, value, validation)
    }

    /// Brings a tree that was decoded by this schema and then changed by our own code (defaulting, strategies) into canonical form:
    /// empties dropped, missing non-optional parts added. Values of a wrong type are left alone.
    pub fn normalize(&self, value: &mut Value) {
        normalize::normalize(&self.table, self.root, value);
    }

    /// Turns empty lists and maps that are printed all the same into null, as upstream's storage does. Managed fields are kept of the
    /// object before this; [`crate::apply`] calls it.
    pub(crate) fn settle(&self, value: &mut Value) {
        normalize::settle(&self.table, self.root, value);
    }
}
