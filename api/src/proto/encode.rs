//! Trees to messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::schema::{Field, Flags, Struct, Table, Type, parse_time};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn key(out: &mut Vec<u8>, number: u16, wire: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire));
}

pub(super) fn field_bytes(out: &mut Vec<u8>, number: u16, bytes: &[u8]) {
    key(out, number, BYTES);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A length-delimited field whose content is written by `write`.
pub(super) fn field_with(out: &mut Vec<u8>, number: u16, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, number, BYTES);
    // One byte for the length, which most parts need; longer ones are moved.
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(8);
    varint(&mut prefix, length as u64);
    let more = prefix.len() - 1;
    out.resize(out.len() + more, 0);
    out.copy_within(start + 1..start + 1 + length, start + 1 + more);
    out[start..start + prefix.len()].copy_from_slice(&prefix);
}

fn field_varint(out: &mut Vec<u8>, number: u16, value: u64) {
    key(out, number, VARINT);
    varint(out, value);
}

/// runtime.TypeMeta.
pub(super) fn type_meta(api_version: &str, kind: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(api_version.len() + kind.len() + 4);
    field_bytes(&mut out, 1, api_version.as_bytes());
    field_bytes(&mut out, 2, kind.as_bytes());
    out
}

/// The empty contentEncoding and contentType that Go writes.
pub(super) fn unknown_tail(out: &mut Vec<u8>) {
    field_bytes(out, 3, b"");
    field_bytes(out, 4, b"");
}

/// The content of a message for a value of this type.
pub(super) fn message(table: &Table, kind: Type, value: &Value, out: &mut Vec<u8>) {
    match kind {
        Type::Struct(id) => {
            let shape = table.get(id);
            fields(table, shape, &shape.wire, 0, value, out);
        }
        Type::Quantity => field_bytes(out, 1, &text_of(value)),
        Type::IntOrString => {
            let text = value.as_str();
            field_varint(out, 1, u64::from(text.is_some()));
            field_varint(out, 2, value.as_i64().unwrap_or_default() as u64);
            field_bytes(out, 3, text.unwrap_or_default().as_bytes());
        }
        Type::Time | Type::MicroTime => {
            let Some(text) = value.as_str() else { return };
            let Ok((seconds, nanos)) = parse_time(text, false) else { return };
            field_varint(out, 1, seconds as u64);
            field_varint(out, 2, if kind == Type::MicroTime { u64::from(nanos / 1000 * 1000) } else { 0 });
        }
        Type::Raw | Type::Any | Type::FieldsV1 if !value.is_null() => field_bytes(out, 1, value.to_string().as_bytes()),
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => schema_or(table, kind, value, out),
        // A list of a named type: its elements as field 1.
        Type::List(_) => repeated(table, kind, 1, value, out),
        _ => {}
    }
}

fn schema_or(table: &Table, kind: Type, value: &Value, out: &mut Vec<u8>) {
    let Some(schema) = table.json_schema_props().map(Type::Struct) else { return };
    let one = |out: &mut Vec<u8>, number| field_with(out, number, |out| message(table, schema, value, out));
    match (kind, value) {
        (Type::SchemaOrBool, Value::Bool(allows)) => field_varint(out, 1, u64::from(*allows)),
        (Type::SchemaOrBool, Value::Object(_)) => {
            field_varint(out, 1, 1);
            one(out, 2);
        }
        (_, Value::Object(_)) => one(out, 1),
        (Type::SchemaOrArray, Value::Array(list)) => {
            for value in list {
                field_with(out, 2, |out| message(table, schema, value, out));
            }
        }
        (Type::SchemaOrStrings, Value::Array(list)) => {
            for value in list {
                field_bytes(out, 2, &text_of(value));
            }
        }
        _ => {}
    }
}

fn text_of(value: &Value) -> Vec<u8> {
    value.as_str().unwrap_or_default().as_bytes().to_vec()
}

/// The fields at these indexes (sorted by path); those of an inlined struct stand together and are written as one message.
fn fields(table: &Table, shape: &Struct, indexes: &[u16], depth: usize, value: &Value, out: &mut Vec<u8>) {
    let Value::Object(map) = value else { return };
    let mut rest = indexes;
    while let Some((first, _)) = rest.split_first() {
        let field = &shape.fields[usize::from(*first)];
        let number = field.proto[depth];
        if field.proto.len() == depth + 1 {
            if let Some(value) = map.get(field.name.as_ref()) {
                put(table, field, number, value, out);
            }
            rest = &rest[1..];
            continue;
        }
        let count = rest.iter().take_while(|index| shape.fields[usize::from(**index)].proto[depth] == number).count();
        let (group, after) = rest.split_at(count);
        if group.iter().any(|index| map.contains_key(shape.fields[usize::from(*index)].name.as_ref())) {
            field_with(out, number, |out| fields(table, shape, group, depth + 1, value, out));
        }
        rest = after;
    }
}

fn put(table: &Table, field: &Field, number: u16, value: &Value, out: &mut Vec<u8>) {
    if value.is_null() {
        // A zero time of Go is printed as null and travels as an empty message.
        if matches!(field.kind, Type::Time | Type::MicroTime | Type::Raw) && !field.flags.has(Flags::POINTER) {
            field_bytes(out, number, b"");
        }
        return;
    }
    match field.kind {
        Type::List(_) if field.flags.has(Flags::WRAPPED) => field_with(out, number, |out| message(table, field.kind, value, out)),
        Type::List(_) => repeated(table, field.kind, number, value, out),
        Type::Map(id) => {
            let element = table.element(id);
            for (name, value) in value.as_object().into_iter().flatten() {
                field_with(out, number, |out| {
                    field_bytes(out, 1, name.as_bytes());
                    single(table, element, 2, value, out);
                });
            }
        }
        kind => single(table, kind, number, value, out),
    }
}

fn repeated(table: &Table, kind: Type, number: u16, value: &Value, out: &mut Vec<u8>) {
    let Type::List(id) = kind else { return };
    let element = table.element(id);
    for value in value.as_array().into_iter().flatten() {
        single(table, element, number, value, out);
    }
}

fn single(table: &Table, kind: Type, number: u16, value: &Value, out: &mut Vec<u8>) {
    match kind {
        Type::String | Type::Duration => field_bytes(out, number, &text_of(value)),
        Type::Bytes => field_bytes(out, number, &STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()),
        Type::Bool => field_varint(out, number, u64::from(value.as_bool().unwrap_or_default())),
        Type::Int32 | Type::Int64 => field_varint(out, number, value.as_i64().unwrap_or_default() as u64),
        Type::Double => {
            key(out, number, FIXED64);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        kind => field_with(out, number, |out| message(table, kind, value, out)),
    }
}
