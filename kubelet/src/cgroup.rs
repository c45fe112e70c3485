//! The node's cgroup tree: QoS classes and pods, on cgroup v1 and v2, with cgroupfs or systemd names.
//!
//! Upstream: pkg/kubelet/cm

pub mod detail;
pub mod name;
pub mod systemd;
pub mod tree;
pub mod v1;
pub mod v2;
pub mod values;

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::qos::{self, Qos};
use name::{Driver, Name};
use tree::Tree;
use values::Limits;

/// The part of the tree that is the kubelet's.
pub struct Cgroups {
    tree: Tree,
    driver: Driver,
    root: Name,
    /// `--cgroups-per-qos`; without it pods go where the runtime puts them.
    per_qos: bool,
}

impl Cgroups {
    /// The tree mounted at `mount` (`/sys/fs/cgroup`), below `root` (`--cgroup-root`).
    pub fn new(mount: &Path, driver: Driver, root: &str, per_qos: bool) -> Self {
        Self { tree: Tree::detect(mount), driver, root: Name::root(root), per_qos }
    }

    /// Whether the tree is version 2.
    pub fn is_v2(&self) -> bool {
        matches!(self.tree, Tree::V2(_))
    }

    fn kubepods(&self) -> Name {
        self.root.child("kubepods")
    }

    fn of_class(&self, class: Qos) -> Name {
        match class {
            Qos::Guaranteed => self.kubepods(),
            Qos::Burstable => self.kubepods().child("burstable"),
            Qos::BestEffort => self.kubepods().child("besteffort"),
        }
    }

    fn of_pod(&self, class: Qos, uid: &str) -> Name {
        self.of_class(class).child(&format!("pod{uid}"))
    }

    /// What to tell the runtime as the parent of a pod's cgroups; empty where there is none.
    pub fn parent_for_runtime(&self, pod: &Pod) -> String {
        if self.per_qos { self.of_pod(qos::class(pod), crate::pod::uid(pod)).path(self.driver) } else { String::new() }
    }

    /// Makes the class cgroups and bounds them all by `allocatable`.
    ///
    /// # Errors
    /// The tree is not writable.
    pub fn set_up(&self, allocatable: &Limits) -> std::io::Result<()> {
        if !self.per_qos {
            return Ok(());
        }
        self.apply(&self.kubepods(), allocatable)?;
        let least = Limits { cpu_shares: Some(values::MIN_SHARES), ..Default::default() };
        self.apply(&self.of_class(Qos::Burstable), &least)?;
        self.apply(&self.of_class(Qos::BestEffort), &least)
    }

    /// Weighs the burstable class by what its pods request, thousandths of a core.
    ///
    /// # Errors
    /// The tree is not writable.
    pub fn set_burstable_requests(&self, milli_cpu: i64) -> std::io::Result<()> {
        if !self.per_qos {
            return Ok(());
        }
        self.apply(&self.of_class(Qos::Burstable), &Limits { cpu_shares: Some(values::shares(milli_cpu)), ..Default::default() })
    }

    /// Makes a pod's cgroup with its limits; repeating it is fine.
    ///
    /// # Errors
    /// The tree is not writable.
    pub fn ensure_pod(&self, pod: &Pod, limits: &Limits) -> std::io::Result<()> {
        if !self.per_qos {
            return Ok(());
        }
        self.apply(&self.of_pod(qos::class(pod), crate::pod::uid(pod)), limits)
    }

    /// Removes a pod's cgroup, killing what is still in it. Repeating it is fine.
    ///
    /// # Errors
    /// Something in it does not die.
    pub fn remove_pod(&self, uid: &str) -> std::io::Result<()> {
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            self.tree.remove(&self.of_pod(class, uid).path(self.driver))?;
        }
        Ok(())
    }

    /// The uids that have a cgroup.
    pub fn pods(&self) -> Vec<String> {
        let mut out = Vec::new();
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let parent = self.of_class(class);
            for entry in self.tree.children(&parent.path(self.driver)) {
                out.extend(name::pod_uid(&entry, self.driver));
            }
        }
        out.sort();
        out.dedup();
        out
    }

    /// Usage of a pod's cgroup; `None` where it is absent.
    pub fn pod_usage(&self, pod: &Pod) -> Option<tree::Usage> {
        self.tree.usage(&self.of_pod(qos::class(pod), crate::pod::uid(pod)).path(self.driver))
    }

    /// Usage of the whole node.
    pub fn node_usage(&self) -> Option<tree::Usage> {
        self.tree.usage("/")
    }

    /// Usage of all pods together.
    pub fn pods_usage(&self) -> Option<tree::Usage> {
        self.tree.usage(&self.kubepods().path(self.driver))
    }

    /// Path of a pod's cgroup.
    pub fn pod_path(&self, pod: &Pod) -> String {
        self.of_pod(qos::class(pod), crate::pod::uid(pod)).path(self.driver)
    }

    /// Path of a container's or sandbox's cgroup by the runtime's id.
    pub fn container_path(&self, pod: &Pod, id: &str) -> String {
        let leaf = match self.driver {
            Driver::Cgroupfs => id.to_owned(),
            Driver::Systemd => format!("cri-containerd-{id}.scope"),
        };
        format!("{}/{leaf}", self.pod_path(pod))
    }

    /// Usage of a container's cgroup by the runtime's id.
    pub fn container_usage(&self, pod: &Pod, id: &str) -> Option<tree::Usage> {
        self.tree.usage(&self.container_path(pod, id))
    }

    /// The path of all pods' common cgroup.
    pub fn pods_path(&self) -> String {
        self.kubepods().path(self.driver)
    }

    /// Usage of the cgroup at `path`; `None` where it is absent.
    pub fn usage(&self, path: &str) -> Option<tree::Usage> {
        self.tree.usage(path)
    }

    /// The rest of what the kernel tells of the cgroup at `path`.
    pub fn detail(&self, path: &str) -> detail::Detail {
        self.tree.detail(path)
    }

    /// The processes in the cgroup at `path` itself.
    pub fn processes(&self, path: &str) -> Vec<i32> {
        self.tree.processes(path)
    }

    fn apply(&self, name: &Name, limits: &Limits) -> std::io::Result<()> {
        let path = name.path(self.driver);
        if self.driver == Driver::Systemd {
            systemd::ensure_slice(&path, limits);
        }
        self.tree.ensure(&path, limits)
    }
}

/// Where the controllers are mounted. `RK_CGROUP_MOUNT` is for tests.
pub fn mount_point() -> PathBuf {
    std::env::var_os("RK_CGROUP_MOUNT").map_or_else(|| PathBuf::from("/sys/fs/cgroup"), PathBuf::from)
}
