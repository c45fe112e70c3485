//! What the API server knows about each resource beyond its schema: names, defaulting, validation, strategy, columns. Pure.
//!
//! One resource = one line in [`names`], one file below `src/<group>/` and one line in [`RESOURCES`].

use std::collections::HashSet;

pub mod column;
pub mod identifier;
pub mod metadata;
pub mod names;
pub mod resource;
pub mod rules;
pub mod tree;

use resource::{Names, Resource};
use rules::{Generation, Rules};

/// Fills in what a resource has beyond the generic rules.
type Build = fn(&mut Resource);

/// Group/version, plural name and the file of each resource that has rules of its own.
const RESOURCES: &[(&str, &str, Build)] = &[];

/// The resources that a server without `--runtime-config` serves, in discovery's order.
pub fn table() -> Vec<Resource> {
    everything().into_iter().filter(|resource| names::served_by_default(&resource.names.version)).collect()
}

/// All built-in resources, alpha and beta versions too.
pub fn everything() -> Vec<Resource> {
    names::all().into_iter().map(build).collect()
}

fn build(names: Names) -> Resource {
    let mut resource = generic(names);
    let api_version = resource.api_version();
    if let Some((_, _, build)) =
        RESOURCES.iter().find(|(version, plural, _)| *version == api_version && *plural == resource.names.plural)
    {
        build(&mut resource);
    }
    resource
}

/// The rules of a kind that says nothing about itself.
fn generic(names: Names) -> Resource {
    let status = names.subresources.iter().any(|subresource| subresource.name == "status");
    let rules = Rules { status, generation: Generation::None, ..Rules::GENERIC };
    Resource {
        strategy: rules.strategy(),
        columns: column::generic(),
        selectable: Vec::new(),
        storage_path: storage_path(&names),
        expires: names.plural == "events",
        stored_as: stored_as(&names),
        conversion: None,
        names,
    }
}

/// Where objects lie below the etcd prefix. Upstream: pkg/kubeapiserver/default_storage_factory_builder.go
fn storage_path(names: &Names) -> String {
    match (names.group.as_str(), names.plural.as_str()) {
        ("", "services") => "services/specs".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "nodes") => "minions".to_owned(),
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        ("apiregistration.k8s.io" | "apiextensions.k8s.io", plural) => format!("{}/{plural}", names.group),
        (_, plural) => plural.to_owned(),
    }
}

/// The version in which objects of this kind are stored: the oldest generally available one that holds all fields.
fn stored_as(names: &Names) -> String {
    let stored = match (names.group.as_str(), names.plural.as_str()) {
        ("events.k8s.io", "events") => "v1",
        ("autoscaling", "horizontalpodautoscalers") => "autoscaling/v2",
        ("networking.k8s.io", "ipaddresses" | "servicecidrs") => "networking.k8s.io/v1",
        ("storage.k8s.io", "volumeattributesclasses") => "storage.k8s.io/v1",
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "mutatingadmissionpolicybindings") => {
            "admissionregistration.k8s.io/v1"
        }
        ("certificates.k8s.io", "clustertrustbundles") => "certificates.k8s.io/v1beta1",
        ("coordination.k8s.io", "leasecandidates") => "coordination.k8s.io/v1beta1",
        ("resource.k8s.io", "deviceclasses" | "resourceclaims" | "resourceclaimtemplates" | "resourceslices") => {
            "resource.k8s.io/v1"
        }
        ("resource.k8s.io", "devicetaintrules") => "resource.k8s.io/v1beta2",
        _ => return names.api_version(),
    };
    stored.to_owned()
}

/// Rows of [`RESOURCES`] that name no resource; empty unless somebody mistyped.
pub fn dangling_rows() -> Vec<String> {
    let known: HashSet<(String, String)> = names::all().into_iter().map(|names| (names.api_version(), names.plural)).collect();
    RESOURCES
        .iter()
        .filter(|(version, plural, _)| !known.contains(&((*version).to_owned(), (*plural).to_owned())))
        .map(|(version, plural, _)| format!("{version} {plural}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_names_a_resource() {
        assert_eq!(dangling_rows(), Vec::<String>::new());
    }

    #[test]
    fn versions_of_a_kind_share_their_storage() {
        let table = everything();
        for resource in &table {
            let stored =
                table.iter().find(|other| other.api_version() == resource.stored_as && other.names.kind == resource.names.kind);
            assert_eq!(
                stored.map(|stored| stored.storage_path.clone()),
                Some(resource.storage_path.clone()),
                "{}",
                resource.names.plural
            );
        }
    }
}
