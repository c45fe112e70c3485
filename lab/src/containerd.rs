//! The container runtime of a host.

/// Linux' number of CAP_SYS_RESOURCE.
const CAP_SYS_RESOURCE: u64 = 24;

/// containerd's configuration, for 1.6 up to 2.x. `may_lower_oom`: whether this machine lets us lower `oom_score_adj`.
pub fn config(may_lower_oom: bool) -> String {
    let pause = format!("registry.k8s.io/pause:{}", component::version::PAUSE_TAG);
    let restrict = !may_lower_oom;
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = {restrict}
  max_container_log_line_size = 16384
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

/// Whether processes here may lower `oom_score_adj` (CAP_SYS_RESOURCE in the bounding set).
pub fn may_lower_oom() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bounding.is_some_and(|set| set & (1 << CAP_SYS_RESOURCE) != 0)
}
