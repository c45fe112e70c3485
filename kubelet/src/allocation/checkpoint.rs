//! The files in which allocations outlive the process: upstream's names and forms, so that either kubelet reads the other's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cpu;
use super::cpuset::CpuSet;

/// `cpu_manager_state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFile {
    /// `none` or `static`.
    #[serde(rename = "policyName")]
    pub policy: String,
    /// The shared processors.
    #[serde(rename = "defaultCpuSet")]
    pub shared: String,
    /// By pod's uid and container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, BTreeMap<String, String>>,
    /// Of the rest.
    #[serde(default)]
    pub checksum: u64,
}

impl CpuFile {
    /// The file for a state.
    pub fn of(policy: &str, state: &cpu::State) -> Self {
        let entries = state.owned.iter().map(|(uid, containers)| {
            (uid.clone(), containers.iter().map(|(name, cpus)| (name.clone(), cpus.to_string())).collect())
        });
        let mut out =
            Self { policy: policy.to_owned(), shared: state.shared.to_string(), entries: entries.collect(), checksum: 0 };
        if policy == "none" {
            out.shared.clear();
        }
        out.checksum = out.sum();
        out
    }

    /// The state of a file; `None` where it is damaged.
    pub fn state(&self) -> Option<cpu::State> {
        if self.checksum != 0 && self.checksum != self.sum() {
            return None;
        }
        let mut out = cpu::State { shared: CpuSet::parse(&self.shared)?, owned: BTreeMap::new() };
        for (uid, containers) in &self.entries {
            for (name, text) in containers {
                out.owned.entry(uid.clone()).or_default().insert(name.clone(), CpuSet::parse(text)?);
            }
        }
        Some(out)
    }

    /// Upstream hashes Go's dump of the structure.
    fn sum(&self) -> u64 {
        let entries: Vec<String> = self
            .entries
            .iter()
            .map(|(uid, containers)| {
                let containers: Vec<String> = containers.iter().map(|(name, cpus)| format!("{name}:{cpus}")).collect();
                format!("{uid}:map[{}]", containers.join(" "))
            })
            .collect();
        u64::from(fnv32a(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string)map[{}] Checksum:(checksum.Checksum)0}}",
            self.policy,
            self.shared,
            entries.join(" ")
        )))
    }
}

/// FNV-1a, 32 bits.
fn fnv32a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// `device-plugins/kubelet_internal_checkpoint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceFile {
    /// What is in it.
    pub data: DeviceData,
    /// Of the data.
    pub checksum: u64,
}

/// The content of [`DeviceFile`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceData {
    /// What containers have.
    pub pod_device_entries: Option<Vec<DeviceEntry>>,
    /// What plugins offered.
    pub registered_devices: BTreeMap<String, Vec<String>>,
}

/// Devices of one resource that a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// The pod.
    #[serde(rename = "PodUID")]
    pub uid: String,
    /// The container.
    #[serde(rename = "ContainerName")]
    pub container: String,
    /// The resource.
    #[serde(rename = "ResourceName")]
    pub resource: String,
    /// By memory node; -1 where that is not known.
    #[serde(rename = "DeviceIDs")]
    pub ids: BTreeMap<String, Vec<String>>,
    /// The plugin's answer, protobuf in base64.
    #[serde(rename = "AllocResp")]
    pub answer: String,
}

impl DeviceFile {
    /// With its checksum.
    pub fn of(data: DeviceData) -> Self {
        let checksum = Self::sum(&data);
        Self { data, checksum }
    }

    /// Whether it is whole.
    pub fn is_whole(&self) -> bool {
        self.checksum == 0 || self.checksum == Self::sum(&self.data)
    }

    fn sum(data: &DeviceData) -> u64 {
        u64::from(fnv32a(&serde_json::to_string(data).unwrap_or_default()))
    }
}

/// Reads a file; `None` where it is absent or unreadable.
pub fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let text = std::fs::read_to_string(path).ok()?;
    match serde_json::from_str(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(path = %path.display(), err = %error, "A state file is damaged");
            None
        }
    }
}

/// Writes a file, whole or not at all.
pub fn save(path: &Path, value: &impl Serialize) {
    let text = serde_json::to_string(value).unwrap_or_default();
    if let Err(error) = crate::certificate::write_private(path, &text) {
        tracing::error!(path = %path.display(), err = %error, "Failed to write a state file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_upstreams() {
        // As every upstream node without the static policy has it.
        let text = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
        assert_eq!(serde_json::to_string(&CpuFile::of("none", &cpu::State::default())).unwrap(), text);
        assert!(serde_json::from_str::<CpuFile>(text).unwrap().state().is_some());
    }

    #[test]
    fn state_goes_through_the_file_and_damage_is_seen() {
        let mut state = cpu::State { shared: CpuSet::parse("0-3").unwrap(), owned: BTreeMap::new() };
        state.give("u", "c", CpuSet::parse("1,3").unwrap());
        let mut file = CpuFile::of("static", &state);
        assert_eq!(file.state(), Some(state));
        file.shared = "0-3".into();
        assert_eq!(file.state(), None);
    }
}
