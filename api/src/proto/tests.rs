use serde_json::json;

use super::*;
use crate::reference;
use crate::schema::{Flags, Table};

#[test]
fn samples_round_trip_byte_for_byte() {
    let mut failed = Vec::new();
    for (name, object, bytes) in reference::wire() {
        match decode(&bytes) {
            Ok(decoded) if decoded == object => {}
            Ok(decoded) => failed.push(format!("{name} decodes to\n{decoded}\nnot\n{object}")),
            Err(error) => failed.push(format!("{name}: {error}")),
        }
        match encode(&object) {
            Ok(encoded) if encoded == bytes => {}
            Ok(encoded) => {
                let at = encoded.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(encoded.len().min(bytes.len()));
                let around = |bytes: &[u8]| {
                    String::from_utf8_lossy(&bytes[at.saturating_sub(40)..(at + 40).min(bytes.len())]).into_owned()
                };
                failed.push(format!(
                    "{name} differs at {at} of {}/{}: {:?} not {:?}",
                    encoded.len(),
                    bytes.len(),
                    around(&encoded),
                    around(&bytes)
                ));
            }
            Err(error) => failed.push(format!("{name}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A tree of a type with every field set, as the samples are.
fn full(table: &Table, kind: Type, depth: usize) -> Value {
    match kind {
        Type::String => json!("text"),
        Type::Bytes => json!("AQID"),
        Type::Bool => json!(true),
        Type::Int32 | Type::Int64 => json!(7),
        Type::Double => json!(2.5),
        Type::Quantity => json!("1500m"),
        Type::IntOrString => json!("http"),
        Type::Time => json!("2026-01-02T03:04:05Z"),
        Type::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
        Type::Duration => json!("1s"),
        Type::Raw | Type::Any | Type::FieldsV1 => json!({"a": 1}),
        Type::SchemaOrArray => json!([{}]),
        Type::SchemaOrBool => json!(true),
        Type::SchemaOrStrings => json!(["a"]),
        Type::Struct(id) => {
            let mut out = serde_json::Map::new();
            for field in &table.get(id).fields {
                let travels = !field.proto.is_empty() || field.flags.has(Flags::TYPE_META);
                if depth < 12 && travels && !field.flags.has(Flags::TYPE_META) {
                    out.insert(field.name.clone().into_owned(), full(table, field.kind, depth + 1));
                }
            }
            Value::Object(out)
        }
        Type::List(id) => json!([full(table, table.element(id), depth + 1)]),
        Type::Map(id) => json!({"key": full(table, table.element(id), depth + 1)}),
    }
}

#[test]
fn every_kind_keeps_every_field() {
    let table = Schema::builtins();
    let mut failed = Vec::new();
    for (group, version, kind, id) in table.kinds() {
        let shape = table.get(*id);
        if shape.message.is_empty() {
            failed.push(format!("{group}/{version} {kind} has no message"));
            continue;
        }
        for field in &shape.fields {
            if field.proto.is_empty() && !field.flags.has(Flags::TYPE_META) {
                failed.push(format!("{group}/{version} {kind}.{} has no number", field.name));
            }
        }
        let schema = Schema::builtin(group, version, kind).unwrap();
        let mut object = full(table, Type::Struct(*id), 0);
        object["apiVersion"] = crate::kind::api_version(group, version).into();
        object["kind"] = (*kind).into();
        schema.normalize(&mut object);
        match encode(&object).and_then(|bytes| decode(&bytes)) {
            Ok(back) if back == object => {}
            Ok(back) => failed.push(format!("{group}/{version} {kind}:\n{object}\n{back}")),
            Err(error) => failed.push(format!("{group}/{version} {kind}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn lists_are_put_together_from_encoded_items() {
    let pod = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": []}});
    let items: Vec<Vec<u8>> = ["a", "b"].iter().map(|name| encode(&pod(name)).unwrap()).collect();
    let messages: Vec<&[u8]> = items.iter().map(|item| message_of(item)).collect();
    let (mut out, trailer) =
        list_frame("v1", "PodList", &json!({"resourceVersion": "5"}), messages.iter().map(|message| message.len())).unwrap();
    for message in messages {
        out.extend_from_slice(&item_prefix(message.len()));
        out.extend_from_slice(message);
    }
    out.extend_from_slice(&trailer);
    let list = decode(&out).unwrap();
    assert_eq!((list["kind"].as_str(), list["metadata"]["resourceVersion"].as_str()), (Some("PodList"), Some("5")));
    assert_eq!(list["items"][1]["metadata"]["name"], "b");
}

#[test]
fn zero_values_that_go_writes_are_left_out() {
    // A pod from a Go client: nodeName and hostNetwork explicit and zero (fields 10 and 11 of the spec).
    let bytes = b"k8s\0\n\x09\n\x02v1\x12\x03Pod\x12\x09\n\x00\x12\x05\x52\x00\x58\x00\x18";
    assert!(decode(bytes).is_err());
    let bytes = b"k8s\0\n\x09\n\x02v1\x12\x03Pod\x12\x08\n\x00\x12\x04\x52\x00\x58\x00";
    assert_eq!(
        decode(bytes).unwrap(),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": null}, "status": {}})
    );
}

#[test]
fn no_bytes_panic() {
    let pod = encode(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}})).unwrap();
    for length in 0..pod.len() {
        let _ = decode(&pod[..length]);
        for byte in [0, 0x7f, 0x80, 0xff] {
            let mut broken = pod.clone();
            broken[length] = byte;
            let _ = decode(&broken);
        }
    }
    assert_eq!(decode(b"{}"), Err(ProtoError::NoMagic));
}
