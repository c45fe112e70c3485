//! A [`Strategy`] as a value: the generic behaviour of most kinds, with functions in place of it where a kind differs.

use std::sync::Arc;

use api::field::Errors;
use serde_json::Value;

use crate::identifier::{self, NameCheck};
use crate::resource::{Context, Graceful, Strategy};
use crate::tree::{Tree, same};

/// When `metadata.generation` goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// 1 on create, never more.
    Once,
    /// 1 on create, one more whenever one of these top-level fields changes.
    Fields(&'static [&'static str]),
}

/// On change of `spec`.
pub const SPEC: Generation = Generation::Fields(&["spec"]);

/// The rules of one kind. Start from [`Rules::GENERIC`] and replace what differs.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Fills in defaults.
    pub default: fn(&mut Value),
    /// After status is dropped and the generation set.
    pub create: fn(&Context, &mut Value),
    /// After status is restored, before the generation is compared.
    pub update: fn(&Context, &mut Value, &Value),
    /// For subresources other than `status`: makes `new` the old object but for what this subresource may write.
    pub subresource: fn(&Context, &mut Value, &Value),
    /// For `status`: after all but `status` (and metadata) came from the old object.
    pub status_update: fn(&Context, &mut Value, &Value),
    /// Validates a new object.
    pub validate: fn(&Context, &Value, &mut Errors),
    /// Validates a change of the main resource.
    pub validate_update: fn(&Context, &Value, &Value, &mut Errors),
    /// Validates a change of `status`.
    pub validate_status: fn(&Context, &Value, &Value, &mut Errors),
    /// Texts for `Warning` headers.
    pub warnings: fn(&Context, &Value, Option<&Value>) -> Vec<String>,
    /// What names look like.
    pub name: NameCheck,
    /// Whether there is a status that only its subresource writes.
    pub status: bool,
    /// See [`Generation`].
    pub generation: Generation,
    /// PUT creates.
    pub create_on_update: bool,
    /// PUT needs no resourceVersion.
    pub unconditional_update: bool,
    /// Grace on delete.
    pub graceful: fn(&Value, Option<i64>) -> Graceful,
    /// Dependents are orphaned by default.
    pub orphan: bool,
}

impl Rules {
    /// Names are subdomains, nothing is checked.
    pub const GENERIC: Self = Self {
        default: |_| {},
        create: |_, _| {},
        update: |_, _, _| {},
        subresource: |_, _, _| {},
        status_update: |_, _, _| {},
        validate: |_, _, _| {},
        validate_update: |_, _, _, _| {},
        validate_status: |_, _, _, _| {},
        warnings: |_, _, _| Vec::new(),
        name: identifier::name_is_dns_subdomain,
        status: false,
        generation: Generation::None,
        create_on_update: false,
        unconditional_update: true,
        graceful: |_, _| Graceful::No,
        orphan: false,
    };

    /// As the shared strategy of a resource.
    pub fn strategy(self) -> Arc<dyn Strategy> {
        Arc::new(self)
    }
}

impl Strategy for Rules {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_for_create(&self, context: &Context, object: &mut Value) {
        if self.status {
            object.drop("status");
        }
        match self.generation {
            Generation::None => {
                if object.has("metadata") {
                    object.child("metadata").drop("generation");
                }
            }
            _ => object.child("metadata").set("generation", 1),
        }
        (self.create)(context, object);
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        if self.status {
            new.keep("status", old);
        }
        let before = old.at("metadata").int("generation");
        match before {
            Some(before) => new.child("metadata").set("generation", before),
            None => new.child("metadata").drop("generation"),
        }
        (self.update)(context, new, old);
        if let Generation::Fields(fields) = self.generation
            && fields.iter().any(|field| !same(new.at(field), old.at(field)))
        {
            new.child("metadata").set("generation", before.unwrap_or(0) + 1);
        }
    }

    fn prepare_for_subresource(&self, context: &Context, new: &mut Value, old: &Value) {
        if context.subresource == "status" {
            let status = new.at("status").clone();
            let metadata = new.at("metadata").clone();
            let kept = (new.at("apiVersion").clone(), new.at("kind").clone());
            *new = old.clone();
            (new["apiVersion"], new["kind"]) = kept;
            new.set("metadata", metadata);
            match old.at("metadata").int("generation") {
                Some(before) => new.child("metadata").set("generation", before),
                None => new.child("metadata").drop("generation"),
            }
            if status.is_null() {
                new.drop("status")
            } else {
                new.set("status", status)
            }
            (self.status_update)(context, new, old);
        } else {
            (self.subresource)(context, new, old);
        }
    }

    fn validate(&self, context: &Context, object: &Value, errors: &mut Errors) {
        (self.validate)(context, object, errors);
    }

    fn validate_update(&self, context: &Context, new: &Value, old: &Value, errors: &mut Errors) {
        if context.subresource == "status" {
            (self.validate_status)(context, new, old, errors);
        } else {
            (self.validate_update)(context, new, old, errors);
        }
    }

    fn warnings(&self, context: &Context, new: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warnings)(context, new, old)
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn graceful_delete(&self, object: &Value, requested: Option<i64>) -> Graceful {
        (self.graceful)(object, requested)
    }

    fn default_orphan(&self) -> bool {
        self.orphan
    }
}
