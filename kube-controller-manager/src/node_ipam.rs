//! Gives every node its part of the pod network: `spec.podCIDRs`.
//!
//! Upstream: pkg/controller/nodeipam/ipam/range_allocator.go, cidrset

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::api_error;
use crate::config::Config;
use crate::context::{Change, Context, Requeue, Store};
use crate::key::Key;

/// Most nodes per range: what is left of a range's prefix. Upstream: clusterSubnetMaxDiff (v6 only; v4 cannot exceed 24 bits in practice).
const MAX_BITS: u8 = 16;

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    if !ctx.config.options.allocate_node_cidrs {
        return Ok(());
    }
    let pools = pools(&ctx.config)?;
    let (nodes, queue) = (ctx.store::<Node>(), ctx.queue());
    let allocator = Arc::new(Allocator { ctx: ctx.clone(), nodes: nodes.clone(), pools: Mutex::new(pools) });
    // Every node that has its ranges must be known before the first allocation.
    nodes.synced().await;
    for node in nodes.list() {
        allocator.occupy(&node);
    }
    let (this, feed) = (Arc::clone(&allocator), queue.clone());
    nodes.on_change(move |change| match change {
        Change::Deleted(node) => this.release(node),
        Change::Added(node) | Change::Updated(_, node) => {
            if node.metadata.deletion_timestamp.is_none() {
                feed.add(Key::of(node.as_ref()));
            }
        }
    });
    ctx.run(&queue, 1, move |key| {
        let this = Arc::clone(&allocator);
        async move { this.sync(&key).await }
    });
    Ok(())
}

/// One pool per cluster CIDR, with the service ranges taken out.
fn pools(config: &Config) -> anyhow::Result<Vec<Pool>> {
    let options = &config.options;
    let dual = config.cluster_cidrs.len() > 1;
    let size = |cidr: &IpNet| {
        let (own, default) = match cidr {
            IpNet::V4(_) => (options.node_cidr_mask_size_ipv4, 24),
            IpNet::V6(_) => (options.node_cidr_mask_size_ipv6, 64),
        };
        let general = if dual { 0 } else { options.node_cidr_mask_size };
        [own, general].into_iter().find(|&bits| bits != 0).unwrap_or(default)
    };
    let mut pools = Vec::new();
    for cidr in &config.cluster_cidrs {
        let bits = u8::try_from(size(cidr)).context("--node-cidr-mask-size")?;
        let mut pool = Pool::new(*cidr, bits)?;
        for service in &config.service_cidrs {
            pool.occupy(service);
        }
        pools.push(pool);
    }
    Ok(pools)
}

struct Allocator {
    ctx: Context,
    nodes: Store<Node>,
    pools: Mutex<Vec<Pool>>,
}

fn cidrs_of(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.clone().unwrap_or_default();
    let list = spec.pod_cidrs.or_else(|| spec.pod_cidr.map(|one| vec![one])).unwrap_or_default();
    list.iter().filter_map(|text| text.parse().ok()).collect()
}

impl Allocator {
    fn occupy(&self, node: &Node) {
        let mut pools = self.pools.lock();
        for cidr in cidrs_of(node) {
            pools.iter_mut().for_each(|pool| pool.occupy(&cidr));
        }
    }

    fn release(&self, node: &Node) {
        let mut pools = self.pools.lock();
        let name = node.name_any();
        pools.iter_mut().for_each(|pool| {
            pool.pending.remove(&name);
            cidrs_of(node).iter().for_each(|cidr| pool.release(cidr));
        });
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(node) = self.nodes.get(key) else { return Ok(Requeue::No) };
        if !cidrs_of(&node).is_empty() {
            self.occupy(&node);
            self.pools.lock().iter_mut().for_each(|pool| {
                pool.pending.remove(&key.name);
            });
            return Ok(Requeue::No);
        }
        let about = ObjectReference { uid: Some(key.name.clone()), ..node.object_ref(&()) };
        let chosen: Option<Vec<String>> = {
            let mut pools = self.pools.lock();
            pools.iter_mut().map(|pool| pool.allocate(&key.name).map(|cidr| cidr.to_string())).collect()
        };
        let Some(chosen) = chosen else {
            self.ctx.normal(&about, "CIDRNotAvailable", format!("Node {} status is now: CIDRNotAvailable", key.name));
            anyhow::bail!(
                "failed to allocate cidr: CIDR allocation failed; there are no remaining CIDRs left to allocate in the accepted range"
            );
        };
        let patch = json!({"spec": {"podCIDR": chosen[0], "podCIDRs": chosen}});
        let patched = self.ctx.cluster::<Node>().patch(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        match patched {
            Ok(_) => {
                tracing::info!(node = key.name, podCIDRs = chosen.join(","), "Set node PodCIDR");
                Ok(Requeue::No)
            }
            Err(error) if api_error::is_not_found(&error) => Ok(Requeue::No),
            Err(error) => {
                self.ctx.normal(&about, "CIDRAssignmentFailed", format!("Node {} status is now: CIDRAssignmentFailed", key.name));
                Err(error.into())
            }
        }
    }
}

/// Equal parts of one range.
struct Pool {
    range: IpNet,
    /// Prefix length of a part.
    bits: u8,
    /// How many parts there are.
    count: u64,
    used: HashSet<u64>,
    /// Given to nodes whose update has not come back yet: a retry gets the same one.
    pending: HashMap<String, u64>,
    /// Where to look first: a part that was just freed is used last.
    next: u64,
}

impl Pool {
    fn new(range: IpNet, bits: u8) -> anyhow::Result<Pool> {
        let prefix = range.prefix_len();
        anyhow::ensure!(
            bits >= prefix && bits <= range.max_prefix_len(),
            "node CIDR mask size {bits} does not fit into cluster CIDR {range}"
        );
        let spread = bits - prefix;
        anyhow::ensure!(
            matches!(range, IpNet::V4(_)) || spread <= MAX_BITS,
            "New CIDR set failed; the node CIDR size is too big: cluster CIDR {range}, node mask {bits}"
        );
        Ok(Pool { range: range.trunc(), bits, count: 1 << spread, used: HashSet::new(), pending: HashMap::new(), next: 0 })
    }

    fn host_bits(&self) -> u32 {
        u32::from(self.range.max_prefix_len() - self.bits)
    }

    fn part(&self, index: u64) -> IpNet {
        let offset = u128::from(index).checked_shl(self.host_bits()).unwrap_or(0);
        match self.range {
            IpNet::V4(range) => {
                let address = u32::from(range.network()).wrapping_add(u32::try_from(offset).unwrap_or(0));
                Ipv4Net::new_assert(Ipv4Addr::from(address), self.bits).into()
            }
            IpNet::V6(range) => {
                Ipv6Net::new_assert(Ipv6Addr::from(u128::from(range.network()).wrapping_add(offset)), self.bits).into()
            }
        }
    }

    /// The parts that a network touches.
    fn touched(&self, cidr: &IpNet) -> Option<std::ops::RangeInclusive<u64>> {
        if std::mem::discriminant(cidr) != std::mem::discriminant(&self.range) {
            return None;
        }
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let (first, last) = (number(self.range.network()), number(self.range.broadcast()));
        let (from, to) = (number(cidr.network()).max(first), number(cidr.broadcast()).min(last));
        if from > to {
            return None;
        }
        let index = |at: u128| u64::try_from((at - first).checked_shr(self.host_bits()).unwrap_or(0)).unwrap_or(u64::MAX);
        Some(index(from)..=index(to))
    }

    fn occupy(&mut self, cidr: &IpNet) {
        if let Some(parts) = self.touched(cidr) {
            self.used.extend(parts);
        }
    }

    fn release(&mut self, cidr: &IpNet) {
        if let Some(parts) = self.touched(cidr) {
            for part in parts {
                self.used.remove(&part);
            }
        }
    }

    fn allocate(&mut self, node: &str) -> Option<IpNet> {
        if let Some(&index) = self.pending.get(node) {
            return Some(self.part(index));
        }
        let index = (0..self.count).map(|step| (self.next + step) % self.count).find(|index| !self.used.contains(index))?;
        self.next = (index + 1) % self.count;
        self.used.insert(index);
        self.pending.insert(node.to_owned(), index);
        Some(self.part(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn nodes_get_distinct_parts_and_freed_ones_come_last() {
        let mut pool = Pool::new(net("10.244.0.0/22"), 24).unwrap();
        pool.occupy(&net("10.244.1.0/24"));
        assert_eq!(pool.allocate("a"), Some(net("10.244.0.0/24")));
        assert_eq!(pool.allocate("a"), Some(net("10.244.0.0/24")), "a retry gets the same");
        pool.release(&net("10.244.0.0/24"));
        assert_eq!(pool.allocate("b"), Some(net("10.244.2.0/24")));
        assert_eq!(pool.allocate("c"), Some(net("10.244.3.0/24")));
        assert_eq!(pool.allocate("d"), Some(net("10.244.0.0/24")));
        assert_eq!(pool.allocate("e"), None);
    }

    #[test]
    fn service_ranges_inside_are_left_out() {
        let mut pool = Pool::new(net("10.0.0.0/8"), 24).unwrap();
        pool.occupy(&net("10.0.0.0/16"));
        assert_eq!(pool.allocate("a"), Some(net("10.1.0.0/24")));
        pool.occupy(&net("192.168.0.0/16"));
        pool.occupy(&net("fd00::/8"));
        assert_eq!(pool.used.len(), 257);
    }

    #[test]
    fn version_six_ranges_work_and_absurd_ones_are_refused() {
        let mut pool = Pool::new(net("fd00:10:244::/56"), 64).unwrap();
        assert_eq!(pool.allocate("a"), Some(net("fd00:10:244::/64")));
        assert_eq!(pool.allocate("b"), Some(net("fd00:10:244:1::/64")));
        assert!(Pool::new(net("fd00::/16"), 64).is_err());
        assert!(Pool::new(net("10.0.0.0/24"), 16).is_err());
    }
}
