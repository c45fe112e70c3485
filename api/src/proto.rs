//! `application/vnd.kubernetes.protobuf`: trees to bytes and back, driven by the schema table.
//!
//! A body is `k8s\0` and a `runtime.Unknown` that names the kind and holds the message. Zero values that a tree leaves out are left out here
//! too; Go writes them, reads both.
//!
//! Upstream: apimachinery/pkg/runtime/serializer/protobuf

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::kind::split_api_version;
use crate::schema::{Schema, Type};

/// First bytes of every body.
pub const MAGIC: &[u8] = b"k8s\0";

/// Why a body cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// Not `k8s\0` at the start.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The message ends too early, or its parts do not fit.
    #[error("proto: {0}")]
    Malformed(&'static str),
    /// Nested deeper than any object of ours.
    #[error("proto: message nested too deeply")]
    TooDeep,
    /// A kind that has no protobuf form.
    #[error(
        "object {api_version}, Kind={kind} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    UnknownKind {
        /// Its apiVersion.
        api_version: String,
        /// Its kind.
        kind: String,
    },
}

/// Writes an object that has `apiVersion` and `kind`.
///
/// # Errors
/// The kind has no protobuf form.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtoError> {
    let (api_version, kind) = type_meta(object);
    let schema = schema_of(api_version, kind)?;
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(MAGIC);
    encode::field_bytes(&mut out, 1, &encode::type_meta(api_version, kind));
    encode::field_with(&mut out, 2, |out| encode::message(schema.table(), schema.root(), object, out));
    encode::unknown_tail(&mut out);
    Ok(out)
}

/// Reads a body. The tree is canonical and has `apiVersion` and `kind`.
///
/// # Errors
/// Malformed bytes, or a kind that is not known here.
pub fn decode(body: &[u8]) -> Result<Value, ProtoError> {
    let (api_version, kind, raw) = envelope(body)?;
    let schema = schema_of(&api_version, &kind)?;
    let mut object = decode::message(schema.table(), schema.root(), raw)?;
    if let Value::Object(map) = &mut object {
        for (name, value) in [("apiVersion", api_version), ("kind", kind)] {
            if !value.is_empty() {
                map.insert(name.to_owned(), Value::String(value));
            }
        }
    }
    Ok(object)
}

/// The `apiVersion`, `kind` and message of a body.
///
/// # Errors
/// Malformed bytes.
pub fn envelope(body: &[u8]) -> Result<(String, String, &[u8]), ProtoError> {
    let rest = body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
    decode::unknown(rest)
}

/// The message alone of what [`encode`] wrote, for lists put together from encoded objects.
pub fn message_of(encoded: &[u8]) -> &[u8] {
    envelope(encoded).map_or(&[], |(_, _, raw)| raw)
}

/// What stands before and after the items of a list whose messages (see [`message_of`]) have these lengths. Each item is preceded by
/// [`item_prefix`].
///
/// # Errors
/// The metadata's kind is unknown: cannot happen.
pub fn list_frame(
    api_version: &str,
    list_kind: &str,
    metadata: &Value,
    item_lengths: impl Iterator<Item = usize>,
) -> Result<(Vec<u8>, Vec<u8>), ProtoError> {
    let items: usize = item_lengths.map(|length| item_prefix(length).len() + length).sum();
    let mut header = Vec::with_capacity(64);
    let meta = Schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").ok_or(ProtoError::Malformed("no ListMeta"))?;
    encode::field_with(&mut header, 1, |out| encode::message(meta.table(), meta.root(), metadata, out));
    let mut out = Vec::with_capacity(header.len() + 64);
    out.extend_from_slice(MAGIC);
    encode::field_bytes(&mut out, 1, &encode::type_meta(api_version, list_kind));
    encode::key(&mut out, 2, 2);
    encode::varint(&mut out, (header.len() + items) as u64);
    out.extend_from_slice(&header);
    let mut trailer = Vec::new();
    encode::unknown_tail(&mut trailer);
    Ok((out, trailer))
}

/// What stands before an item's message of `length` bytes in a list.
pub fn item_prefix(length: usize) -> smallvec::SmallVec<[u8; 8]> {
    let mut out = Vec::with_capacity(8);
    encode::key(&mut out, 2, 2);
    encode::varint(&mut out, length as u64);
    smallvec::SmallVec::from_slice(&out)
}

/// One frame of a watch (`application/vnd.kubernetes.protobuf;stream=watch`): a length and a bare WatchEvent around an encoded object.
pub fn watch_frame(event: &str, encoded: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    encode::field_bytes(&mut out, 1, event.as_bytes());
    encode::field_with(&mut out, 2, |out| encode::field_bytes(out, 1, encoded));
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn type_meta(object: &Value) -> (&str, &str) {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion"), text("kind"))
}

fn schema_of(api_version: &str, kind: &str) -> Result<Schema, ProtoError> {
    let unknown = || ProtoError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let (group, version) = split_api_version(api_version);
    // WatchEvent comes without a kind.
    let kind = if kind.is_empty() && api_version.is_empty() { "WatchEvent" } else { kind };
    let schema = Schema::builtin(group, version, kind).ok_or_else(unknown)?;
    match schema.root() {
        Type::Struct(id) if !schema.table().get(id).message.is_empty() => Ok(schema),
        _ => Err(unknown()),
    }
}
