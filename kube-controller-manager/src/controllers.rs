//! The table of controllers. To add one: write its file (`observe → plan → apply`, a `start` function), then add a row.
//!
//! Upstream: cmd/kube-controller-manager/names/controller_names.go, cmd/kube-controller-manager/app/controllermanager.go.

use std::future::Future;
use std::pin::Pin;

use crate::context::Context;

type Starting = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// One row of the table.
pub struct Controller {
    /// Upstream's name, as in `--controllers`.
    pub name: &'static str,
    /// The older name that `--controllers` still takes; empty where there is none.
    pub alias: &'static str,
    /// The service account in kube-system whose rights it has; also the source of its events. Empty: the process's own identity,
    /// since what makes tokens cannot wait for one.
    pub account: &'static str,
    /// Whether `*` includes it.
    pub by_default: bool,
    /// Registers handlers, waits for its stores, spawns its workers.
    pub start: fn(Context) -> Starting,
}

macro_rules! table {
    ($($name:literal $alias:literal $account:literal $default:literal $start:path;)*) => {
        /// All controllers.
        pub const CONTROLLERS: &[Controller] = &[$(Controller {
            name: $name,
            alias: $alias,
            account: $account,
            by_default: $default,
            start: |ctx| Box::pin($start(ctx)),
        }),*];
    };
}

table! {
    "serviceaccount-controller" "serviceaccount" "service-account-controller" true crate::serviceaccount::start;
    "root-ca-certificate-publisher-controller" "root-ca-cert-publisher" "root-ca-cert-publisher" true crate::root_ca_publisher::start;
    "namespace-controller" "namespace" "namespace-controller" true crate::namespace::start;
    "certificatesigningrequest-signing-controller" "csrsigning" "certificate-controller" true crate::certificates::signer::start;
    "certificatesigningrequest-approving-controller" "csrapproving" "certificate-controller" true crate::certificates::approver::start;
    "certificatesigningrequest-cleaner-controller" "csrcleaner" "certificate-controller" true crate::certificates::cleaner::start;
    "bootstrap-signer-controller" "bootstrapsigner" "bootstrap-signer" false crate::bootstrap_signer::start;
    "token-cleaner-controller" "tokencleaner" "token-cleaner" false crate::token_cleaner::start;
    "clusterrole-aggregation-controller" "clusterrole-aggregation" "clusterrole-aggregation-controller" true crate::clusterrole_aggregation::start;
    "node-ipam-controller" "nodeipam" "node-controller" true crate::node_ipam::start;
    "node-lifecycle-controller" "nodelifecycle" "node-controller" true crate::node_lifecycle::start;
    "taint-eviction-controller" "" "node-controller" true crate::taint_eviction::start;
    "pod-garbage-collector-controller" "podgc" "pod-garbage-collector" true crate::pod_gc::start;
    "daemonset-controller" "daemonset" "daemon-set-controller" true crate::daemonset::start;
    "endpoints-controller" "endpoint" "endpoint-controller" true crate::endpoints::start;
    "endpointslice-controller" "endpointslice" "endpointslice-controller" true crate::endpointslice::start;
    "garbage-collector-controller" "garbagecollector" "generic-garbage-collector" true crate::garbage_collector::start;
    "statefulset-controller" "statefulset" "statefulset-controller" true crate::statefulset::start;
    "job-controller" "job" "job-controller" true crate::job::start;
    "cronjob-controller" "cronjob" "cronjob-controller" true crate::cronjob::start;
    "ttl-after-finished-controller" "ttl-after-finished" "ttl-after-finished-controller" true crate::ttl_after_finished::start;
    "persistentvolumeclaim-protection-controller" "pvc-protection" "pvc-protection-controller" true crate::pvc_protection::start;
    "persistentvolume-protection-controller" "pv-protection" "pv-protection-controller" true crate::pv_protection::start;
    "ephemeral-volume-controller" "ephemeral-volume" "ephemeral-volume-controller" true crate::ephemeral_volume::start;
    "disruption-controller" "disruption" "disruption-controller" true crate::disruption::start;
    "serviceaccount-token-controller" "serviceaccount-token" "" true crate::serviceaccount_token::start;
    "ttl-controller" "ttl" "ttl-controller" true crate::ttl::start;
    "persistentvolume-binder-controller" "persistentvolume-binder" "persistent-volume-binder" true crate::pv_binder::start;
    "resourcequota-controller" "resourcequota" "resourcequota-controller" true crate::resource_quota::start;
    "horizontal-pod-autoscaler-controller" "horizontalpodautoscaling" "horizontal-pod-autoscaler" true crate::horizontal::start;
    "endpointslice-mirroring-controller" "endpointslicemirroring" "endpointslicemirroring-controller" true crate::endpointslice_mirroring::start;
    "service-cidr-controller" "" "service-cidrs-controller" true crate::service_cidr::start;
    "persistentvolume-attach-detach-controller" "attachdetach" "attachdetach-controller" true crate::attach_detach::start;
    "persistentvolume-expander-controller" "persistentvolume-expander" "expand-controller" true crate::volume_expand::start;
    "resourceclaim-controller" "resource-claim-controller" "resource-claim-controller" true crate::resource_claim::start;
    "device-taint-eviction-controller" "" "device-taint-eviction-controller" true crate::device_taint_eviction::start;
    "legacy-serviceaccount-token-cleaner-controller" "legacy-service-account-token-cleaner" "legacy-service-account-token-cleaner" true crate::legacy_token_cleaner::start;
    "validatingadmissionpolicy-status-controller" "" "validatingadmissionpolicy-status-controller" true crate::validatingadmissionpolicy_status::start;
    "volumeattributesclass-protection-controller" "" "volumeattributesclass-protection-controller" true crate::vac_protection::start;
    "storageversion-garbage-collector-controller" "storage-version-gc" "storage-version-garbage-collector" true crate::storage_version_gc::start;
    "service-lb-controller" "service" "service-controller" true crate::service_lb::start;
    "deployment-controller" "deployment" "deployment-controller" true crate::deployment::start;
    "replicaset-controller" "replicaset" "replicaset-controller" true crate::replicaset::start;
    "replicationcontroller-controller" "replicationcontroller" "replication-controller" true crate::replicaset::start_replication_controllers;
}

/// The controllers that `--controllers` selects: `*` for all that are on by default, `name` to add, `-name` to leave out.
/// An empty list means `*`.
///
/// # Errors
/// A name is in no row.
pub fn select(flags: &[String]) -> Result<Vec<&'static str>, String> {
    let find = |name: &str| CONTROLLERS.iter().find(|row| row.name == name || (row.alias == name && !name.is_empty()));
    let flags: Vec<&str> = flags.iter().map(|flag| flag.trim()).filter(|flag| !flag.is_empty()).collect();
    for flag in &flags {
        let name = flag.strip_prefix('-').unwrap_or(flag);
        if *flag != "*" && find(name).is_none() && !ABSENT.contains(&name) {
            return Err(format!("--controllers: {name:?} is not in the list of known controllers"));
        }
    }
    let star = flags.is_empty() || flags.contains(&"*");
    let named = |row: &Controller, prefix: &str| {
        flags.iter().any(|flag| match flag.strip_prefix(prefix) {
            Some(name) => name == row.name || (!row.alias.is_empty() && name == row.alias),
            None => false,
        })
    };
    let chosen = CONTROLLERS.iter().filter(|row| named(row, "") || (!named(row, "-") && star && row.by_default));
    Ok(chosen.map(|row| row.name).collect())
}

/// Names that upstream knows and that do nothing here: parts of cloud providers, and what is off by default upstream. They are accepted in `--controllers`, so that existing command lines go on working, and told in the log.
pub const ABSENT: &[&str] = &[
    "node-route-controller",
    "route",
    "cloud-node-lifecycle-controller",
    "cloud-node-lifecycle",
    "selinux-warning-controller",
    "selinux-warning",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "podcertificaterequest-cleaner-controller",
    "storage-version-migrator-controller",
    "resourcepoolstatusrequest-controller",
    "podgroup-protection-controller",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn select_names(flags: &[&str]) -> Vec<&'static str> {
        select(&flags.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> =
            CONTROLLERS.iter().flat_map(|row| [row.name, row.alias]).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn star_names_and_minus_select() {
        let all = select_names(&[]);
        assert_eq!(select_names(&["*"]), all);
        assert!(!all.contains(&"bootstrap-signer-controller"));
        assert_eq!(select_names(&["replicaset"]), ["replicaset-controller"]);
        assert!(!select_names(&["*", "-namespace"]).contains(&"namespace-controller"));
        assert!(select(&["nope".to_owned()]).is_err());
    }
}
