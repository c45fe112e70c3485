//! An OpenAPI v2 document as the protobuf message of gnostic (`openapi.v2.Document`).
//!
//! Upstream: google/gnostic openapiv2/OpenAPIv2.proto

use serde_json::{Map, Value};

/// Appends one message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten() {
            self.bytes(number, text.as_str().unwrap_or_default().as_bytes());
        }
    }

    fn flag(&mut self, number: u64, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, number: u64, message: Message) {
        self.bytes(number, &message.0);
    }

    /// Name and value, as gnostic writes maps.
    fn named(&mut self, number: u64, name: &str, value: Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(number, pair);
    }

    /// Members that start with `x-`, as YAML.
    fn extensions(&mut self, number: u64, of: &Value) {
        for (name, value) in entries(of).filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, any(value));
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// `Any`: the value as YAML (JSON is YAML).
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

pub(super) fn document(value: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, value.get("swagger"));
    let mut info = Message::default();
    info.text(1, value["info"].get("title"));
    info.text(2, value["info"].get("version"));
    out.message(2, info);
    let mut paths = Message::default();
    for (name, item) in entries(&value["paths"]) {
        paths.named(2, name, path_item(item));
    }
    out.message(8, paths);
    out.message(9, schemas(&value["definitions"]));
    let mut parameters = Message::default();
    for (name, shared) in entries(&value["parameters"]) {
        parameters.named(1, name, parameter(shared));
    }
    out.message(10, parameters);
    for requirement in value["security"].as_array().into_iter().flatten() {
        let mut message = Message::default();
        for (name, scopes) in entries(requirement) {
            let mut list = Message::default();
            list.texts(1, Some(scopes));
            message.named(1, name, list);
        }
        out.message(12, message);
    }
    let mut definitions = Message::default();
    for (name, security) in entries(&value["securityDefinitions"]) {
        let mut key = Message::default();
        for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(number, security.get(field));
        }
        let mut item = Message::default();
        item.message(2, key);
        definitions.named(1, name, item);
    }
    out.message(13, definitions);
    out.0
}

fn path_item(value: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")] {
        if let Some(found) = value.get(method) {
            out.message(number, operation(found));
        }
    }
    parameter_items(&mut out, 9, value);
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, value.get("tags"));
    out.text(3, value.get("description"));
    out.text(5, value.get("operationId"));
    out.texts(6, value.get("produces"));
    out.texts(7, value.get("consumes"));
    parameter_items(&mut out, 8, value);
    let mut responses = Message::default();
    for (code, found) in entries(&value["responses"]) {
        let mut response = Message::default();
        response.text(1, found.get("description"));
        if let Some(found) = found.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(found));
            response.message(2, item);
        }
        let mut choice = Message::default();
        choice.message(1, response);
        responses.named(1, code, choice);
    }
    out.message(9, responses);
    out.texts(10, value.get("schemes"));
    out.extensions(13, value);
    out
}

fn parameter_items(out: &mut Message, number: u64, value: &Value) {
    for found in value.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let mut item = Message::default();
        if found.get("$ref").is_some() {
            let mut reference = Message::default();
            reference.text(1, found.get("$ref"));
            item.message(2, reference);
        } else {
            item.message(1, parameter(found));
        }
        out.message(number, item);
    }
}

fn parameter(value: &Value) -> Message {
    let mut out = Message::default();
    if value["in"] == "body" {
        let mut body = Message::default();
        body.text(1, value.get("description"));
        body.text(2, value.get("name"));
        body.text(3, value.get("in"));
        body.flag(4, value.get("required"));
        body.message(5, schema(&value["schema"]));
        out.message(1, body);
        return out;
    }
    let is_path = value["in"] == "path";
    let mut inner = Message::default();
    inner.flag(1, value.get("required"));
    inner.text(2, value.get("in"));
    inner.text(3, value.get("description"));
    inner.text(4, value.get("name"));
    inner.text(if is_path { 5 } else { 6 }, value.get("type"));
    inner.text(if is_path { 6 } else { 7 }, value.get("format"));
    inner.flag(if is_path { 19 } else { 20 }, value.get("uniqueItems"));
    let mut choice = Message::default();
    choice.message(if is_path { 4 } else { 3 }, inner);
    out.message(2, choice);
    out
}

/// A map of schemas.
fn schemas(value: &Value) -> Message {
    let mut out = Message::default();
    for (name, found) in entries(value) {
        out.named(1, name, schema(found));
    }
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref"));
    out.text(2, value.get("format"));
    out.text(4, value.get("description"));
    if let Some(default) = value.get("default") {
        out.message(5, any(default));
    }
    out.texts(19, value.get("required"));
    if let Some(found) = value.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, schema(found));
        out.message(21, item);
    }
    if let Some(kind) = value.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        out.message(22, item);
    }
    if let Some(found) = value.get("items") {
        let mut item = Message::default();
        item.message(1, schema(found));
        out.message(23, item);
    }
    if let Some(found) = value.get("properties") {
        out.message(25, schemas(found));
    }
    out.extensions(31, value);
    out
}
