//! What this server says in the status of CustomResourceDefinitions and of APIServices that others serve.
//!
//! Custom resources and aggregated groups are not served yet, and the conditions say so: names are accepted or in conflict, but a
//! definition is not `Established`; an APIService with a service behind it is not `Available`.
//!
//! Upstream: apiextensions-apiserver/pkg/controller/status/naming_controller.go,
//! kube-aggregator/pkg/controllers/status/remote/remote_available_controller.go

use std::sync::Arc;
use std::time::Duration;

use api::lister::Lister;
use api::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::change_status;
use crate::call::timestamp;
use crate::metadata;
use crate::server::Server;

const EXTENSIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
const REGISTRATION: (&str, &str) = ("apiregistration.k8s.io", "apiservices");
/// Between looks at whether anything changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// A condition without its time.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Condition {
    /// Puts this among `conditions`; the time is kept where the status is.
    fn set(&self, conditions: &mut Vec<Value>, now: &str) {
        let before = conditions.iter().position(|condition| condition["type"] == self.kind);
        let since = before
            .filter(|index| conditions[*index]["status"] == self.status)
            .and_then(|index| conditions[index].get("lastTransitionTime").cloned())
            .unwrap_or_else(|| now.into());
        let condition = json!({
            "type": self.kind, "status": self.status, "lastTransitionTime": since, "reason": self.reason, "message": self.message,
        });
        match before {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
    }
}

/// The status with these conditions, or nothing where it has them.
fn with(status: &Value, wanted: &[Condition], now: &str) -> Option<Value> {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for condition in wanted {
        condition.set(&mut conditions, now);
    }
    if status["conditions"].as_array() == Some(&conditions) {
        return None;
    }
    let mut status = if status.is_object() { status.clone() } else { json!({}) };
    status["conditions"] = conditions.into();
    Some(status)
}

/// The status that a definition should have among all definitions; nothing where it has it.
fn definition(object: &Value, all: &[Value], now: &str) -> Option<Value> {
    let spec = &object["spec"];
    let mut taken: Vec<(&str, &str)> = Vec::new();
    for other in all {
        if other["spec"]["group"] != spec["group"] || other["metadata"]["name"] == object["metadata"]["name"] {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        for (field, space) in [("plural", "resource"), ("singular", "resource"), ("kind", "kind"), ("listKind", "kind")] {
            taken.extend(names[field].as_str().map(|name| (space, name)));
        }
        let short = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        taken.extend(short.map(|name| ("resource", name)));
    }
    let free = |space: &str, name: &str| !name.is_empty() && !taken.contains(&(space, name));
    let asked = &spec["names"];
    let mut accepted = object["status"]["acceptedNames"].clone();
    let mut conflict: Option<(&'static str, String)> = None;
    let singular = "SingularConflict";
    for (field, space, reason) in [
        ("plural", "resource", "PluralConflict"),
        ("singular", "resource", singular),
        ("kind", "kind", "KindConflict"),
        ("listKind", "kind", "ListKindConflict"),
    ] {
        let name = asked[field].as_str().unwrap_or("");
        if free(space, name) {
            accepted[field] = name.into();
        } else {
            conflict.get_or_insert((reason, format!("{name:?} is already in use")));
        }
    }
    let short: Vec<&str> = asked["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match short.iter().find(|name| !free("resource", name)) {
        Some(name) => {
            conflict.get_or_insert(("ShortNamesConflict", format!("{name:?} is already in use")));
        }
        None if short.is_empty() => {
            accepted.as_object_mut().map(|map| map.remove("shortNames"));
        }
        None => accepted["shortNames"] = short.into(),
    }
    match asked.get("categories") {
        Some(categories) => accepted["categories"] = categories.clone(),
        None => drop(accepted.as_object_mut().map(|map| map.remove("categories"))),
    }
    let names = match &conflict {
        None => Condition { kind: "NamesAccepted", status: "True", reason: "NoConflicts", message: "no conflicts found".into() },
        Some((reason, message)) => Condition { kind: "NamesAccepted", status: "False", reason, message: message.clone() },
    };
    let established = if conflict.is_some() {
        ("NotAccepted", "not all names are accepted")
    } else {
        ("Installing", "custom resources are not yet served")
    };
    let established =
        Condition { kind: "Established", status: "False", reason: established.0, message: established.1.to_owned() };
    let status = &object["status"];
    let mut renamed = status.clone();
    renamed["acceptedNames"] = accepted;
    match with(&renamed, &[names, established], now) {
        Some(status) => Some(status),
        None => (renamed != *status).then_some(renamed),
    }
}

/// What an APIService's `Available` condition should be: of those served elsewhere.
fn availability(object: &Value, services: &dyn Lister) -> Option<Condition> {
    let service = object["spec"].get("service")?;
    let (namespace, name) = (service["namespace"].as_str().unwrap_or(""), service["name"].as_str().unwrap_or(""));
    let condition = |reason, message| Some(Condition { kind: "Available", status: "False", reason, message });
    if services.get("", "services", namespace, name).is_none() {
        return condition("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    }
    condition("FailedDiscoveryCheck", "aggregated API groups are not yet served".to_owned())
}

async fn look(server: &Arc<Server>) -> Result<(), Status> {
    let now = timestamp(Timestamp::now());
    let definitions: Vec<Value> =
        server.caches.list(EXTENSIONS.0, EXTENSIONS.1, None).iter().map(|object| object.as_ref().clone()).collect();
    for object in &definitions {
        if definition(object, &definitions, &now).is_none() {
            continue;
        }
        let make = |old: &Value| {
            let mut new = old.clone();
            if let Some(status) = definition(old, &definitions, &now) {
                new["status"] = status;
            }
            new
        };
        change_status(server, EXTENSIONS.0, EXTENSIONS.1, metadata::name(object), make).await?;
    }
    for object in server.caches.list(REGISTRATION.0, REGISTRATION.1, None) {
        let Some(condition) = availability(&object, server.caches.as_ref()) else { continue };
        if with(&object["status"], std::slice::from_ref(&condition), &now).is_none() {
            continue;
        }
        let make = |old: &Value| {
            let mut new = old.clone();
            if let Some(status) = with(&old["status"], std::slice::from_ref(&condition), &now) {
                new["status"] = status;
            }
            new
        };
        change_status(server, REGISTRATION.0, REGISTRATION.1, metadata::name(&object), make).await?;
    }
    Ok(())
}

/// Keeps the conditions until dropped.
pub(super) async fn run(server: Arc<Server>) {
    let table = server.table.load_full();
    let paths = [EXTENSIONS, REGISTRATION, ("", "services")]
        .map(|(group, plural)| table.any_version(group, plural).map(|served| served.resource.storage_path.clone()));
    drop(table);
    let caches = paths.map(|path| path.and_then(|path| server.caches.by_path(&path)));
    let version = || caches.iter().flatten().map(|cache| cache.version()).max().unwrap_or(0);
    let mut seen = None;
    loop {
        let now = version();
        if seen != Some(now) {
            match look(&server).await {
                Ok(()) => seen = Some(now),
                // Somebody else's write came between, or the object is gone: the next look sees that.
                Err(error) => tracing::debug!(err = %error, "Failed to keep the conditions of definitions and APIServices"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn foos(name: &str, kind: &str) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {"group": "example.com", "names": {
                "plural": "foos", "singular": "foo", "kind": kind, "listKind": format!("{kind}List"), "shortNames": ["fo"],
            }},
            "status": {"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"]},
        })
    }

    #[test]
    fn names_are_accepted_once() {
        let mut first = foos("foos.example.com", "Foo");
        let all = [first.clone()];
        let status = definition(&first, &all, NOW).unwrap();
        assert_eq!(
            status["acceptedNames"],
            json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["fo"]})
        );
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(status["conditions"][1]["type"], "Established");
        assert_eq!(status["conditions"][1]["status"], "False");
        first["status"] = status;
        assert_eq!(definition(&first, std::slice::from_ref(&first), NOW), None, "nothing left to say");
        let second = foos("others.example.com", "Bar");
        let status = definition(&second, &[first, second.clone()], NOW).unwrap();
        assert_eq!(status["acceptedNames"]["kind"], "Bar");
        assert_eq!(status["acceptedNames"]["plural"], "");
        assert_eq!(status["conditions"][0]["reason"], "PluralConflict");
    }

    #[test]
    fn times_are_of_transitions() {
        let condition = |status, message: &str| Condition { kind: "Available", status, reason: "R", message: message.to_owned() };
        let first = with(&Value::Null, &[condition("False", "a")], "then").unwrap();
        let second = with(&first, &[condition("False", "b")], "now").unwrap();
        assert_eq!(second["conditions"][0]["lastTransitionTime"], "then");
        let third = with(&second, &[condition("True", "b")], "now").unwrap();
        assert_eq!(third["conditions"][0]["lastTransitionTime"], "now");
    }
}
