//! Ids of the host that a pod's user namespace uses: a range of its own for every pod, kept in a file beside the pod's volumes.
//!
//! Upstream: pkg/kubelet/userns

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cri::v1::{IdMapping, NamespaceMode, UserNamespace};

/// Ids in a range. Upstream: userNsLength.
const LENGTH: u32 = 65_536;
const FILE: &str = "userns";

/// The file, in upstream's form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The namespace of a pod that shares the node's users.
pub fn of_node() -> UserNamespace {
    UserNamespace { mode: NamespaceMode::Node as i32, ..Default::default() }
}

/// The pod's range: the one it has, or a free one.
///
/// # Errors
/// No range is free, or the disk fails.
pub fn of_pod(pods: &Path, uid: &str, max_pods: u32) -> Result<UserNamespace, String> {
    let file = pods.join(uid).join(FILE);
    if let Some(first) = read(&file) {
        return Ok(namespace(first));
    }
    let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
    let taken: BTreeSet<u32> = entries.filter_map(|entry| read(&entry.path().join(FILE))).collect();
    let first = free(&taken, max_pods).ok_or("could not find an empty slot to allocate a user namespace")?;
    let mapping = vec![Mapping { host_id: first, container_id: 0, length: LENGTH }];
    let text = serde_json::to_vec(&Mappings { uid_mappings: mapping.clone(), gid_mappings: mapping })
        .map_err(|error| error.to_string())?;
    let words = |error: std::io::Error| format!("failed to write the user namespace's mapping: {error}");
    std::fs::create_dir_all(pods.join(uid)).map_err(words)?;
    std::fs::write(file, text).map_err(words)?;
    Ok(namespace(first))
}

fn read(file: &Path) -> Option<u32> {
    let mappings: Mappings = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    mappings.uid_mappings.first().map(|mapping| mapping.host_id)
}

/// The first free range. The lowest ids are the host's own.
fn free(taken: &BTreeSet<u32>, max_pods: u32) -> Option<u32> {
    (1..=max_pods.max(1)).filter_map(|slot| slot.checked_mul(LENGTH)).find(|first| !taken.contains(first))
}

fn namespace(first: u32) -> UserNamespace {
    let mapping = vec![IdMapping { host_id: first, container_id: 0, length: LENGTH }];
    UserNamespace { mode: NamespaceMode::Pod as i32, uids: mapping.clone(), gids: mapping }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_a_range_of_its_own_and_keeps_it() {
        let temp = tempfile::tempdir().unwrap();
        let first = |uid: &str| of_pod(temp.path(), uid, 2).map(|namespace| namespace.uids[0].host_id);
        assert_eq!(first("a"), Ok(LENGTH));
        assert_eq!(first("b"), Ok(2 * LENGTH));
        assert_eq!(first("a"), Ok(LENGTH));
        assert!(first("c").is_err());
        std::fs::remove_dir_all(temp.path().join("a")).unwrap();
        assert_eq!(first("c"), Ok(LENGTH));
    }
}
