//! Objects and errors to responses.

use api::status::Status;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::cache::entry::Entry;
use crate::call::{Call, Response};
use crate::codec;
use crate::negotiate::{Accept, Encoding, Offers, Shape};
use crate::table::Served;
use crate::tabular;

/// A response of this type and body.
pub fn raw(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = http::Response::new(body.into());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Text.
pub fn text(code: u16, body: impl Into<String>) -> Response {
    let mut response = raw(code, "text/plain; charset=utf-8", Bytes::from(body.into()));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A tree in the encoding asked for.
pub fn tree(code: u16, object: &Value, accept: Accept) -> Response {
    let with_version;
    let mut object = object;
    if accept.encoding == Encoding::Protobuf && object.get("apiVersion").is_none() {
        // Discovery of the core group says no version; the envelope needs one.
        let mut own = object.clone();
        own["apiVersion"] = "v1".into();
        with_version = own;
        object = &with_version;
    }
    match codec::encode(object, accept.encoding, accept.pretty) {
        Ok(bytes) => raw(code, accept.encoding.media_type(), bytes),
        Err(error) => raw(500, "application/json", error.to_value().to_string()),
    }
}

/// An error.
pub fn status(status: &Status, accept: Accept) -> Response {
    let mut object = status.to_value();
    // A continue token is list metadata, and has nowhere else to travel in a `Status`.
    if status.code == 410
        && let Some(token) = object.pointer("/details/continue").cloned()
    {
        object["metadata"]["continue"] = token;
        object.as_object_mut().map(|map| map.remove("details"));
    }
    let mut response = tree(status.code, &object, Accept { shape: Shape::Object, ..accept });
    if let Some(seconds) = status.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `Status: Success` with these details.
pub fn success(code: u16, details: Option<Value>) -> Value {
    let mut out = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if code != 200 {
        out["code"] = code.into();
    }
    if let Some(details) = details {
        out["details"] = details;
    }
    out
}

/// The bytes of one object in a form other than a Table.
///
/// # Errors
/// The kind has no such encoding.
pub fn entry_bytes(served: &Served, accept: Accept, entry: &Entry) -> Result<Bytes, Status> {
    if accept == Accept::JSON && !served.converted {
        return Ok(entry.json());
    }
    let make = |entry: &Entry| {
        let object = codec::from_stored(served, entry.json_slice())?;
        codec::encode(&shaped(object, accept.shape), accept.encoding, accept.pretty)
    };
    if accept.pretty { make(entry) } else { entry.encoded(served.number * 64 + accept.form(), make) }
}

/// An object of the cache.
///
/// # Errors
/// 406 where the kind has no such encoding.
pub fn entry(call: &Call, accept: Accept, entry: &Entry) -> Result<Response, Status> {
    if matches!(accept.shape, Shape::Table(_) | Shape::MetadataList(_)) {
        return object(call, 200, codec::from_stored(&call.served, entry.json_slice())?);
    }
    Ok(raw(200, accept.encoding.media_type(), entry_bytes(&call.served, accept, entry)?))
}

/// An object of the served version, just made or changed.
///
/// # Errors
/// 406 where the kind has no such encoding.
pub fn object(call: &Call, code: u16, object: Value) -> Result<Response, Status> {
    let accept = call.accept(Offers::All)?;
    if let Shape::MetadataList(_) = accept.shape {
        let name = codec::go_type(&call.served, &call.served.resource.names.kind);
        let message = format!("you requested PartialObjectMetadataList, but the requested object is not a list ({name})");
        return Err(Status::new(406, "NotAcceptable", message));
    }
    let shown = match accept.shape {
        Shape::Table(beta) => {
            let version = tabular::version(beta);
            let mut table = tabular::head(&call.served, version, object_list_meta(&object), true);
            table["rows"] = vec![tabular::row(call, &object, &object)?].into();
            table
        }
        shape => shaped(object, shape),
    };
    let bytes = codec::encode(&shown, accept.encoding, accept.pretty)?;
    Ok(raw(code, accept.encoding.media_type(), bytes))
}

fn object_list_meta(object: &Value) -> Value {
    match object.pointer("/metadata/resourceVersion") {
        Some(version) => json!({"resourceVersion": version}),
        None => json!({}),
    }
}

/// The object, or its metadata alone.
pub fn shaped(object: Value, shape: Shape) -> Value {
    match shape {
        Shape::Metadata(beta) | Shape::MetadataList(beta) => partial(object, beta),
        Shape::Object | Shape::Table(_) => object,
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial(mut object: Value, beta: bool) -> Value {
    let mut out = Map::new();
    out.insert("kind".into(), "PartialObjectMetadata".into());
    out.insert("apiVersion".into(), tabular::version(beta).into());
    out.insert("metadata".into(), object.get_mut("metadata").map(Value::take).unwrap_or_else(|| json!({})));
    Value::Object(out)
}

/// A document that a write stored, as the client sees it.
///
/// # Errors
/// As [`object`].
pub fn written(call: &Call, code: u16, document: &[u8], revision: u64) -> Result<Response, Status> {
    let accept = call.accept(Offers::All)?;
    if accept == Accept::JSON && !call.served.converted {
        let bytes = crate::cache::entry::with_version(document, revision).map_err(Status::internal)?;
        return Ok(raw(code, Encoding::Json.media_type(), bytes));
    }
    let mut value = codec::from_stored(&call.served, document)?;
    value["metadata"]["resourceVersion"] = revision.to_string().into();
    object(call, code, value)
}
