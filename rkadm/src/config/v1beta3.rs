//! `kubeadm.k8s.io/v1beta3` read as v1beta4: arguments were maps, two timeouts lived elsewhere.
//! Upstream: cmd/kubeadm/app/apis/kubeadm/v1beta3/conversion.go.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::Documents;

/// What v1beta3 keeps in another place.
#[derive(Debug, Default)]
pub struct Moved {
    control_plane: Option<std::time::Duration>,
    discovery: Option<std::time::Duration>,
}

impl Moved {
    /// Gives the moved values their v1beta4 place.
    pub fn settle(self, documents: &mut Documents) {
        if let Some(timeout) = self.control_plane {
            documents.init.get_or_insert_default().timeouts.control_plane_component_health_check = timeout;
        }
        if let (Some(timeout), Some(join)) = (self.discovery, &mut documents.join) {
            join.timeouts.discovery = timeout;
        }
    }
}

/// Rewrites the fields of one v1beta3 document to v1beta4's.
pub fn convert(kind: &str, fields: &mut Map<String, Value>, moved: &mut Moved) -> anyhow::Result<()> {
    match kind {
        "ClusterConfiguration" => {
            for component in ["apiServer", "controllerManager", "scheduler"] {
                if let Some(component) = fields.get_mut(component) {
                    arguments(component, "extraArgs")?;
                }
            }
            if let Some(Value::Object(server)) = fields.get_mut("apiServer") {
                moved.control_plane = timeout(server.remove("timeoutForControlPlane"), "timeoutForControlPlane")?;
            }
            if let Some(local) = fields.get_mut("etcd").and_then(|etcd| etcd.get_mut("local")) {
                arguments(local, "extraArgs")?;
            }
        }
        "InitConfiguration" => registration(fields)?,
        "JoinConfiguration" => {
            registration(fields)?;
            if let Some(Value::Object(discovery)) = fields.get_mut("discovery") {
                moved.discovery = timeout(discovery.remove("timeout"), "discovery.timeout")?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn registration(fields: &mut Map<String, Value>) -> anyhow::Result<()> {
    match fields.get_mut("nodeRegistration") {
        Some(registration) => arguments(registration, "kubeletExtraArgs"),
        None => Ok(()),
    }
}

/// `{a: "1", b: "2"}` becomes `[{name: a, value: "1"}, {name: b, value: "2"}]`.
fn arguments(owner: &mut Value, field: &str) -> anyhow::Result<()> {
    let Some(slot) = owner.get_mut(field) else { return Ok(()) };
    let Value::Object(map) = slot else {
        bail!("{field}: a map of names and values is expected in v1beta3 (a list is v1beta4)");
    };
    let mut names: Vec<_> = map.keys().cloned().collect();
    names.sort();
    let list: anyhow::Result<Vec<Value>> = names
        .into_iter()
        .map(|name| {
            let value = map[&name].as_str().with_context(|| format!("{field}.{name}: write the value in quotes"))?;
            Ok(json!({"name": name, "value": value}))
        })
        .collect();
    *slot = Value::Array(list?);
    Ok(())
}

fn timeout(value: Option<Value>, field: &str) -> anyhow::Result<Option<std::time::Duration>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => component::duration::parse(&text).map(Some).map_err(|e| anyhow::anyhow!("{field}: {e}")),
        Some(other) => bail!("{field}: {other} is not a duration like 4m0s"),
    }
}
