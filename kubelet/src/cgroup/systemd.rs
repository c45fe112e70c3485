//! Slices through systemd, so that it knows them and does not undo their limits.
//!
//! Asked through `busctl`, which every machine with systemd has; what systemd does not answer is written to the tree directly.

use std::process::{Command, Stdio};

use super::values::{Limits, weight};

/// Starts the slice at `path` (`/kubepods.slice/kubepods-burstable.slice`) with its limits. Best effort: the tree is written as well.
pub fn ensure_slice(path: &str, limits: &Limits) {
    let Some(unit) = path.rsplit('/').next().filter(|unit| unit.ends_with(".slice")) else { return };
    let exists = path_exists(path);
    let run = |arguments: &[String]| {
        let status =
            Command::new("busctl").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let arguments = if exists { set_properties(unit, limits) } else { start(unit, limits) };
    if !run(&arguments) {
        tracing::debug!(unit, "systemd did not take the slice; its cgroup is written directly");
    }
}

fn path_exists(path: &str) -> bool {
    super::mount_point().join(path.trim_start_matches('/')).is_dir()
}

const BUS: [&str; 5] =
    ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "--quiet"];

fn start(unit: &str, limits: &Limits) -> Vec<String> {
    let mut properties: Vec<[String; 3]> = ["DefaultDependencies", "MemoryAccounting", "CPUAccounting", "TasksAccounting"]
        .iter()
        .map(|name| [(*name).to_owned(), "b".to_owned(), (*name != "DefaultDependencies").to_string()])
        .collect();
    properties.extend(values(limits));
    let mut out: Vec<String> = BUS.iter().map(|part| (*part).to_owned()).collect();
    out.extend(["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace"].map(str::to_owned));
    out.push(properties.len().to_string());
    out.extend(properties.into_iter().flatten());
    out.push("0".to_owned());
    out
}

fn set_properties(unit: &str, limits: &Limits) -> Vec<String> {
    let properties = values(limits);
    let mut out: Vec<String> = BUS.iter().map(|part| (*part).to_owned()).collect();
    out.extend(["SetUnitProperties", "sba(sv)", unit, "true"].map(str::to_owned));
    out.push(properties.len().to_string());
    out.extend(properties.into_iter().flatten());
    out
}

fn values(limits: &Limits) -> Vec<[String; 3]> {
    let mut out = Vec::new();
    let mut add = |name: &str, value: u64| out.push([name.to_owned(), "t".to_owned(), value.to_string()]);
    if let Some(shares) = limits.cpu_shares {
        add("CPUWeight", weight(shares));
    }
    match (limits.cpu_quota, limits.cpu_period) {
        (Some(quota), Some(period)) if quota > 0 => {
            add("CPUQuotaPerSecUSec", u64::try_from(quota).unwrap_or(0) * 1_000_000 / period.max(1))
        }
        (Some(_), _) => add("CPUQuotaPerSecUSec", u64::MAX),
        _ => {}
    }
    if let Some(memory) = limits.memory {
        add("MemoryMax", u64::try_from(memory).unwrap_or(u64::MAX));
    }
    if let Some(pids) = limits.pids {
        add("TasksMax", u64::try_from(pids).unwrap_or(u64::MAX));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_unit_properties() {
        let limits =
            Limits { cpu_shares: Some(1024), cpu_quota: Some(50_000), cpu_period: Some(100_000), memory: Some(5), pids: None };
        let got = set_properties("kubepods.slice", &limits);
        assert_eq!(
            got[5..].join(" "),
            "SetUnitProperties sba(sv) kubepods.slice true 3 CPUWeight t 39 CPUQuotaPerSecUSec t 500000 MemoryMax t 5"
        );
    }
}
