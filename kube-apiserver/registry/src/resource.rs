//! The shape of a row of the resource table, built-in or (later) custom.

use std::sync::Arc;

use api::field::Errors;
use serde_json::Value;

/// Who asks, when and for what: all that a strategy may depend on besides the objects.
#[derive(Clone, Debug)]
pub struct Context {
    /// The time of the request, RFC 3339 in seconds (`2026-01-02T03:04:05Z`), as timestamps in objects are written.
    pub now: String,
    /// The user's name.
    pub user: String,
    /// The user's uid, groups and extra, for objects that record their requester (CertificateSigningRequest).
    pub user_uid: String,
    /// See `user_uid`.
    pub user_groups: Vec<String>,
    /// See `user_uid`.
    pub user_extra: Vec<(String, Vec<String>)>,
    /// The subresource written to (`status`, `scale`, …), or empty.
    pub subresource: String,
}

/// Reads a selectable field of an object.
pub type Field = fn(&Value) -> String;

/// One served resource: everything from which paths, discovery, OpenAPI, RBAC verbs, Tables and metrics labels derive.
#[derive(Clone)]
pub struct Resource {
    /// Names, verbs, subresources; one entry of the discovery document.
    pub names: Names,
    /// How objects are defaulted, prepared and validated.
    pub strategy: Arc<dyn Strategy>,
    /// Table columns in order, `Name` included (events have it last).
    pub columns: Vec<Column>,
    /// Field-selector keys beyond `metadata.name` and `metadata.namespace`, with how each reads its value from an object.
    pub selectable: Vec<(&'static str, Field)>,
    /// The path below the etcd prefix without the object's own key: `pods`, `services/specs`, `minions`, `<group>/<plural>` for CRs.
    pub storage_path: String,
    /// Whether etcd removes a written object after the server's `--event-ttl` (events).
    pub expires: bool,
    /// What a Warning header tells everyone who uses the resource.
    pub deprecation: Option<&'static str>,
    /// The `apiVersion` under which objects are stored: this one's, or that of a sister that shares `storage_path`.
    pub stored_as: String,
    /// How objects of this version become objects of `stored_as` and back, where the two differ in more than `apiVersion`.
    pub conversion: Option<Conversion>,
}

/// Between one version of a kind and the one it is stored as. Both rewrite the tree in place, `apiVersion` included.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// This version → stored version.
    pub to_stored: fn(&mut Value),
    /// Stored version → this version.
    pub from_stored: fn(&mut Value),
}

impl Resource {
    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        self.names.api_version()
    }

    /// Turns an object of this version into the one that is stored.
    pub fn to_stored(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.to_stored)(object);
        } else if self.stored_as != self.api_version() {
            object["apiVersion"] = self.stored_as.clone().into();
        }
    }

    /// Turns a stored object into one of this version.
    pub fn from_stored(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.from_stored)(object);
        } else if self.stored_as != self.api_version() {
            object["apiVersion"] = self.api_version().into();
        }
    }

    /// Whether the kind has this subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.names.subresources.iter().any(|subresource| subresource.name == name)
    }

    /// All errors of a new object: metadata first, then the strategy's.
    pub fn errors_on_create(&self, context: &Context, object: &Value) -> Errors {
        let mut errors = Errors::new();
        crate::metadata::validate(self, object, &mut errors);
        self.strategy.validate(context, object, &mut errors);
        errors
    }

    /// All errors of a change: metadata first, then the strategy's.
    pub fn errors_on_update(&self, context: &Context, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::new();
        crate::metadata::validate_update(self, new, old, &mut errors);
        self.strategy.validate_update(context, new, old, &mut errors);
        errors
    }
}

impl Names {
    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// The names of a resource, as discovery shows them.
#[derive(Clone, Debug)]
pub struct Names {
    /// API group, empty for core.
    pub group: String,
    /// Version, `v1`.
    pub version: String,
    /// Plural name, as in paths: `pods`.
    pub plural: String,
    /// Singular name: `pod`.
    pub singular: String,
    /// Kind: `Pod`.
    pub kind: String,
    /// Kind of lists: `PodList`.
    pub list_kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// `create delete deletecollection get list patch update watch`, the ones it has.
    pub verbs: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
}

/// A subresource as discovery shows it.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `eviction`, …
    pub name: String,
    /// Group, version and kind of its bodies, where they differ from the parent's group and version (`autoscaling/v1` `Scale`).
    pub group: String,
    /// See `group`.
    pub version: String,
    /// See `group`.
    pub kind: String,
    /// Its verbs.
    pub verbs: Vec<String>,
}

/// A Table column.
#[derive(Clone)]
pub struct Column {
    /// Heading: `Ready`.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`, …
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What `kubectl explain`-minded readers see.
    pub description: &'static str,
    /// 0 always shown, 1 with `-o wide`.
    pub priority: i32,
    /// The cell for an object. `now`: unix seconds, for ages.
    pub cell: fn(object: &Value, now: i64) -> Value,
}

/// What a graceful delete does to an object of this resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graceful {
    /// Delete at once.
    No,
    /// Mark with this many seconds of grace; somebody else (the kubelet) removes it later with grace 0.
    Seconds(i64),
}

/// The rules of one resource. Objects are decoded, pruned of unknown fields and have `apiVersion`, `kind`.
///
/// Order on create: `default` → `prepare_for_create` → admission → `validate` → `warnings` → store.
/// On update and patch: `default` → `prepare_for_update` (or the subresource's) → admission → `validate_update`.
/// Metadata rules common to all kinds (names, labels, annotations, owner references, finalizers, uid, resourceVersion, deletionTimestamp,
/// generateName) are checked by the caller through `crate::metadata`, not by strategies.
pub trait Strategy: Send + Sync {
    /// Fills in defaults; must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Drops what a creator may not set (status), sets `metadata.generation` where the kind has one.
    fn prepare_for_create(&self, _context: &Context, _object: &mut Value) {}

    /// Restores what an updater may not change (status), raises the generation when the spec changed.
    fn prepare_for_update(&self, _context: &Context, _new: &mut Value, _old: &Value) {}

    /// For `status` and other subresources that write a part: keeps from `old` all but that part.
    fn prepare_for_subresource(&self, _context: &Context, _new: &mut Value, _old: &Value) {}

    /// Validates a new object.
    fn validate(&self, _context: &Context, _object: &Value, _errors: &mut Errors) {}

    /// Validates a change; `context.subresource` tells which part is written. Includes `validate` of the new object where upstream's does.
    fn validate_update(&self, _context: &Context, _new: &Value, _old: &Value, _errors: &mut Errors) {}

    /// Texts for `Warning` headers on a write. `old` is `None` on create.
    fn warnings(&self, _context: &Context, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Rewrites names that are not as the schema says (`metadata.name` check differs per kind): returns the error text for a bad name.
    /// Default: DNS subdomain.
    fn check_name(&self, name: &str, prefix: bool) -> Vec<String>;

    /// Whether PUT to a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether PUT without a resourceVersion is allowed.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Grace on delete; `requested` is the client's `gracePeriodSeconds`.
    fn graceful_delete(&self, _object: &Value, _requested: Option<i64>) -> Graceful {
        Graceful::No
    }

    /// Finalizer-like default of delete propagation: `true` orphans dependents when the client says nothing (old resources).
    fn default_orphan(&self) -> bool {
        false
    }
}
