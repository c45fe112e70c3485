//! Bodies to trees and trees to bodies, in every encoding; the only file that knows all of them.

use std::borrow::Cow;

use api::schema::{FieldValidation, Schema};
use api::status::Status;
use bytes::Bytes;
use serde_json::Value;

use crate::negotiate::Encoding;
use crate::table::Served;

/// What a decoded body was accompanied by.
pub struct Body {
    /// The object, canonical.
    pub object: Value,
    /// Unknown and duplicate fields, for Warning headers.
    pub warnings: Vec<String>,
    /// See [`api::schema::Decoded::empties`].
    pub empties: Vec<String>,
}

/// A stored value as JSON: our own and upstream's JSON as it is, upstream's protobuf decoded.
///
/// # Errors
/// The encoding cannot be read.
pub fn stored_json(value: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if value.starts_with(b"k8s\0") {
        let object = api::proto::decode(value).map_err(|error| error.to_string())?;
        return Ok(Cow::Owned(object.to_string().into_bytes()));
    }
    if value.starts_with(b"k8s:enc:") {
        return Err("encrypted at rest, and no key of --encryption-provider-config fits".into());
    }
    Ok(Cow::Borrowed(value))
}

/// Decodes a request's body into an object of one kind.
///
/// # Errors
/// 400 with upstream's words.
pub fn decode(
    body: &[u8],
    encoding: Encoding,
    schema: &Schema,
    (group, version, kind): (&str, &str, &str),
    validation: FieldValidation,
) -> Result<Body, Status> {
    let api_version = api::kind::api_version(group, version);
    let unrecognized =
        |why: String| Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"));
    let mut duplicates = Vec::new();
    // `apiVersion` and `kind` first: what they say decides on the error.
    let tree = match encoding {
        Encoding::Json => {
            check_depth(body).map_err(&unrecognized)?;
            None
        }
        Encoding::Yaml => {
            let document = api::yaml::decode(body).map_err(|error| unrecognized(error.to_string()))?;
            duplicates = document.duplicates;
            Some(document.value)
        }
        Encoding::Protobuf => Some(api::proto::decode(body).map_err(|error| unrecognized(error.to_string()))?),
    };
    let (have_version, have_kind) = match &tree {
        Some(tree) => (text(tree, "apiVersion"), text(tree, "kind")),
        None => type_meta(body).map_err(unrecognized)?,
    };
    let told = |why: String| {
        let kind_told = if have_kind.is_empty() { kind } else { &have_kind };
        // The version alone, without its group, as upstream has it.
        let version_told = api::kind::split_api_version(if have_version.is_empty() { &api_version } else { &have_version }).1;
        Status::bad_request(format!("{kind_told} in version {version_told:?} cannot be handled as a {kind}: {why}"))
    };
    if (!have_version.is_empty() && have_version != api_version) || (!have_kind.is_empty() && have_kind != kind) {
        let (wanted_version, wanted_kind) = (
            if have_version.is_empty() { &api_version } else { &have_version },
            if have_kind.is_empty() { kind } else { &have_kind },
        );
        let (told_group, told_version) = api::kind::split_api_version(wanted_version);
        return Err(told(match Schema::builtin(told_group, told_version, wanted_kind) {
            None => format!(
                "no kind {wanted_kind:?} is registered for version {wanted_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            ),
            Some(_) => {
                format!("converting ({told_version}.{wanted_kind}) to ({}.{kind}): unknown conversion", internal_package(group))
            }
        }));
    }
    let decoded = match tree {
        Some(tree) => schema.decode_value(tree, validation),
        None => schema.decode(body, validation),
    };
    let decoded = decoded.map_err(|error| told(error.to_string()))?;
    if validation == FieldValidation::Strict {
        if !duplicates.is_empty() {
            return Err(told(format!("strict decoding error: yaml: unmarshal errors:\n  {}", duplicates.join("\n  "))));
        }
        if let Some(error) = decoded.strict_error() {
            return Err(told(error));
        }
    }
    let warnings = match validation {
        FieldValidation::Warn => {
            let duplicates = duplicates.iter().map(|why| format!("yaml: unmarshal errors: {why}"));
            duplicates.chain(decoded.problems.iter().map(|problem| problem.warning())).collect()
        }
        FieldValidation::Ignore | FieldValidation::Strict => Vec::new(),
    };
    let (mut object, empties) = (decoded.object, decoded.empties);
    set_type(&mut object, (group, version, kind));
    Ok(Body { object, warnings, empties })
}

/// Sets `apiVersion` and `kind`.
pub fn set_type(object: &mut Value, (group, version, kind): (&str, &str, &str)) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api::kind::api_version(group, version).into());
        map.insert("kind".into(), kind.into());
    }
}

/// A type of upstream's internal packages, as its messages show it: `*core.Pod`.
pub fn go_type(served: &Served, name: &str) -> String {
    format!("*{}.{name}", internal_package(served.group()))
}

/// The name of upstream's package of internal types of a group, as its messages show it.
fn internal_package(group: &str) -> &str {
    if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) }
}

fn text(tree: &Value, key: &str) -> String {
    tree.get(key).and_then(Value::as_str).unwrap_or("").to_owned()
}

/// `apiVersion` and `kind` of a JSON document, with Go's words where it is none.
fn type_meta(body: &[u8]) -> Result<(String, String), String> {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct TypeMeta<'a> {
        #[serde(rename = "apiVersion", borrow)]
        api_version: Option<Cow<'a, str>>,
        #[serde(borrow)]
        kind: Option<Cow<'a, str>>,
    }
    let wrong_type = |what: &str| {
        let target = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        let why = format!("json: cannot unmarshal {what} into Go value of type {target}");
        Err(format!("couldn't get version/kind; json parse error: {why} ({})", hex::encode(&body[..body.len().min(32)])))
    };
    match body.trim_ascii_start().first() {
        Some(b'[') if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => return wrong_type("array"),
        Some(b'"') if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => return wrong_type("string"),
        Some(b'0'..=b'9' | b'-') if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => return wrong_type("number"),
        Some(b't' | b'f') if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => return wrong_type("bool"),
        _ => {}
    }
    match serde_json::from_slice::<Option<TypeMeta<'_>>>(body) {
        Ok(meta) => {
            let meta = meta.unwrap_or_default();
            Ok((meta.api_version.unwrap_or_default().into_owned(), meta.kind.unwrap_or_default().into_owned()))
        }
        // Duplicate `apiVersion` or `kind` is for the field validation to say; take the last, as Go does.
        Err(error) if error.to_string().starts_with("duplicate field") => {
            let tree: Value =
                serde_json::from_slice(body).map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
            Ok((text(&tree, "apiVersion"), text(&tree, "kind")))
        }
        Err(error) => {
            let why = if error.is_eof() {
                "unexpected end of JSON input".to_owned()
            } else if error.to_string().contains("recursion limit") {
                "invalid character '{' exceeded max depth".to_owned()
            } else {
                error.to_string()
            };
            Err(format!("couldn't get version/kind; json parse error: {why} ({})", preview(body)))
        }
    }
}

/// Deepest nesting of a JSON body. Upstream: encoding/json's maxNestingDepth.
const DEPTH: usize = 10_000;

/// Whether a body nests too deep: decoders recurse.
fn check_depth(body: &[u8]) -> Result<(), String> {
    if body.len() <= DEPTH {
        return Ok(());
    }
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                if depth > DEPTH {
                    let why = format!("invalid character '{}' exceeded max depth", *byte as char);
                    return Err(format!("couldn't get version/kind; json parse error: {why} ({})", preview(body)));
                }
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The beginning of a body, as upstream's errors show it.
fn preview(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match text.len() {
        0 => "<empty>".to_owned(),
        1..=30 => text.into_owned(),
        _ => format!("{} ...", text.chars().take(30).collect::<String>()),
    }
}

/// Writes a tree.
///
/// # Errors
/// The kind has no such encoding.
pub fn encode(object: &Value, encoding: Encoding, pretty: bool) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Json if pretty => serde_json::to_vec_pretty(object).map(Bytes::from).map_err(Status::internal),
        Encoding::Json => serde_json::to_vec(object).map(Bytes::from).map_err(Status::internal),
        Encoding::Yaml => serde_yaml::to_string(object).map(Bytes::from).map_err(Status::internal),
        Encoding::Protobuf => api::proto::encode(object).map(Bytes::from).map_err(Status::internal),
    }
}

/// A stored document as an object of the served version.
pub fn from_stored(served: &Served, document: &[u8]) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(document).map_err(Status::internal)?;
    served.resource.from_stored(&mut object);
    Ok(object)
}

/// The protobuf message of an object without its envelope, as items of lists are.
///
/// # Errors
/// The kind has no protobuf form.
pub fn protobuf_message(object: &Value) -> Result<Bytes, Status> {
    let encoded = Bytes::from(api::proto::encode(object).map_err(Status::internal)?);
    let message = api::proto::message_of(&encoded);
    Ok(encoded.slice_ref(message))
}

/// One frame of a protobuf watch.
///
/// # Errors
/// The kind has no protobuf form.
pub fn protobuf_frame(kind: &str, object: &Value) -> Result<Bytes, Status> {
    let encoded = api::proto::encode(object).map_err(Status::internal)?;
    Ok(api::proto::watch_frame(kind, &encoded).into())
}
