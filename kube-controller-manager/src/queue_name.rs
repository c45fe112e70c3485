//! The names of work queues: the label `name` of the `workqueue_*` metrics, which dashboards and alerts select by.
//!
//! Upstream: the `workqueue.TypedRateLimitingQueueConfig` of each controller below pkg/controller

/// The name of the main queue of a controller. Controllers that upstream gives no queue of their own have their own name.
pub fn of(controller: &'static str) -> &'static str {
    match controller {
        "bootstrap-signer-controller" => "bootstrap_signer_queue",
        "certificatesigningrequest-approving-controller" => "csrapproving",
        "certificatesigningrequest-signing-controller" => "csrsigning",
        "clusterrole-aggregation-controller" => "ClusterRoleAggregator",
        "cronjob-controller" => "cronjob",
        "daemonset-controller" => "daemonset",
        "deployment-controller" => "deployment",
        "device-taint-eviction-controller" => "device_taint_eviction",
        "disruption-controller" => "disruption",
        "endpoints-controller" => "endpoint",
        "endpointslice-controller" => "endpoint_slice",
        "endpointslice-mirroring-controller" => "endpoint_slice_mirroring",
        "ephemeral-volume-controller" => "ephemeral_volume",
        "garbage-collector-controller" => "garbage_collector_attempt_to_delete",
        "horizontal-pod-autoscaler-controller" => "horizontalpodautoscaler",
        "job-controller" => "job",
        "namespace-controller" => "namespace",
        "node-ipam-controller" => "cidrallocator_node",
        "node-lifecycle-controller" => "node_lifecycle_controller",
        "persistentvolume-expander-controller" => "volume_expand",
        "persistentvolume-protection-controller" => "pvprotection",
        "persistentvolumeclaim-protection-controller" => "pvcprotection",
        "replicaset-controller" => "replicaset",
        "replicationcontroller-controller" => "replicationmanager",
        "resourceclaim-controller" => "resource_claim",
        "resourcequota-controller" => "resourcequota_primary",
        "root-ca-certificate-publisher-controller" => "root_ca_cert_publisher",
        "service-cidr-controller" => "servicecidrs",
        "service-lb-controller" => "service",
        "serviceaccount-controller" => "serviceaccount",
        "serviceaccount-token-controller" => "serviceaccount_tokens_secret",
        "statefulset-controller" => "statefulset",
        "taint-eviction-controller" => "noexec_taint_pod",
        "token-cleaner-controller" => "token_cleaner",
        "ttl-after-finished-controller" => "ttl_jobs_to_delete",
        "ttl-controller" => "ttlcontroller",
        "validatingadmissionpolicy-status-controller" => "validating_admission_policy_status",
        "volumeattributesclass-protection-controller" => "vacprotection",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::controllers::CONTROLLERS;

    #[test]
    fn no_two_controllers_share_a_name() {
        let mut names: Vec<_> = CONTROLLERS.iter().map(|row| super::of(row.name)).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
