//! Which fields Go's encoder prints: `omitempty`, `omitzero`, pointers and plain structs.

use serde_json::{Map, Value};

use super::table::{Field, Flags, Struct, Table, Type};

/// The tree of a Go zero value. Lists and maps are nil, which prints as null.
pub(crate) fn zero(table: &Table, kind: Type) -> Value {
    match kind {
        Type::String | Type::Duration => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Struct(id) => {
            let mut out = Map::new();
            add_always(table, table.get(id), &mut out);
            Value::Object(out)
        }
        _ => Value::Null,
    }
}

/// Whether a field that was not given is printed all the same.
fn is_always(field: &Field) -> bool {
    if field.flags.has(Flags::OMIT_ZERO) {
        return false;
    }
    if !field.flags.has(Flags::OMIT_EMPTY) {
        return true;
    }
    // `omitempty` knows no empty struct; these are structs in Go.
    !field.flags.has(Flags::POINTER)
        && matches!(field.kind, Type::Struct(_) | Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime | Type::Raw)
}

/// Adds the fields that Go prints even where they were not given.
pub(crate) fn add_always(table: &Table, shape: &Struct, out: &mut Map<String, Value>) {
    for index in &shape.always {
        let field = &shape.fields[usize::from(*index)];
        if !out.contains_key(field.name.as_ref()) {
            let value = if field.flags.has(Flags::POINTER) { Value::Null } else { zero(table, field.kind) };
            out.insert(field.name.clone().into_owned(), value);
        }
    }
}

/// The indexes of fields that [`add_always`] looks after.
pub(super) fn always(fields: &[Field]) -> Box<[u16]> {
    let indexes = fields.iter().enumerate().filter(|(_, field)| is_always(field));
    indexes.map(|(index, _)| u16::try_from(index).expect("a struct has few fields")).collect()
}

/// What is printed for a decoded value (`Null`: nil or zero), or `None` where the field is left out.
pub(crate) fn emit(table: &Table, field: &Field, value: Value) -> Option<Value> {
    let (empty, omit_zero, pointer) =
        (field.flags.has(Flags::OMIT_EMPTY), field.flags.has(Flags::OMIT_ZERO), field.flags.has(Flags::POINTER));
    if field.flags.has(Flags::NULLABLE) && value.is_null() {
        return Some(value);
    }
    if pointer {
        return if value.is_null() && (empty || omit_zero) { None } else { Some(value) };
    }
    match &value {
        Value::Null => match field.kind {
            Type::Struct(_) | Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime | Type::Raw => {
                if omit_zero {
                    None
                } else {
                    Some(zero(table, field.kind))
                }
            }
            _ if empty || omit_zero => None,
            kind => Some(zero(table, kind)),
        },
        Value::Bool(false) if empty => None,
        Value::Number(number) if empty && field.kind != Type::IntOrString && number.as_f64() == Some(0.0) => None,
        Value::String(text) if empty && text.is_empty() && !matches!(field.kind, Type::IntOrString | Type::Raw) => None,
        Value::Array(list) if empty && list.is_empty() && !matches!(field.kind, Type::Raw | Type::Any) => None,
        Value::Object(map) if empty && map.is_empty() && matches!(field.kind, Type::Map(_)) => None,
        _ if omit_zero && value == zero(table, field.kind) => None,
        _ => Some(value),
    }
}

/// Brings a changed tree into canonical form, in place. See [`super::Schema::normalize`].
pub(super) fn normalize(table: &Table, kind: Type, value: &mut Value) {
    match (kind, value) {
        (Type::Struct(id), Value::Object(map)) => normalize_struct(table, table.get(id), map),
        (Type::List(id), Value::Array(list)) => {
            let element = table.element(id);
            for value in list {
                normalize_element(table, element, value);
            }
        }
        (Type::Map(id), Value::Object(map)) => {
            let element = table.element(id);
            for value in map.values_mut() {
                normalize_element(table, element, value);
            }
        }
        (Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings, value) => {
            let Some(id) = table.json_schema_props() else { return };
            match value {
                Value::Object(map) => normalize_struct(table, table.get(id), map),
                Value::Array(list) if kind == Type::SchemaOrArray => {
                    for value in list {
                        normalize_element(table, Type::Struct(id), value);
                    }
                }
                _ => {}
            }
        }
        (Type::Quantity, Value::String(text)) => {
            if let Ok(quantity) = crate::quantity::Quantity::parse(text) {
                *text = quantity.to_string();
            }
        }
        _ => {}
    }
}

/// Turns empty lists and maps that are printed all the same into null, in place: upstream's storage (protobuf) knows no difference, so
/// this is what a stored object has.
pub(super) fn settle(table: &Table, kind: Type, value: &mut Value) {
    match (kind, value) {
        (Type::Struct(id), Value::Object(map)) => {
            let shape = table.get(id);
            for (name, value) in map {
                let Some(field) = shape.field(name) else { continue };
                let printed = !field.flags.has(Flags::OMIT_EMPTY) && !field.flags.has(Flags::POINTER);
                match (field.kind, &*value) {
                    (Type::List(_), Value::Array(list)) if printed && list.is_empty() => *value = Value::Null,
                    (Type::Map(_), Value::Object(map)) if printed && map.is_empty() => *value = Value::Null,
                    _ => settle(table, field.kind, value),
                }
            }
        }
        (Type::List(id), Value::Array(list)) if matches!(table.element(id), Type::Struct(_)) => {
            list.iter_mut().for_each(|value| settle(table, table.element(id), value));
        }
        (Type::Map(id), Value::Object(map)) if matches!(table.element(id), Type::Struct(_)) => {
            map.values_mut().for_each(|value| settle(table, table.element(id), value));
        }
        _ => {}
    }
}

fn normalize_element(table: &Table, kind: Type, value: &mut Value) {
    if value.is_null() {
        *value = zero(table, kind);
    } else if matches!(kind, Type::Struct(_) | Type::List(_) | Type::Map(_) | Type::Quantity) {
        normalize(table, kind, value);
    }
}

fn normalize_struct(table: &Table, shape: &Struct, map: &mut Map<String, Value>) {
    map.retain(|name, value| {
        let Some(field) = shape.field(name) else { return shape.preserve_unknown };
        normalize(table, field.kind, value);
        match emit(table, field, value.take()) {
            Some(kept) => {
                *value = kept;
                true
            }
            None => false,
        }
    });
    add_always(table, shape, map);
}
