//! Table columns that many kinds share, and how ages are written.
//!
//! Upstream: pkg/printers/internalversion/printers.go, apimachinery/pkg/util/duration

use serde_json::Value;

use crate::resource::Column;
use crate::tree::Tree;

/// A text column shown always.
pub const fn text(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0, cell }
}

/// A number column shown always.
pub const fn integer(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0, cell }
}

/// A yes/no column shown always.
pub const fn boolean(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Column {
    Column { name, kind: "boolean", format: "", description, priority: 0, cell }
}

/// The same column, shown with `-o wide` only.
pub const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

/// The object's name.
pub fn name() -> Column {
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: NAME,
        priority: 0,
        cell: |object, _| object.at("metadata").text("name").into(),
    }
}

/// How old the object is.
pub fn age() -> Column {
    text("Age", CREATION_TIMESTAMP, |object, now| since(object.at("metadata").at("creationTimestamp"), now).into())
}

/// When the object was made, as RFC 3339 text, for kinds that have no columns of their own.
pub fn created_at() -> Column {
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        description: CREATION_TIMESTAMP,
        priority: 0,
        cell: |object, _| object.at("metadata").text("creationTimestamp").into(),
    }
}

/// Columns of a kind that has none of its own.
pub fn generic() -> Vec<Column> {
    vec![name(), created_at()]
}

/// Description of `metadata.name`.
pub const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// Description of `metadata.creationTimestamp`.
pub const CREATION_TIMESTAMP: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A time as unix seconds.
pub fn unix(value: &Value) -> Option<i64> {
    value.as_str()?.parse::<jiff::Timestamp>().ok().map(|time| time.as_second())
}

/// The age of a time stamp: `5m`, `<unknown>` where there is none, `<invalid>` where it lies in the future.
pub fn since(value: &Value, now: i64) -> String {
    match unix(value) {
        Some(time) => human_duration(now - time),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as people read them: two units at most, coarser the longer.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    if seconds < 60 * 2 {
        return format!("{seconds}s");
    }
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let minutes = seconds / 60;
    if minutes < 10 {
        return two(minutes, "m", seconds % 60, "s");
    }
    if minutes < 60 * 3 {
        return format!("{minutes}m");
    }
    let hours = minutes / 60;
    if hours < 8 {
        return two(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 24 * 8 {
        return two(days, "d", hours % 24, "h");
    }
    if hours < 24 * 365 * 2 {
        return format!("{days}d");
    }
    if hours < 24 * 365 * 8 {
        return two(days / 365, "y", days % 365, "d");
    }
    format!("{}y", days / 365)
}

/// Keys and values as `a=b,c=d`, or `<none>`.
pub fn labels(value: &Value) -> String {
    let Some(map) = value.as_object().filter(|map| !map.is_empty()) else { return "<none>".to_owned() };
    let mut out: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    out.sort();
    out.join(",")
}

/// A label selector as text: `a=b,c in (d,e)`, or `<none>`.
///
/// Upstream: metav1.FormatLabelSelector
pub fn selector(value: &Value) -> String {
    let mut parts: Vec<(String, String)> = value
        .entries("matchLabels")
        .into_iter()
        .map(|(key, value)| (key.to_owned(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    for expression in value.items("matchExpressions") {
        let key = expression.text("key");
        let mut values: Vec<&str> = expression.items("values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let text = match expression.text("operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        parts.push((key.to_owned(), text));
    }
    if parts.is_empty() {
        return "<none>".to_owned();
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// Names of a pod template's containers, joined by commas.
pub fn container_names(spec: &Value) -> String {
    join(spec, "name")
}

/// Images of a pod template's containers, joined by commas.
pub fn container_images(spec: &Value) -> String {
    join(spec, "image")
}

fn join(spec: &Value, field: &str) -> String {
    spec.items("containers").iter().map(|container| container.text(field)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (800 * 86400, "2y70d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
