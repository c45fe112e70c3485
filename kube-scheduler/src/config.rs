//! The scheduler's configuration: `KubeSchedulerConfiguration` v1 and what it means.
//!
//! Upstream: pkg/scheduler/apis/config

pub mod file;
pub mod write;

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

use crate::object::pod::Spread;
use crate::object::selector::{NodeSelector, NodeTerm, Selector};
use crate::plugin::{PLUGINS, Plugin};

/// The name of the only profile where none is configured.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// One profile: pods with its `schedulerName` are placed by it.
pub struct Profile {
    /// The name pods give.
    pub name: String,
    /// Filter plugins in order.
    pub filters: Vec<&'static Plugin>,
    /// Score plugins and their weights.
    pub scores: Vec<(&'static Plugin, i64)>,
    /// Whether pods may preempt others.
    pub preempts: bool,
    /// Percent of nodes to score; 0 for upstream's adaptive choice.
    pub percentage: u32,
    /// Arguments of plugins.
    pub args: Args,
}

impl Profile {
    /// The default profile under a name.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            filters: PLUGINS.into_iter().filter(|plugin| plugin.filter.is_some()).collect(),
            scores: PLUGINS.into_iter().filter(|plugin| plugin.score.is_some()).map(|plugin| (plugin, plugin.weight)).collect(),
            preempts: true,
            percentage: 0,
            args: Args::default(),
        }
    }
}

/// Arguments of plugins.
pub struct Args {
    /// NodeResourcesFit.
    pub fit: FitArgs,
    /// NodeResourcesBalancedAllocation: the resources to balance.
    pub balanced_resources: Vec<String>,
    /// InterPodAffinity.
    pub inter_pod: InterPodArgs,
    /// NodeAffinity.
    pub node_affinity: NodeAffinityArgs,
    /// PodTopologySpread.
    pub spread: SpreadArgs,
    /// DefaultPreemption: percent of nodes to look at, and at least how many.
    pub preemption: (u32, u32),
    /// VolumeBinding: how long to wait for volumes.
    pub bind_timeout: Duration,
}

/// Of NodeResourcesFit.
pub struct FitArgs {
    /// How to score.
    pub strategy: ScoringStrategy,
    /// Over which resources, with weights.
    pub resources: Vec<(String, i64)>,
    /// Extended resources that do not count.
    pub ignored: Vec<String>,
    /// Groups of extended resources that do not count.
    pub ignored_groups: Vec<String>,
}

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoringStrategy {
    /// Emptier is better.
    LeastAllocated,
    /// Fuller is better.
    MostAllocated,
    /// As this function says.
    RequestedToCapacityRatio(Vec<Shape>),
}

/// A point of a function: percent used, score of 0…10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Percent.
    pub utilization: i64,
    /// Score.
    pub score: i64,
}

/// Of InterPodAffinity.
pub struct InterPodArgs {
    /// What a required term of a pod already there counts for scoring.
    pub hard_weight: i64,
    /// Whether preferred terms of pods already there do not count for pods without any.
    pub ignore_preferred_of_existing: bool,
}

/// Of NodeAffinity: what all pods of the profile want besides their own.
#[derive(Default)]
pub struct NodeAffinityArgs {
    /// Required.
    pub required: Option<NodeSelector>,
    /// Preferred.
    pub preferred: Vec<(i64, NodeTerm)>,
    /// As configured.
    pub written: Option<core::NodeAffinity>,
}

/// Of PodTopologySpread.
pub struct SpreadArgs {
    /// Constraints of pods that have none; their selectors come from services and owners.
    pub defaults: Vec<Spread>,
    /// Whether these are the built-in ones.
    pub system_defaults: bool,
    /// As configured, where they are not.
    pub written: Option<Vec<core::TopologySpreadConstraint>>,
}

impl Default for Args {
    fn default() -> Self {
        let spread = |key: &str, max_skew: i32| Spread {
            max_skew,
            topology_key: key.to_owned(),
            hard: false,
            selector: Selector::Nothing,
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        Self {
            fit: FitArgs {
                strategy: ScoringStrategy::LeastAllocated,
                resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
                ignored: Vec::new(),
                ignored_groups: Vec::new(),
            },
            balanced_resources: vec!["cpu".to_owned(), "memory".to_owned()],
            inter_pod: InterPodArgs { hard_weight: 1, ignore_preferred_of_existing: false },
            node_affinity: NodeAffinityArgs::default(),
            spread: SpreadArgs {
                defaults: vec![spread("kubernetes.io/hostname", 3), spread("topology.kubernetes.io/zone", 5)],
                system_defaults: true,
                written: None,
            },
            preemption: (10, 100),
            bind_timeout: Duration::from_secs(600),
        }
    }
}
