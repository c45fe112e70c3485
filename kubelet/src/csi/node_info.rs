//! What the API server is told of the node's drivers: the CSINode object, and the node's annotation and topology labels.
//!
//! Upstream: pkg/volume/csi/nodeinfomanager

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::v1::NodeGetInfoResponse;
use crate::kubelet::Kubelet;
use crate::objects::message;

/// On the node: the drivers' names for it.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// On the CSINode: volumes in these forms are a CSI driver's affair.
const MIGRATED: (&str, &str) = (
    "storage.alpha.kubernetes.io/migrated-plugins",
    "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,\
     kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume",
);
/// Tries against others who write the same objects.
const TRIES: usize = 10;

/// Makes the CSINode object where there is none.
///
/// # Errors
/// The API server does not answer; the caller tries again.
pub async fn ensure(kubelet: &Kubelet) -> Result<(), String> {
    edit(kubelet, |_| false).await
}

/// Adds or replaces a driver.
///
/// # Errors
/// The API server does not take it.
pub async fn add(kubelet: &Kubelet, name: &str, info: &NodeGetInfoResponse) -> Result<(), String> {
    if kubelet.api.is_none() {
        return Ok(());
    }
    let topology = info.accessible_topology.clone().unwrap_or_default().segments;
    let driver = CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(topology.keys().cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect()),
        allocatable: (info.max_volumes_per_node > 0)
            .then(|| VolumeNodeResources { count: i32::try_from(info.max_volumes_per_node).ok() }),
    };
    edit_node(kubelet, name, Some(&info.node_id), &topology.into_iter().collect()).await?;
    edit(kubelet, |drivers| put(drivers, driver.clone())).await
}

/// Takes a driver out.
///
/// # Errors
/// The API server does not take it.
pub async fn remove(kubelet: &Kubelet, name: &str) -> Result<(), String> {
    if kubelet.api.is_none() {
        return Ok(());
    }
    edit(kubelet, |drivers| {
        let before = drivers.len();
        drivers.retain(|driver| driver.name != name);
        drivers.len() != before
    })
    .await?;
    edit_node(kubelet, name, None, &BTreeMap::new()).await
}

/// Adds or replaces a driver; whether anything changed. A CSINode's driver is never changed in place: it goes and comes again.
fn put(drivers: &mut Vec<CSINodeDriver>, driver: CSINodeDriver) -> bool {
    if drivers.contains(&driver) {
        return false;
    }
    drivers.retain(|other| other.name != driver.name);
    drivers.push(driver);
    true
}

/// A CSINode without drivers has `null` for them, as Go writes it, and the generated type takes only a list.
async fn ask(
    api: &kube::Client,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<CSINode, kube::Error> {
    let mut value: Value = api.request(request.map_err(kube::Error::BuildRequest)?).await?;
    if value["spec"]["drivers"].is_null() {
        value["spec"]["drivers"] = json!([]);
    }
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

async fn edit(kubelet: &Kubelet, change: impl Fn(&mut Vec<CSINodeDriver>) -> bool) -> Result<(), String> {
    let Some(api) = kubelet.api.clone() else { return Ok(()) };
    let objects = kube::core::Request::new(<CSINode as kube::Resource>::url_path(&(), None));
    let body = |object: &CSINode| serde_json::to_vec(object).map_err(|error| error.to_string());
    let name = &kubelet.config.node_name;
    let mut last = String::new();
    for _ in 0..TRIES {
        let found = match ask(&api, objects.get(name, &Default::default())).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => return Err(message(&error)),
        };
        let result = match found {
            Some(mut object) => {
                if !change(&mut object.spec.drivers) {
                    return Ok(());
                }
                ask(&api, objects.replace(name, &PostParams::default(), body(&object)?)).await
            }
            None => {
                let node = Api::<Node>::all(api.clone()).get(name).await.map_err(|error| message(&error))?;
                let mut object = CSINode { spec: CSINodeSpec::default(), ..Default::default() };
                object.metadata.name = Some(name.clone());
                object.metadata.annotations = Some(BTreeMap::from([(MIGRATED.0.to_owned(), MIGRATED.1.to_owned())]));
                object.metadata.owner_references = Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: name.clone(),
                    uid: node.metadata.uid.unwrap_or_default(),
                    ..Default::default()
                }]);
                change(&mut object.spec.drivers);
                ask(&api, objects.create(&PostParams::default(), body(&object)?)).await
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => last = status.message.clone(),
            Err(error) => return Err(message(&error)),
        }
    }
    Err(last)
}

async fn edit_node(kubelet: &Kubelet, driver: &str, id: Option<&str>, topology: &BTreeMap<String, String>) -> Result<(), String> {
    let Some(api) = kubelet.api.clone() else { return Ok(()) };
    let nodes = Api::<Node>::all(api);
    let name = &kubelet.config.node_name;
    let mut last = String::new();
    for _ in 0..TRIES {
        let node = nodes.get(name).await.map_err(|error| message(&error))?;
        let Some(patch) = node_patch(&node, driver, id, topology)? else { return Ok(()) };
        match nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(node) => {
                *kubelet.node.labels.write() = node.metadata.labels.unwrap_or_default();
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 409 => last = status.message.clone(),
            Err(error) => return Err(message(&error)),
        }
    }
    Err(last)
}

/// The change of the node's annotation and labels, if it needs one. Pure.
///
/// # Errors
/// The node already has another value for a topology label: volumes would be bound to the wrong place.
fn node_patch(node: &Node, driver: &str, id: Option<&str>, topology: &BTreeMap<String, String>) -> Result<Option<Value>, String> {
    let text = node.metadata.annotations.as_ref().and_then(|map| map.get(NODE_IDS)).map_or("{}", String::as_str);
    let before: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    let mut ids = before.clone();
    match id {
        Some(id) => ids.insert(driver.to_owned(), id.to_owned()),
        None => ids.remove(driver),
    };
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    for (key, value) in topology {
        if let Some(other) = labels.get(key).filter(|other| *other != value) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{other:?}"
            ));
        }
    }
    let missing: BTreeMap<&String, &String> = topology.iter().filter(|(key, _)| !labels.contains_key(*key)).collect();
    if ids == before && missing.is_empty() {
        return Ok(None);
    }
    let ids = if ids.is_empty() { Value::Null } else { Value::String(json!(ids).to_string()) };
    Ok(Some(json!({"metadata": {
        "resourceVersion": node.metadata.resource_version,
        "annotations": {NODE_IDS: ids},
        "labels": missing,
    }})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_told_its_drivers_and_where_it_is() {
        let node = |value: Value| serde_json::from_value::<Node>(json!({"metadata": value})).unwrap();
        let zone = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let got = node_patch(&node(json!({"resourceVersion": "5"})), "d", Some("id"), &zone).unwrap().unwrap();
        assert_eq!(got["metadata"]["annotations"][NODE_IDS], "{\"d\":\"id\"}");
        assert_eq!((&got["metadata"]["labels"]["zone"], &got["metadata"]["resourceVersion"]), (&json!("a"), &json!("5")));
        let told = node(json!({"annotations": {NODE_IDS: "{\"d\":\"id\"}"}, "labels": {"zone": "a"}}));
        assert_eq!(node_patch(&told, "d", Some("id"), &zone), Ok(None));
        let got = node_patch(&told, "d", None, &BTreeMap::new()).unwrap().unwrap();
        assert_eq!(got["metadata"]["annotations"][NODE_IDS], Value::Null);
        let other = node(json!({"labels": {"zone": "b"}}));
        assert!(node_patch(&other, "d", Some("id"), &zone).unwrap_err().contains("collision"));
    }

    #[test]
    fn a_driver_is_listed_once() {
        let driver = |id: &str| CSINodeDriver { name: "d".into(), node_id: id.into(), ..Default::default() };
        let mut list = Vec::new();
        assert!(put(&mut list, driver("1")) && !put(&mut list, driver("1")) && put(&mut list, driver("2")));
        assert_eq!(list, [driver("2")]);
    }
}
