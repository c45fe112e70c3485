use serde_json::{Value, json};

use super::*;
use crate::kind::split_api_version;
use crate::reference;

fn of(object: &Value) -> Schema {
    // Only WatchEvent has no type metadata.
    let (group, version) = split_api_version(object["apiVersion"].as_str().unwrap_or("v1"));
    let kind = object["kind"].as_str().unwrap_or("WatchEvent");
    Schema::builtin(group, version, kind).unwrap_or_else(|| panic!("no schema for {group}/{version} {kind}"))
}

fn decode(object: &Value) -> Result<Decoded, DecodeError> {
    of(object).decode(object.to_string().as_bytes(), FieldValidation::Strict)
}

fn error(object: Value) -> String {
    decode(&object).unwrap_err().to_string()
}

#[test]
fn every_wire_sample_decodes_to_itself() {
    let mut failed = Vec::new();
    for (name, object, _) in reference::wire() {
        match decode(&object) {
            Ok(decoded) if decoded.object == object && decoded.problems.is_empty() => {}
            Ok(decoded) => failed.push(format!("{name}: {:?} {}", decoded.problems, difference("", &object, &decoded.object))),
            Err(error) => failed.push(format!("{name}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn difference(path: &str, a: &Value, b: &Value) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let names = x.keys().chain(y.keys().filter(|name| !x.contains_key(*name)));
            names
                .map(|name| {
                    difference(
                        &format!("{path}.{name}"),
                        x.get(name).unwrap_or(&json!("<none>")),
                        y.get(name).unwrap_or(&json!("<none>")),
                    )
                })
                .collect()
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().map(|(index, (x, y))| difference(&format!("{path}[{index}]"), x, y)).collect()
        }
        _ if a == b => String::new(),
        _ => format!("{path}: want {a}, got {b}; "),
    }
}

#[test]
fn created_objects_of_upstream_are_canonical() {
    let Some(answers) = reference::json("golden/answers.json") else { return };
    let mut failed = Vec::new();
    for (case, answer) in answers.as_object().unwrap().iter().filter(|(case, _)| case.starts_with("create ")) {
        let Some(object) = answer.get("object") else { continue };
        // Blanked values are no times and no base64.
        let text = object.to_string().replace("\"creationTimestamp\":\"*\"", "\"creationTimestamp\":\"2026-01-01T00:00:00Z\"");
        let text = text
            .replace("\"time\":\"*\"", "\"time\":\"2026-01-01T00:00:00Z\"")
            .replace("\"request\":\"*\"", "\"request\":\"AAAA\"");
        let object: Value = serde_json::from_str(&text.replace("\"TIME\"", "\"2026-01-01T00:00:00Z\"")).unwrap();
        match decode(&object) {
            Ok(decoded) if decoded.object == object => {
                let mut again = decoded.object;
                of(&object).normalize(&mut again);
                if again != object {
                    failed.push(format!("{case}: normalize {}", difference("", &object, &again)));
                }
            }
            Ok(decoded) => failed.push(format!("{case}: {}", difference("", &object, &decoded.object))),
            Err(error) => failed.push(format!("{case}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn empties_are_dropped_and_plain_structs_appear() {
    let decoded = decode(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {}, "creationTimestamp": null},
        "spec": {"selector": null, "replicas": 0, "paused": false, "template": {"spec": {"containers": [{"name": "c", "args": []}]}}},
    }))
    .unwrap();
    assert_eq!(
        decoded.object,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": 0, "selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {}}]}}},
            "status": {},
        })
    );
}

#[test]
fn unknown_and_duplicate_fields_are_told_in_order_with_a_hint() {
    let schema = Schema::builtin("", "v1", "Pod").unwrap();
    let body = br#"{"spec":{"containers":[{"name":"a","imag":"x","name":"b"}],"zzz":1},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
    let decoded = schema.decode(body, FieldValidation::Strict).unwrap();
    let texts: Vec<_> = decoded.problems.iter().map(Problem::warning).collect();
    assert_eq!(
        texts,
        [
            r#"unknown field "spec.containers[0].imag" (did you mean "spec.containers[0].image"?)"#,
            r#"duplicate field "spec.containers[0].name""#,
            r#"unknown field "spec.zzz""#,
            r#"duplicate field "metadata.labels.a""#
        ]
    );
    assert!(
        decoded
            .strict_error()
            .unwrap()
            .ends_with(r#"duplicate field "metadata.labels.a" (did you mean "spec.containers[0].image"?)"#)
    );
    assert!(schema.decode(body, FieldValidation::Ignore).unwrap().problems.is_empty());
}

#[test]
fn type_errors_are_worded_as_go_does() {
    let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": spec});
    assert_eq!(
        error(pod(json!({"containers": [{"name": 5}]}))),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string"
    );
    assert_eq!(
        error(pod(json!({"containers": ["x"]}))),
        "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container"
    );
    assert_eq!(
        error(pod(json!({"terminationGracePeriodSeconds": 1.5}))),
        "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"
    );
    assert_eq!(
        error(pod(json!({"nodeSelector": {"a": 1}}))),
        "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string"
    );
    assert!(
        error(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": "x"}}))
            .starts_with(r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#)
    );
}

#[test]
fn golden_decoder_errors_are_the_same_words() {
    let Some(answers) = reference::json("golden/answers.json") else { return };
    // The requests are not recorded with the answers, but the words follow from field, type and kind alone: check that each named field
    // and Go type is one that the schema would print.
    let mut checked = 0;
    let mut failed = Vec::new();
    for (case, answer) in answers.as_object().unwrap() {
        let Some(message) = answer["message"].as_str() else { continue };
        let (Some((_, rest)), Some(kind)) = (message.split_once("Go struct field "), message.split(' ').next()) else { continue };
        let (place, go_type) = rest.split_once(" of type ").unwrap();
        let (owner, path) = place.split_once('.').unwrap();
        let found = crate::kind::all().iter().filter(|row| row.kind == kind).any(|row| {
            let schema = Schema::builtin(row.group, row.version, row.kind).unwrap();
            prints(schema.table(), schema.root(), owner, path, go_type)
        });
        checked += 1;
        if !found {
            failed.push(format!("{case}: {message}"));
        }
    }
    assert!(checked > 500 && failed.is_empty(), "{checked} checked\n{}", failed.join("\n"));
}

fn prints(table: &Table, kind: Type, owner: &str, path: &str, go_type: &str) -> bool {
    match kind {
        Type::List(id) | Type::Map(id) => prints(table, table.element(id), owner, path, go_type),
        Type::Struct(id) => {
            let shape = table.get(id);
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            let below = |inlined: &str| path.strip_prefix(inlined).and_then(|rest| rest.strip_prefix('.'));
            let inlined = shape.fields.iter().find_map(|field| {
                let rest = below(field.inlined).filter(|_| !field.inlined.is_empty())?;
                let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
                (field.name == name).then_some((field, rest))
            });
            let (field, rest) = match (shape.field(name).filter(|field| field.inlined.is_empty()), inlined) {
                (None, Some((field, rest))) => (Some(field), rest),
                (field, _) => (field, rest),
            };
            match field {
                Some(field) if rest.is_empty() => {
                    let own = match field.kind {
                        Type::IntOrString => "int32",
                        Type::Time | Type::MicroTime => "string",
                        _ => field.go_type.as_ref(),
                    };
                    shape.go_short() == owner && (own == go_type || own.ends_with(&format!("]{go_type}")))
                }
                Some(field) => prints(table, field.kind, owner, rest, go_type),
                None => false,
            }
        }
        _ => false,
    }
}

#[test]
fn no_input_panics() {
    let schema = Schema::builtin("", "v1", "Pod").unwrap();
    for body in [
        "",
        "[]",
        "null",
        "1",
        "\"",
        "{\"a\":",
        &"[".repeat(100_000),
        &"{\"spec\":".repeat(100_000),
        "{\"metadata\":{\"creationTimestamp\":\"2026-02-30T00:00:00Z\"}}",
    ] {
        let _ = schema.decode(body.as_bytes(), FieldValidation::Strict);
    }
}

#[test]
fn base64_is_checked_as_go_does() {
    for (given, want) in [
        ("AQI=", Ok("AQI=")),
        ("AQ\nI=", Ok("AQI=")),
        ("AQJ=", Ok("AQI=")),
        ("", Ok("")),
        ("AQI=z", Err(4)),
        ("AQI", Err(0)),
        ("AQI*", Err(3)),
        ("A===", Err(1)),
        ("AQ=", Err(3)),
        ("AQ=x", Err(2)),
    ] {
        let want = want.map(str::to_owned).map_err(|at: usize| format!("illegal base64 data at input byte {at}"));
        assert_eq!(text::canonical_base64(given.to_owned()), want, "{given}");
    }
}
