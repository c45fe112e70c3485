//! From the API server's watches to the scheduler's knowledge.
//!
//! Upstream: pkg/scheduler/eventhandlers.go

use std::time::Duration;

use client::informer::{Change, Informer, Object};
use component::tasks::Tasks;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::event::Event;
use crate::object::Named;
use crate::object::device::{DeviceClaim, DeviceClass, Slice};
use crate::object::node::Node;
use crate::object::pod::Pod;
use crate::object::storage::{Capacity, Claim, Class, CsiDriver, CsiNode, Volume};
use crate::object::workload::{Budget, Namespace, ReplicaSet, ReplicationController, Service, StatefulSet};
use crate::stores::Stores;

/// So long devices are waited for.
const DEVICES_PATIENCE: Duration = Duration::from_secs(10);

/// Running watches that have no stores of their own yet to be waited for.
pub struct Watches {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    replication_controllers: Informer<ReplicationController>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    budgets: Informer<Budget>,
    claims: Informer<Claim>,
    volumes: Informer<Volume>,
    classes: Informer<Class>,
    csi_nodes: Informer<CsiNode>,
    csi_drivers: Informer<CsiDriver>,
    capacities: Informer<Capacity>,
    device_claims: Informer<DeviceClaim>,
    device_classes: Informer<DeviceClass>,
    slices: Informer<Slice>,
    stores: Stores,
}

impl Watches {
    /// Starts all watches.
    pub fn start(client: &Client, tasks: &Tasks) -> Self {
        fn all<K: Object + kube::Resource<DynamicType = ()>>(client: &Client, tasks: &Tasks) -> Informer<K> {
            Informer::start(tasks, Api::all(client.clone()), watcher::Config::default(), |_| {})
        }
        // Finished pods hold nothing: they leave the watch.
        let unfinished = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        let mut this = Self {
            pods: Informer::start(tasks, Api::all(client.clone()), unfinished, |_| {}),
            nodes: all(client, tasks),
            namespaces: all(client, tasks),
            services: all(client, tasks),
            replication_controllers: all(client, tasks),
            replica_sets: all(client, tasks),
            stateful_sets: all(client, tasks),
            budgets: all(client, tasks),
            claims: all(client, tasks),
            volumes: all(client, tasks),
            classes: all(client, tasks),
            csi_nodes: all(client, tasks),
            csi_drivers: all(client, tasks),
            capacities: all(client, tasks),
            device_claims: all(client, tasks),
            device_classes: all(client, tasks),
            slices: all(client, tasks),
            stores: Stores::default(),
        };
        this.stores = this.collect();
        this
    }

    /// The stores that plugins read.
    pub fn stores(&self) -> Stores {
        self.stores.clone()
    }

    fn collect(&self) -> Stores {
        Stores {
            namespaces: self.namespaces.store().clone(),
            services: self.services.store().clone(),
            replication_controllers: self.replication_controllers.store().clone(),
            replica_sets: self.replica_sets.store().clone(),
            stateful_sets: self.stateful_sets.store().clone(),
            budgets: self.budgets.store().clone(),
            claims: self.claims.store().clone(),
            volumes: self.volumes.store().clone(),
            classes: self.classes.store().clone(),
            csi_nodes: self.csi_nodes.store().clone(),
            csi_drivers: self.csi_drivers.store().clone(),
            capacities: self.capacities.store().clone(),
            device_claims: self.device_claims.store().clone(),
            device_classes: self.device_classes.store().clone(),
            slices: self.slices.store().clone(),
            ..Stores::default()
        }
    }

    /// Waits until everything is known once: deciding earlier would be deciding blind.
    pub async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.services.synced().await;
        self.replication_controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.budgets.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
        self.csi_drivers.synced().await;
        self.capacities.synced().await;
        let devices = async {
            self.device_claims.synced().await;
            self.device_classes.synced().await;
            self.slices.synced().await;
        };
        // An API server may leave that group out: then no claim is known, and only pods that name one wait.
        if tokio::time::timeout(DEVICES_PATIENCE, devices).await.is_err() {
            tracing::warn!("Devices are not known: resource.k8s.io/v1 cannot be watched");
        }
    }

    /// Whether everything is known once.
    pub fn is_synced(&self) -> bool {
        self.nodes.is_synced() && self.pods.is_synced() && self.claims.is_synced() && self.volumes.is_synced()
    }

    /// Tells the scheduler of every change.
    pub fn feed(&self, scheduler: &crate::scheduler::Scheduler) {
        let to = scheduler.clone();
        self.nodes.on_change(move |change| match change {
            Change::Added(node) => to.upsert_node(None, node),
            Change::Updated(old, node) => to.upsert_node(Some(old), node),
            Change::Deleted(node) => to.remove_node(node.name()),
        });
        let to = scheduler.clone();
        self.pods.on_change(move |change| match change {
            Change::Added(pod) => to.upsert_pod(None, pod),
            Change::Updated(old, pod) => to.upsert_pod(Some(old), pod),
            Change::Deleted(pod) => to.remove_pod(pod),
        });
        fn tell<K: Object>(informer: &Informer<K>, scheduler: &crate::scheduler::Scheduler, event: Event) {
            let to = scheduler.clone();
            informer.on_change(move |_| to.on_event(&event));
        }
        tell(&self.claims, scheduler, Event::Storage);
        tell(&self.volumes, scheduler, Event::Storage);
        tell(&self.classes, scheduler, Event::Storage);
        tell(&self.csi_nodes, scheduler, Event::Storage);
        tell(&self.csi_drivers, scheduler, Event::Storage);
        tell(&self.capacities, scheduler, Event::Storage);
        tell(&self.device_classes, scheduler, Event::Devices);
        tell(&self.slices, scheduler, Event::Devices);
        let (to, assumed) = (scheduler.clone(), self.stores.assumed_devices.clone());
        self.device_claims.on_change(move |change| {
            let claim = change.object();
            if matches!(change, Change::Deleted(_)) || claim.allocation.is_some() {
                assumed.forget(claim.uid());
            }
            to.on_event(&Event::Devices);
        });
        tell(&self.namespaces, scheduler, Event::Namespace);
    }
}
