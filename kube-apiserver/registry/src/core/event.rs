//! Events, as the core group and as events.k8s.io: one object under two shapes.
//!
//! Upstream: pkg/registry/core/event, pkg/apis/events/v1/conversion.go

use api::field::{Errors, Path};
use serde_json::Value;

use crate::column::{self, since, text, unix, wide};
use crate::identifier;
use crate::resource::{Conversion, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of core Events.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        create_on_update: true,
        name: identifier::path_segment,
        validate: |_, event, errors| validate(event, errors),
        validate_update: |_, event, _, errors| validate(event, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![
        ("involvedObject.kind", |event| involved(event).text("kind").to_owned()),
        ("involvedObject.namespace", |event| involved(event).text("namespace").to_owned()),
        ("involvedObject.name", |event| involved(event).text("name").to_owned()),
        ("involvedObject.uid", |event| involved(event).text("uid").to_owned()),
        ("involvedObject.apiVersion", |event| involved(event).text("apiVersion").to_owned()),
        ("involvedObject.resourceVersion", |event| involved(event).text("resourceVersion").to_owned()),
        ("involvedObject.fieldPath", |event| involved(event).text("fieldPath").to_owned()),
        ("reason", |event| event.text("reason").to_owned()),
        ("reportingComponent", |event| first(event, "reportingComponent", "reportingController").to_owned()),
        ("source", source_component),
        ("type", |event| event.text("type").to_owned()),
    ];
    resource.columns = vec![
        text("Last Seen", "Time when this Event was last observed", |event, now| last_seen(event, now).into()),
        text("Type", "Type of this event (Normal, Warning), new types could be added in the future", |event, _| {
            event.text("type").into()
        }),
        text(
            "Reason",
            "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
            |event, _| event.text("reason").into(),
        ),
        text("Object", "The object that this event is about.", |event, _| {
            let object = involved(event);
            let kind = object.text("kind").to_lowercase();
            if object.text("name").is_empty() { kind.into() } else { format!("{kind}/{}", object.text("name")).into() }
        }),
        wide(text(
            "Subobject",
            "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement.",
            |event, _| involved(event).text("fieldPath").into(),
        )),
        wide(text(
            "Source",
            "The component reporting this event. Should be a short machine understandable string.",
            |event, _| source(event).into(),
        )),
        text("Message", "A human-readable description of the status of this operation.", |event, _| {
            first(event, "message", "note").trim().into()
        }),
        wide(text(
            "First Seen",
            "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
            |event, now| first_seen(event, now).into(),
        )),
        wide(text("Count", "The number of times this event has occurred.", |event, _| count(event).into())),
        wide(column::name()),
    ];
}

/// The same as events.k8s.io/v1.
pub fn build_events(resource: &mut Resource) {
    build(resource);
    resource.selectable = vec![
        ("regarding.kind", |event| involved(event).text("kind").to_owned()),
        ("regarding.namespace", |event| involved(event).text("namespace").to_owned()),
        ("regarding.name", |event| involved(event).text("name").to_owned()),
        ("regarding.uid", |event| involved(event).text("uid").to_owned()),
        ("regarding.apiVersion", |event| involved(event).text("apiVersion").to_owned()),
        ("regarding.resourceVersion", |event| involved(event).text("resourceVersion").to_owned()),
        ("regarding.fieldPath", |event| involved(event).text("fieldPath").to_owned()),
        ("reason", |event| event.text("reason").to_owned()),
        ("reportingController", |event| first(event, "reportingComponent", "reportingController").to_owned()),
        ("type", |event| event.text("type").to_owned()),
    ];
    resource.conversion = Some(Conversion { to_stored: to_core, from_stored: from_core });
}

/// events.k8s.io/v1 name, core/v1 name.
const FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn to_core(event: &mut Value) {
    event.set("apiVersion", "v1");
    rename(event, FIELDS.iter().copied());
    // Fields that the core type always writes.
    event.fill("involvedObject", serde_json::json!({}));
    event.fill("source", serde_json::json!({}));
    event.fill("reportingComponent", "");
    event.fill("reportingInstance", "");
    event.child("metadata");
}

fn from_core(event: &mut Value) {
    event.set("apiVersion", "events.k8s.io/v1");
    rename(event, FIELDS.iter().map(|(new, old)| (*old, *new)));
    for field in ["reportingController", "reportingInstance"] {
        if event.text(field).is_empty() {
            event.drop(field);
        }
    }
}

fn rename<'a>(event: &mut Value, fields: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(map) = event.as_object_mut() else { return };
    for (from, to) in fields {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn involved(event: &Value) -> &Value {
    if event.has("involvedObject") { event.at("involvedObject") } else { event.at("regarding") }
}

fn first<'a>(event: &'a Value, one: &str, other: &str) -> &'a str {
    if event.text(one).is_empty() { event.text(other) } else { event.text(one) }
}

fn either<'a>(event: &'a Value, one: &str, other: &str) -> &'a Value {
    if event.has(one) { event.at(one) } else { event.at(other) }
}

fn source_component(event: &Value) -> String {
    let component = either(event, "source", "deprecatedSource").text("component");
    if component.is_empty() { first(event, "reportingComponent", "reportingController").to_owned() } else { component.to_owned() }
}

fn source(event: &Value) -> String {
    let source = either(event, "source", "deprecatedSource");
    let (component, instance) = if source.text("component").is_empty() {
        (first(event, "reportingComponent", "reportingController"), event.text("reportingInstance"))
    } else {
        (source.text("component"), source.text("host"))
    };
    if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") }
}

fn first_seen(event: &Value, now: i64) -> String {
    let time = either(event, "firstTimestamp", "deprecatedFirstTimestamp");
    since(if unix(time).is_some() { time } else { event.at("eventTime") }, now)
}

fn last_seen(event: &Value, now: i64) -> String {
    if event.has("series") {
        return since(event.at("series").at("lastObservedTime"), now);
    }
    let time = either(event, "lastTimestamp", "deprecatedLastTimestamp");
    if unix(time).is_some() { since(time, now) } else { first_seen(event, now) }
}

fn count(event: &Value) -> i64 {
    if event.has("series") {
        return event.at("series").int("count").unwrap_or(0);
    }
    match either(event, "count", "deprecatedCount").as_i64().unwrap_or(0) {
        0 => 1,
        count => count,
    }
}

/// Events about namespaced objects stand in their namespace, others in `default`.
fn validate(event: &Value, errors: &mut Errors) {
    let field = if event.has("involvedObject") { "involvedObject.namespace" } else { "regarding.namespace" };
    let (about, own) = (involved(event).text("namespace"), event.at("metadata").text("namespace"));
    let fits = if about.is_empty() { matches!(own, "" | "default" | "kube-system") } else { about == own };
    if !fits {
        errors.invalid(&Path::new(field), about, "does not match event.namespace");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_two_shapes_convert_back_and_forth() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reason": "R", "note": "n", "regarding": {"kind": "Pod"}, "reportingController": "c", "reportingInstance": "i", "deprecatedSource": {}, "type": "Normal",
        });
        let mut event = new.clone();
        to_core(&mut event);
        assert_eq!(event["message"], "n");
        assert_eq!(event["involvedObject"]["kind"], "Pod");
        from_core(&mut event);
        assert_eq!(event, new);
    }
}
