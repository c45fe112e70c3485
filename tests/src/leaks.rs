//! Whether a host still has anything of pods that are gone: directories, mounts, cgroups, tasks, network namespaces, interfaces.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kubectl::Kubectl;
use crate::lab::Lab;
use crate::wait;

/// The kubelet sweeps what it finds without an owner every two minutes.
const PATIENCE: Duration = Duration::from_secs(200);

/// Prints what the host has, a kind and a uid (or a count) per line. Tasks are found by the cgroup that their bundle names; what containerd
/// itself has no record of (it was killed between a bundle and its record) no kubelet can ask it to remove.
const LOOK: &str = r#"
for d in /var/lib/kubelet/pods/*/; do [ -d "$d" ] && echo "directory $(basename "$d")"; done
for d in /var/log/pods/*/; do [ -d "$d" ] && b=$(basename "$d") && echo "logs ${b##*_}"; done
awk '$5 ~ /^\/var\/lib\/kubelet\/pods\// { split($5, p, "/"); print "mount " p[6] }' /proc/self/mountinfo | sort -u
find /sys/fs/cgroup -type d -name '*pod*' 2>/dev/null | sed -n -e 's|.*/pod\([0-9a-f-]\{32,36\}\)$|cgroup \1|p' -e 's|.*-pod\([0-9a-f_]\{32,36\}\)\.slice$|cgroup \1|p' | tr _ - | sort -u
known=$(ctr -n k8s.io containers ls -q 2>/dev/null)
for f in /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json; do
  id=$(basename "$(dirname "$f")")
  case "$known" in *"$id"*) ;; *) continue ;; esac
  [ -f "$f" ] && grep -o '"cgroupsPath":"[^"]*"' "$f" | sed -n 's/.*pod\([0-9a-f_-]*\).*/task \1/p' | tr _ -
done | sort -u
echo "namespaces $(ls /run/netns 2>/dev/null | grep -c ^cni-)"
echo "interfaces $(ip -o link show master cni0 2>/dev/null | wc -l)"
exit 0
"#;

/// What a host should have.
struct Expected {
    /// Uids of its pods, static ones by the uid of their file.
    uids: BTreeSet<String>,
    /// Pods with a network of their own that may be up.
    networks: usize,
}

fn expected(kubectl: &Kubectl, host: &str) -> Result<Expected> {
    const FIELDS: &str = r"jsonpath={range .items[*]}{.metadata.uid} {.spec.hostNetwork} {.metadata.annotations.kubernetes\.io/config\.mirror}{'\n'}{end}";
    let selector = format!("spec.nodeName={host}");
    let text = kubectl.args(&["get", "pods", "-A", "--field-selector", &selector, "-o", &FIELDS.replace('\'', "\"")])?;
    let mut out = Expected { uids: BTreeSet::new(), networks: 0 };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[uid, host_network, mirrored] = &words[..] else { continue };
        out.uids.insert(if mirrored.is_empty() { uid } else { mirrored }.to_owned());
        out.networks += usize::from(host_network != "true");
    }
    Ok(out)
}

/// What the host has that belongs to nobody, in words.
fn look(lab: &Lab, kubectl: &Kubectl, host: &str) -> Result<Vec<String>> {
    // What there is first: a pod that is made in between then has its owner.
    let found = lab.sh(host, LOOK)?;
    let expected = expected(kubectl, host)?;
    Ok(judge(&found, &expected))
}

fn judge(found: &str, expected: &Expected) -> Vec<String> {
    let mut out = Vec::new();
    for line in found.lines() {
        let Some((kind, what)) = line.split_once(' ') else { continue };
        let leaked = match kind {
            "namespaces" | "interfaces" => what.trim().parse::<usize>().map_or(true, |count| count > expected.networks),
            _ => !expected.uids.contains(what),
        };
        if leaked {
            out.push(format!("{kind} {what}"));
        }
    }
    out
}

/// Waits until no host has anything of pods that are gone.
///
/// # Errors
/// Something stays; it is named.
pub fn none(lab: &Lab, kubectl: &Kubectl) -> Result<()> {
    let nodes = kubectl.field("nodes", ".items[*].metadata.name").context("list nodes to look for leaks")?;
    for host in nodes.split_whitespace() {
        wait::until(&format!("nothing of former pods on {host}"), PATIENCE, || {
            let leaks = look(lab, kubectl, host)?;
            if leaks.is_empty() { Ok(Some(())) } else { bail!("{}", leaks.join(", ")) }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_pod_is_named() {
        let expected = Expected { uids: ["a-1".to_owned()].into(), networks: 1 };
        assert!(judge("directory a-1\nmount a-1\nnamespaces 1\ninterfaces 0\n", &expected).is_empty());
        assert_eq!(
            judge("directory b-2\ncgroup a-1\ntask b-2\nnamespaces 2\n", &expected),
            ["directory b-2", "task b-2", "namespaces 2"]
        );
    }
}
