//! Discovery documents: which groups, versions and resources are served.
//!
//! Built from [`Group`]s and [`Resource`]s: those of the table of kinds ([`builtin`]) and what custom resources add at run time.
//!
//! Upstream: apiserver/pkg/endpoints/discovery

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::kind::{self, Kind};

/// Text that is static for built-in kinds.
pub type Name = Cow<'static, str>;

/// A group with all its versions, the preferred one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Empty for core.
    pub name: Name,
    /// Versions in order of preference.
    pub versions: Vec<Version>,
}

/// A version of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// `v1`.
    pub name: Name,
    /// Its resources, in order of their plural names.
    pub resources: Vec<Resource>,
}

/// A resource as discovery shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `pods`.
    pub plural: Name,
    /// `pod`.
    pub singular: Name,
    /// `Pod`.
    pub kind: Name,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `po`.
    pub short_names: Vec<Name>,
    /// `all`.
    pub categories: Vec<Name>,
    /// Sorted.
    pub verbs: Vec<Name>,
    /// Sorted by name.
    pub subresources: Vec<Subresource>,
    /// The apiVersion in which it is stored, for the storage version hash; empty where nothing is stored.
    pub stored_as: Name,
}

/// A subresource as discovery shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subresource {
    /// `status`.
    pub name: Name,
    /// Group of its bodies.
    pub group: Name,
    /// Version of its bodies.
    pub version: Name,
    /// Kind of its bodies.
    pub kind: Name,
    /// Sorted.
    pub verbs: Vec<Name>,
}

/// The built-in groups with the versions that `enabled` (group, version) lets through; groups without any are left out.
pub fn builtin(enabled: impl Fn(&str, &str) -> bool) -> Vec<Group> {
    let version = |group: &'static str, name: &'static str| {
        let rows = kind::all().iter().filter(|row| row.group == group && row.version == name);
        Version { name: name.into(), resources: rows.map(Resource::from).collect() }
    };
    let group = |group: &kind::Group| {
        let versions =
            group.versions.iter().filter(|name| enabled(group.name, name)).map(|name| version(group.name, name)).collect();
        Group { name: group.name.into(), versions }
    };
    kind::groups().iter().map(group).filter(|group| !group.versions.is_empty()).collect()
}

impl From<&Kind> for Resource {
    fn from(row: &Kind) -> Self {
        let names = |names: &[&'static str]| names.iter().map(|name| Cow::Borrowed(*name)).collect::<Vec<Name>>();
        let subresource = |sub: &kind::Subresource| Subresource {
            name: sub.name.into(),
            group: sub.group.into(),
            version: sub.version.into(),
            kind: sub.kind.into(),
            verbs: names(&sub.verbs),
        };
        Self {
            plural: row.plural.into(),
            singular: row.singular.into(),
            kind: row.kind.into(),
            namespaced: row.namespaced,
            short_names: names(&row.short_names),
            categories: names(&row.categories),
            verbs: names(&row.verbs),
            subresources: row.subresources.iter().map(subresource).collect(),
            stored_as: if row.has_verb("get") && row.plural != "componentstatuses" {
                storage_version(row).into()
            } else {
                "".into()
            },
        }
    }
}

/// The version in which objects of a kind are stored: the stable one of its group.
fn storage_version(row: &Kind) -> String {
    let same = kind::all().iter().filter(|other| other.group == row.group && other.kind == row.kind);
    let best = same.max_by_key(|other| (kind::is_stable(other.version), other.version == row.version && other.version != "v2"));
    kind::api_version(row.group, best.map_or(row.version, |best| best.version))
}

/// `GET /api`. `address` is the server's `host:port`.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `GET /apis`.
pub fn group_list(groups: &[Group]) -> Value {
    let groups: Vec<_> = groups.iter().filter(|group| !group.name.is_empty()).map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/<group>`.
pub fn group(group: &Group) -> Value {
    let mut out = group_entry(group);
    (out["kind"], out["apiVersion"]) = ("APIGroup".into(), "v1".into());
    out
}

fn group_entry(group: &Group) -> Value {
    let version =
        |version: &Version| json!({"groupVersion": kind::api_version(&group.name, &version.name), "version": version.name});
    let versions: Vec<_> = group.versions.iter().map(version).collect();
    let preferred = versions.first().cloned().unwrap_or_else(|| json!({}));
    json!({"name": group.name, "versions": versions, "preferredVersion": preferred})
}

/// `GET /api/v1` and `GET /apis/<group>/<version>`.
pub fn resource_list(group: &str, version: &Version) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    for resource in &version.resources {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced, "kind": resource.kind,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        if !resource.stored_as.is_empty() {
            entry["storageVersionHash"] = storage_version_hash(&resource.stored_as, &resource.kind).into();
        }
        resources.push(entry);
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "", "namespaced": resource.namespaced, "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if (sub.group.as_ref(), sub.version.as_ref()) != (group, version.name.as_ref()) {
                (entry["group"], entry["version"]) = (sub.group.as_ref().into(), sub.version.as_ref().into());
            }
            resources.push(entry);
        }
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut out =
        json!({"kind": "APIResourceList", "groupVersion": kind::api_version(group, &version.name), "resources": resources});
    if !group.is_empty() {
        out["apiVersion"] = "v1".into();
    }
    out
}

/// Upstream: discovery.StorageVersionHash
fn storage_version_hash(api_version: &str, kind: &str) -> String {
    let (group, version) = kind::split_api_version(api_version);
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&hash[..8])
}

/// The aggregated document of `/api` (`core`) or `/apis`, as `apidiscovery.k8s.io/<version>` (`v2` or `v2beta1`).
pub fn aggregated(groups: &[Group], core: bool, version: &str) -> Value {
    let items: Vec<_> = groups.iter().filter(|group| group.name.is_empty() == core).map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_group(group: &Group) -> Value {
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name".to_owned(), group.name.as_ref().into());
    }
    let version = |version: &Version| {
        let resources: Vec<_> = version.resources.iter().map(|resource| aggregated_resource(group, version, resource)).collect();
        json!({"version": version.name, "resources": resources, "freshness": "Current"})
    };
    json!({"metadata": metadata, "versions": group.versions.iter().map(version).collect::<Vec<_>>()})
}

fn aggregated_resource(group: &Group, version: &Version, resource: &Resource) -> Value {
    let subresource = |sub: &Subresource| {
        let same = sub.group == group.name && sub.version == version.name;
        let (group, version) = if same { ("", "") } else { (sub.group.as_ref(), sub.version.as_ref()) };
        json!({"subresource": sub.name, "responseKind": {"group": group, "version": version, "kind": sub.kind}, "verbs": sub.verbs})
    };
    let mut out = json!({
        "resource": resource.plural, "responseKind": {"group": "", "version": "", "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": resource.singular, "verbs": resource.verbs,
    });
    for (name, values) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !values.is_empty() {
            out[name] = json!(values);
        }
    }
    if !resource.subresources.is_empty() {
        out["subresources"] = resource.subresources.iter().map(subresource).collect();
    }
    out
}

/// The `ETag` of a document.
pub fn etag(document: &[u8]) -> String {
    let hash = Sha512::digest(document);
    hash.iter().fold(String::from("\""), |text, byte| format!("{text}{byte:02X}")) + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn the_aggregated_document_is_upstreams() {
        let Some(want) = reference::json("discovery-aggregated-v2.json") else { return };
        let got = aggregated(&builtin(|_, _| true), false, "v2");
        assert_eq!(got["items"], want["items"]);
        assert_eq!(got["apiVersion"], want["apiVersion"]);
    }

    #[test]
    fn legacy_documents_hold_what_clients_look_for() {
        let groups = builtin(|_, version| kind::is_stable(version));
        assert_eq!(group_list(&groups)["groups"].as_array().unwrap().iter().filter(|group| group["name"] == "apps").count(), 1);
        let core = resource_list("", &groups[0].versions[0]);
        let pods = core["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "pods").unwrap().clone();
        assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
        assert_eq!(core.get("apiVersion"), None);
        let eviction =
            core["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "pods/eviction").unwrap().clone();
        assert_eq!((eviction["group"].as_str(), eviction["version"].as_str()), (Some("policy"), Some("v1")));
        assert_eq!(aggregated(&groups, true, "v2")["items"].as_array().unwrap().len(), 1);
        assert!(etag(b"x").starts_with('"'));
    }
}
