//! The names of the built-in resources, as the rest of this crate has them; the facts are `api::kind`'s.

use api::kind::{self, Kind};

use crate::resource::{Names, Subresource};

/// Versions that a server without `--runtime-config` serves: all that are generally available.
pub fn served_by_default(version: &str) -> bool {
    kind::is_stable(version)
}

/// `apps/v1` as group and version; the core group is empty.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    kind::split_api_version(api_version)
}

/// All names, in discovery's order; those that are off by default too.
pub fn all() -> Vec<Names> {
    kind::all().iter().map(names).collect()
}

fn names(kind: &Kind) -> Names {
    Names {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        plural: kind.plural.to_owned(),
        singular: kind.singular.to_owned(),
        kind: kind.kind.to_owned(),
        list_kind: kind.list_kind.to_owned(),
        namespaced: kind.namespaced,
        short_names: owned(&kind.short_names),
        categories: owned(&kind.categories),
        verbs: owned(&kind.verbs),
        subresources: kind
            .subresources
            .iter()
            .map(|sub| Subresource {
                name: sub.name.to_owned(),
                group: sub.group.to_owned(),
                version: sub.version.to_owned(),
                kind: sub.kind.to_owned(),
                verbs: owned(&sub.verbs),
            })
            .collect(),
    }
}

fn owned(words: &[&'static str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
