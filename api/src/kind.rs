//! The table of built-in kinds: what discovery says of each, and which definition describes it.
//!
//! The data (`data/kinds.txt`) is written by `generate.py` from upstream's discovery and OpenAPI documents; `/apis` groups are in the
//! order of upstream's document, versions in order of preference.

use std::sync::LazyLock;

/// A built-in resource and its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `PodList`.
    pub list_kind: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `po`.
    pub short_names: Vec<&'static str>,
    /// `all`.
    pub categories: Vec<&'static str>,
    /// The verbs it has, sorted.
    pub verbs: Vec<&'static str>,
    /// Its subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// A delete answers with the object (else with a Status).
    pub delete_returns_object: bool,
    /// The OpenAPI definition: `io.k8s.api.core.v1.Pod`.
    pub definition: &'static str,
}

/// A subresource of a [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`.
    pub name: &'static str,
    /// Group, version and kind of its bodies.
    pub group: &'static str,
    /// See `group`.
    pub version: &'static str,
    /// See `group`.
    pub kind: &'static str,
    /// Its verbs, sorted.
    pub verbs: Vec<&'static str>,
}

/// An API group with its versions, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Empty for core.
    pub name: &'static str,
    /// `["v2", "v1"]`.
    pub versions: Vec<&'static str>,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Whether upstream serves it without `--runtime-config`: generally available versions only.
    pub fn enabled_by_default(&self) -> bool {
        is_stable(self.version)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether it has the verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// `v1` for core, else `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Whether a version is generally available (`v1`, `v2`), not alpha or beta.
pub fn is_stable(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// All built-in kinds, core first, in discovery order.
pub fn all() -> &'static [Kind] {
    &TABLE.1
}

/// All groups, core first, in discovery order.
pub fn groups() -> &'static [Group] {
    &TABLE.0
}

/// The kind behind a resource path.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|kind| kind.plural == plural && kind.version == version && kind.group == group)
}

/// The resource that holds objects of a kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|row| row.kind == kind && row.version == version && row.group == group)
}

static TABLE: LazyLock<(Vec<Group>, Vec<Kind>)> = LazyLock::new(|| parse(include_str!("../data/kinds.txt")));

fn parse(text: &'static str) -> (Vec<Group>, Vec<Kind>) {
    let (mut groups, mut kinds) = (Vec::new(), Vec::<Kind>::new());
    for line in text.lines() {
        let fields: Vec<&'static str> = line.split('\t').collect();
        let words = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
        match fields[..] {
            ["g", name, ref versions @ ..] => groups.push(Group { name, versions: versions.to_vec() }),
            [
                "r",
                group,
                version,
                plural,
                singular,
                kind,
                list_kind,
                scope,
                short,
                categories,
                verbs,
                definition,
                ref rest @ ..,
            ] => {
                kinds.push(Kind {
                    group,
                    version,
                    plural,
                    singular,
                    kind,
                    list_kind,
                    namespaced: scope == "N",
                    short_names: words(short),
                    categories: words(categories),
                    verbs: words(verbs),
                    subresources: Vec::new(),
                    delete_returns_object: rest == ["D"],
                    definition,
                });
            }
            ["s", name, group, version, kind, verbs] => {
                if let Some(last) = kinds.last_mut() {
                    last.subresources.push(Subresource { name, group, version, kind, verbs: words(verbs) });
                }
            }
            _ => {}
        }
    }
    (groups, kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_as_discovery_says() {
        let pods = by_plural("", "v1", "pods").unwrap();
        assert_eq!((pods.kind, pods.short_names.as_slice(), pods.namespaced), ("Pod", ["po"].as_slice(), true));
        assert_eq!(pods.subresource("eviction").unwrap().group, "policy");
        assert!(pods.has_verb("watch"));
    }

    #[test]
    fn versions_are_in_order_of_preference() {
        let autoscaling = groups().iter().find(|group| group.name == "autoscaling").unwrap();
        assert_eq!(autoscaling.versions, ["v2", "v1"]);
    }

    #[test]
    fn every_kind_has_a_definition_in_the_schema_table() {
        for kind in all() {
            assert!(crate::schema::Schema::builtin(kind.group, kind.version, kind.kind).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn the_checked_in_tables_are_what_the_generator_writes() {
        let Some(reference) = crate::reference::folder() else { return };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/generate.py");
        let run = std::process::Command::new("python3").arg(script).arg(reference).arg("-").output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}
