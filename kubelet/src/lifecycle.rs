//! Hooks of containers. Upstream: pkg/kubelet/lifecycle/handlers.go

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler};

use crate::kubelet::Kubelet;
use crate::probe::{self, http};

/// Runs a hook to its end. The caller bounds its time.
///
/// # Errors
/// It failed; the message goes into an event.
pub async fn run(kubelet: &Kubelet, id: &str, hook: &LifecycleHandler, ports: &[ContainerPort], ip: &str) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        // A hook may take as long as the grace period allows.
        const LONGEST: Duration = Duration::from_secs(3600);
        return match kubelet.cri.exec_sync(id, command, LONGEST).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => Err(format!(
                "command '{shown}' exited with {}: {}",
                output.exit_code,
                String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr }).trim()
            )),
            Err(status) => Err(status.message().to_owned()),
        };
    }
    if let Some(get) = &hook.http_get {
        let port = probe::resolve_port(&get.port, ports).ok_or("failed to resolve the hook's port")?;
        let host = get.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
        let target = http::Target {
            https: get.scheme.as_deref() == Some("HTTPS"),
            host: host.to_owned(),
            port,
            path: get.path.clone().unwrap_or_else(|| "/".into()),
            headers: get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect(),
            user_agent: "kube-lifecycle",
        };
        const TIMEOUT: Duration = Duration::from_secs(60);
        return match http::get(&target, TIMEOUT).await {
            Ok((status, _)) if status < 400 => Ok(()),
            Ok((status, body)) => Err(format!("HTTP hook answered with status code {status}: {body}")),
            Err(why) => Err(why),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // The API keeps `tcpSocket` for compatibility; no kubelet ever ran it.
    Err("invalid handler: tcpSocket is not supported in lifecycle hooks".into())
}
