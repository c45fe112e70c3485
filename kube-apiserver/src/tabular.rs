//! Tables: what `kubectl get` shows.

use api::status::Status;
use serde_json::{Value, json};

use crate::call::Call;
use crate::reply::partial;
use crate::table::Served;

/// `meta.k8s.io/v1` or `v1beta1`.
pub fn version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

/// A Table without rows. Only the first Table of a watch has column definitions.
pub fn head(served: &Served, version: &str, metadata: Value, columns: bool) -> Value {
    let definitions: Vec<Value> = if columns {
        let column = |column: &registry::resource::Column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        };
        served.resource.columns.iter().map(column).collect()
    } else {
        Vec::new()
    };
    let definitions = if columns { Value::Array(definitions) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": version, "metadata": metadata, "columnDefinitions": definitions, "rows": []})
}

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// The object's metadata.
    Metadata,
    /// The object.
    Object,
    /// Nothing.
    None,
}

/// The `includeObject` parameter.
///
/// # Errors
/// 400 for other values.
pub fn include(call: &Call) -> Result<Include, Status> {
    match call.query.get("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "Object" => Ok(Include::Object),
        "None" => Ok(Include::None),
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// The row of `object`; `whole` is what it carries.
///
/// # Errors
/// As [`include`].
pub fn row(call: &Call, object: &Value, whole: &Value) -> Result<Value, Status> {
    let include = include(call)?;
    Ok(row_of(&call.served, include, object, whole, call.unix()))
}

/// The same with the parameter read.
pub fn row_of(served: &Served, include: Include, object: &Value, whole: &Value, now: i64) -> Value {
    let cells: Vec<Value> = served.resource.columns.iter().map(|column| (column.cell)(object, now)).collect();
    let carried = match include {
        Include::Metadata => partial(json!({"metadata": whole.get("metadata").cloned().unwrap_or_default()}), false),
        Include::Object => whole.clone(),
        Include::None => Value::Null,
    };
    json!({"cells": cells, "object": carried})
}
