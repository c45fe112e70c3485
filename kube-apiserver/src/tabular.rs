//! Tables: what `kubectl get` shows.

use api::status::Status;
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use crate::cache::entry::{Cell, Entry, Row};
use crate::call::Call;
use crate::codec;
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

/// Writes the row of a cached object. What does not change with time is rendered once per version of the object, so that listing
/// many objects parses none of them.
///
/// # Errors
/// The stored document cannot be read.
pub fn write_row(served: &Served, include: Include, entry: &Entry, now: i64, out: &mut BytesMut) -> Result<(), Status> {
    let kept = if served.converted { None } else { entry.row(served.number, |entry| render(served, entry, now)) };
    let Some(row) = kept else {
        let object = codec::from_stored(served, entry.json_slice())?;
        let row = row_of(served, include, &object, &object, now);
        out.put_slice(row.to_string().as_bytes());
        return Ok(());
    };
    out.put_slice(br#"{"cells":["#);
    for cell in &row.cells {
        match cell {
            Cell::Text(text) => out.put_slice(text),
            Cell::Age(since) => {
                out.put_u8(b'"');
                out.put_slice(registry::column::human_duration(now - since).as_bytes());
                out.put_u8(b'"');
            }
        }
    }
    out.put_slice(br#"],"object":"#);
    match include {
        Include::None => out.put_slice(b"null"),
        Include::Object => out.put_slice(entry.json_slice()),
        Include::Metadata => {
            out.put_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
            out.put_slice(&entry.json_slice()[row.metadata.clone()]);
            out.put_u8(b'}');
        }
    }
    out.put_u8(b'}');
    Ok(())
}

/// Renders a row for keeping; `None` where a cell changes with time in another way than telling the object's age.
fn render(served: &Served, entry: &Entry, now: i64) -> Option<Row> {
    /// Far enough that every text about time differs.
    const LATER: i64 = 1_000_000_007;
    let object: Value = serde_json::from_slice(entry.json_slice()).ok()?;
    let created = registry::column::unix(&object["metadata"]["creationTimestamp"]);
    let (mut cells, mut text) = (Vec::new(), Vec::new());
    for (index, column) in served.resource.columns.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let (cell, later) = ((column.cell)(&object, now), (column.cell)(&object, now + LATER));
        if cell == later {
            text.extend_from_slice(cell.to_string().as_bytes());
            continue;
        }
        let created = created?;
        let age = |now: i64| registry::column::human_duration(now - created);
        if cell != age(now).as_str() || later != age(now + LATER).as_str() {
            return None;
        }
        cells.push(Cell::Text(std::mem::take(&mut text).into()));
        cells.push(Cell::Age(created));
    }
    cells.push(Cell::Text(text.into()));
    Some(Row { cells, metadata: entry.metadata_range()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    #[tokio::test]
    async fn a_kept_row_is_the_row_at_any_time() {
        // Nothing is sent to etcd by this.
        let etcd = crate::storage::EtcdConfig { servers: vec!["http://127.0.0.1:1".into()], ..Default::default() };
        let storage = crate::storage::Storage::connect(&etcd).await.unwrap();
        let table = Table::new(registry::table(), &crate::cache::Caches::new(storage, [], Vec::new()));
        let pod = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running","podIP":"10.0.0.1"}}"#;
        let served = table.get("", "v1", "pods").unwrap();
        let entry = Entry::new("n/p", true, pod, 7, &crate::cache::extract::Extract::none()).unwrap();
        let start = 1_767_225_600;
        for age in [5, 3_600, 86_400 * 9] {
            let mut out = BytesMut::new();
            write_row(served, Include::Metadata, &entry, start + age, &mut out).unwrap();
            let object = entry.parse();
            let want = row_of(served, Include::Metadata, &object, &object, start + age);
            assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), want);
        }
        assert!(entry.row(served.number, |_| None).is_some(), "the row of a pod without restarts is kept");
    }
}
