//! Replays upstream's answers to ordinary and broken objects (`../shared/reference/golden`) against the registry and the admission
//! chain alone: defaults, table rows, and the causes of every refusal. Skipped where the answers are not at hand.
//!
//! `GOLDEN_SHOW=Pod` prints what differs for a kind, `GOLDEN_SHOW=all` everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use api::lister::Lister;
use api::schema::{FieldValidation, Schema};
use api::status::Status;
use async_trait::async_trait;
use registry::resource::{Context, Resource};
use serde_json::{Map, Value, json};

/// Answers that must be the same (code, reason and causes; objects and cells whole). Raise it with every gain.
const FLOOR: usize = 4100;
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/golden");
/// A signing request for `CN=jane`.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISk1IRUNBUUF3RHpFTk1Bc0dBMVVFQXd3RWFtRnVaVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSApBMElBQkpyZFhwVHRVd0J0TXIvNitPMDczR3dBdTJhUndXdk1zU1pZZFJqRTBpM1F4RDh5L2NJcEhqRGJYSDJ2CmZUNkdzY0MwY2VGd3RjZXlWVzNmMlM2dC8xMmdBREFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUVBejRUY0pCcVIKZlRONVpScVhkLy9IWllDcEoveDdJbytlMzRkZm03eWxmYWdDSUhGeEZsc0lkQlZqb0RDNFpUU1hXYWRaK3FhegoraEdPU1ovYmNsOS83S01kCi0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";
const NOW: &str = "2026-01-02T03:04:05Z";

#[test]
fn upstream_answers_are_met() {
    let directory = Path::new(DIRECTORY);
    if !directory.exists() {
        eprintln!("no golden answers at hand: skipped");
        return;
    }
    let answers: Map<String, Value> = serde_json::from_slice(&std::fs::read(directory.join("answers.json")).unwrap()).unwrap();
    let manifests: Vec<Value> =
        serde_yaml::from_str(&std::fs::read_to_string(directory.join("manifests.yaml")).unwrap()).unwrap();
    let show = std::env::var("GOLDEN_SHOW").unwrap_or_default();
    let server = Server::new();
    let mut tally: BTreeMap<(String, &str), (usize, usize)> = BTreeMap::new();
    let (mut same, mut all) = (0, 0);
    for mut manifest in manifests {
        if manifest["kind"] == "CertificateSigningRequest" {
            manifest["spec"]["request"] = REQUEST.into();
        }
        let manifest = &manifest;
        let kind = manifest["kind"].as_str().unwrap();
        let base = format!("{kind}/{}", manifest["metadata"]["name"].as_str().unwrap());
        let mut cases = vec![(format!("create {base}"), Case::Create), (format!("table {base}"), Case::Table)];
        let mut mutations = Vec::new();
        walk(manifest, &mut Vec::new(), &mut mutations);
        for (path, mutation) in mutations {
            if kind == "CertificateSigningRequest" && path.starts_with(&["spec".into(), "request".into()]) {
                continue;
            }
            let label = format!("{base} {} {}", path.join("."), mutation.label());
            cases.push((format!("bad-create {label}").trim().to_owned(), Case::BadCreate(path.clone(), mutation.clone())));
            cases.push((format!("bad-update {label}").trim().to_owned(), Case::BadUpdate(path, mutation)));
        }
        for (key, case) in cases {
            let Some(want) = answers.get(&key) else { continue };
            let got = server.ask(manifest, &case);
            let verb = key.split(' ').next().unwrap_or("");
            let verb = ["create", "table", "bad-create", "bad-update"].into_iter().find(|v| *v == verb).unwrap_or("");
            let entry = tally.entry((kind.to_owned(), verb)).or_default();
            entry.0 += 1;
            all += 1;
            let ok = agree(want, &got, &case);
            if ok {
                entry.1 += 1;
                same += 1;
            } else if show == "all" || show == kind {
                println!("- {}\n  want {}\n  got  {}", short(&key), short(&brief(want, &case)), short(&brief(&got, &case)));
            }
        }
    }
    for ((kind, verb), (asked, right)) in &tally {
        if asked != right {
            println!("{kind:36} {verb:10} {right:4} of {asked}");
        }
    }
    println!("golden: {same} of {all} the same");
    assert!(same >= FLOOR, "{same} answers are upstream's, there were {FLOOR} before");
}

fn short(text: &str) -> String {
    text.replace(&"x".repeat(300), "x…").chars().take(1500).collect()
}

fn brief(answer: &Value, case: &Case) -> String {
    match case {
        Case::Create => answer["object"].to_string() + &answer["warn"].to_string(),
        Case::Table => format!("{} {}", answer["cells"], answer["columns"]),
        _ => format!("{} {} {}", answer["code"], answer["message"], answer["warn"]),
    }
}

/// Codes, reasons and causes for refusals; the whole object, the whole row.
fn agree(want: &Value, got: &Value, case: &Case) -> bool {
    match case {
        Case::Create => {
            let mut want = want["object"].clone();
            if let Some(metadata) = want["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
            want == got["object"]
        }
        Case::Table => want["cells"] == got["cells"] && want["columns"] == got["columns"],
        _ => {
            let nothing = json!([]);
            let causes = |answer: &Value| if answer["causes"].is_null() { nothing.clone() } else { answer["causes"].clone() };
            want["code"] == got["code"] && causes(want) == causes(got) && want["warn"] == got["warn"]
        }
    }
}

#[derive(Clone)]
enum Mutation {
    Unknown,
    Double,
    Remove,
    Set(Value),
}

impl Mutation {
    fn label(&self) -> String {
        match self {
            Self::Unknown => "unknown".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Remove => "remove".to_owned(),
            Self::Set(value) => format!("set {}", value.to_string().chars().take(40).collect::<String>()),
        }
    }
}

enum Case {
    Create,
    Table,
    BadCreate(Vec<String>, Mutation),
    BadUpdate(Vec<String>, Mutation),
}

fn walk(value: &Value, path: &mut Vec<String>, out: &mut Vec<(Vec<String>, Mutation)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                path.push(key.clone());
                walk(value, path, out);
                path.pop();
            }
            out.push((path.clone(), Mutation::Unknown));
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                path.push(index.to_string());
                walk(value, path, out);
                path.pop();
            }
            if !list.is_empty() {
                out.push((path.clone(), Mutation::Double));
            }
        }
        _ => {}
    }
    if path.is_empty() || path[0] == "apiVersion" || path[0] == "kind" {
        return;
    }
    out.push((path.clone(), Mutation::Remove));
    let values = match value {
        Value::Bool(_) => vec![json!("yes"), json!(3)],
        Value::Number(_) => vec![json!(-1), json!("seven"), json!(1_u64 << 40), json!(1.5)],
        Value::String(_) => vec![json!(""), json!("Bad Value!"), json!(5), json!("x".repeat(300))],
        Value::Array(_) => vec![json!({}), json!("s")],
        _ => vec![json!([]), json!("s")],
    };
    out.extend(values.into_iter().map(|value| (path.clone(), Mutation::Set(value))));
}

fn mutate(manifest: &Value, path: &[String], mutation: &Mutation) -> Value {
    let mut out = manifest.clone();
    let pointer =
        |path: &[String]| path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect::<String>();
    match mutation {
        Mutation::Remove => {
            let (last, parent) = path.split_last().unwrap();
            match out.pointer_mut(&pointer(parent)).unwrap() {
                Value::Object(map) => drop(map.remove(last)),
                Value::Array(list) => drop(list.remove(last.parse().unwrap())),
                _ => {}
            }
        }
        Mutation::Set(value) => *out.pointer_mut(&pointer(path)).unwrap() = value.clone(),
        Mutation::Double => {
            let list = out.pointer_mut(&pointer(path)).unwrap().as_array_mut().unwrap();
            list.push(list[0].clone());
        }
        Mutation::Unknown => out.pointer_mut(&pointer(path)).unwrap()["unknownField"] = 1.into(),
    }
    out
}

struct Server {
    table: Vec<Resource>,
    chain: admission::Chain,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    fn new() -> Self {
        let host = admission::Host { lister: Arc::new(Cluster), authorizer: Arc::new(Everyone), quotas: Arc::new(Everyone) };
        let chain = admission::Chain::new(&host, &[], &["ServiceAccount".to_owned(), "ResourceQuota".to_owned()]).unwrap();
        Self { table: registry::everything(), chain, runtime: tokio::runtime::Builder::new_current_thread().build().unwrap() }
    }

    fn ask(&self, manifest: &Value, case: &Case) -> Value {
        let api_version = manifest["apiVersion"].as_str().unwrap();
        let kind = manifest["kind"].as_str().unwrap();
        let Some(resource) = self.table.iter().find(|r| r.api_version() == api_version && r.names.kind == kind) else {
            return json!({"code": 404});
        };
        let answer = match case {
            Case::Create => self.create(resource, manifest),
            Case::Table => return self.row(resource, manifest),
            Case::BadCreate(path, mutation) => self.create(resource, &mutate(manifest, path, mutation)),
            Case::BadUpdate(path, mutation) => self.update(resource, manifest, &mutate(manifest, path, mutation)),
        };
        let mut answer = answer.unwrap_or_else(|status| refusal(&status));
        if let (Some(text), Some(warnings)) = (resource.deprecation, answer["warn"].as_array_mut()) {
            warnings.insert(0, format!("299 - {text:?}").into());
        }
        match case {
            Case::Create | Case::Table => answer,
            _ => {
                let mut answer = answer;
                answer.as_object_mut().map(|map| map.remove("object"));
                answer
            }
        }
    }

    /// The object, and where it had empty lists and maps.
    fn decode(&self, resource: &Resource, body: &Value) -> Result<(Value, Vec<String>), Status> {
        let names = &resource.names;
        let schema = Schema::builtin(&names.group, &names.version, &names.kind).unwrap();
        let bad = |why: String| {
            Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: {why}",
                names.kind, names.version, names.kind
            ))
        };
        let decoded =
            schema.decode(&serde_json::to_vec(body).unwrap(), FieldValidation::Strict).map_err(|error| bad(error.to_string()))?;
        match decoded.strict_error() {
            Some(why) => Err(bad(why)),
            None => Ok((decoded.object, decoded.empties)),
        }
    }

    fn create(&self, resource: &Resource, body: &Value) -> Result<Value, Status> {
        let names = &resource.names;
        let schema = Schema::builtin(&names.group, &names.version, &names.kind).unwrap();
        let (mut object, empties) = self.decode(resource, body)?;
        let namespace = namespace_of(resource, body, &mut object)?;
        let context = context("");
        resource.strategy.default(&mut object);
        schema.normalize(&mut object);
        object["metadata"]["creationTimestamp"] = NOW.into();
        object["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
        let request = attributes(resource, admission::Operation::Create, &namespace, &object);
        let mut warnings = Vec::new();
        self.runtime.block_on(self.chain.admit(&request, &mut object, None, &mut warnings))?;
        resource.strategy.prepare_for_create(&context, &mut object);
        schema.normalize(&mut object);
        allocate(resource, &mut object);
        let mut errors = resource.errors_on_create(&context, &object);
        if !errors.is_empty() {
            let mut told = object.clone();
            api::schema::restore_empties(&mut told, &empties);
            errors = resource.errors_on_create(&context, &told);
            let name = object["metadata"]["name"].as_str().unwrap_or("");
            return Err(Status::invalid(&names.group, &names.kind, name, &errors));
        }
        warnings.extend(resource.strategy.warnings(&context, &object, None));
        self.runtime.block_on(self.chain.validate(&request, &object, None, &mut warnings))?;
        Ok(json!({"code": 201, "object": norm(&object, ""), "warn": headers(&warnings)}))
    }

    fn update(&self, resource: &Resource, manifest: &Value, body: &Value) -> Result<Value, Status> {
        let names = &resource.names;
        let schema = Schema::builtin(&names.group, &names.version, &names.kind).unwrap();
        let mut old = self.stored(resource, manifest);
        old["metadata"]["resourceVersion"] = "7".into();
        let (mut object, empties) = self.decode(resource, body)?;
        let name = manifest["metadata"]["name"].as_str().unwrap();
        match object["metadata"]["name"].as_str().unwrap_or("") {
            "" => return Err(Status::bad_request("name must be provided")),
            other if other != name => return Err(Status::bad_request("does not match")),
            _ => {}
        }
        let namespace = namespace_of(resource, body, &mut object)?;
        let context = context("");
        resource.strategy.default(&mut object);
        schema.normalize(&mut object);
        // With metadata the recorder also removed the version: kinds that insist on one complain.
        let has_version = body["metadata"].is_object();
        if !has_version && !resource.strategy.allow_unconditional_update() {
            let mut errors = api::field::Errors::new();
            errors.invalid(&api::field::Path::new("metadata.resourceVersion"), "", "must be specified for an update");
            return Err(Status::invalid(&names.group, &names.kind, name, &errors));
        }
        for key in ["resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            match old["metadata"].get(key) {
                Some(value) => object["metadata"][key] = value.clone(),
                None => drop(object["metadata"].as_object_mut().unwrap().remove(key)),
            }
        }
        let request = attributes(resource, admission::Operation::Update, &namespace, &object);
        let mut warnings = Vec::new();
        self.runtime.block_on(self.chain.admit(&request, &mut object, Some(&old), &mut warnings))?;
        resource.strategy.prepare_for_update(&context, &mut object, &old);
        schema.normalize(&mut object);
        allocate(resource, &mut object);
        let mut errors = resource.errors_on_update(&context, &object, &old);
        if !errors.is_empty() {
            let mut told = object.clone();
            api::schema::restore_empties(&mut told, &empties);
            errors = resource.errors_on_update(&context, &told, &old);
            return Err(Status::invalid(&names.group, &names.kind, name, &errors));
        }
        warnings.extend(resource.strategy.warnings(&context, &object, Some(&old)));
        self.runtime.block_on(self.chain.validate(&request, &object, Some(&old), &mut warnings))?;
        Ok(json!({"code": 200, "warn": headers(&warnings)}))
    }

    fn stored(&self, resource: &Resource, manifest: &Value) -> Value {
        let names = &resource.names;
        let schema = Schema::builtin(&names.group, &names.version, &names.kind).unwrap();
        let (mut object, _) = self.decode(resource, manifest).unwrap();
        let namespace = namespace_of(resource, manifest, &mut object).unwrap();
        resource.strategy.default(&mut object);
        schema.normalize(&mut object);
        object["metadata"]["creationTimestamp"] = NOW.into();
        object["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
        let request = attributes(resource, admission::Operation::Create, &namespace, &object);
        self.runtime.block_on(self.chain.admit(&request, &mut object, None, &mut Vec::new())).unwrap();
        resource.strategy.prepare_for_create(&context(""), &mut object);
        schema.normalize(&mut object);
        allocate(resource, &mut object);
        object
    }

    fn row(&self, resource: &Resource, manifest: &Value) -> Value {
        let object = self.stored(resource, manifest);
        let hidden = ["Age", "Cluster-IP", "Port(s)", "Created At", "Last Schedule", "Last Seen", "First Seen"];
        let columns: Vec<Value> = resource.columns.iter().map(|c| json!([c.name, c.kind, c.format, c.priority])).collect();
        let cells: Vec<Value> = resource
            .columns
            .iter()
            .map(|c| if hidden.contains(&c.name) { "*".into() } else { norm(&(c.cell)(&object, 0), "") })
            .collect();
        json!({"code": 200, "cells": cells, "columns": columns})
    }
}

fn context(subresource: &str) -> Context {
    Context {
        now: NOW.to_owned(),
        user: "admin".to_owned(),
        user_uid: "u".to_owned(),
        user_groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        user_extra: Vec::new(),
        subresource: subresource.to_owned(),
    }
}

fn namespace_of(resource: &Resource, body: &Value, object: &mut Value) -> Result<String, Status> {
    if !resource.names.namespaced {
        return Ok(String::new());
    }
    let path = body["metadata"]["namespace"].as_str().unwrap_or("gold").to_owned();
    match object["metadata"]["namespace"].as_str().unwrap_or("") {
        "" => object["metadata"]["namespace"] = if path.is_empty() { "gold".into() } else { path.clone().into() },
        other if other != path => return Err(Status::bad_request("namespace")),
        _ => {}
    }
    Ok(path)
}

fn attributes(resource: &Resource, operation: admission::Operation, namespace: &str, object: &Value) -> admission::Attributes {
    admission::Attributes {
        operation,
        group: resource.names.group.clone(),
        version: resource.names.version.clone(),
        resource: resource.names.plural.clone(),
        subresource: String::new(),
        kind: resource.names.kind.clone(),
        namespace: namespace.to_owned(),
        name: object["metadata"]["name"].as_str().unwrap_or("").to_owned(),
        user: admission::User { name: "admin".into(), groups: vec!["system:masters".into()], ..admission::User::default() },
        dry_run: true,
        options: Value::Null,
    }
}

/// What the server's allocators do to Services.
fn allocate(resource: &Resource, object: &mut Value) {
    if resource.names.kind != "Service" || object["spec"]["type"] == "ExternalName" {
        return;
    }
    registry::core::service::default_families(object, &["IPv4"]);
    if object["spec"]["clusterIP"].as_str().unwrap_or("").is_empty() {
        object["spec"]["clusterIP"] = "10.96.0.7".into();
        object["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    }
    if matches!(object["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
        && let Some(ports) = object["spec"]["ports"].as_array_mut()
    {
        for (index, port) in ports.iter_mut().enumerate() {
            if port["nodePort"].as_i64().unwrap_or(0) == 0 {
                port["nodePort"] = (31000 + index).into();
            }
        }
    }
    if object["spec"]["type"] == "LoadBalancer"
        && object["spec"]["externalTrafficPolicy"] == "Local"
        && object["spec"]["healthCheckNodePort"].is_null()
    {
        object["spec"]["healthCheckNodePort"] = 31999.into();
    }
}

fn headers(warnings: &[String]) -> Value {
    warnings.iter().map(|text| format!("299 - {text:?}")).collect()
}

fn refusal(status: &Status) -> Value {
    let mut causes: Vec<Value> = status
        .details
        .as_ref()
        .and_then(|details| details["causes"].as_array().cloned())
        .unwrap_or_default()
        .iter()
        .map(|cause| json!([cause["reason"], clean(cause["message"].as_str().unwrap_or("")), cause["field"]]))
        .collect();
    causes.sort_by_key(|cause| {
        (cause[0].to_string(), cause[1].as_str().unwrap_or("").to_owned(), cause[2].as_str().unwrap_or("").to_owned())
    });
    json!({"code": status.code, "reason": status.reason, "message": clean(&status.message), "causes": causes, "warn": []})
}

fn clean(text: &str) -> String {
    static UID: OnceLock<regex::Regex> = OnceLock::new();
    static TIME: OnceLock<regex::Regex> = OnceLock::new();
    static OBJECT: OnceLock<regex::Regex> = OnceLock::new();
    let uid = UID.get_or_init(|| regex::Regex::new(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b").unwrap());
    let time = TIME.get_or_init(|| regex::Regex::new(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap());
    let object = OBJECT.get_or_init(|| regex::Regex::new(r#"(?s)(patch: )?Invalid value: "\{.{80,}"#).unwrap());
    let text = uid.replace_all(text, "UID");
    let text = time.replace_all(&text, "TIME");
    object.replace_all(&text, "${1}Invalid value: OBJECT").into_owned()
}

fn norm(value: &Value, key: &str) -> Value {
    const VOLATILE: &[&str] = &["uid", "creationTimestamp", "resourceVersion", "selfLink", "time"];
    let ip = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty() && text != "None");
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let blank = VOLATILE.contains(&key.as_str()) && !value.is_null() && value != "";
                (key.clone(), if blank { "*".into() } else { norm(value, key) })
            })
            .collect(),
        Value::Array(list) if key == "clusterIPs" => {
            list.iter().map(|value| if ip(value) { "*".into() } else { value.clone() }).collect()
        }
        Value::Array(list) => list.iter().map(|value| norm(value, "")).collect(),
        _ if key == "request" => "*".into(),
        _ if key == "clusterIP" && ip(value) => "*".into(),
        _ if matches!(key, "nodePort" | "healthCheckNodePort") && value != 30050 => "*".into(),
        Value::String(text) => clean(text).into(),
        other => other.clone(),
    }
}

/// The recorder's cluster: the namespaces that it used, nothing else.
struct Cluster;

impl Lister for Cluster {
    fn get(&self, group: &str, resource: &str, _namespace: &str, name: &str) -> Option<Arc<Value>> {
        let known = group.is_empty() && resource == "namespaces" && matches!(name, "gold" | "default" | "kube-system");
        known.then(|| Arc::new(json!({"metadata": {"name": name}, "status": {"phase": "Active"}})))
    }

    fn list(&self, _group: &str, _resource: &str, _namespace: Option<&str>) -> Vec<Arc<Value>> {
        Vec::new()
    }

    fn version(&self, _group: &str, _resource: &str) -> u64 {
        0
    }
}

struct Everyone;

#[async_trait]
impl admission::Authorizer for Everyone {
    async fn allowed(&self, _user: &admission::User, _question: &admission::Question) -> bool {
        true
    }

    async fn resource_of(&self, _group: &str, _kind: &str) -> Option<(String, bool)> {
        None
    }
}

#[async_trait]
impl admission::QuotaWriter for Everyone {
    async fn read(&self, _namespace: &str) -> Result<Vec<Value>, Status> {
        Ok(Vec::new())
    }

    async fn write_status(&self, _quota: &Value) -> Result<(), Status> {
        Ok(())
    }
}
