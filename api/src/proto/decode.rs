//! Messages to trees.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{MAGIC, ProtoError};
use crate::schema::{Field, Flags, Struct, Table, Type, add_always, emit, format_micro_time, format_time, zero};

/// Messages within messages; CRD schemas nest deepest.
const MAX_DEPTH: usize = 120;

/// A field as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Other,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut out = 0u64;
        for shift in 0..10 {
            let (byte, rest) = self.0.split_first().ok_or(ProtoError::Malformed("unexpected EOF"))?;
            self.0 = rest;
            out |= u64::from(byte & 0x7f).checked_shl(shift * 7).unwrap_or_default();
            if byte & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(ProtoError::Malformed("integer overflow"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtoError> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len());
        let (head, rest) = self.0.split_at(length.ok_or(ProtoError::Malformed("unexpected EOF"))?);
        self.0 = rest;
        Ok(head)
    }

    /// The next field and its number; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtoError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 {
            return Err(ProtoError::Malformed("illegal tag 0"));
        }
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| ProtoError::Malformed("unexpected EOF"))?))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Other
            }
            _ => return Err(ProtoError::Malformed("illegal wireType")),
        };
        Ok(Some((number, wire)))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// apiVersion, kind and raw of a `runtime.Unknown`.
pub(super) fn unknown(body: &[u8]) -> Result<(String, String, &[u8]), ProtoError> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut reader = Reader(meta);
                while let Some((number, wire)) = reader.field()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => api_version = text(bytes),
                        (2, Wire::Bytes(bytes)) => kind = text(bytes),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// The tree of a message.
pub(super) fn message(table: &Table, kind: Type, body: &[u8]) -> Result<Value, ProtoError> {
    value(table, kind, body, 0)
}

/// A value whose type is a message.
fn value(table: &Table, kind: Type, body: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::TooDeep);
    }
    match kind {
        Type::Struct(id) => {
            let shape = table.get(id);
            let mut out = Map::new();
            fields(table, shape, &shape.wire, 0, body, depth, &mut out)?;
            finish(table, shape, &mut out);
            Ok(Value::Object(out))
        }
        Type::Quantity => Ok(Value::String(
            simple(body)?.into_iter().find_map(|(number, wire)| string(number == 1, &wire)).unwrap_or_else(|| "0".to_owned()),
        )),
        Type::IntOrString => {
            let (mut is_text, mut number_value, mut text_value) = (false, 0, String::new());
            for (number, wire) in simple(body)? {
                match (number, wire) {
                    (1, Wire::Varint(kind)) => is_text = kind == 1,
                    (2, Wire::Varint(value)) => number_value = value as i32,
                    (3, Wire::Bytes(bytes)) => text_value = text(bytes),
                    _ => {}
                }
            }
            Ok(if is_text { Value::String(text_value) } else { number_value.into() })
        }
        Type::Time | Type::MicroTime => {
            let (mut seconds, mut nanos) = (0i64, 0u32);
            for (number, wire) in simple(body)? {
                match (number, wire) {
                    (1, Wire::Varint(value)) => seconds = value as i64,
                    (2, Wire::Varint(value)) => nanos = (value as u32).min(999_999_999),
                    _ => {}
                }
            }
            // Zero is Go's zero time. Years beyond four digits have no text form.
            if body.is_empty() || (seconds == 0 && nanos == 0) || !(-62_135_596_800..=253_402_300_799).contains(&seconds) {
                return Ok(Value::Null);
            }
            Ok(Value::String(if kind == Type::Time { format_time(seconds) } else { format_micro_time(seconds, nanos) }))
        }
        Type::Duration => {
            let nanos = simple(body)?
                .into_iter()
                .find_map(|(_, wire)| if let Wire::Varint(value) = wire { Some(value as i64) } else { None });
            Ok(Value::String(format!("{}s", nanos.unwrap_or_default() as f64 / 1e9)))
        }
        Type::Raw | Type::Any | Type::FieldsV1 => {
            let raw = simple(body)?.into_iter().find_map(|(number, wire)| match wire {
                Wire::Bytes(bytes) if number == 1 => Some(bytes),
                _ => None,
            });
            let raw = raw.unwrap_or_default();
            if raw.is_empty() {
                return Ok(Value::Null);
            }
            if raw.starts_with(MAGIC) {
                if depth > 8 {
                    return Err(ProtoError::TooDeep);
                }
                return super::decode(raw);
            }
            serde_json::from_slice(raw).map_err(|_| ProtoError::Malformed("embedded JSON is malformed"))
        }
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => schema_or(table, kind, body, depth),
        Type::List(id) => {
            let element = table.element(id);
            let mut out = Vec::new();
            for (number, wire) in simple(body)? {
                if number == 1 {
                    elements(table, element, &wire, depth, &mut out)?;
                }
            }
            Ok(Value::Array(out))
        }
        _ => Ok(Value::Null),
    }
}

/// Go's Quantity, Time and the like are decoded by hand: all their fields.
fn simple(body: &[u8]) -> Result<Vec<(u64, Wire<'_>)>, ProtoError> {
    let (mut reader, mut out) = (Reader(body), Vec::new());
    while let Some(field) = reader.field()? {
        out.push(field);
    }
    Ok(out)
}

fn string(wanted: bool, wire: &Wire<'_>) -> Option<String> {
    match wire {
        Wire::Bytes(bytes) if wanted => Some(text(bytes)),
        _ => None,
    }
}

fn schema_or(table: &Table, kind: Type, body: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let schema = Type::Struct(table.json_schema_props().unwrap_or_default());
    let (mut allows, mut one, mut list) = (false, None, Vec::new());
    for (number, wire) in simple(body)? {
        match (kind, number, wire) {
            (Type::SchemaOrBool, 1, Wire::Varint(value)) => allows = value != 0,
            (Type::SchemaOrBool, 2, Wire::Bytes(bytes)) => one = Some(value(table, schema, bytes, depth + 1)?),
            (Type::SchemaOrArray | Type::SchemaOrStrings, 1, Wire::Bytes(bytes)) => {
                one = Some(value(table, schema, bytes, depth + 1)?)
            }
            (Type::SchemaOrArray, 2, Wire::Bytes(bytes)) => list.push(value(table, schema, bytes, depth + 1)?),
            (Type::SchemaOrStrings, 2, Wire::Bytes(bytes)) => list.push(Value::String(text(bytes))),
            _ => {}
        }
    }
    Ok(match one {
        Some(one) => one,
        None if kind == Type::SchemaOrBool => Value::Bool(allows),
        None if list.is_empty() => Value::Null,
        None => Value::Array(list),
    })
}

/// Reads the fields whose paths start where this message stands.
fn fields(
    table: &Table,
    shape: &Struct,
    indexes: &[u16],
    level: usize,
    body: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        let at = |index: &u16| &shape.fields[usize::from(*index)];
        let start = indexes.partition_point(|index| u64::from(at(index).proto[level]) < number);
        let count = indexes[start..].iter().take_while(|index| u64::from(at(index).proto[level]) == number).count();
        let group = &indexes[start..start + count];
        let Some(first) = group.first() else { continue };
        let field = at(first);
        if field.proto.len() > level + 1 {
            if let Wire::Bytes(bytes) = wire {
                if depth > MAX_DEPTH {
                    return Err(ProtoError::TooDeep);
                }
                fields(table, shape, group, level + 1, bytes, depth + 1, out)?;
            }
            continue;
        }
        read(table, field, &wire, depth, out)?;
    }
    Ok(())
}

fn read(table: &Table, field: &Field, wire: &Wire<'_>, depth: usize, out: &mut Map<String, Value>) -> Result<(), ProtoError> {
    let name = || field.name.clone().into_owned();
    match field.kind {
        Type::List(id) if !field.flags.has(Flags::WRAPPED) => {
            let slot = out.entry(name()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = slot {
                elements(table, table.element(id), wire, depth, list)?;
            }
        }
        Type::Map(id) => {
            let (element, Wire::Bytes(entry)) = (table.element(id), wire) else { return Ok(()) };
            let (mut key, mut found) = (String::new(), None);
            for (number, wire) in simple(entry)? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(bytes),
                    (2, wire) => found = single(table, element, &wire, depth)?,
                    _ => {}
                }
            }
            let found = found.unwrap_or_else(|| zero(table, element));
            if let Value::Object(map) = out.entry(name()).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, found);
            }
        }
        kind => {
            if let Some(value) = single(table, kind, wire, depth)? {
                out.insert(name(), value);
            }
        }
    }
    Ok(())
}

/// Adds an element, or several where numbers are packed.
fn elements(table: &Table, element: Type, wire: &Wire<'_>, depth: usize, out: &mut Vec<Value>) -> Result<(), ProtoError> {
    if let (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(packed)) = (element, wire) {
        let mut reader = Reader(packed);
        while !reader.0.is_empty() {
            let value = reader.varint()?;
            out.extend(single(table, element, &Wire::Varint(value), depth)?);
        }
        return Ok(());
    }
    out.extend(single(table, element, wire, depth)?.map(|value| if value.is_null() { zero(table, element) } else { value }));
    Ok(())
}

/// A value that is not repeated; `None` where the wire type does not fit.
fn single(table: &Table, kind: Type, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, ProtoError> {
    Ok(Some(match (kind, wire) {
        (Type::String, Wire::Bytes(bytes)) => Value::String(text(bytes)),
        (Type::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Type::Bool, Wire::Varint(value)) => Value::Bool(*value != 0),
        (Type::Int32, Wire::Varint(value)) => (*value as i32).into(),
        (Type::Int64, Wire::Varint(value)) => (*value as i64).into(),
        (Type::Double, Wire::Fixed64(value)) => {
            let value = f64::from_bits(*value);
            if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
        }
        (_, Wire::Bytes(bytes)) => value(table, kind, bytes, depth + 1)?,
        _ => return Ok(None),
    }))
}

/// Drops what Go's JSON encoder leaves out and adds what it always prints.
fn finish(table: &Table, shape: &Struct, out: &mut Map<String, Value>) {
    out.retain(|name, value| {
        let Some(field) = shape.field(name) else { return false };
        match emit(table, field, value.take()) {
            Some(kept) => {
                *value = kept;
                true
            }
            None => false,
        }
    });
    add_always(table, shape, out);
}
