//! What is measured and when it is too little. Pure.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::KubeletConfiguration;
use crate::pod::quantity;

/// Something that runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Signal {
    Memory,
    /// What the pods together may have of their common cgroup.
    AllocatableMemory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    Pids,
}

impl Signal {
    /// By its name in the configuration; `None` for those that mean nothing more here (`containerfs.*`).
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::Memory,
            "nodefs.available" => Self::NodeFs,
            "nodefs.inodesFree" => Self::NodeFsInodes,
            "imagefs.available" => Self::ImageFs,
            "imagefs.inodesFree" => Self::ImageFsInodes,
            "pid.available" => Self::Pids,
            _ => return None,
        })
    }

    /// Its name, as metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::AllocatableMemory => "allocatableMemory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeFsInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageFsInodes => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// The resource, as events name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::AllocatableMemory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// The node's condition.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory | Self::AllocatableMemory => "MemoryPressure",
            Self::Pids => "PIDPressure",
            _ => "DiskPressure",
        }
    }

    /// Whether removing files helps.
    pub fn is_disk(self) -> bool {
        self.condition() == "DiskPressure"
    }
}

/// When a signal is too low.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Threshold {
    /// Which.
    pub signal: Signal,
    /// As configured: an amount or a percentage.
    pub text: String,
    /// How long it may be so; zero for hard ones.
    pub grace: Duration,
    /// So much above the threshold once it was met, before it counts as over; empty for nothing.
    pub minimum_reclaim: String,
}

/// Available and capacity by signal.
#[derive(Clone, Debug, Default)]
pub struct Readings(HashMap<Signal, (i64, i64)>);

impl Readings {
    /// Notes a reading.
    pub fn set(&mut self, signal: Signal, available: i64, capacity: i64) {
        self.0.insert(signal, (available, capacity));
    }

    /// Available and capacity.
    pub fn get(&self, signal: Signal) -> Option<(i64, i64)> {
        self.0.get(&signal).copied()
    }
}

impl Threshold {
    /// The amount below which it is met.
    pub fn amount(&self, capacity: i64) -> i64 {
        amount(&self.text, capacity)
    }

    /// Whether there is too little; `again`: it was met before and is over only with the minimum reclaimed.
    pub fn is_met(&self, readings: &Readings, again: bool) -> bool {
        readings.get(self.signal).is_some_and(|(available, capacity)| {
            let reclaim = if again && !self.minimum_reclaim.is_empty() { amount(&self.minimum_reclaim, capacity) } else { 0 };
            available < self.amount(capacity) + reclaim
        })
    }
}

fn amount(text: &str, capacity: i64) -> i64 {
    match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_or(0, |percent| (capacity as f64 * percent / 100.0) as i64),
        None => quantity::parse_value(text).unwrap_or(0),
    }
}

/// The thresholds of the configuration, hard ones first.
pub fn thresholds(config: &KubeletConfiguration) -> Vec<Threshold> {
    let hard = config.eviction_hard.iter().map(|(name, text)| (name, text, Duration::ZERO));
    let soft = config.eviction_soft.iter().map(|(name, text)| {
        let grace = config.eviction_soft_grace_period.get(name).and_then(|text| component::duration::parse(text).ok());
        (name, text, grace.unwrap_or(Duration::from_secs(60)).max(Duration::from_secs(1)))
    });
    let mut out: Vec<Threshold> = hard
        .chain(soft)
        .filter(|(_, text, _)| text.as_str() != "0" && text.as_str() != "0%" && text.as_str() != "100%")
        .filter_map(|(name, text, grace)| {
            let minimum_reclaim = config.eviction_minimum_reclaim.get(name).cloned().unwrap_or_default();
            Some(Threshold { signal: Signal::by_name(name)?, text: text.clone(), grace, minimum_reclaim })
        })
        .collect();
    // Upstream: AddAllocatableThresholds. What binds the node binds the pods' common cgroup in the same way.
    if config.enforce_node_allocatable.iter().any(|what| what == "pods") {
        let of_node = out.iter().find(|threshold| threshold.signal == Signal::Memory && threshold.grace.is_zero());
        let of_pods = of_node.map(|threshold| Threshold { signal: Signal::AllocatableMemory, ..threshold.clone() });
        out.extend(of_pods);
    }
    out
}

/// What makes the settings unusable. Upstream: ParseThresholdConfig
///
/// # Errors
/// Names the setting.
pub fn validate(config: &KubeletConfiguration) -> Result<(), String> {
    const NAMES: [&str; 9] = [
        "memory.available",
        "nodefs.available",
        "nodefs.inodesFree",
        "imagefs.available",
        "imagefs.inodesFree",
        "containerfs.available",
        "containerfs.inodesFree",
        "pid.available",
        "allocatableMemory.available",
    ];
    for (name, text) in config.eviction_hard.iter().chain(&config.eviction_soft) {
        if !NAMES.contains(&name.as_str()) {
            return Err(format!("unsupported eviction signal {name}"));
        }
        let valid = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().is_ok_and(|percent| (0.0..=100.0).contains(&percent)),
            None => quantity::parse_value(text).is_some_and(|amount| amount >= 0),
        };
        if !valid {
            return Err(format!("eviction threshold {name} must be a quantity or a percentage between 0% and 100%: {text:?}"));
        }
    }
    for name in config.eviction_soft.keys() {
        if !config.eviction_soft_grace_period.contains_key(name) {
            return Err(format!("grace period must be specified for the soft eviction threshold {name}"));
        }
    }
    for (name, text) in &config.eviction_minimum_reclaim {
        if text.strip_suffix('%').is_none() && quantity::parse_value(text).is_none_or(|amount| amount < 0) {
            return Err(format!("negative or invalid eviction minimum reclaim specified for {name}"));
        }
    }
    Ok(())
}
