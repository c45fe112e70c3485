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

    /// The resource, as events name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// The node's condition.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
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
        match self.text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map_or(0, |percent| (capacity as f64 * percent / 100.0) as i64),
            None => quantity::parse_value(&self.text).unwrap_or(0),
        }
    }

    /// Whether there is too little.
    pub fn is_met(&self, readings: &Readings) -> bool {
        readings.get(self.signal).is_some_and(|(available, capacity)| available < self.amount(capacity))
    }
}

/// The thresholds of the configuration, hard ones first.
pub fn thresholds(config: &KubeletConfiguration) -> Vec<Threshold> {
    let hard = config.eviction_hard.iter().map(|(name, text)| (name, text, Duration::ZERO));
    let soft = config.eviction_soft.iter().map(|(name, text)| {
        let grace = config.eviction_soft_grace_period.get(name).and_then(|text| component::duration::parse(text).ok());
        (name, text, grace.unwrap_or(Duration::from_secs(60)).max(Duration::from_secs(1)))
    });
    hard.chain(soft)
        .filter(|(_, text, _)| text.as_str() != "0" && text.as_str() != "0%")
        .filter_map(|(name, text, grace)| Some(Threshold { signal: Signal::by_name(name)?, text: text.clone(), grace }))
        .collect()
}
