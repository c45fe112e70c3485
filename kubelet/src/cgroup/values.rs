//! Requests and limits as the kernel's numbers. Pure. Upstream: pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::cri::v1;
use crate::pod::qos::{self, Qos};
use crate::pod::resources::{Limits as LimitsOf, Requests, of_container, of_pod};
use crate::pod::{self, init_containers, is_sidecar, spec};

/// The kernel's least weight.
pub const MIN_SHARES: u64 = 2;
/// The kernel's largest weight.
const MAX_SHARES: u64 = 262_144;
/// The kernel's least quota, microseconds.
const MIN_QUOTA: i64 = 1_000;

/// Limits of one cgroup; `None` leaves a value alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
}

/// What of the node decides about values.
#[derive(Clone, Debug)]
pub struct Node {
    /// `--cpu-cfs-quota`.
    pub cfs_quota: bool,
    /// `--cpu-cfs-quota-period`, microseconds.
    pub cfs_period: u64,
    /// Bytes of memory.
    pub memory: i64,
    /// cgroup v2.
    pub v2: bool,
    /// Kill one process of a container for memory, not all.
    pub single_process_oom_kill: bool,
    /// Processes per pod, 0 or less for no limit.
    pub pids: i64,
}

impl Default for Node {
    fn default() -> Self {
        Self { cfs_quota: true, cfs_period: 100_000, memory: 1 << 30, v2: false, single_process_oom_kill: false, pids: -1 }
    }
}

/// CPU weight of a request in thousandths of a core.
pub fn shares(milli_cpu: i64) -> u64 {
    if milli_cpu <= 0 {
        return MIN_SHARES;
    }
    (u64::try_from(milli_cpu).unwrap_or(0) * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota of a limit in thousandths of a core; 0 for no limit.
pub fn quota(milli_cpu: i64, period: u64) -> i64 {
    if milli_cpu <= 0 {
        return 0;
    }
    (milli_cpu * i64::try_from(period).unwrap_or(100_000) / 1000).max(MIN_QUOTA)
}

/// cgroup v2's `cpu.weight` of v1's shares. Upstream: CpuSharesToCpuWeight.
pub fn weight(shares: u64) -> u64 {
    1 + ((shares.clamp(MIN_SHARES, MAX_SHARES) - 2) * 9999) / 262_142
}

/// The limits of a pod's cgroup.
pub fn pod(pod: &Pod, node: &Node) -> Limits {
    let all_limit = |resource: &str| {
        let pod_level = spec(pod)
            .resources
            .as_ref()
            .and_then(|resources| resources.limits.as_ref())
            .is_some_and(|limits| limits.contains_key(resource));
        pod_level
            || spec(pod)
                .containers
                .iter()
                .chain(init_containers(pod))
                .all(|container| of_container(container, LimitsOf, resource).is_some_and(|amount| amount > 0))
    };
    let pids = (node.pids > 0).then_some(node.pids);
    let mut out = Limits { cpu_shares: Some(MIN_SHARES), pids, ..Default::default() };
    let class = qos::class(pod);
    if class == Qos::BestEffort {
        return out;
    }
    out.cpu_shares = Some(shares(of_pod(pod, Requests, "cpu").or_else(|| of_pod(pod, LimitsOf, "cpu")).unwrap_or(0)));
    if all_limit("cpu") && node.cfs_quota {
        let quota = quota(of_pod(pod, LimitsOf, "cpu").unwrap_or(0), node.cfs_period);
        out.cpu_quota = Some(if quota == 0 { -1 } else { quota });
        out.cpu_period = Some(node.cfs_period);
    }
    if all_limit("memory") {
        out.memory = of_pod(pod, LimitsOf, "memory").filter(|bytes| *bytes > 0);
    }
    out
}

/// A container's resources in CRI's words.
pub fn container(pod: &Pod, container: &Container, node: &Node) -> v1::LinuxContainerResources {
    let limit = |resource| of_container(container, LimitsOf, resource);
    let request = of_container(container, Requests, "cpu").or_else(|| limit("cpu")).unwrap_or(0);
    let mut out = v1::LinuxContainerResources {
        cpu_shares: i64::try_from(shares(request)).unwrap_or(i64::MAX),
        memory_limit_in_bytes: limit("memory").unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, node.memory),
        ..Default::default()
    };
    if node.cfs_quota {
        out.cpu_period = i64::try_from(node.cfs_period).unwrap_or(100_000);
        out.cpu_quota = quota(limit("cpu").unwrap_or(0), node.cfs_period);
    }
    if node.v2 {
        if !node.single_process_oom_kill {
            out.unified.insert("memory.oom.group".into(), "1".into());
        }
        out.unified.insert("memory.swap.max".into(), "0".into());
    }
    out
}

/// How readily the kernel kills the container for memory. Upstream: GetContainerOOMScoreAdjust.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    const GUARANTEED: i64 = -997;
    const BEST_EFFORT: i64 = 1000;
    if pod::is_node_critical(pod) {
        return GUARANTEED;
    }
    match qos::class(pod) {
        Qos::Guaranteed => return GUARANTEED,
        Qos::BestEffort => return BEST_EFFORT,
        Qos::Burstable => {}
    }
    let score = |container: &Container| {
        let request =
            of_container(container, Requests, "memory").or_else(|| of_container(container, LimitsOf, "memory")).unwrap_or(0);
        let adjust = 1000 - 1000_i64.saturating_mul(request) / node_memory.max(1);
        // Above guaranteed pods, below best-effort ones.
        if adjust < 1000 + GUARANTEED {
            1000 + GUARANTEED
        } else if adjust == BEST_EFFORT {
            BEST_EFFORT - 1
        } else {
            adjust
        }
    };
    let own = score(container);
    if is_sidecar(container) {
        // A sidecar is not killed before the containers that it serves.
        return spec(pod).containers.iter().map(score).min().unwrap_or(own).min(own);
    }
    own
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod_of(resources: &[Value]) -> Pod {
        let containers: Vec<_> = resources
            .iter()
            .enumerate()
            .map(|(index, resources)| json!({"name": format!("c{index}"), "resources": resources}))
            .collect();
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn shares_quota_and_weight_are_upstreams() {
        assert_eq!([0, 1, 100, 1000, 1_000_000].map(shares), [2, 2, 102, 1024, 262_144]);
        assert_eq!([0, 5, 100, 1500].map(|milli| quota(milli, 100_000)), [0, 1000, 10_000, 150_000]);
        assert_eq!([2, 102, 1024, 262_144].map(weight), [1, 4, 39, 10_000]);
    }

    #[test]
    fn a_pod_is_bounded_only_where_all_its_containers_are() {
        let full = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        let node = Node::default();
        let got = pod(&pod_of(&[full.clone(), full.clone()]), &node);
        assert_eq!(
            got,
            Limits {
                cpu_shares: Some(2048),
                cpu_quota: Some(200_000),
                cpu_period: Some(100_000),
                memory: Some(128 << 20),
                pids: None
            }
        );
        let got = pod(&pod_of(&[full.clone(), json!({"requests": {"cpu": "500m"}})]), &node);
        assert_eq!((got.cpu_quota, got.memory, got.cpu_shares), (None, None, Some(512)));
        assert_eq!(
            pod(&pod_of(&[json!({})]), &Node { pids: 7, ..node }),
            Limits { cpu_shares: Some(2), pids: Some(7), ..Default::default() }
        );
    }

    #[test]
    fn oom_scores_rank_classes_and_requests() {
        let score = |resources: Value| {
            let pod = pod_of(&[resources]);
            oom_score_adj(&pod, &spec(&pod).containers[0], 1 << 30)
        };
        assert_eq!(score(json!({})), 1000);
        assert_eq!(score(json!({"limits": {"cpu": "1", "memory": "1Mi"}})), -997);
        assert_eq!(score(json!({"requests": {"memory": "512Mi"}})), 500);
        assert_eq!(score(json!({"requests": {"memory": "1Gi"}})), 3);
        assert_eq!(score(json!({"requests": {"cpu": "1m"}})), 999);
    }

    #[test]
    fn container_values_reach_the_runtime() {
        let pod = pod_of(&[json!({"limits": {"cpu": "200m", "memory": "64Mi"}, "requests": {"cpu": "100m"}})]);
        let got = container(&pod, &spec(&pod).containers[0], &Node { v2: true, ..Default::default() });
        assert_eq!((got.cpu_shares, got.cpu_quota, got.cpu_period, got.memory_limit_in_bytes), (102, 20_000, 100_000, 64 << 20));
        assert_eq!(got.unified["memory.oom.group"], "1");
    }
}
