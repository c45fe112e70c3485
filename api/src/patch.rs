//! Patches: JSON patch, merge patch and strategic merge patch, with upstream's errors.
//!
//! [`Patch::parse`] reads a body once; [`Patch::apply`] changes an object (again after each lost race) and decodes the result by the
//! schema, so that what comes out is canonical. Server-side apply is [`crate::apply`].
//!
//! Upstream: apiserver/pkg/endpoints/handlers/patch.go, apimachinery/pkg/util/strategicpatch, evanphx/json-patch

mod json;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::field::{ErrorType, Errors, Path};
use crate::schema::{DecodeError, Decoded, FieldValidation, Problem, Schema, decode_any};
use crate::status::Status;

/// Which kind of patch, by Content-Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml` (and `+cbor`, not served): see [`crate::apply`].
    Apply,
}

impl PatchType {
    /// By media type without parameters.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// A patch that was read and can be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    kind: PatchType,
    document: Value,
    problems: Vec<Problem>,
}

/// Why a patch fails. [`PatchError::status`] gives upstream's answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself is malformed.
    #[error("{0}")]
    Bad(String),
    /// 413: too many operations.
    #[error("{0}")]
    TooLarge(String),
    /// 422: it does not fit the object (a failed `test`, a missing path).
    #[error("{0}")]
    Unprocessable(String),
    /// 422: the patched object cannot be decoded. The value is what upstream shows.
    #[error("{message}")]
    Invalid {
        /// The patched object or the patch, as upstream prints it.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// 500: upstream has no better class for it.
    #[error("{0}")]
    Other(String),
}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            Self::Bad(message) => Status::bad_request(message.clone()),
            Self::TooLarge(message) => {
                Status::new(413, "RequestEntityTooLarge", format!("Request entity is too large: {message}"))
            }
            Self::Unprocessable(_) => {
                Status::new(422, "Invalid", "the server rejected our request due to an error in our request")
                    .with_details(Value::Object(Map::new()))
            }
            Self::Invalid { value, message } => {
                let mut errors = Errors::new();
                errors.add(ErrorType::Invalid, &Path::new("patch"), value.as_str(), message.as_str());
                Status::invalid("", "", "", &errors)
            }
            Self::Other(message) => Status::new(500, "", message.clone()),
        }
    }
}

/// Operations in one JSON patch. Upstream: maxJSONPatchOperations.
const MAX_OPERATIONS: usize = 10_000;

impl Patch {
    /// Reads a patch body (JSON).
    ///
    /// # Errors
    /// Malformed JSON, a wrong outer type, too many operations, or with Strict a duplicate field.
    pub fn parse(kind: PatchType, body: &[u8], validation: FieldValidation) -> Result<Self, PatchError> {
        let decoded = decode_any(body, validation).map_err(|error| match (kind, error) {
            (_, DecodeError::Syntax(text) | DecodeError::Type(text)) => PatchError::Bad(format!("error decoding patch: {text}")),
        })?;
        if validation == FieldValidation::Strict && !decoded.problems.is_empty() {
            let all: Vec<_> = decoded.problems.iter().map(Problem::to_string).collect();
            return Err(PatchError::Bad(format!("error decoding patch: strict decoding error: {}", all.join(", "))));
        }
        let wrong = |go: &str| {
            let what = match &decoded.object {
                Value::Null => return None,
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            Some(PatchError::Bad(format!("error decoding patch: json: cannot unmarshal {what} into Go value of type {go}")))
        };
        let fits = if kind == PatchType::Json { decoded.object.is_array() } else { decoded.object.is_object() };
        if !fits && let Some(error) = wrong(if kind == PatchType::Json { "[]interface {}" } else { "map[string]interface {}" }) {
            return Err(error);
        }
        if kind == PatchType::Json {
            let count = decoded.object.as_array().map_or(0, Vec::len);
            if count > MAX_OPERATIONS {
                return Err(PatchError::TooLarge(format!(
                    "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
                )));
            }
        }
        Ok(Self { kind, document: decoded.object, problems: decoded.problems })
    }

    /// The document as read.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Applies it to `current` (of `schema`'s kind) and decodes the result. Problems of the patch itself (duplicates) come first.
    ///
    /// # Errors
    /// See [`PatchError`]; with Strict unknown fields are an error as well.
    pub fn apply(&self, schema: &Schema, current: Value, validation: FieldValidation) -> Result<Decoded, PatchError> {
        let patched = match self.kind {
            PatchType::Json => json::apply(current, &self.document)?,
            PatchType::Merge => {
                let mut patched = current;
                merge(&mut patched, &self.document);
                patched
            }
            PatchType::Strategic => strategic::apply(schema, current, &self.document)?,
            PatchType::Apply => return Err(PatchError::Other("apply patches are not merged here".to_owned())),
        };
        let invalid = |patched: Option<&Value>, message: String| PatchError::Invalid {
            value: patched.map_or_else(|| go_print(&self.document), Value::to_string),
            message,
        };
        let mut decoded = if self.kind == PatchType::Strategic {
            schema.decode_generic(patched, validation).map_err(|error| {
                let message = error.to_string();
                // Strategic merges are converted from generic maps in Go, which words this one differently.
                let prefix = if message.starts_with("illegal base64") { "error decoding from json: " } else { "" };
                invalid(None, format!("{prefix}{message}"))
            })?
        } else {
            // The patched document is shown in errors, so it is kept.
            let decoded = schema.decode_ref(&patched, validation).map_err(|error| invalid(Some(&patched), error.to_string()))?;
            if validation == FieldValidation::Strict
                && let Some(message) = decoded.strict_error()
            {
                return Err(invalid(Some(&patched), message));
            }
            decoded
        };
        if validation == FieldValidation::Strict
            && let Some(message) = decoded.strict_error()
        {
            return Err(invalid(None, message));
        }
        if !self.problems.is_empty() {
            decoded.problems.splice(0..0, self.problems.iter().cloned());
        }
        Ok(decoded)
    }
}

/// RFC 7386: objects merge, null removes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
            continue;
        }
        match (target.get_mut(name), value) {
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, value),
            _ => {
                let mut value = value.clone();
                prune_nulls(&mut value);
                target.insert(name.clone(), value);
            }
        }
    }
}

/// Drops null members, also within lists; null elements stay.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// A value as Go prints a map of interfaces with `%v`: `map[a:1 b:[x y]]`, maps sorted by key.
pub fn go_print(value: &Value) -> String {
    let mut out = String::new();
    print_into(value, &mut out);
    out
}

fn print_into(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                print_into(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (index, (name, item)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                print_into(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
