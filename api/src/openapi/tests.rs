use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{discovery, reference};

fn groups() -> Vec<Group> {
    discovery::builtin(|_, _| true)
}

fn without(value: &Value, names: &[&str], depth_of_properties: bool) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, _)| depth_of_properties || !names.contains(&name.as_str()));
            Value::Object(kept.map(|(name, value)| (name.clone(), without(value, names, name == "properties"))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(|value| without(value, names, false)).collect()),
        other => other.clone(),
    }
}

#[test]
fn definitions_are_upstreams() {
    let Some(want) = reference::json("openapi-v2.json") else { return };
    let (want, got) = (&want["definitions"], Value::Object(definitions::all(Style::V2)));
    let mut failed = Vec::new();
    for (name, schema) in want.as_object().unwrap() {
        let (mut want, mut got) = (without(schema, &["description"], false), without(&got[name], &["description"], false));
        for side in [&mut want, &mut got] {
            if let Some(list) = side.get_mut("x-kubernetes-group-version-kind").and_then(Value::as_array_mut) {
                list.sort_by_key(|gvk| gvk.to_string());
            }
            if let Some(list) = side.get_mut("required").and_then(Value::as_array_mut) {
                list.sort_by_key(|name| name.to_string());
            }
        }
        if want != got {
            failed.push(format!("{name}\n  {want}\n  {got}"));
        }
    }
    let more: Vec<_> = got.as_object().unwrap().keys().filter(|name| want.get(name.as_str()).is_none()).collect();
    assert!(failed.is_empty() && more.is_empty(), "{} {more:?}\n{}", failed.len(), failed.join("\n"));
}

fn parameter_names(document: &Value, of: &Value) -> BTreeSet<String> {
    let list = of.get("parameters").and_then(Value::as_array).into_iter().flatten();
    list.map(|parameter| match parameter["$ref"].as_str() {
        Some(reference) => {
            let shared = &document["parameters"][reference.rsplit('/').next().unwrap()];
            format!("{}:{}:{}", shared["in"], shared["name"], shared["type"])
        }
        None => format!("{}:{}:{}", parameter["in"], parameter["name"], parameter["type"]),
    })
    .collect()
}

#[test]
fn paths_and_operations_are_upstreams() {
    let Some(want) = reference::json("openapi-v2.json") else { return };
    let got = v2(&groups());
    let mut failed = Vec::new();
    let (wanted, found) = (want["paths"].as_object().unwrap(), got["paths"].as_object().unwrap());
    for (path, item) in wanted {
        let Some(mine) = found.get(path) else {
            failed.push(format!("{path} is missing"));
            continue;
        };
        if parameter_names(&want, item) != parameter_names(&got, mine) {
            failed.push(format!("{path}: {:?} not {:?}", parameter_names(&got, mine), parameter_names(&want, item)));
        }
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters") {
            let mine = &mine[method];
            let brief = |document: &Value, operation: &Value| {
                let schemas: Vec<_> = operation["responses"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(code, response)| (code.clone(), response["schema"].clone()))
                    .collect();
                (
                    operation["operationId"].clone(),
                    operation["x-kubernetes-action"].clone(),
                    operation["x-kubernetes-group-version-kind"].clone(),
                    operation["tags"].clone(),
                    schemas,
                    parameter_names(document, operation),
                )
            };
            let (a, b) = (brief(&want, operation), brief(&got, mine));
            if a != b {
                failed.push(format!("{method} {path}\n  {a:?}\n  {b:?}"));
            }
        }
    }
    let more: Vec<_> = found.keys().filter(|path| !wanted.contains_key(*path)).collect();
    assert!(failed.is_empty() && more.is_empty(), "{} {more:?}\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn v3_documents_are_whole() {
    let groups = groups();
    for (path, _) in v3_index(&groups) {
        let document = v3(&groups, &path).unwrap();
        let mut open = Vec::new();
        find_references(&document, &mut open);
        for name in open {
            assert!(document["components"]["schemas"].get(&name).is_some(), "{path} lacks {name}");
        }
    }
    let apps = v3(&groups, "apis/apps/v1").unwrap();
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    assert!(patch["parameters"].as_array().unwrap().iter().any(|parameter| parameter["name"] == "fieldValidation"));
    let deployment = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert!(deployment["description"].as_str().unwrap().starts_with("Deployment enables declarative updates"));
    assert_eq!(deployment["properties"]["spec"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    assert_eq!(v3(&groups, "apis/none/v1"), None);
    assert!(v3_root(&groups)["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().starts_with("/openapi/v3/api/v1?hash="));
}

fn find_references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let (Value::String(text), "$ref") = (value, name.as_str()) {
                    out.extend(text.strip_prefix("#/components/schemas/").map(str::to_owned));
                }
                find_references(value, out);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| find_references(value, out)),
        _ => {}
    }
}

#[test]
fn the_protobuf_form_can_be_walked() {
    let document = v2(&groups());
    let bytes = v2_protobuf(&document);
    let prefix = [0x0a, 3, b'2', b'.', b'0'];
    assert!(bytes.starts_with(&prefix));
    // Top-level fields: swagger, info, paths, definitions, parameters, security, securityDefinitions.
    let (mut rest, mut numbers) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (key, after) = varint(rest);
        let (length, after) = varint(after);
        numbers.push(key >> 3);
        rest = &after[length as usize..];
    }
    assert_eq!(numbers, [1, 2, 8, 9, 10, 12, 13]);
    assert_ne!(document["definitions"]["io.k8s.api.core.v1.Pod"], json!(null));
}

fn varint(mut bytes: &[u8]) -> (u64, &[u8]) {
    let (mut out, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first().unwrap();
        bytes = rest;
        out |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (out, bytes);
        }
    }
}
