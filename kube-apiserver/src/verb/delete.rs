//! DELETE: preconditions, grace, finalizers, propagation.
//!
//! Upstream: apiserver/pkg/registry/generic/registry/store.go (Delete), rest/delete.go

use admission::Operation;
use api::field::{ErrorType, Errors, Path};
use api::schema::Schema;
use api::status::Status;
use registry::resource::Graceful;
use serde_json::{Value, json};

use crate::cache::unavailable;
use crate::call::{Call, Response, timestamp};
use crate::metadata;
use crate::negotiate::{self, Encoding, Offers};
use crate::reply;
use crate::storage::Error;
use crate::table::Served;
use crate::verb::options::{WriteOptions, check_dry_run};
use crate::verb::write;

/// Finalizer of objects whose dependents go first.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of objects whose dependents are let go.
const ORPHAN: &str = "orphan";
/// Tries of a compare-and-swap.
const TRIES: usize = 1000;

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds of grace.
    pub grace: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `Orphan`, `Foreground`, `Background`.
    pub propagation: Option<String>,
    /// The older way to say so.
    pub orphan: Option<bool>,
    /// Nothing is stored.
    pub dry_run: bool,
    /// As in the body, for admission.
    pub object: Value,
}

impl DeleteOptions {
    /// From the body, else from the query.
    ///
    /// # Errors
    /// 400 for what does not parse, 422 for what is no option.
    pub async fn of(call: &mut Call) -> Result<Self, Status> {
        let encoding = negotiate::content_type(&call.headers);
        let body = call.read_body().await?;
        let object = if body.is_empty() {
            let query = &call.query;
            let mut object = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
            if let Ok(grace) = query.get("gracePeriodSeconds").parse::<i64>() {
                object["gracePeriodSeconds"] = grace.into();
            }
            if query.has("propagationPolicy") {
                object["propagationPolicy"] = query.get("propagationPolicy").into();
            }
            if query.has("orphanDependents") {
                object["orphanDependents"] = query.flag("orphanDependents").into();
            }
            let dry: Vec<Value> = query.all("dryRun").into_iter().map(Value::from).collect();
            if !dry.is_empty() {
                object["dryRun"] = dry.into();
            }
            object
        } else {
            let mut object = decode(&body, encoding?)?;
            // The query's dry run counts beside a body that says nothing.
            let dry: Vec<Value> = call.query.all("dryRun").into_iter().map(Value::from).collect();
            if !dry.is_empty() && object.get("dryRun").is_none() {
                object["dryRun"] = dry.into();
            }
            object
        };
        Self::check(object)
    }

    /// Reads and checks the options in a body.
    ///
    /// # Errors
    /// 422 for what is no option.
    pub fn check(object: Value) -> Result<Self, Status> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let mut errors = Errors::new();
        let propagation = text("/propagationPolicy");
        let orphan = object.get("orphanDependents").and_then(Value::as_bool);
        let path = Path::new("propagationPolicy");
        if let Some(policy) = &propagation {
            if orphan.is_some() {
                errors.invalid(&path, policy.as_str(), "orphanDependents and deletionPropagation cannot be both set");
            } else if !matches!(policy.as_str(), "Orphan" | "Foreground" | "Background") {
                let detail = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
                errors.add(ErrorType::NotSupported, &path, policy.as_str(), detail);
            }
        }
        let dry: Vec<&str> = object
            .get("dryRun")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        check_dry_run(&dry, &mut errors);
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        Ok(Self {
            // Negative grace is taken for one second, as upstream does.
            grace: object.get("gracePeriodSeconds").and_then(Value::as_i64).map(|grace| if grace < 0 { 1 } else { grace }),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation,
            orphan,
            dry_run: !dry.is_empty(),
            object,
        })
    }
}

/// A body of `DeleteOptions`, of any group's version as upstream takes them.
fn decode(body: &[u8], encoding: Encoding) -> Result<Value, Status> {
    let tree = match encoding {
        Encoding::Json => serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))?,
        Encoding::Yaml => api::yaml::decode(body).map_err(|error| Status::bad_request(error.to_string()))?.value,
        Encoding::Protobuf => api::proto::decode(body).map_err(|error| Status::bad_request(error.to_string()))?,
    };
    if tree == Value::Null {
        return Ok(json!({}));
    }
    if !matches!(tree.get("kind").and_then(Value::as_str), None | Some("" | "DeleteOptions")) {
        return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
    }
    let schema = Schema::builtin("", "v1", "DeleteOptions").ok_or_else(|| Status::internal("no schema of DeleteOptions"))?;
    let decoded = schema.decode_value(tree, api::schema::FieldValidation::Ignore);
    decoded.map(|decoded| decoded.object).map_err(|error| Status::bad_request(error.to_string()))
}

/// Deletes the object named in the path.
///
/// # Errors
/// 400, 403, 404, 409, 422 as upstream.
pub async fn delete(call: &mut Call) -> Result<Response, Status> {
    call.accept(Offers::All)?;
    let options = DeleteOptions::of(call).await?;
    let served = call.served.clone();
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    let deleted = one(call, &served, &namespace, &name, &options).await?;
    if deleted.waiting || returns_object(&served) {
        return reply::object(call, 200, deleted.object);
    }
    let mut details = json!({"name": name, "kind": served.plural(), "uid": metadata::text(&deleted.object, "uid")});
    if !served.group().is_empty() {
        details["group"] = served.group().into();
    }
    let accept = call.accept(Offers::All)?;
    let mut accept = accept;
    accept.shape = negotiate::Shape::Object;
    Ok(reply::tree(200, &reply::success(200, Some(details)), accept))
}

/// Kinds whose removal is answered with the object, not with a Status. Upstream: ReturnDeletedObject.
const RETURNED: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("", "persistentvolumes"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourcepoolstatusrequests"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

fn returns_object(served: &Served) -> bool {
    RETURNED.contains(&(served.group(), served.plural()))
}

/// What came of a delete.
pub struct Deleted {
    /// The object as it was, or as it is while it waits.
    pub object: Value,
    /// Whether it is still there, marked.
    pub waiting: bool,
}

/// Deletes one object.
///
/// # Errors
/// 403, 404, 409 and those of etcd.
pub async fn one(
    call: &mut Call,
    served: &std::sync::Arc<Served>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let server = call.server.clone();
    let mut from_cache = true;
    let mut now = write::cached(served, namespace, name);
    if now.is_none() {
        now = write::stored(served, namespace, name).await?;
        from_cache = false;
    }
    for _ in 0..TRIES {
        let Some(current) = now.clone() else {
            return Err(Status::not_found(served.group(), served.plural(), name));
        };
        let old = current.object(served)?;
        let step = match step(call, served, &old, name, options).await {
            Ok(step) => step,
            Err(_) if from_cache => {
                now = write::stored(served, namespace, name).await?;
                from_cache = false;
                continue;
            }
            Err(status) => return Err(status),
        };
        if options.dry_run {
            return Ok(match step {
                Step::Pending => Deleted { object: old, waiting: true },
                Step::Mark(object) => Deleted { object, waiting: true },
                Step::Remove(object) => Deleted { object, waiting: false },
            });
        }
        let storage = &served.caches.storage;
        let key = storage.key(&served.path(namespace, name));
        let (result, mut object, waiting) = match step {
            Step::Pending => return Ok(Deleted { object: old, waiting: true }),
            Step::Mark(mut object) => {
                let bytes = write::document(served, &mut object)?;
                (storage.update(&key, current.revision, &bytes, None).await, object, true)
            }
            Step::Remove(object) => (storage.delete(&key, current.revision).await, object, false),
        };
        match result {
            Ok(revision) => {
                object["metadata"]["resourceVersion"] = revision.to_string().into();
                if !waiting {
                    server.allocators.after_change(call, served, &old, None).await;
                }
                return Ok(Deleted { object, waiting });
            }
            Err(Error::Changed(found)) => {
                now = found.map(|found| write::current(&found)).transpose()?;
                from_cache = false;
            }
            Err(error) => return Err(unavailable(error)),
        }
    }
    Err(Status::conflict(served.group(), served.plural(), name, metadata::MODIFIED))
}

enum Step {
    /// Already under way, nothing to do.
    Pending,
    /// Write this state and wait.
    Mark(Value),
    /// Remove; the object as it is shown.
    Remove(Value),
}

/// What a delete does to an object in this state.
async fn step(
    call: &mut Call,
    served: &std::sync::Arc<Served>,
    old: &Value,
    name: &str,
    options: &DeleteOptions,
) -> Result<Step, Status> {
    let server = call.server.clone();
    let kind = &served.resource.names.kind;
    let (uid, version) = (metadata::text(old, "uid"), metadata::text(old, "resourceVersion"));
    let mismatch = |why: String| Err(Status::conflict(served.group(), kind, name, why));
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return mismatch(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        ));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return mismatch(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    let write_options = WriteOptions { dry_run: options.dry_run, ..crate::bootstrap::own_options() };
    let mut admitted = old.clone();
    server.admit(call, served, Operation::Delete, &mut admitted, Some(old), &write_options).await?;
    server.validate(call, served, Operation::Delete, &Value::Null, Some(old), &write_options).await?;

    if served.group().is_empty() && served.plural() == "namespaces" {
        return Ok(namespace_step(call, old, options));
    }

    let mut object = old.clone();
    let graceful = served.resource.strategy.graceful_delete(old, options.grace);
    let mut period = None;
    if let Graceful::Seconds(seconds) = graceful {
        if metadata::is_deleting(old) {
            let Some(set) = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) else {
                return Ok(finalized(call, served, object, options, None));
            };
            match options.grace {
                Some(wanted) if wanted < set => {
                    let old_time: Option<jiff::Timestamp> = metadata::text(old, "deletionTimestamp").parse().ok();
                    let time = old_time.unwrap_or(call.now) + jiff::SignedDuration::from_secs(wanted - set);
                    object["metadata"]["deletionTimestamp"] = timestamp(time).into();
                    object["metadata"]["deletionGracePeriodSeconds"] = wanted.into();
                    period = Some(wanted);
                }
                _ if set == 0 => period = Some(0),
                _ => return Ok(Step::Pending),
            }
        } else {
            let time = call.now + jiff::SignedDuration::from_secs(seconds);
            object["metadata"]["deletionTimestamp"] = timestamp(time).into();
            object["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
            raise_generation(&mut object);
            period = Some(seconds);
        }
    }
    Ok(finalized(call, served, object, options, period))
}

/// Puts the propagation's finalizers on, and decides between waiting and removing.
fn finalized(call: &Call, served: &Served, mut object: Value, options: &DeleteOptions, period: Option<i64>) -> Step {
    let mut finalizers: Vec<String> = metadata::finalizers(&object).into_iter().map(str::to_owned).collect();
    let before = finalizers.clone();
    let (orphan, foreground) = propagation(served, &finalizers, options);
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    let same = {
        let mut a = before.clone();
        let mut b = finalizers.clone();
        a.sort();
        b.sort();
        a == b
    };
    if same {
        finalizers = before;
    } else if finalizers.is_empty() {
        metadata::map(&mut object).remove("finalizers");
    } else {
        object["metadata"]["finalizers"] = finalizers.clone().into();
    }
    let waits_for_grace = period.is_some_and(|period| period > 0);
    if finalizers.is_empty() && !waits_for_grace {
        return Step::Remove(object);
    }
    if period.is_none() {
        // No grace of its own: marked now, for the finalizers.
        let changed = !same;
        if metadata::is_deleting(&object) {
            let zero = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) == Some(0);
            return if changed || !zero {
                object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
                Step::Mark(object)
            } else {
                Step::Pending
            };
        }
        object["metadata"]["deletionTimestamp"] = timestamp(call.now).into();
        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        raise_generation(&mut object);
    }
    Step::Mark(object)
}

fn raise_generation(object: &mut Value) {
    if let Some(generation) = object.pointer("/metadata/generation").and_then(Value::as_i64).filter(|generation| *generation > 0)
    {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Whether dependents are orphaned, and whether they go first.
fn propagation(served: &Served, finalizers: &[String], options: &DeleteOptions) -> (bool, bool) {
    match (options.propagation.as_deref(), options.orphan) {
        (Some(policy), _) => return (policy == "Orphan", policy == "Foreground"),
        (None, Some(orphan)) => return (orphan, false),
        (None, None) => {}
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) || has(FOREGROUND) {
        return (has(ORPHAN), has(FOREGROUND));
    }
    (served.resource.strategy.default_orphan(), false)
}

/// Namespaces go through the phase Terminating: the namespace controller empties them and takes `spec.finalizers` off.
fn namespace_step(call: &Call, old: &Value, options: &DeleteOptions) -> Step {
    let held = old.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let mut object = old.clone();
    if !metadata::is_deleting(old) {
        object["metadata"]["deletionTimestamp"] = timestamp(call.now).into();
        if !object.get("status").is_some_and(Value::is_object) {
            object["status"] = json!({});
        }
        object["status"]["phase"] = "Terminating".into();
        let mut finalizers: Vec<String> = metadata::finalizers(old).into_iter().map(str::to_owned).collect();
        match options.propagation.as_deref() {
            Some("Orphan") => finalizers.push(ORPHAN.into()),
            Some("Foreground") => finalizers.push(FOREGROUND.into()),
            _ => {}
        }
        if !finalizers.is_empty() {
            object["metadata"]["finalizers"] = finalizers.into();
        }
        if held || !metadata::finalizers(&object).is_empty() {
            return Step::Mark(object);
        }
        return Step::Remove(object);
    }
    if held || !metadata::finalizers(old).is_empty() { Step::Pending } else { Step::Remove(object) }
}
