//! OpenAPI documents, built when somebody asks: v3 per group version, v2 as a whole (JSON and the protobuf form of old kubectls).
//!
//! Definitions come from the schema table, paths from discovery's groups, descriptions from `data/descriptions.gz` (made by
//! `descriptions.py` from the `k8s-openapi` crate). Keep the encoded documents: building one takes milliseconds and memory.

mod definitions;
mod gnostic;
mod paths;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::discovery::{Group, Version};
use crate::schema::Schema;

/// Which of the two forms is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    V2,
    V3,
}

impl Style {
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The documents of v3: `api/v1`, `apis/apps/v1`, …, each with a hash that changes with its content.
pub fn v3_index(groups: &[Group]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for group in groups {
        for version in &group.versions {
            out.push((path_of(&group.name, &version.name), hash(group, version)));
        }
    }
    out
}

/// `GET /openapi/v3`.
pub fn v3_root(groups: &[Group]) -> Value {
    let mut paths = Map::new();
    for (path, hash) in v3_index(groups) {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `GET /openapi/v3/<path>`: `api/v1` or `apis/<group>/<version>`.
pub fn v3(groups: &[Group], path: &str) -> Option<Value> {
    let (group, version) = groups.iter().find_map(|group| {
        let version = group.versions.iter().find(|version| path_of(&group.name, &version.name) == path)?;
        Some((group, version))
    })?;
    let paths = paths::of_version(Style::V3, &group.name, version);
    let schemas = definitions::reachable(Style::V3, &paths);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            }},
        },
    }))
}

/// `GET /openapi/v2` as JSON.
pub fn v2(groups: &[Group]) -> Value {
    let mut all = paths::general(groups);
    for group in groups {
        for version in &group.versions {
            if let Value::Object(paths) = paths::of_version(Style::V2, &group.name, version) {
                all.extend(paths);
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": all,
        "definitions": definitions::all(Style::V2),
        "parameters": paths::shared_parameters(),
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

/// A v2 document as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    gnostic::document(document)
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// What a document depends on: the compiled-in data and the resources shown.
fn hash(group: &Group, version: &Version) -> String {
    let mut hash = Sha512::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(format!("{} {version:?}", group.name));
    hash.update(Schema::builtins().structs.len().to_be_bytes());
    hash.finalize().iter().take(32).fold(String::new(), |text, byte| format!("{text}{byte:02X}"))
}
