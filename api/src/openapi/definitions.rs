//! The definitions (components) of a document, from the schema table.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use serde_json::{Map, Value, json};

use super::Style;
use crate::schema::{Field, Flags, ListKind, Schema, Struct, Table, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Texts by definition (key: its name) and by field (key: `definition field`).
struct Descriptions(HashMap<String, String>);

impl Descriptions {
    fn load() -> Self {
        let mut text = String::new();
        // The data is compiled in and was checked by a test.
        let _ = flate2::read::GzDecoder::new(&include_bytes!("../../data/descriptions.gz")[..]).read_to_string(&mut text);
        let (mut out, mut definition) = (HashMap::new(), "");
        for line in text.lines() {
            let Some((name, text)) = line.split_once('\t') else { continue };
            let text: String = serde_json::from_str(text).unwrap_or_default();
            match name.strip_prefix('=') {
                Some(name) => {
                    definition = name;
                    out.insert(name.to_owned(), text);
                }
                None => {
                    out.insert(format!("{definition} {name}"), text);
                }
            }
        }
        Self(out)
    }

    fn of(&self, definition: &str) -> String {
        match self.0.get(definition).filter(|text| !text.is_empty()) {
            Some(text) => text.clone(),
            None => {
                let short = definition.rsplit('.').next().unwrap_or_default();
                let element = short.strip_suffix("List").filter(|element| !element.is_empty());
                element.map_or_else(String::new, |element| format!("{short} is a list of {element} objects."))
            }
        }
    }

    fn of_field(&self, definition: &str, field: &str) -> Option<String> {
        let found = self.0.get(&format!("{definition} {field}")).cloned();
        found.or_else(|| Some(match field {
            "apiVersion" => "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources".to_owned(),
            "kind" => "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds".to_owned(),
            "metadata" if definition.ends_with("List") => "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds".to_owned(),
            "items" if definition.ends_with("List") => "The objects of the list.".to_owned(),
            _ => return None,
        }))
    }
}

/// All published definitions.
pub(super) fn all(style: Style) -> Map<String, Value> {
    let (table, texts) = (Schema::builtins(), Descriptions::load());
    let mut out = Map::new();
    for id in 0..table.structs.len() as u32 {
        let shape = table.get(id);
        if shape.published {
            out.insert(shape.name.clone().into_owned(), definition(style, table, id, &texts));
        }
    }
    for (name, schema) in special(style) {
        let text = texts.of(&name);
        out.insert(name, described(schema, text));
    }
    out
}

/// The definitions that a document's paths refer to, directly or through others.
pub(super) fn reachable(style: Style, paths: &Value) -> Map<String, Value> {
    let (table, texts) = (Schema::builtins(), Descriptions::load());
    let special: HashMap<_, _> = special(style).into_iter().collect();
    let mut out = Map::new();
    let mut open = BTreeSet::new();
    references(paths, &mut open);
    while let Some(name) = open.pop_first() {
        let schema = match (table.by_name(&name), special.get(&name)) {
            (Some(id), _) => definition(style, table, id, &texts),
            (None, Some(schema)) => described(schema.clone(), texts.of(&name)),
            (None, None) => continue,
        };
        let mut more = BTreeSet::new();
        references(&schema, &mut more);
        out.insert(name, schema);
        open.extend(more.into_iter().filter(|name| !out.contains_key(name)));
    }
    out
}

fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == "$ref" => {
                        out.extend(text.rsplit('/').next().map(str::to_owned));
                    }
                    value => references(value, out),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

/// Definitions of types that the table knows as scalars.
fn special(style: Style) -> Vec<(String, Value)> {
    let v2 = style == Style::V2;
    let meta = |name: &str| format!("{META}{name}");
    let crd = |name: &str| format!("{CRD}{name}");
    vec![
        (
            "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
            if v2 { json!({"type": "string"}) } else { json!({"oneOf": [{"type": "string"}, {"type": "number"}]}) },
        ),
        (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
            if v2 {
                json!({"type": "string", "format": "int-or-string"})
            } else {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            },
        ),
        (meta("Time"), json!({"type": "string", "format": "date-time"})),
        (meta("MicroTime"), json!({"type": "string", "format": "date-time"})),
        (meta("FieldsV1"), json!({"type": "object"})),
        (meta("Patch"), json!({"type": "object"})),
        ("io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(), json!({"type": "object"})),
        (crd("JSON"), json!({})),
        (crd("JSONSchemaPropsOrArray"), json!({})),
        (crd("JSONSchemaPropsOrBool"), json!({})),
        (crd("JSONSchemaPropsOrStringArray"), json!({})),
    ]
}

fn described(mut schema: Value, text: String) -> Value {
    if !text.is_empty() {
        schema["description"] = text.into();
    }
    schema
}

fn definition(style: Style, table: &Table, id: u32, texts: &Descriptions) -> Value {
    let shape: &Struct = table.get(id);
    let mut out = described(json!({"type": "object"}), texts.of(&shape.name));
    let mut properties = Map::new();
    for field in &shape.fields {
        properties.insert(field.name.clone().into_owned(), property(style, table, shape, field, texts));
    }
    if !properties.is_empty() {
        out["properties"] = Value::Object(properties);
    }
    let required: Vec<_> =
        shape.fields.iter().filter(|field| field.flags.has(Flags::REQUIRED)).map(|field| field.name.as_ref()).collect();
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    if shape.atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Ok(unions) = serde_json::from_str::<Value>(shape.unions) {
        out["x-kubernetes-unions"] = unions;
    }
    let gvks = table.gvks.iter().filter(|row| row.0 == id);
    let gvks: Vec<_> = gvks.map(|(_, group, version, kind)| json!({"group": group, "version": version, "kind": kind})).collect();
    if !gvks.is_empty() {
        out["x-kubernetes-group-version-kind"] = Value::Array(gvks);
    }
    out
}

/// The schema of a type without what a field adds.
fn of_type(style: Style, table: &Table, kind: Type) -> Value {
    let crd = |name: &str| style.reference(&format!("{CRD}{name}"));
    match kind {
        Type::String | Type::Duration => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Quantity => style.reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Type::IntOrString => style.reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Type::Time => style.reference(&format!("{META}Time")),
        Type::MicroTime => style.reference(&format!("{META}MicroTime")),
        Type::Raw => style.reference("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        Type::FieldsV1 => style.reference(&format!("{META}FieldsV1")),
        Type::Any => crd("JSON"),
        Type::SchemaOrArray => crd("JSONSchemaPropsOrArray"),
        Type::SchemaOrBool => crd("JSONSchemaPropsOrBool"),
        Type::SchemaOrStrings => crd("JSONSchemaPropsOrStringArray"),
        Type::Struct(id) => style.reference(&table.get(id).name),
        Type::List(id) => json!({"type": "array", "items": element(style, table, table.element(id))}),
        Type::Map(id) => json!({"type": "object", "additionalProperties": element(style, table, table.element(id))}),
    }
}

/// An element of a list or map; v3 gives the default of a Go zero value.
fn element(style: Style, table: &Table, kind: Type) -> Value {
    let schema = of_type(style, table, kind);
    match (style, zero_default(kind)) {
        (Style::V3, Some(default)) => with_default(schema, default),
        _ => schema,
    }
}

fn zero_default(kind: Type) -> Option<Value> {
    match kind {
        Type::String | Type::Duration => Some("".into()),
        Type::Bool => Some(false.into()),
        Type::Int32 | Type::Int64 | Type::Double => Some(0.into()),
        Type::Struct(_) => Some(json!({})),
        _ => None,
    }
}

/// References stand alone in v3: what is beside them makes an allOf.
fn with_default(schema: Value, default: Value) -> Value {
    let mut out = if schema.get("$ref").is_some() { json!({"allOf": [schema]}) } else { schema };
    out["default"] = default;
    out
}

fn property(style: Style, table: &Table, shape: &Struct, field: &Field, texts: &Descriptions) -> Value {
    let mut out = of_type(style, table, field.kind);
    let text = texts.of_field(&shape.name, &field.name);
    if style == Style::V3 {
        let pointer = field.flags.has(Flags::POINTER);
        let optional = field.flags.has(Flags::OMIT_EMPTY);
        let default = match serde_json::from_str::<Value>(&field.default) {
            Ok(default) => Some(default),
            Err(_) if pointer || field.flags.has(Flags::TYPE_META) => None,
            Err(_) => zero_default(field.kind).filter(|_| !optional || matches!(field.kind, Type::Struct(_))),
        };
        if let Some(default) = default {
            out = with_default(out, default);
        } else if text.is_some() && out.get("$ref").is_some() {
            out = json!({"allOf": [out]});
        }
    }
    if let Some(text) = text {
        out["description"] = text.into();
    }
    let atomic = field.flags.has(Flags::ATOMIC);
    // Bytes are a list in Go.
    if matches!(field.kind, Type::List(_) | Type::Bytes) {
        let kind = match field.list {
            ListKind::Map => Some("map"),
            ListKind::Set => Some("set"),
            ListKind::Atomic => atomic.then_some("atomic"),
        };
        if let Some(kind) = kind {
            out["x-kubernetes-list-type"] = kind.into();
        }
        if !field.keys.is_empty() {
            out["x-kubernetes-list-map-keys"] = json!(field.keys);
        }
    } else if atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    } else if field.flags.has(Flags::GRANULAR) {
        out["x-kubernetes-map-type"] = "granular".into();
    }
    if !field.merge_key.is_empty() {
        out["x-kubernetes-patch-merge-key"] = field.merge_key.as_ref().into();
    }
    if !field.patch_strategy.is_empty() {
        out["x-kubernetes-patch-strategy"] = field.patch_strategy.as_ref().into();
    }
    out
}
