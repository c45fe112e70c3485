//! What the API server knows about each resource beyond its schema: names, defaulting, validation, strategy, columns. Pure.
//!
//! One resource = one line in `api::kind`'s table, one file (or function) below `src/<group>/` and one line in [`RESOURCES`].

use std::collections::HashSet;

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod cel;
pub mod certificates;
pub mod check;
pub mod column;
pub mod coordination;
pub mod core;
pub mod difference;
pub mod discovery;
pub mod dynamic_resources;
pub mod flowcontrol;
pub mod identifier;
pub mod internal;
pub mod metadata;
pub mod names;
pub mod networking;
pub mod node;
pub mod pod_spec;
pub mod policy;
pub mod quantity;
pub mod rbac;
pub mod resource;
pub mod rules;
pub mod scheduling;
pub mod storage;
pub mod tree;

use resource::{Names, Resource};
use rules::{Generation, Rules};

/// Fills in what a resource has beyond the generic rules.
type Build = fn(&mut Resource);

/// Group/version, plural name and the file of each resource that has rules of its own.
#[rustfmt::skip]
const RESOURCES: &[(&str, &str, Build)] = &[
    ("v1", "bindings", core::binding::build),
    ("v1", "componentstatuses", core::component_status::build),
    ("v1", "configmaps", core::config_map::build),
    ("v1", "endpoints", core::endpoints::build),
    ("v1", "events", core::event::build),
    ("v1", "limitranges", core::limit_range::build),
    ("v1", "namespaces", core::namespace::build),
    ("v1", "nodes", core::node::build),
    ("v1", "persistentvolumeclaims", core::persistent_volume_claim::build),
    ("v1", "persistentvolumes", core::persistent_volume::build),
    ("v1", "pods", core::pod::build),
    ("v1", "podtemplates", core::pod_template::build),
    ("v1", "replicationcontrollers", core::replication_controller::build),
    ("v1", "resourcequotas", core::resource_quota::build),
    ("v1", "secrets", core::secret::build),
    ("v1", "serviceaccounts", core::service_account::build),
    ("v1", "services", core::service::build),
    ("apiregistration.k8s.io/v1", "apiservices", apiregistration::api_service),
    ("apps/v1", "controllerrevisions", apps::controller_revision::build),
    ("apps/v1", "daemonsets", apps::daemon_set::build),
    ("apps/v1", "deployments", apps::deployment::build),
    ("apps/v1", "replicasets", apps::replica_set::build),
    ("apps/v1", "statefulsets", apps::stateful_set::build),
    ("events.k8s.io/v1", "events", core::event::build_events),
    ("autoscaling/v2", "horizontalpodautoscalers", autoscaling::horizontal_pod_autoscaler::build),
    ("autoscaling/v1", "horizontalpodautoscalers", autoscaling::horizontal_pod_autoscaler::build_v1),
    ("batch/v1", "cronjobs", batch::cron_job::build),
    ("batch/v1", "jobs", batch::job::build),
    ("certificates.k8s.io/v1", "certificatesigningrequests", certificates::signing_request),
    ("certificates.k8s.io/v1beta1", "clustertrustbundles", certificates::cluster_trust_bundle),
    ("certificates.k8s.io/v1alpha1", "clustertrustbundles", certificates::cluster_trust_bundle),
    ("certificates.k8s.io/v1beta1", "podcertificaterequests", certificates::pod_certificate_request),
    ("networking.k8s.io/v1", "ingressclasses", networking::ingress_class::build),
    ("networking.k8s.io/v1", "ingresses", networking::ingress::build),
    ("networking.k8s.io/v1", "ipaddresses", networking::ip_address::build),
    ("networking.k8s.io/v1beta1", "ipaddresses", networking::ip_address::build),
    ("networking.k8s.io/v1", "networkpolicies", networking::network_policy::build),
    ("networking.k8s.io/v1", "servicecidrs", networking::service_cidr::build),
    ("networking.k8s.io/v1beta1", "servicecidrs", networking::service_cidr::build),
    ("policy/v1", "poddisruptionbudgets", policy::pod_disruption_budget::build),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", rbac::cluster_role_binding),
    ("rbac.authorization.k8s.io/v1", "clusterroles", rbac::cluster_role),
    ("rbac.authorization.k8s.io/v1", "rolebindings", rbac::role_binding),
    ("rbac.authorization.k8s.io/v1", "roles", rbac::role),
    ("storage.k8s.io/v1", "csidrivers", storage::csi_driver::build),
    ("storage.k8s.io/v1", "csinodes", storage::csi_node::build),
    ("storage.k8s.io/v1", "csistoragecapacities", storage::csi_storage_capacity::build),
    ("storage.k8s.io/v1", "storageclasses", storage::storage_class::build),
    ("storage.k8s.io/v1", "volumeattachments", storage::volume_attachment::build),
    ("storage.k8s.io/v1", "volumeattributesclasses", storage::volume_attributes_class::build),
    ("storage.k8s.io/v1beta1", "volumeattributesclasses", storage::volume_attributes_class::build),
    ("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies", admissionregistration::mutating_policy),
    ("admissionregistration.k8s.io/v1beta1", "mutatingadmissionpolicies", admissionregistration::mutating_policy),
    ("admissionregistration.k8s.io/v1alpha1", "mutatingadmissionpolicies", admissionregistration::mutating_policy),
    ("admissionregistration.k8s.io/v1", "mutatingadmissionpolicybindings", admissionregistration::policy_binding),
    ("admissionregistration.k8s.io/v1beta1", "mutatingadmissionpolicybindings", admissionregistration::policy_binding),
    ("admissionregistration.k8s.io/v1alpha1", "mutatingadmissionpolicybindings", admissionregistration::policy_binding),
    ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", admissionregistration::mutating_webhooks),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", admissionregistration::validating_policy),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", admissionregistration::policy_binding),
    ("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", admissionregistration::validating_webhooks),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", apiextensions::definition),
    ("scheduling.k8s.io/v1", "priorityclasses", scheduling::priority_class),
    ("coordination.k8s.io/v1", "leases", coordination::lease),
    ("node.k8s.io/v1", "runtimeclasses", node::runtime_class),
    ("discovery.k8s.io/v1", "endpointslices", discovery::endpoint_slice::build),
    ("resource.k8s.io/v1", "deviceclasses", dynamic_resources::device_class),
    ("resource.k8s.io/v1", "resourceclaims", dynamic_resources::claim),
    ("resource.k8s.io/v1", "resourceclaimtemplates", dynamic_resources::claim_template),
    ("resource.k8s.io/v1", "resourceslices", dynamic_resources::slice),
    ("flowcontrol.apiserver.k8s.io/v1", "flowschemas", flowcontrol::flow_schema),
    ("flowcontrol.apiserver.k8s.io/v1", "prioritylevelconfigurations", flowcontrol::priority_level),
];

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
        deprecation: None,
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
