//! The wire form of `KubeSchedulerConfiguration`.
