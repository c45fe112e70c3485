//! Replays upstream's recorded server-side applies (`../shared/reference/golden/patch-answers.json`) without a server: conflicts, refusals and
//! managedFields. Defaulting and validation belong to the API server, so cases that need them are left to `make golden`.

use std::path::PathBuf;

use api::apply::{ApplyError, Writer, apply};
use api::schema::Schema;
use serde_json::{Value, json};

fn folder() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/golden");
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "no reference data at {}", path.display());
    eprintln!("SKIPPED: no reference data at {}", path.display());
    None
}

#[derive(Clone)]
enum Step {
    Name(String),
    Index(usize),
}

fn walk(value: &Value, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                path.push(Step::Name(name.clone()));
                walk(value, path, out);
                path.pop();
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                path.push(Step::Index(index));
                walk(value, path, out);
                path.pop();
            }
        }
        _ => {}
    }
    out.push(path.clone());
}

fn at_mut<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Name(name) => &mut value[name.as_str()],
        Step::Index(index) => &mut value[*index],
    })
}

/// The bodies that the recording script makes of a manifest: what is done, and the changed manifest.
fn variants(manifest: &Value) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    walk(manifest, &mut Vec::new(), &mut paths);
    let mut out = Vec::new();
    for path in paths.iter().filter(|path| !path.is_empty()) {
        let words: Vec<_> = path
            .iter()
            .map(|step| match step {
                Step::Name(name) => name.clone(),
                Step::Index(index) => index.to_string(),
            })
            .collect();
        let text = words.join(".");
        if ["apiVersion", "kind"].contains(&words[0].as_str())
            || text.starts_with("metadata.name")
            || text.starts_with("spec.request")
        {
            continue;
        }
        let (last, parent) = path.split_last().unwrap();
        let mut removed = manifest.clone();
        match (at_mut(&mut removed, parent), last) {
            (Value::Object(map), Step::Name(name)) => {
                map.remove(name);
            }
            (Value::Array(list), Step::Index(index)) => {
                list.remove(*index);
            }
            _ => unreachable!("a path leads through what it was made from"),
        }
        out.push((format!("{text} removed"), removed));
        let mut changed = manifest.clone();
        let place = at_mut(&mut changed, path);
        let new = match &*place {
            Value::String(text) => Some(json!(format!("{text}z"))),
            Value::Bool(flag) => Some(json!(!flag)),
            Value::Number(number) => number.as_i64().map(|number| json!(number + 1)),
            Value::Array(list) if !list.is_empty() => {
                let mut doubled = manifest.clone();
                let first = list[0].clone();
                at_mut(&mut doubled, path).as_array_mut().unwrap().push(first);
                out.push((format!("{text} doubled"), doubled));
                None
            }
            _ => None,
        };
        if let Some(new) = new {
            *place = new;
            out.push((format!("{text} changed"), changed));
        }
    }
    out
}

/// Volatile values as the recording blanks them.
fn blank(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if ["uid", "creationTimestamp", "resourceVersion", "time"].contains(&name.as_str()) && value.is_string() {
                    *value = json!("*");
                } else {
                    blank(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(blank),
        _ => {}
    }
}

fn unblank(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if *value == "*" && ["creationTimestamp", "time"].contains(&name.as_str()) {
                    *value = json!("2026-01-01T00:00:00Z");
                } else {
                    unblank(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(unblank),
        _ => {}
    }
}

#[test]
fn recorded_applies_come_out_the_same() {
    let Some(folder) = folder() else { return };
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let (answers, patches) = (read("answers.json"), read("patch-answers.json"));
    let manifests = std::fs::read_to_string(folder.join("manifests.yaml")).unwrap();
    let (mut same, mut failed) = (0, Vec::new());
    // Read as the recording script's YAML library does, which takes `n` for text.
    let manifests: Vec<Value> = serde_yaml::from_str(&manifests).unwrap();
    for manifest in &manifests {
        let (Some(kind), Some(name)) = (manifest["kind"].as_str(), manifest["metadata"]["name"].as_str()) else { continue };
        let Some(live) = answers.get(format!("create {kind}/{name}")).and_then(|answer| answer.get("object")) else { continue };
        if kind == "CertificateSigningRequest" {
            // Its request is another one in each recording.
            continue;
        }
        let mut live = live.clone();
        unblank(&mut live);
        let (group, version) = api::kind::split_api_version(manifest["apiVersion"].as_str().unwrap());
        let schema = Schema::builtin(group, version, kind).unwrap();
        for (what, body) in variants(manifest) {
            for (how, manager, force) in
                [("apply", "other", false), ("apply-force", "other", true), ("apply-golden", "golden", false)]
            {
                let Some(want) = patches.get(format!("{how} {kind}/{name} {what}")) else { continue };
                let mut body = body.clone();
                if body["metadata"].is_null() {
                    body["metadata"] = json!({});
                }
                let writer = Writer { manager, subresource: "", now: "2026-01-01T00:00:01Z" };
                let got = apply(&schema, Some(&live), &body, writer, force);
                let case = format!("{how} {kind}/{name} {what}");
                match (want["code"].as_i64(), got) {
                    (Some(409 | 500), Err(error)) if want["message"] == error.to_string().as_str() => same += 1,
                    // Causes are in no order upstream, and so are the paths in the message.
                    (Some(409), Err(ApplyError::Conflicts(conflicts))) => {
                        let mut mine: Vec<_> = conflicts
                            .iter()
                            .map(|conflict| {
                                json!(["FieldManagerConflict", format!("conflict with {}", conflict.manager), conflict.field])
                            })
                            .collect();
                        mine.sort_by_key(Value::to_string);
                        let mut wanted = want["causes"].as_array().unwrap().clone();
                        wanted.sort_by_key(Value::to_string);
                        if mine == wanted { same += 1 } else { failed.push(format!("{case}\n  {mine:?}\n  {wanted:?}")) }
                    }
                    (Some(200), Ok(mut object)) => {
                        blank(&mut object);
                        let delta = want["delta"].as_array().unwrap();
                        let managed = delta.iter().find(|entry| entry[0] == "metadata.managedFields").map(|entry| &entry[1]);
                        let Some(managed) = managed else { continue };
                        if object["metadata"]["managedFields"] == *managed {
                            same += 1;
                        } else if !only_server_managers(managed) {
                            failed.push(format!("{case}\n  {}\n  {managed}", object["metadata"]["managedFields"]));
                        }
                    }
                    // Refused by validation later, or made to differ by defaulting.
                    (Some(422 | 400), _) => {}
                    (code, got) => failed.push(format!("{case}: want {code:?} {}, got {:?}", want["message"], got.map(|_| ()))),
                }
            }
        }
    }
    eprintln!("{same} applies the same, {} not", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(same > 500, "only {same}");
}

/// Objects whose live form has owners that a create does not show (controllers inside upstream's API server).
fn only_server_managers(managed: &Value) -> bool {
    let known = ["other", "golden"];
    managed
        .as_array()
        .is_some_and(|entries| entries.iter().any(|entry| !known.contains(&entry["manager"].as_str().unwrap_or_default())))
}
