//! Which resources the server has, for the controllers that work on all of them.

use std::collections::HashSet;

use kube::Client;
use kube::core::ApiResource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};

/// A resource in the version that the server prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Found {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// What discovery answered. Groups whose (aggregated) server is away are listed as failed: what they hold is unknown.
#[derive(Debug, Default, PartialEq)]
pub struct Resources {
    pub found: Vec<Found>,
    pub failed: Vec<String>,
}

/// Asks the server.
pub async fn resources(client: &Client) -> kube::Result<Resources> {
    let (core, groups) = tokio::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated())?;
    Ok(preferred(core, groups))
}

/// Each resource once, in its group's most preferred version that has it.
fn preferred(core: APIGroupDiscoveryList, groups: APIGroupDiscoveryList) -> Resources {
    let mut out = Resources::default();
    for group in core.items.into_iter().chain(groups.items) {
        add_group(&mut out, group);
    }
    out
}

fn add_group(out: &mut Resources, group: APIGroupDiscovery) {
    let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
    let mut seen = HashSet::new();
    for version in group.versions {
        let version_name = version.version.unwrap_or_default();
        let api_version = if name.is_empty() { version_name.clone() } else { format!("{name}/{version_name}") };
        if version.freshness.as_deref() == Some("Stale") {
            out.failed.push(api_version.clone());
        }
        for resource in version.resources {
            let Some(plural) = resource.resource.filter(|plural| !plural.contains('/')) else { continue };
            if !seen.insert(plural.clone()) {
                continue;
            }
            out.found.push(Found {
                resource: ApiResource {
                    group: name.clone(),
                    version: version_name.clone(),
                    api_version: api_version.clone(),
                    kind: resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default(),
                    plural,
                },
                namespaced: resource.scope.as_deref() == Some("Namespaced"),
                verbs: resource.verbs,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_version_with_a_resource_wins_and_stale_ones_are_reported() {
        let empty = serde_json::from_value(json!({"items": []})).unwrap();
        let resource =
            |name: &str| json!({"resource": name, "scope": "Namespaced", "verbs": ["list"], "responseKind": {"kind": "X"}});
        let groups = serde_json::from_value(json!({"items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v1", "resources": [resource("a")]},
            {"version": "v1beta1", "freshness": "Stale", "resources": [resource("a"), resource("b")]}]}]}))
        .unwrap();
        let out = preferred(empty, groups);
        let names: Vec<_> = out.found.iter().map(|f| format!("{}/{}", f.resource.api_version, f.resource.plural)).collect();
        assert_eq!(names, ["g/v1/a", "g/v1beta1/b"]);
        assert_eq!(out.failed, ["g/v1beta1"]);
    }
}
