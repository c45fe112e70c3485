//! Discovery, made from the table.

use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value, json};

use crate::server::Server;
use crate::table::{Served, Table};

/// The version of aggregated discovery that the client asks for.
pub(super) fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    accepted.split(',').find_map(|clause| {
        let has = |wanted: &str| clause.split(';').any(|part| part.trim() == wanted);
        if !has("as=APIGroupDiscoveryList") || !has("g=apidiscovery.k8s.io") {
            return None;
        }
        if has("v=v2") { Some("v2") } else { has("v=v2beta1").then_some("v2beta1") }
    })
}

/// Groups with their served versions, in upstream's order.
fn group_versions(table: &Table) -> Vec<(&'static str, Vec<&'static str>)> {
    api::kind::groups()
        .iter()
        .map(|group| {
            let versions = group.versions.iter().copied().filter(|version| table.has_version(group.name, version)).collect::<Vec<_>>();
            (group.name, versions)
        })
        .filter(|(_, versions)| !versions.is_empty())
        .collect()
}

fn of<'a>(table: &'a Table, group: &str, version: &str) -> Vec<&'a Served> {
    let fits = |served: &&Served| served.group() == group && served.resource.names.version == version;
    let mut all: Vec<&Served> = table.all().iter().map(AsRef::as_ref).filter(fits).collect();
    all.sort_by(|a, b| a.plural().cmp(b.plural()));
    all
}

/// `/api`.
pub(super) fn versions(server: &Server) -> Value {
    let address = format!("{}:{}", server.config.advertise_address, server.config.bind_address.port());
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group_value(name: &str, versions: &[&str]) -> Value {
    let row = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": versions.iter().map(row).collect::<Vec<_>>(), "preferredVersion": versions.first().map(row)})
}

/// `/apis`.
pub(super) fn groups(table: &Table) -> Value {
    let groups: Vec<Value> =
        group_versions(table).iter().filter(|(name, _)| !name.is_empty()).map(|(name, versions)| group_value(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(super) fn group(table: &Table, name: &str) -> Value {
    let all = group_versions(table);
    let versions = all.iter().find(|(group, _)| *group == name).map(|(_, versions)| versions.clone()).unwrap_or_default();
    let mut out = group_value(name, &versions);
    out["kind"] = "APIGroup".into();
    out["apiVersion"] = "v1".into();
    out
}

/// `/api/v1`, `/apis/<group>/<version>`.
pub(super) fn resources(table: &Table, group: &str, version: &str) -> Value {
    let mut rows = Vec::new();
    for served in of(table, group, version) {
        let names = &served.resource.names;
        let mut row = json!({
            "name": names.plural, "singularName": names.singular, "namespaced": names.namespaced, "kind": names.kind, "verbs": names.verbs,
        });
        if !names.short_names.is_empty() {
            row["shortNames"] = names.short_names.clone().into();
        }
        if !names.categories.is_empty() {
            row["categories"] = names.categories.clone().into();
        }
        if served.cache.is_some() {
            row["storageVersionHash"] = storage_hash(served).into();
        }
        rows.push(row);
        for sub in &names.subresources {
            let mut row = json!({
                "name": format!("{}/{}", names.plural, sub.name), "singularName": "", "namespaced": names.namespaced,
                "kind": sub.kind, "verbs": sub.verbs,
            });
            if (&sub.group, &sub.version) != (&names.group, &names.version) && !sub.version.is_empty() {
                row["group"] = sub.group.clone().into();
                row["version"] = sub.version.clone().into();
            }
            rows.push(row);
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api::kind::api_version(group, version), "resources": rows})
}

/// Upstream: StorageVersionHash: the first 8 bytes of the SHA-256 of `group/version/kind`, base64.
fn storage_hash(served: &Served) -> String {
    use base64::Engine as _;
    use sha2::{Digest, Sha256};
    let (group, version) = api::kind::split_api_version(&served.resource.stored_as);
    let digest = Sha256::digest(format!("{group}/{version}/{}", served.resource.names.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `/api` or `/apis` as one document.
pub(super) fn aggregated(table: &Table, core: bool, version: &str) -> Value {
    let items: Vec<Value> = group_versions(table)
        .into_iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = of(table, name, version).into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if name.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": name, "creationTimestamp": null}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_resource(served: &Served) -> Value {
    let names = &served.resource.names;
    let mut row = json!({
        "resource": names.plural, "singularResource": names.singular, "verbs": names.verbs,
        "scope": if names.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": {"group": "", "version": "", "kind": names.kind},
    });
    if !names.short_names.is_empty() {
        row["shortNames"] = names.short_names.clone().into();
    }
    if !names.categories.is_empty() {
        row["categories"] = names.categories.clone().into();
    }
    if !names.subresources.is_empty() {
        let subresource = |sub: &registry::resource::Subresource| {
            let same = (&sub.group, &sub.version) == (&names.group, &names.version);
            let (group, version) = if same { (String::new(), String::new()) } else { (sub.group.clone(), sub.version.clone()) };
            json!({"subresource": sub.name, "verbs": sub.verbs, "responseKind": {"group": group, "version": version, "kind": sub.kind}})
        };
        row["subresources"] = names.subresources.iter().map(subresource).collect();
    }
    row
}

/// `/`.
pub(super) fn paths(table: &Table) -> Vec<String> {
    let mut out: Vec<String> = [
        "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/", "/healthz", "/healthz/etcd", "/healthz/log", "/healthz/ping",
        "/livez", "/livez/etcd", "/livez/log", "/livez/ping", "/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/",
        "/openid/v1/jwks", "/readyz", "/readyz/etcd", "/readyz/etcd-readiness", "/readyz/informer-sync", "/readyz/log", "/readyz/ping",
        "/readyz/shutdown", "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (name, versions) in group_versions(table).into_iter().filter(|(name, _)| !name.is_empty()) {
        out.push(format!("/apis/{name}"));
        out.extend(versions.iter().map(|version| format!("/apis/{name}/{version}")));
    }
    out.sort();
    out
}
