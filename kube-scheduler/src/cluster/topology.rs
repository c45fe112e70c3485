//! The values of one node label, numbered.

use std::collections::HashMap;

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::object::Named;

/// The number of nodes without the label.
const NONE: u32 = u32::MAX;

/// A node label, as a number per node.
#[derive(Debug)]
pub struct Topology {
    /// The label.
    pub key: String,
    values: Vec<u32>,
    /// How many distinct values there are.
    pub size: usize,
    /// Every node has the label.
    pub complete: bool,
}

impl Topology {
    pub(super) fn new(key: &str, nodes: &[NodeInfo]) -> Self {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut values = Vec::with_capacity(nodes.len());
        let mut complete = true;
        for info in nodes {
            let value = info.node.as_ref().and_then(|node| node.labels().get(key));
            complete &= value.is_some() || info.node.is_none();
            values.push(value.map_or(NONE, |value| {
                let next = numbers.len() as u32;
                *numbers.entry(value).or_insert(next)
            }));
        }
        Self { key: key.to_owned(), size: numbers.len(), values, complete }
    }

    /// The number of the node's value; `None` where it has no such label.
    pub fn value(&self, idx: NodeIdx) -> Option<usize> {
        self.values.get(idx as usize).filter(|value| **value != NONE).map(|value| *value as usize)
    }
}
