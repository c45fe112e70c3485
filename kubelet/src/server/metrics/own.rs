//! `/metrics`: the counters of the process, and what is counted when asked for.

use std::collections::BTreeMap;

use super::page::{Family, Page};
use crate::kubelet::Shared;
use crate::pod::{self, spec};
use crate::runtime::observed::State;
use crate::server::stats::volumes::Measure;
use crate::worker::Stage;

/// The page; `volumes`: by namespace of their pod.
pub(super) fn page(kubelet: &Shared, volumes: &[(String, Vec<Measure>)]) -> String {
    let _ = crate::metrics::metrics();
    let mut page = Page::after(component::metrics::render());
    pods(kubelet, &mut page);
    claims(volumes, &mut page);
    let mut name = Family::new("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    name.add(&[("node", &kubelet.config.node_name)], 1.0, None);
    page.put(name);
    let mut provider = Family::new(
        "kubelet_metrics_provider",
        "gauge",
        "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'",
    );
    provider.add(&[("provider", "cadvisor")], 1.0, None);
    page.put(provider);
    let version = if kubelet.cgroups.is_v2() { 2.0 } else { 1.0 };
    page.one("kubelet_cgroup_version", "gauge", "[ALPHA] cgroup version on the hosts.", version);
    certificates(kubelet, &mut page);
    page.finish()
}

fn pods(kubelet: &Shared, page: &mut Page) {
    let handles = kubelet.workers.list();
    let desired = kubelet.pods.list();
    let word = |is: bool| if is { "true" } else { "" };
    let mut running = 0;
    let mut states = BTreeMap::from([("created", 0), ("exited", 0), ("running", 0), ("unknown", 0)]);
    let mut active: BTreeMap<&str, usize> = BTreeMap::from([("", 0), ("true", 0)]);
    let mut working: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for config in ["desired", "orphan", "runtime_only"] {
        for lifecycle in ["sync", "terminated", "terminating"] {
            for fixed in ["", "true"] {
                working.insert((config, lifecycle, fixed), 0);
            }
        }
    }
    let (mut ephemeral, mut volumes): (usize, BTreeMap<&str, usize>) = (0, BTreeMap::new());
    for handle in &handles {
        let (pod, view) = (handle.request().pod, handle.view());
        let fixed = word(pod::is_static(&pod));
        running += usize::from(view.runtime.ready_sandbox().is_some());
        for record in &view.runtime.containers {
            let state = match record.state {
                State::Created => "created",
                State::Running => "running",
                State::Exited => "exited",
                State::Unknown => "unknown",
            };
            *states.entry(state).or_default() += 1;
        }
        let lifecycle = match view.stage {
            Stage::Run => "sync",
            Stage::Terminate => "terminating",
            Stage::Clean | Stage::Finished => "terminated",
        };
        if view.stage < Stage::Clean {
            *active.entry(fixed).or_default() += 1;
            for volume in spec(&pod).volumes.iter().flatten() {
                *volumes.entry(plugin(volume)).or_default() += 1;
            }
        }
        let config = if desired.iter().any(|known| pod::uid(known) == handle.uid) { "desired" } else { "orphan" };
        *working.entry((config, lifecycle, fixed)).or_default() += 1;
        ephemeral += spec(&pod).ephemeral_containers.as_ref().map_or(0, Vec::len);
    }
    page.one("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox", running as f64);
    let mut family = Family::new("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (state, count) in states {
        family.add(&[("container_state", state)], f64::from(count), None);
    }
    page.put(family);
    let mut family = Family::new(
        "kubelet_desired_pods",
        "gauge",
        "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
    );
    for fixed in [false, true] {
        let count = desired.iter().filter(|pod| pod::is_static(pod) == fixed).count();
        family.add(&[("static", word(fixed))], count as f64, None);
    }
    page.put(family);
    let mut family = Family::new(
        "kubelet_active_pods",
        "gauge",
        "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
    );
    for (fixed, count) in active {
        family.add(&[("static", fixed)], count as f64, None);
    }
    page.put(family);
    let mut family = Family::new(
        "kubelet_working_pods",
        "gauge",
        "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.",
    );
    for ((config, lifecycle, fixed), count) in working {
        family.add(&[("config", config), ("lifecycle", lifecycle), ("static", fixed)], count as f64, None);
    }
    page.put(family);
    let mirrors = desired.iter().filter(|pod| pod::is_static(pod)).count();
    let help = "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    page.one("kubelet_mirror_pods", "gauge", help, mirrors as f64);
    let help = "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.";
    page.one("kubelet_managed_ephemeral_containers", "gauge", help, ephemeral as f64);
    let mut family = Family::new("volume_manager_total_volumes", "gauge", "[ALPHA] Number of volumes in Volume Manager");
    for (plugin, count) in &volumes {
        for state in ["actual_state_of_world", "desired_state_of_world"] {
            family.add(&[("plugin_name", plugin), ("state", state)], *count as f64, None);
        }
    }
    page.put(family);
}

/// The plugin that upstream makes a volume with.
fn plugin(volume: &k8s_openapi::api::core::v1::Volume) -> &'static str {
    match () {
        () if volume.empty_dir.is_some() => "kubernetes.io/empty-dir",
        () if volume.config_map.is_some() => "kubernetes.io/configmap",
        () if volume.secret.is_some() => "kubernetes.io/secret",
        () if volume.projected.is_some() => "kubernetes.io/projected",
        () if volume.downward_api.is_some() => "kubernetes.io/downward-api",
        () if volume.host_path.is_some() => "kubernetes.io/host-path",
        () if volume.nfs.is_some() => "kubernetes.io/nfs",
        () if volume.image.is_some() => "kubernetes.io/image",
        () => "kubernetes.io/csi",
    }
}

fn claims(volumes: &[(String, Vec<Measure>)], page: &mut Page) {
    type Read = fn(&Measure) -> i64;
    const ROWS: [(&str, &str, Read); 6] = [
        ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |m| m.available),
        ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |m| m.capacity),
        ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |m| m.inodes),
        ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |m| m.inodes_free),
        ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |m| m.inodes_used),
        ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |m| m.used),
    ];
    // Several pods may use a claim; it is shown once.
    let claims: BTreeMap<(&str, &str), &Measure> = volumes
        .iter()
        .flat_map(|(namespace, list)| {
            list.iter().filter_map(move |measure| Some(((namespace.as_str(), measure.claim.as_deref()?), measure)))
        })
        .collect();
    for (name, help, read) in ROWS {
        let mut family = Family::new(name, "gauge", help);
        for ((namespace, claim), measure) in &claims {
            family.add(&[("namespace", namespace), ("persistentvolumeclaim", claim)], read(measure) as f64, None);
        }
        page.put(family);
    }
}

fn certificates(kubelet: &Shared, page: &mut Page) {
    let left = |prefix: &str| -> f64 {
        let text = std::fs::read_to_string(crate::certificate::current(&kubelet.config.cert_dir, prefix)).unwrap_or_default();
        crate::certificate::validity(&text).map_or(f64::INFINITY, |(_, ends)| (ends - jiff::Timestamp::now().as_second()) as f64)
    };
    page.one(
        "kubelet_certificate_manager_client_ttl_seconds",
        "gauge",
        "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
        left("kubelet-client"),
    );
    if kubelet.config.kubelet.server_tls_bootstrap {
        page.one(
            "kubelet_certificate_manager_server_ttl_seconds",
            "gauge",
            "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
            left("kubelet-server"),
        );
    }
}
