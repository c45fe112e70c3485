//! What all writes share: the path of an object from the decoded body into etcd.
//!
//! Create: defaults → mutating admission → metadata and strategy → validation → validating admission → store.
//! Change: a compare-and-swap loop over the stored object; the change is made anew on each try.

use std::sync::Arc;

use admission::Operation;
use api::apply::Writer;
use api::status::Status;
use bytes::Bytes;
use serde_json::Value;

use crate::cache::unavailable;
use crate::call::{Call, timestamp};
use crate::codec;
use crate::metadata;
use crate::storage::{Error, Stored};
use crate::table::Served;
use crate::verb::options::WriteOptions;

/// Tries of a compare-and-swap: each failure means that somebody else succeeded. Upstream tries until the request's deadline.
const TRIES: usize = 1000;

/// A version of an object in etcd.
#[derive(Clone)]
pub struct Current {
    /// The document without resource version, in the stored version of its kind.
    pub document: Bytes,
    /// The revision that wrote it; 0: there is none.
    pub revision: u64,
    /// See [`crate::storage::Stored::stale`]; of a cached object nobody knows.
    pub stale: bool,
}

impl Current {
    /// The object as the served version has it, with its resource version.
    ///
    /// # Errors
    /// The stored document cannot be read.
    pub fn object(&self, served: &Served) -> Result<Value, Status> {
        let mut object = codec::from_stored(served, &self.document)?;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        Ok(object)
    }
}

/// The object in the cache, as far as that has come: a write that finds another in etcd starts over with that one.
pub fn cached(served: &Served, namespace: &str, name: &str) -> Option<Current> {
    let entry = served.cache.as_ref()?.get(&served.key(namespace, name))?;
    Some(Current { document: entry.json(), revision: entry.revision(), stale: false })
}

/// The object in etcd.
///
/// # Errors
/// etcd is away.
pub async fn stored(served: &Served, namespace: &str, name: &str) -> Result<Option<Current>, Status> {
    let storage = &served.caches.storage;
    let (found, _) = storage.get(&storage.key(&served.path(namespace, name))).await.map_err(unavailable)?;
    found.map(|found| current(&found)).transpose()
}

/// What was read from etcd.
///
/// # Errors
/// It is no document.
pub fn current(found: &Stored) -> Result<Current, Status> {
    let document = codec::stored_json(&found.value).map_err(Status::internal)?;
    Ok(Current { document: Bytes::copy_from_slice(&document), revision: found.revision, stale: found.stale })
}

/// The document of an object as it is stored: of the stored version, without resource version.
///
/// # Errors
/// The object cannot be written as JSON: cannot happen.
pub fn document(served: &Served, object: &mut Value) -> Result<Vec<u8>, Status> {
    let mut version = None;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        version = metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    let bytes = if served.converted {
        let mut stored = object.clone();
        served.resource.to_stored(&mut stored);
        serde_json::to_vec(&stored)
    } else {
        serde_json::to_vec(object)
    };
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version;
    }
    bytes.map_err(Status::internal)
}

/// What came of a write.
pub struct Written {
    /// The object as stored, in the served version, with its resource version.
    pub object: Value,
    /// Whether it is new.
    pub created: bool,
}

/// Creates `object` (decoded, defaulted by nobody yet).
///
/// # Errors
/// 403, 409, 422 and those of etcd.
pub async fn create(call: &mut Call, served: &Arc<Served>, mut object: Value, options: &WriteOptions) -> Result<Written, Status> {
    let context = call.context();
    let server = call.server.clone();
    if object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .is_some_and(|version| !version.is_empty() && version != "0")
        && !options.dry_run
    {
        return Err(Status::internal("resourceVersion should not be set on objects to be created"));
    }
    served.resource.strategy.default(&mut object);
    served.schema.normalize(&mut object);
    metadata::fill_create(served, &context, &mut object);
    track(call, served, None, &mut object, options);
    server.admit(call, served, Operation::Create, &mut object, None, options).await?;
    let name = metadata::generate(&mut object);
    served.resource.strategy.prepare_for_create(&context, &mut object);
    served.schema.normalize(&mut object);
    let name_told = metadata::name(&object).to_owned();
    let namespace = metadata::namespace(&object).to_owned();
    // What is allocated is validated with the rest, and given back when that fails.
    let reserved = server.allocators.on_create(call, served, &mut object, options.dry_run).await?;
    let mut errors = served.resource.errors_on_create(&context, &object);
    if !errors.is_empty() {
        if !call.empties.is_empty() {
            let mut told = object.clone();
            api::schema::restore_empties(&mut told, &call.empties);
            errors = served.resource.errors_on_create(&context, &told);
        }
        reserved.release(&server, options.dry_run).await;
        let names = &served.resource.names;
        return Err(Status::invalid(&names.group, &names.kind, &name_told, &errors));
    }
    call.warnings.extend(served.resource.strategy.warnings(&context, &object, None));
    if let Err(refused) = server.validate(call, served, Operation::Create, &object, None, options).await {
        reserved.release(&server, options.dry_run).await;
        return Err(refused);
    }
    let result = if options.dry_run {
        // Upstream tells of the conflict in a dry run too.
        if stored(served, &namespace, &name_told).await?.is_some() { Err(Error::Exists) } else { Ok(0) }
    } else {
        let storage = &served.caches.storage;
        let ttl = served.resource.expires.then_some(server.config.event_ttl);
        let bytes = document(served, &mut object)?;
        storage.create(&storage.key(&served.path(&namespace, &name_told)), &bytes, ttl).await
    };
    match result {
        Ok(revision) => {
            reserved.keep();
            if revision > 0 {
                object["metadata"]["resourceVersion"] = revision.to_string().into();
            }
            Ok(Written { object, created: true })
        }
        Err(Error::Exists) => {
            reserved.release(&server, options.dry_run).await;
            let mut status = Status::already_exists(served.group(), served.plural(), &name_told);
            if name.is_some() {
                // A generated name was taken: the client may simply try again.
                status = status.with_retry(1);
            }
            Err(status)
        }
        Err(error) => {
            reserved.release(&server, options.dry_run).await;
            Err(unavailable(error))
        }
    }
}

/// What a change is made from.
pub struct Change<'a> {
    /// The resource.
    pub served: &'a Arc<Served>,
    /// Where the object is.
    pub namespace: &'a str,
    /// See `namespace`.
    pub name: &'a str,
    /// The subresource written to, or empty.
    pub subresource: &'a str,
    /// The write's options.
    pub options: &'a WriteOptions,
    /// Whether a missing object is made (apply, PUT of some kinds).
    pub create: bool,
    /// Whether the strategy, admission and validation are passed by: for changes that the server itself makes (finalizers, deletion marks).
    pub bare: bool,
}

/// Changes an object by `make`, which gets the present object (with its resource version) and gives the wanted one.
///
/// A `resourceVersion` in the wanted object must be the present one; where it is absent the write is unconditional.
///
/// # Errors
/// 404, 409, 422 and those of etcd; whatever `make` says.
pub async fn change<F>(call: &mut Call, change: &Change<'_>, mut make: F) -> Result<Written, Status>
where
    F: FnMut(&mut Call, Option<&Value>) -> Result<Value, Status>,
{
    let Change { served, namespace, name, .. } = change;
    let server = call.server.clone();
    let context = {
        let mut context = call.context();
        change.subresource.clone_into(&mut context.subresource);
        context
    };
    // A cached object may be old: errors that it causes are believed only of the object in etcd.
    let mut from_cache = true;
    let mut now = cached(served, namespace, name);
    if now.is_none() {
        now = stored(served, namespace, name).await?;
        from_cache = false;
    }
    for _ in 0..TRIES {
        let warnings = call.warnings.len();
        let outcome = attempt(call, change, &context, now.as_ref(), &mut make).await;
        let prepared = match outcome {
            Ok(prepared) => prepared,
            Err(_) if from_cache => {
                call.warnings.truncate(warnings);
                now = stored(served, namespace, name).await?;
                from_cache = false;
                continue;
            }
            Err(status) => return Err(status),
        };
        let (object, bytes, old) = match prepared {
            Prepared::Create(object) => {
                if !change.create {
                    return Err(Status::not_found(served.group(), served.plural(), name));
                }
                return create(call, served, object, change.options).await;
            }
            Prepared::Same(object) => {
                if from_cache {
                    // Nothing to write, but only etcd knows whether this is still so.
                    let fresh = stored(served, namespace, name).await?;
                    let renew = fresh.as_ref().is_some_and(|fresh| fresh.stale);
                    if renew || fresh.as_ref().map(|fresh| fresh.revision) != now.as_ref().map(|now| now.revision) {
                        now = fresh;
                        from_cache = false;
                        call.warnings.truncate(warnings);
                        continue;
                    }
                }
                return Ok(Written { object, created: false });
            }
            Prepared::Write { object, bytes, old } => (object, bytes, old),
        };
        let mut object = object;
        let revision = now.as_ref().map_or(0, |now| now.revision);
        if change.options.dry_run {
            if from_cache {
                let fresh = stored(served, namespace, name).await?;
                if fresh.as_ref().map(|fresh| fresh.revision) != Some(revision) {
                    now = fresh;
                    from_cache = false;
                    call.warnings.truncate(warnings);
                    continue;
                }
            }
            return Ok(Written { object, created: false });
        }
        let storage = &served.caches.storage;
        let key = storage.key(&served.path(namespace, name));
        // The last finalizer of an object marked for deletion is gone: this write removes it.
        let removes = metadata::is_finished(served, &object);
        let result = if removes {
            storage.delete(&key, revision).await
        } else {
            let ttl = served.resource.expires.then_some(server.config.event_ttl);
            storage.update(&key, revision, &bytes, ttl).await
        };
        match result {
            Ok(written) => {
                server.allocators.after_change(call, served, &old, if removes { None } else { Some(&object) }).await;
                object["metadata"]["resourceVersion"] = written.to_string().into();
                return Ok(Written { object, created: false });
            }
            Err(Error::Changed(found)) => {
                call.warnings.truncate(warnings);
                now = found.map(|found| current(&found)).transpose()?;
                from_cache = false;
            }
            Err(error) => return Err(unavailable(error)),
        }
    }
    Err(Status::conflict(served.group(), served.plural(), name, metadata::MODIFIED))
}

enum Prepared {
    Create(Value),
    Same(Value),
    Write { object: Value, bytes: Vec<u8>, old: Value },
}

async fn attempt<F>(
    call: &mut Call,
    change: &Change<'_>,
    context: &registry::resource::Context,
    now: Option<&Current>,
    make: &mut F,
) -> Result<Prepared, Status>
where
    F: FnMut(&mut Call, Option<&Value>) -> Result<Value, Status>,
{
    let Change { served, namespace, name, subresource, options, .. } = change;
    let server = call.server.clone();
    let strategy = served.resource.strategy.clone();
    let Some(now) = now else {
        if !change.create {
            return Err(Status::not_found(served.group(), served.plural(), name));
        }
        return Ok(Prepared::Create(make(call, None)?));
    };
    let old = now.object(served)?;
    let mut object = make(call, Some(&old))?;
    if !change.bare {
        strategy.default(&mut object);
        served.schema.normalize(&mut object);
    }
    // Optimistic concurrency.
    let version = metadata::text(&object, "resourceVersion").to_owned();
    if version.is_empty() || version == "0" {
        if !strategy.allow_unconditional_update() && !change.bare && subresource.is_empty() {
            let mut errors = api::field::Errors::new();
            errors.invalid(&api::field::Path::new("metadata.resourceVersion"), 0, "must be specified for an update");
            // Upstream names the resource here, not the kind.
            return Err(Status::invalid(served.group(), served.plural(), name, &errors));
        }
    } else if version != now.revision.to_string() {
        return Err(Status::conflict(served.group(), served.plural(), name, metadata::MODIFIED));
    }
    object["metadata"]["resourceVersion"] = now.revision.to_string().into();
    if !change.bare {
        metadata::carry_over(served, namespace, name, &mut object, &old)?;
        // Before the strategy, as upstream: what it takes back is owned all the same.
        track(call, served, Some(&old), &mut object, options);
        let before = object.clone();
        server.admit(call, served, Operation::Update, &mut object, Some(&old), options).await?;
        if object != before {
            strategy.default(&mut object);
            served.schema.normalize(&mut object);
        }
        if subresource.is_empty() {
            strategy.prepare_for_update(context, &mut object, &old);
        } else {
            strategy.prepare_for_subresource(context, &mut object, &old);
        }
        served.schema.normalize(&mut object);
        server.allocators.on_change(call, served, &old, &mut object, options.dry_run).await?;
        let mut errors = served.resource.errors_on_update(context, &object, &old);
        if !errors.is_empty() {
            if !call.empties.is_empty() {
                let mut told = object.clone();
                api::schema::restore_empties(&mut told, &call.empties);
                errors = served.resource.errors_on_update(context, &told, &old);
            }
            return Err(Status::invalid(served.group(), &served.resource.names.kind, name, &errors));
        }
        call.warnings.extend(strategy.warnings(context, &object, Some(&old)));
        server.validate(call, served, Operation::Update, &object, Some(&old), options).await?;
    }
    let bytes = document(served, &mut object)?;
    let unchanged = !now.stale && same_but_times(&object, &old);
    if unchanged { Ok(Prepared::Same(old)) } else { Ok(Prepared::Write { object, bytes, old }) }
}

/// Notes who owns what, unless an apply patch has settled it.
fn track(call: &Call, served: &Served, live: Option<&Value>, object: &mut Value, options: &WriteOptions) {
    if options.applied {
        return;
    }
    let own = std::ptr::eq(Arc::as_ptr(&call.served), served);
    let now = timestamp(call.now);
    let writer = Writer { manager: &options.manager, subresource: if own { &call.info.subresource } else { "" }, now: &now };
    api::apply::track_update(&served.schema, live, object, writer);
}

/// Whether nothing would change: upstream writes nothing then, and the version stays.
fn same_but_times(new: &Value, old: &Value) -> bool {
    if new == old {
        return true;
    }
    // managedFields whose only difference is the time of an owner count as unchanged.
    let strip = |object: &Value| {
        let mut metadata = object["metadata"].clone();
        if let Some(entries) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
            for entry in entries {
                if let Some(entry) = entry.as_object_mut() {
                    entry.remove("time");
                }
            }
        }
        metadata
    };
    // Cheap test first: everything outside metadata equal?
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else { return false };
    if a.len() != b.len() || a.iter().any(|(key, value)| key != "metadata" && b.get(key) != Some(value)) {
        return false;
    }
    strip(new) == strip(old)
}

/// A hint to try again in details.
trait WithRetry {
    fn with_retry(self, seconds: u32) -> Self;
}

impl WithRetry for Status {
    fn with_retry(mut self, seconds: u32) -> Self {
        let mut details = self.details.take().unwrap_or_else(|| serde_json::json!({}));
        details["retryAfterSeconds"] = seconds.into();
        self.with_details(details)
    }
}
