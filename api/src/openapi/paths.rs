//! The paths and operations of a document, from discovery's resources.

use serde_json::{Map, Value, json};

use super::Style;
use crate::discovery::{Group, Resource, Subresource, Version};
use crate::kind::{self, api_version};
use crate::schema::{Schema, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// What objects are written and read as.
const TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// What lists can be read as: watches too.
const LIST_TYPES: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A parameter: name, place, type, text.
#[derive(Clone, Debug, PartialEq)]
struct Parameter {
    name: &'static str,
    place: &'static str,
    kind: &'static str,
    text: &'static str,
}

const fn query(name: &'static str, kind: &'static str, text: &'static str) -> Parameter {
    Parameter { name, place: "query", kind, text }
}

const PRETTY: Parameter = query("pretty", "string", "If 'true', the answer is indented for people.");
const NAMESPACE: Parameter = Parameter {
    name: "namespace",
    place: "path",
    kind: "string",
    text: "object name and auth scope, such as for teams and projects",
};
const DRY_RUN: Parameter = query("dryRun", "string", "All: everything is done but the change is not kept.");
const FIELD_MANAGER: Parameter =
    query("fieldManager", "string", "A name for who makes the change, at most 128 printable characters. Apply patches need it.");
const FIELD_VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "What is done about unknown and duplicate fields: Ignore drops them, Warn (the default) drops them and tells, Strict refuses the object.",
);
const FORCE: Parameter = query("force", "boolean", "Apply takes over fields that others own. Only for apply patches.");

/// Of reads of collections.
const LIST: [Parameter; 10] = [
    query("allowWatchBookmarks", "boolean", "A watch may send BOOKMARK events, which only tell how far it has come."),
    query("continue", "string", "The token of the previous part of a list that was read with a limit."),
    query("fieldSelector", "string", "Only objects whose fields match."),
    query("labelSelector", "string", "Only objects whose labels match."),
    query("limit", "integer", "At most so many objects; the rest is had with the continue token of the answer."),
    query("resourceVersion", "string", "How recent the answer must be, or where a watch begins."),
    query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    query("sendInitialEvents", "boolean", "A watch begins with the objects that exist, and a bookmark after them."),
    query("shardSelector", "string", "Only objects of a shard, by the hash of a field. Not served yet."),
    query("timeoutSeconds", "integer", "The call ends after so many seconds."),
];
const WATCH: Parameter = query("watch", "boolean", "Changes are sent as they happen, instead of a list.");

/// Of deletes.
const DELETE: [Parameter; 4] = [
    query("gracePeriodSeconds", "integer", "Seconds until the object is removed; 0 is at once."),
    query(
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Removes an object that cannot be read from storage. Finalizers and preconditions are not looked at.",
    ),
    query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    query("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];

/// Parameters that operations of v2 refer to. `dryRun` and `fieldValidation` stand in the operations, where old clients look for them.
pub(super) fn shared_parameters() -> Map<String, Value> {
    let mut out = Map::new();
    for parameter in LIST.iter().chain(&DELETE).chain([&PRETTY, &NAMESPACE, &FIELD_MANAGER, &FORCE, &WATCH]) {
        out.insert(parameter.name.to_owned(), parameter_json(Style::V2, parameter));
    }
    out
}

fn is_shared(parameter: &Parameter) -> bool {
    let same = |other: &Parameter| other == parameter;
    LIST.iter().any(same) || DELETE.iter().any(same) || [PRETTY, NAMESPACE, FIELD_MANAGER, FORCE, WATCH].contains(parameter)
}

fn parameter_json(style: Style, parameter: &Parameter) -> Value {
    let mut out = json!({"name": parameter.name, "in": parameter.place, "description": parameter.text});
    if parameter.place == "path" {
        out["required"] = true.into();
    }
    match style {
        Style::V2 => (out["type"], out["uniqueItems"]) = (parameter.kind.into(), true.into()),
        Style::V3 => out["schema"] = json!({"type": parameter.kind, "uniqueItems": true}),
    }
    out
}

/// One operation before it is written.
struct Operation {
    method: &'static str,
    action: &'static str,
    id: String,
    description: String,
    gvk: (String, String, String),
    parameters: Vec<Parameter>,
    body: Option<(String, bool)>,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
    /// Code and definition (or `string`).
    responses: Vec<(u16, String)>,
}

struct Writer<'a> {
    style: Style,
    group: &'a str,
    version: &'a str,
    /// `CoreV1`.
    id: String,
    /// `core_v1`.
    tag: String,
    out: Map<String, Value>,
}

/// `rbac.authorization.k8s.io` → `rbacAuthorization`.
fn camel(group: &str) -> String {
    if group.is_empty() {
        return "core".to_owned();
    }
    let mut words = group.strip_suffix(".k8s.io").unwrap_or(group).split(['.', '-']);
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| text + &title(word))
}

fn title(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The paths of a group version: an object of path items.
pub(super) fn of_version(style: Style, group: &str, version: &Version) -> Value {
    let name = camel(group);
    let mut writer = Writer {
        style,
        group,
        version: &version.name,
        id: format!("{}{}", title(&name), title(&version.name)),
        tag: format!("{name}_{}", version.name),
        out: Map::new(),
    };
    writer.resource_list();
    for resource in &version.resources {
        writer.resource(resource);
    }
    Value::Object(writer.out)
}

/// Paths beside those of group versions (v2 only).
pub(super) fn general(groups: &[Group]) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |path: &str, id: &str, tag: &str, text: &str, produces: Value, schema: Option<Value>| {
        let mut operation = json!({"operationId": id, "tags": [tag], "schemes": ["https"], "responses": {"401": {"description": "Unauthorized"}}});
        if !text.is_empty() {
            operation["description"] = text.into();
            operation["produces"] = produces;
        }
        if let Some(schema) = schema {
            operation["responses"]["200"] = json!({"description": "OK", "schema": schema});
        }
        out.insert(path.to_owned(), json!({"get": operation}));
    };
    let meta = |name: &str| Some(Style::V2.reference(&format!("{META}{name}")));
    put("/api/", "getCoreAPIVersions", "core", "get available API versions", json!(TYPES), meta("APIVersions"));
    put("/apis/", "getAPIVersions", "apis", "get available API versions", json!(TYPES), meta("APIGroupList"));
    for group in groups.iter().filter(|group| !group.name.is_empty()) {
        let name = camel(&group.name);
        let id = format!("get{}APIGroup", title(&name));
        put(&format!("/apis/{}/", group.name), &id, &name, "get information of a group", json!(TYPES), meta("APIGroup"));
    }
    let info = Style::V2.reference("io.k8s.apimachinery.pkg.version.Info");
    put(
        "/version/",
        "getCodeVersion",
        "version",
        "get the version information for this server",
        json!(["application/json"]),
        Some(info),
    );
    let text = || Some(json!({"type": "string"}));
    put(
        "/.well-known/openid-configuration/",
        "getServiceAccountIssuerOpenIDConfiguration",
        "WellKnown",
        "get the OpenID discovery document of the service account issuer",
        json!(["application/json"]),
        text(),
    );
    put(
        "/openid/v1/jwks/",
        "getServiceAccountIssuerOpenIDKeyset",
        "openid",
        "get the public keys of the service account issuer",
        json!(["application/jwk-set+json"]),
        text(),
    );
    put("/logs/", "logFileListHandler", "logs", "", json!([]), None);
    put("/logs/{logpath}", "logFileHandler", "logs", "", json!([]), None);
    let log_path = Parameter { name: "logpath", place: "path", kind: "string", text: "path to the log" };
    if let Some(item) = out.get_mut("/logs/{logpath}") {
        item["parameters"] = json!([parameter_json(Style::V2, &log_path)]);
    }
    out
}

impl Writer<'_> {
    fn base(&self) -> String {
        let prefix = if self.group.is_empty() { "/api" } else { "/apis" };
        format!("{prefix}/{}", api_version(self.group, self.version))
    }

    fn definition(&self, group: &str, version: &str, kind: &str) -> String {
        let id = Schema::builtin(group, version, kind).map(|schema| schema.root());
        match id {
            Some(Type::Struct(id)) => Schema::builtins().get(id).name.clone().into_owned(),
            _ => format!("{META}Status"),
        }
    }

    fn resource_list(&mut self) {
        let responses = vec![(200, format!("{META}APIResourceList"))];
        let operation = Operation {
            method: "get",
            action: "",
            id: format!("get{}APIResources", self.id),
            description: "get available resources".to_owned(),
            gvk: Default::default(),
            parameters: Vec::new(),
            body: None,
            consumes: &TYPES,
            produces: &TYPES,
            responses,
        };
        self.path(format!("{}/", self.base()), vec![operation]);
    }

    fn resource(&mut self, resource: &Resource) {
        let (base, kind) = (self.base(), resource.kind.as_ref());
        let gvk = (self.group.to_owned(), self.version.to_owned(), kind.to_owned());
        let has = |verb: &str| resource.verbs.iter().any(|known| known == verb);
        let definition = self.definition(self.group, self.version, kind);
        let list_definition = self.definition(self.group, self.version, &format!("{kind}List"));
        let (scope, folder) = if resource.namespaced {
            ("Namespaced", format!("{base}/namespaces/{{namespace}}/{}", resource.plural))
        } else {
            ("", format!("{base}/{}", resource.plural))
        };
        let id = self.id.clone();
        let common = |more: Vec<Parameter>| {
            let mut out = more;
            if resource.namespaced {
                out.push(NAMESPACE);
            }
            out.push(PRETTY);
            out
        };
        let make = |method, action, id: String, description: String| Operation {
            method,
            action,
            id,
            description,
            gvk: gvk.clone(),
            parameters: Vec::new(),
            body: None,
            consumes: &["*/*"],
            produces: &TYPES,
            responses: Vec::new(),
        };
        let list_parameters = || LIST.iter().cloned().chain([WATCH]).collect::<Vec<_>>();
        let list_text =
            if has("watch") { format!("list or watch objects of kind {kind}") } else { format!("list objects of kind {kind}") };
        let list = |id: String, parameters: Vec<Parameter>| Operation {
            parameters,
            produces: &LIST_TYPES,
            responses: vec![(200, list_definition.clone())],
            ..make("get", "list", id, list_text.clone())
        };
        let writes = || vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];

        // The collection.
        let mut operations = Vec::new();
        if has("list") {
            operations.push(list(format!("list{id}{scope}{kind}"), common(list_parameters())));
        }
        if has("create") {
            operations.push(Operation {
                parameters: common(writes()),
                body: Some((definition.clone(), true)),
                responses: [200, 201, 202].map(|code| (code, definition.clone())).to_vec(),
                ..make("post", "post", format!("create{id}{scope}{kind}"), format!("create {} {kind}", article(kind)))
            });
        }
        if has("deletecollection") {
            let parameters =
                LIST.iter().filter(|parameter| parameter.name != "allowWatchBookmarks").chain(&DELETE).cloned().chain([DRY_RUN]);
            operations.push(Operation {
                parameters: common(parameters.collect()),
                body: Some((format!("{META}DeleteOptions"), false)),
                responses: vec![(200, format!("{META}Status"))],
                ..make(
                    "delete",
                    "deletecollection",
                    format!("delete{id}Collection{scope}{kind}"),
                    format!("delete collection of {kind}"),
                )
            });
        }
        self.path(folder.clone(), operations);
        if has("list") && resource.namespaced {
            let mut parameters = list_parameters();
            parameters.push(PRETTY);
            let operation = list(format!("list{id}{kind}ForAllNamespaces"), parameters);
            self.path(format!("{base}/{}", resource.plural), vec![operation]);
        }

        // One object.
        let name_text: &'static str = "name of the object";
        let name = Parameter { name: "name", place: "path", kind: "string", text: name_text };
        let named = |more: Vec<Parameter>| {
            let mut out = common(more);
            out.push(name.clone());
            out
        };
        let item = format!("{folder}/{{name}}");
        let mut operations = Vec::new();
        if has("get") {
            operations.push(Operation {
                parameters: named(Vec::new()),
                responses: vec![(200, definition.clone())],
                ..make("get", "get", format!("read{id}{scope}{kind}"), format!("read the specified {kind}"))
            });
        }
        if has("update") {
            operations.push(Operation {
                parameters: named(writes()),
                body: Some((definition.clone(), true)),
                responses: [200, 201].map(|code| (code, definition.clone())).to_vec(),
                ..make("put", "put", format!("replace{id}{scope}{kind}"), format!("replace the specified {kind}"))
            });
        }
        if has("patch") {
            operations.push(Operation {
                parameters: named(vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE]),
                body: Some((format!("{META}Patch"), true)),
                consumes: &PATCH_TYPES,
                responses: [200, 201].map(|code| (code, definition.clone())).to_vec(),
                ..make("patch", "patch", format!("patch{id}{scope}{kind}"), format!("partially update the specified {kind}"))
            });
        }
        if has("delete") {
            let returns = kind::by_kind(self.group, self.version, kind).is_some_and(|row| row.delete_returns_object);
            let answer = if returns { definition.clone() } else { format!("{META}Status") };
            operations.push(Operation {
                parameters: named(DELETE.iter().cloned().chain([DRY_RUN]).collect()),
                body: Some((format!("{META}DeleteOptions"), false)),
                responses: [200, 202].map(|code| (code, answer.clone())).to_vec(),
                ..make("delete", "delete", format!("delete{id}{scope}{kind}"), format!("delete {} {kind}", article(kind)))
            });
        }
        self.path(item.clone(), operations);

        for sub in &resource.subresources {
            self.subresource(resource, sub, &item, &named(Vec::new()));
        }

        // Old watch paths.
        if has("watch") {
            let watch = |action, id, parameters: Vec<Parameter>, text: &str| Operation {
                parameters,
                produces: &LIST_TYPES,
                responses: vec![(200, format!("{META}WatchEvent"))],
                ..make("get", action, id, format!("{text}. deprecated: use the 'watch' parameter of a list."))
            };
            let text = format!("watch individual changes to a list of {kind}");
            let rest = folder.strip_prefix(&base).unwrap_or_default();
            let operation = watch("watchlist", format!("watch{id}{scope}{kind}List"), common(list_parameters()), &text);
            self.path(format!("{base}/watch{rest}"), vec![operation]);
            if resource.namespaced {
                let mut parameters = list_parameters();
                parameters.push(PRETTY);
                let operation = watch("watchlist", format!("watch{id}{kind}ListForAllNamespaces"), parameters, &text);
                self.path(format!("{base}/watch/{}", resource.plural), vec![operation]);
            }
            let operation = watch(
                "watch",
                format!("watch{id}{scope}{kind}"),
                named(list_parameters()),
                &format!("watch changes to an object of kind {kind}"),
            );
            self.path(format!("{base}/watch{rest}/{{name}}"), vec![operation]);
        }
    }

    fn subresource(&mut self, resource: &Resource, sub: &Subresource, item: &str, named: &[Parameter]) {
        let has = |verb: &str| sub.verbs.iter().any(|known| known == verb);
        let (kind, name) = (resource.kind.as_ref(), sub.name.as_ref());
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let suffix = format!("{}{scope}{kind}{}", self.id, title(name));
        let gvk = (sub.group.clone().into_owned(), sub.version.clone().into_owned(), sub.kind.clone().into_owned());
        let definition = self.definition(&gvk.0, &gvk.1, &gvk.2);
        let path = format!("{item}/{name}");
        if sub.kind.ends_with("Options") {
            return self.connect(sub, name, &suffix, &path, gvk, named);
        }
        let make = |method, action, verb: &str, description: String| Operation {
            method,
            action,
            id: format!("{verb}{suffix}"),
            description,
            gvk: gvk.clone(),
            parameters: named.to_vec(),
            body: None,
            consumes: &["*/*"],
            produces: &TYPES,
            responses: Vec::new(),
        };
        let with = |more: &[Parameter]| named.iter().chain(more).cloned().collect::<Vec<_>>();
        let mut operations = Vec::new();
        if has("get") {
            let mut operation = make("get", "get", "read", format!("read {name} of the specified {kind}"));
            operation.responses = vec![(200, if name == "log" { "string".to_owned() } else { definition.clone() })];
            if name == "log" {
                operation.produces =
                    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
                operation.parameters.extend(option_parameters("PodLogOptions"));
            }
            operations.push(operation);
        }
        if has("update") {
            operations.push(Operation {
                parameters: with(&[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
                body: Some((definition.clone(), true)),
                responses: [200, 201].map(|code| (code, definition.clone())).to_vec(),
                ..make("put", "put", "replace", format!("replace {name} of the specified {kind}"))
            });
        }
        if has("patch") {
            operations.push(Operation {
                parameters: with(&[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE]),
                body: Some((format!("{META}Patch"), true)),
                consumes: &PATCH_TYPES,
                responses: [200, 201].map(|code| (code, definition.clone())).to_vec(),
                ..make("patch", "patch", "patch", format!("partially update {name} of the specified {kind}"))
            });
        }
        if has("create") {
            operations.push(Operation {
                parameters: with(&[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]),
                body: Some((definition.clone(), true)),
                responses: [200, 201, 202].map(|code| (code, definition.clone())).to_vec(),
                ..make("post", "post", "create", format!("create {name} of {} {kind}", article(kind)))
            });
        }
        self.path(path, operations);
    }

    /// exec, attach, port-forward and proxies.
    fn connect(
        &mut self,
        sub: &Subresource,
        name: &str,
        suffix: &str,
        path: &str,
        gvk: (String, String, String),
        named: &[Parameter],
    ) {
        let verbs: [(&'static str, &str); 5] =
            [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        let mut methods: Vec<&'static str> =
            verbs.iter().filter(|(_, verb)| sub.verbs.iter().any(|known| known == verb)).map(|(method, _)| *method).collect();
        if name == "proxy" {
            methods.extend(["head", "options"]);
        }
        let mut parameters: Vec<_> = named.iter().filter(|parameter| parameter.name != "pretty").cloned().collect();
        parameters.extend(option_parameters(&gvk.2));
        let rest = Parameter { name: "path", place: "path", kind: "string", text: "path to the resource" };
        for with_path in [false, true] {
            if with_path && name != "proxy" {
                continue;
            }
            let mut parameters = parameters.clone();
            if with_path {
                parameters.push(rest.clone());
            }
            let (tail, ending) = if with_path { ("/{path}", "WithPath") } else { ("", "") };
            let operation = |method: &&'static str| {
                let after = suffix.strip_prefix(&self.id).unwrap_or_default();
                Operation {
                    method,
                    action: "connect",
                    id: format!("connect{}{}{after}{ending}", self.id, title(method)),
                    description: format!("connect {} requests to {name}", method.to_uppercase()),
                    gvk: gvk.clone(),
                    parameters: parameters.clone(),
                    body: None,
                    consumes: &["*/*"],
                    produces: &["*/*"],
                    responses: vec![(200, "string".to_owned())],
                }
            };
            let operations = methods.iter().map(operation).collect();
            self.path(format!("{path}{tail}"), operations);
        }
    }

    /// Writes a path item; what all its operations take stands beside them.
    fn path(&mut self, path: String, operations: Vec<Operation>) {
        if operations.is_empty() {
            return;
        }
        let everywhere = |parameter: &Parameter| operations.iter().all(|operation| operation.parameters.contains(parameter));
        let mut common: Vec<_> = operations[0].parameters.iter().filter(|parameter| everywhere(parameter)).cloned().collect();
        common.sort_by_key(|parameter| (parameter.name, parameter.place));
        let mut item = Map::new();
        if !common.is_empty() {
            item.insert("parameters".to_owned(), common.iter().map(|parameter| self.parameter(parameter)).collect());
        }
        for operation in operations {
            let (method, value) = (operation.method, self.operation(operation, &common));
            item.insert(method.to_owned(), value);
        }
        self.out.insert(path, Value::Object(item));
    }

    fn parameter(&self, parameter: &Parameter) -> Value {
        if self.style == Style::V2 && is_shared(parameter) {
            return json!({"$ref": format!("#/parameters/{}", parameter.name)});
        }
        parameter_json(self.style, parameter)
    }

    fn operation(&self, mut operation: Operation, common: &[Parameter]) -> Value {
        operation.parameters.retain(|parameter| !common.contains(parameter));
        operation.parameters.sort_by_key(|parameter| parameter.name);
        let mut out = json!({"tags": [self.tag], "description": operation.description, "operationId": operation.id});
        let mut parameters: Vec<Value> = operation.parameters.iter().map(|parameter| self.parameter(parameter)).collect();
        let schema = |name: &str| if name == "string" { json!({"type": "string"}) } else { self.style.reference(name) };
        let mut responses = Map::new();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        for (code, name) in &operation.responses {
            let text = match code {
                200 => "OK",
                201 => "Created",
                _ => "Accepted",
            };
            let response = match self.style {
                Style::V2 => json!({"description": text, "schema": schema(name)}),
                Style::V3 => {
                    let content: Map<_, _> =
                        operation.produces.iter().map(|kind| ((*kind).to_owned(), json!({"schema": schema(name)}))).collect();
                    json!({"description": text, "content": content})
                }
            };
            responses.insert(code.to_string(), response);
        }
        match self.style {
            Style::V2 => {
                if let Some((name, required)) = &operation.body {
                    let mut body = json!({"name": "body", "in": "body", "schema": schema(name)});
                    if *required {
                        body["required"] = true.into();
                    }
                    parameters.insert(0, body);
                }
                (out["consumes"], out["produces"]) = (json!(operation.consumes), json!(operation.produces));
                out["schemes"] = json!(["https"]);
            }
            Style::V3 => {
                if let Some((name, _)) = &operation.body {
                    let content: Map<_, _> =
                        operation.consumes.iter().map(|kind| ((*kind).to_owned(), json!({"schema": schema(name)}))).collect();
                    out["requestBody"] = json!({"content": content});
                    if operation.body.as_ref().is_some_and(|(_, required)| *required) {
                        out["requestBody"]["required"] = true.into();
                    }
                }
            }
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::Array(parameters);
        }
        out["responses"] = Value::Object(responses);
        if !operation.action.is_empty() {
            out["x-kubernetes-action"] = operation.action.into();
            let (group, version, kind) = operation.gvk;
            out["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
        }
        out
    }
}

fn article(_kind: &str) -> &'static str {
    "a"
}

/// The fields of an options kind as query parameters; times have none.
fn option_parameters(kind: &str) -> Vec<Parameter> {
    let table = Schema::builtins();
    let Some(id) = table.by_gvk("", "v1", kind) else { return Vec::new() };
    let mut out = Vec::new();
    for field in &table.get(id).fields {
        let element = if let Type::List(id) = field.kind { table.element(id) } else { field.kind };
        let kind = match element {
            Type::String => "string",
            Type::Bool => "boolean",
            Type::Int32 | Type::Int64 => "integer",
            _ => continue,
        };
        // The built-in table's names are static.
        let std::borrow::Cow::Borrowed(name) = field.name else { continue };
        if !matches!(name, "apiVersion" | "kind") {
            out.push(Parameter { name, place: "query", kind, text: option_text(name) });
        }
    }
    out
}

fn option_text(name: &str) -> &'static str {
    match name {
        "command" => "The command to run, word by word; no shell is involved.",
        "container" => "The container; may be left out where the pod has one.",
        "follow" => "The log is sent on as it grows.",
        "insecureSkipTLSVerifyBackend" => "The kubelet's certificate is not checked.",
        "limitBytes" => "The log ends after so many bytes.",
        "path" => "The path asked for behind the proxy.",
        "ports" => "Ports to forward, for WebSockets.",
        "previous" => "The log of the container's previous run.",
        "sinceSeconds" => "Only lines of the last so many seconds.",
        "stderr" => "Standard error is attached.",
        "stdin" => "Standard input is attached.",
        "stdout" => "Standard output is attached.",
        "stream" => "Which output is shown: All, Stdout or Stderr.",
        "tailLines" => "Only the last so many lines.",
        "timestamps" => "Each line begins with its time.",
        "tty" => "A terminal is allocated.",
        _ => "",
    }
}
