//! Volumes that are labelled with a zone or region run there only.
//!
//! Upstream: pkg/scheduler/framework/plugins/volumezone

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Context, Failure, Filter, Plugin};

/// VolumeZone.
pub const PLUGIN: Plugin = Plugin { filter: Some(filter), hint: Some(hint), ..Plugin::named("VolumeZone") };

/// The labels that tie a volume to a place.
const LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// What stands between several zones in one label.
const SEPARATOR: &str = "__";

struct Zones(Vec<(&'static str, String)>);

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    if pod.spec.volumes.is_empty() {
        return Begin::Skip;
    }
    let mut zones = Vec::new();
    for (name, _) in pod.claims() {
        let Some(claim) = cx.stores.claim(pod.namespace(), &name) else { continue };
        let Some(volume) = cx.stores.volumes.get(&claim.volume) else { continue };
        zones.extend(LABELS.iter().filter_map(|label| Some((*label, volume.labels().get(*label)?.clone()))));
    }
    if zones.is_empty() { Begin::Skip } else { Begin::Check(Box::new(Zones(zones))) }
}

impl Filter for Zones {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        let Some(node) = &node.node else { return Ok(()) };
        let labels = node.labels();
        if !LABELS.iter().any(|label| labels.contains_key(*label)) {
            return Ok(());
        }
        let translated = |label: &str| match label {
            "failure-domain.beta.kubernetes.io/zone" => labels.get(LABELS[0]),
            "failure-domain.beta.kubernetes.io/region" => labels.get(LABELS[1]),
            _ => None,
        };
        for (label, allowed) in &self.0 {
            let value = labels.get(*label).or_else(|| translated(label));
            if !value.is_some_and(|value| allowed.split(SEPARATOR).any(|zone| zone == value)) {
                return Err(Failure::unresolvable("node(s) had no available volume zone"));
            }
        }
        Ok(())
    }
}

fn hint(_pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(_) | Event::Storage => true,
        Event::NodeUpdated(old, new) => old.labels() != new.labels(),
        _ => false,
    }
}
