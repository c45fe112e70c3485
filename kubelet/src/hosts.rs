//! /etc/hosts of a pod. Upstream: pkg/kubelet/kubelet_pods.go makeHostsMount, ensureHostsFile

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";

/// Writes `<pod dir>/etc-hosts`, once the pod's addresses are known.
pub fn write(pod: &Pod, pod_dir: &Path, ips: &[String], cluster_domain: &str) -> io::Result<PathBuf> {
    let path = pod_dir.join("etc-hosts");
    let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
    let content = if pod::is_host_network(pod) {
        let of_node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("{}{}", of_node_file(&of_node), of_aliases(aliases))
    } else {
        let (host, domain) = pod::host_name(pod, cluster_domain);
        format!("{}{}", managed(ips, &host, &domain), of_aliases(aliases))
    };
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&content) {
        std::fs::create_dir_all(pod_dir)?;
        std::fs::write(&path, content)?;
    }
    Ok(path)
}

fn of_node_file(text: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{text}")
}

fn managed(ips: &[String], host: &str, domain: &str) -> String {
    let mut out = String::from(HEADER);
    for line in [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ] {
        out.push_str(line);
        out.push('\n');
    }
    for ip in ips {
        if domain.is_empty() || host.contains('.') {
            out.push_str(&format!("{ip}\t{host}\n"));
        } else {
            out.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n"));
        }
    }
    out
}

fn of_aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_finds_itself_and_its_aliases() {
        let temp = tempfile::tempdir().unwrap();
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}),
        )
        .unwrap();
        let path = write(&pod, temp.path(), &["10.0.0.1".into()], "cluster.local").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with(HEADER));
        assert!(text.contains("10.0.0.1\th.s.n.svc.cluster.local\th\n"));
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
