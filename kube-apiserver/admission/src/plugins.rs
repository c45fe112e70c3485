//! The table of plugins. To add one: a file below `plugins/` and a function in its line here; lines are in upstream's order.
//!
//! Upstream: pkg/kubeapiserver/options/plugins.go

use std::sync::Arc;

use crate::chain::Plugin;
use crate::host::Host;

mod always;
mod always_pull_images;
mod certificates;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod extended_resource_toleration;
mod limit_pod_hard_anti_affinity_topology;
mod limit_ranger;
mod namespace_exists;
mod namespace_lifecycle;
mod node_restriction;
mod owner_references;
mod pod_node_selector;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
mod volume_resize;

/// Makes a plugin for a server.
pub type Build = fn(&Host) -> Arc<dyn Plugin>;

/// A line of the table.
pub struct Row {
    /// The name in flags.
    pub name: &'static str,
    /// Whether it is on unless disabled.
    pub default: bool,
    /// Makes it; `None`: upstream has it, this server not yet.
    pub build: Option<Build>,
}

const fn on(name: &'static str, build: Build) -> Row {
    Row { name, default: true, build: Some(build) }
}

const fn off(name: &'static str, build: Build) -> Row {
    Row { name, default: false, build: Some(build) }
}

const fn later(name: &'static str, default: bool) -> Row {
    Row { name, default, build: None }
}

/// All plugins.
pub const TABLE: &[Row] = &[
    off("AlwaysAdmit", always::build_admit),
    later("NamespaceAutoProvision", false),
    on("NamespaceLifecycle", namespace_lifecycle::build),
    off("NamespaceExists", namespace_exists::build),
    off("LimitPodHardAntiAffinityTopology", limit_pod_hard_anti_affinity_topology::build),
    on("LimitRanger", limit_ranger::build),
    on("ServiceAccount", service_account::build),
    off("NodeRestriction", node_restriction::build),
    on("TaintNodesByCondition", taint_nodes_by_condition::build),
    off("AlwaysPullImages", always_pull_images::build),
    later("ImagePolicyWebhook", false),
    on("PodSecurity", pod_security::build),
    off("PodNodeSelector", pod_node_selector::build),
    on("Priority", priority::build),
    on("DefaultTolerationSeconds", default_toleration_seconds::build),
    later("PodTolerationRestriction", false),
    later("EventRateLimit", false),
    off("ExtendedResourceToleration", extended_resource_toleration::build),
    on("DefaultStorageClass", default_storage_class::build),
    on("StorageObjectInUseProtection", storage_object_in_use_protection::build),
    off("OwnerReferencesPermissionEnforcement", owner_references::build),
    on("PersistentVolumeClaimResize", volume_resize::build),
    on("RuntimeClass", runtime_class::build),
    on("CertificateApproval", certificates::build_approval),
    on("CertificateSigning", certificates::build_signing),
    on("ClusterTrustBundleAttest", certificates::build_attest),
    on("CertificateSubjectRestriction", certificates::build_subject),
    on("DefaultIngressClass", default_ingress_class::build),
    off("DenyServiceExternalIPs", deny_service_external_ips::build),
    on("PodTopologyLabels", pod_topology_labels::build),
    later("MutatingAdmissionPolicy", true),
    later("MutatingAdmissionWebhook", true),
    later("ValidatingAdmissionPolicy", true),
    later("ValidatingAdmissionWebhook", true),
    on("ResourceQuota", resource_quota::build),
    off("AlwaysDeny", always::build_deny),
];

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use api::lister::Lister;
    use api::status::Status;
    use async_trait::async_trait;
    use serde_json::{Value, json};

    use crate::attributes::{Attributes, Operation, User};
    use crate::chain::{Chain, Plugin};
    use crate::host::{Authorizer, Host, Question, QuotaWriter};

    /// A cluster in memory, by `group/resource/namespace/name`.
    #[derive(Default)]
    pub(crate) struct Cluster {
        objects: BTreeMap<String, Arc<Value>>,
    }

    impl Cluster {
        pub(crate) fn with(mut self, group: &str, resource: &str, namespace: &str, object: Value) -> Self {
            let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
            self.objects.insert(format!("{group}/{resource}/{namespace}/{name}"), Arc::new(object));
            self
        }

        pub(crate) fn namespace(self, name: &str) -> Self {
            self.with("", "namespaces", "", json!({"metadata": {"name": name}, "status": {"phase": "Active"}}))
        }

        pub(crate) fn host(self) -> Host {
            Host { lister: Arc::new(self), authorizer: Arc::new(Nobody), quotas: Arc::new(Nobody) }
        }
    }

    impl Lister for Cluster {
        fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            self.objects.get(&format!("{group}/{resource}/{namespace}/{name}")).cloned()
        }

        fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
            let prefix = match namespace {
                Some(namespace) => format!("{group}/{resource}/{namespace}/"),
                None => format!("{group}/{resource}/"),
            };
            self.objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
        }

        fn version(&self, _group: &str, _resource: &str) -> u64 {
            0
        }
    }

    struct Nobody;

    #[async_trait]
    impl Authorizer for Nobody {
        async fn allowed(&self, _user: &User, _question: &Question) -> bool {
            false
        }

        async fn resource_of(&self, _group: &str, _kind: &str) -> Option<(String, bool)> {
            None
        }
    }

    #[async_trait]
    impl QuotaWriter for Nobody {
        async fn read(&self, _namespace: &str) -> Result<Vec<Value>, Status> {
            Ok(Vec::new())
        }

        async fn write_status(&self, _quota: &Value) -> Result<(), Status> {
            Ok(())
        }
    }

    pub(crate) fn request(operation: Operation, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        Attributes {
            operation,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: String::new(),
            kind: String::new(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            user: User { name: "admin".into(), ..User::default() },
            dry_run: false,
            options: Value::Null,
        }
    }

    /// Runs a plugin's mutating part on a create and gives the object back.
    pub(crate) async fn admitted(plugin: &Arc<dyn Plugin>, request: &Attributes, object: Value) -> Result<Value, Status> {
        let mut object = object;
        let mut warnings = Vec::new();
        plugin.admit(request, &mut object, None, &mut warnings).await?;
        Ok(object)
    }

    #[test]
    fn plugins_are_switched_by_name() {
        let host = Cluster::default().host();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let names = Chain::new(&host, &words(&["NodeRestriction"]), &words(&["ServiceAccount"])).unwrap().names();
        assert!(names.contains(&"NodeRestriction") && !names.contains(&"ServiceAccount") && names.contains(&"Priority"));
        assert!(Chain::new(&host, &words(&["Nonsense"]), &[]).is_err());
        assert!(Chain::new(&host, &words(&["Priority"]), &words(&["Priority"])).is_err());
        // What upstream has on by default is told of only when somebody counts on it.
        for name in ["ImagePolicyWebhook", "MutatingAdmissionWebhook"] {
            let why = Chain::new(&host, &words(&[name]), &[]).err().unwrap();
            assert_eq!(why, format!("admission plugin {name} is not yet supported"));
        }
    }
}
