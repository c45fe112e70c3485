//! Gives containers what cannot be shared: processors of their own, and devices of plugins, near each other where that is wanted.
//!
//! Decided once, when the pod is admitted ([`Allocation::admit`]); written to upstream's state files ([`checkpoint`]) before anything starts,
//! so that a later kubelet gives nothing twice; read when a container starts ([`Allocation::of`]); taken back when the pod is cleaned up.
//!
//! Upstream: pkg/kubelet/cm/{cpumanager,devicemanager,topologymanager}

pub mod checkpoint;
pub mod cpu;
pub mod cpuset;
pub mod device;
pub mod machine;
pub mod plugin;
pub mod pod_resources;
pub mod topology;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;

use crate::config::{Config, KubeletConfiguration};
use crate::cri::v1;
use crate::kubelet::{Kubelet, Shared};
use crate::metrics::metrics;
use crate::pod::qos::{self, Qos};
use crate::pod::resources::{Limits, Requests, of_container};
use crate::pod::{self, init_containers, is_sidecar, spec};
use crate::runtime::observed::State as ContainerState;
use crate::worker::admission::Refusal;
use checkpoint::{CpuFile, DeviceData, DeviceEntry, DeviceFile};
use cpuset::CpuSet;
use device::{Devices, Given, Pool};
use machine::Topology;
use plugin::Plugin;
use plugin::v1beta1::ContainerAllocateResponse;
use topology::{Hint, Policy};

/// The managers.
pub struct Allocation {
    settings: Settings,
    cpus: Mutex<cpu::State>,
    pool: Mutex<Pool>,
    plugins: Mutex<HashMap<String, Plugin>>,
    /// One pod is admitted at a time: what one is promised the next must see.
    turn: tokio::sync::Mutex<()>,
}

/// What is decided before start.
#[derive(Clone, Debug, Default)]
struct Settings {
    /// `cpuManagerPolicy: static`.
    cpus: bool,
    options: cpu::Options,
    reserved: CpuSet,
    machine: Topology,
    topology: Policy,
    /// `topologyManagerScope: pod`.
    by_pod: bool,
    cpu_file: PathBuf,
    device_file: PathBuf,
}

/// What a container is given beside what its specification says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Its own processors, or the shared ones; empty where nobody has any.
    pub cpuset: String,
    /// Environment.
    pub envs: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<v1::Mount>,
    /// Devices.
    pub devices: Vec<v1::Device>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Devices by name of the Container Device Interface.
    pub cdi: Vec<String>,
}

/// What a container has, as the pod resources API shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Its own processors.
    pub cpus: CpuSet,
    /// Resource, ids, memory nodes.
    pub devices: Vec<(String, Vec<String>, Vec<usize>)>,
}

/// What the settings make impossible. Upstream: cpumanager.NewManager, validation
///
/// # Errors
/// Names the setting.
pub fn validate(config: &KubeletConfiguration) -> Result<(), String> {
    match config.cpu_manager_policy.as_str() {
        "none" | "" => {}
        "static" => {
            let options = options(config)?;
            let _ = options;
            if reserved_count(config) == 0 && config.reserved_system_cpus.is_empty() {
                return Err("[cpumanager] unable to determine reserved CPU resources for static policy: the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero".into());
            }
        }
        other => return Err(format!("[cpumanager] unknown policy: {other:?}")),
    }
    if !config.reserved_system_cpus.is_empty() && CpuSet::parse(&config.reserved_system_cpus).is_none() {
        return Err(format!("unable to parse reservedSystemCPUs (--reserved-cpus) {}", config.reserved_system_cpus));
    }
    if Policy::by_name(&config.topology_manager_policy).is_none() {
        return Err(format!(
            "topologyManagerPolicy (--topology-manager-policy) {:?} must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]",
            config.topology_manager_policy
        ));
    }
    if !["container", "pod"].contains(&config.topology_manager_scope.as_str()) {
        return Err(format!(
            "topologyManagerScope (--topology-manager-scope) {:?} must be one of: \"container\", or \"pod\"",
            config.topology_manager_scope
        ));
    }
    Ok(())
}

fn options(config: &KubeletConfiguration) -> Result<cpu::Options, String> {
    let map = config.other.get("cpuManagerPolicyOptions").cloned().unwrap_or_default();
    let map = if map.is_null() { Default::default() } else { serde_json::from_value(map).map_err(|error| error.to_string())? };
    cpu::Options::parse(&map)
}

/// Whole processors that the reservations add up to.
fn reserved_count(config: &KubeletConfiguration) -> usize {
    let milli: i64 = [&config.system_reserved, &config.kube_reserved]
        .iter()
        .filter_map(|map| crate::pod::quantity::parse_milli(map.get("cpu")?))
        .sum();
    usize::try_from((milli + 999) / 1000).unwrap_or(0)
}

/// Devices of a resource: the resource, the devices' ids, the NUMA nodes they are near.
pub type Offered = (String, Vec<String>, Vec<usize>);

impl Allocation {
    /// Reads the machine and what an earlier kubelet gave away.
    ///
    /// # Errors
    /// The state is of another policy or machine: a person must decide what becomes of running pods.
    pub fn new(config: &Config) -> Result<Self, String> {
        let own = &config.kubelet;
        let usable = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let machine = Topology::read(std::path::Path::new("/sys"), &CpuSet::parse(&usable).unwrap_or_default());
        let options = options(own)?;
        let reserved = match CpuSet::parse(&own.reserved_system_cpus).filter(|set| !set.is_empty()) {
            Some(set) => set,
            None => cpu::choose(&machine, &machine.all(), reserved_count(own), cpu::Options::default()).unwrap_or_default(),
        };
        let settings = Settings {
            cpus: own.cpu_manager_policy == "static",
            options,
            reserved,
            machine,
            topology: Policy::by_name(&own.topology_manager_policy).unwrap_or_default(),
            by_pod: own.topology_manager_scope == "pod",
            cpu_file: config.root_dir.join("cpu_manager_state"),
            device_file: plugin::directory(config).join("kubelet_internal_checkpoint"),
        };
        let cpus = settings.load_cpus()?;
        let pool = load_devices(&settings.device_file);
        let made = Self {
            settings,
            cpus: Mutex::new(cpus),
            pool: Mutex::new(pool),
            plugins: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        };
        made.save_cpus();
        Ok(made)
    }

    /// Waits until no other pod is being admitted.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Takes a new pod in: gives each container its processors and devices. Only with the [`turn`](Self::turn) in hand.
    ///
    /// # Errors
    /// Something is not to be had; nothing is given then.
    pub async fn admit(&self, kubelet: &Kubelet, pod: &Pod) -> Result<(), Refusal> {
        if !self.wants_any(pod) {
            return Ok(());
        }
        self.sweep(kubelet);
        let began = Instant::now();
        let result = self.give(pod).await;
        metrics().topology_milliseconds.observe(began.elapsed().as_secs_f64() * 1000.0);
        if result.is_err() {
            self.cpus.lock().take_back(pod::uid(pod));
            self.pool.lock().take_back(pod::uid(pod));
        }
        self.save_cpus();
        self.save_devices();
        if result.is_ok() && self.cpus.lock().owned.contains_key(pod::uid(pod)) {
            self.reconcile(kubelet).await;
        }
        result
    }

    /// What a container is started with.
    ///
    /// # Errors
    /// A plugin does not let it start.
    pub async fn of(&self, uid: &str, container: &str) -> Result<Extras, String> {
        let mut out = Extras::default();
        if self.settings.cpus {
            let state = self.cpus.lock();
            let own = state.owned.get(uid).and_then(|containers| containers.get(container));
            out.cpuset = own.unwrap_or(&state.shared).to_string();
        }
        let given: Vec<(String, Given)> = {
            let pool = self.pool.lock();
            let own = pool.given.iter().filter(|((owner, name, _), _)| owner == uid && name == container);
            own.map(|((.., resource), given)| (resource.clone(), given.clone())).collect()
        };
        for (resource, given) in given {
            let plugin = self.plugins.lock().get(&resource).cloned();
            if let Some(plugin) = plugin.filter(|plugin| plugin.pre_start) {
                plugin.pre_start(&given.ids).await?;
            }
            out.add(ContainerAllocateResponse::decode(&*given.answer).unwrap_or_default());
        }
        Ok(out)
    }

    /// Takes back what a pod has.
    pub async fn release(&self, kubelet: &Kubelet, uid: &str) {
        let (cpus, devices) = (self.cpus.lock().take_back(uid), self.pool.lock().take_back(uid));
        if cpus {
            self.save_cpus();
            self.reconcile(kubelet).await;
        }
        if devices {
            self.save_devices();
        }
    }

    /// Capacity and allocatable of plugins' resources.
    pub fn extended(&self) -> BTreeMap<String, (i64, i64)> {
        self.pool.lock().amounts()
    }

    /// What a container has.
    pub fn shown(&self, uid: &str, container: &str) -> Shown {
        let cpus = self.cpus.lock().owned.get(uid).and_then(|own| own.get(container)).cloned().unwrap_or_default();
        let pool = self.pool.lock();
        let own = pool.given.iter().filter(|((owner, name, _), _)| owner == uid && name == container);
        let devices = own.map(|((.., resource), given)| {
            let all = pool.offered.get(resource);
            let nodes: BTreeSet<usize> =
                given.ids.iter().filter_map(|id| all?.get(id)).flat_map(|device| device.nodes.iter().copied()).collect();
            (resource.clone(), given.ids.iter().cloned().collect(), nodes.into_iter().collect())
        });
        Shown { cpus, devices: devices.collect() }
    }

    /// What could be given at all: processors, and healthy devices one by one with their nodes.
    pub fn allocatable(&self) -> (CpuSet, Vec<Offered>) {
        let pool = self.pool.lock();
        let rows = pool.offered.iter().flat_map(|(resource, devices)| {
            let healthy = devices.iter().filter(|(_, device)| device.healthy);
            healthy.map(move |(id, device)| (resource.clone(), vec![id.clone()], device.nodes.iter().copied().collect()))
        });
        (self.settings.machine.all().without(&self.settings.reserved), rows.collect())
    }

    /// Notes a plugin; its registration's number.
    pub fn put_plugin(&self, resource: &str, mut plugin: Plugin) -> u64 {
        let mut plugins = self.plugins.lock();
        plugin.generation = plugins.get(resource).map_or(0, |known| known.generation) + 1;
        let generation = plugin.generation;
        plugins.insert(resource.to_owned(), plugin);
        generation
    }

    /// Notes what a plugin offers.
    pub fn offered(&self, kubelet: &Kubelet, resource: &str, generation: u64, devices: Devices) {
        if self.plugins.lock().get(resource).is_none_or(|plugin| plugin.generation != generation) {
            return;
        }
        self.pool.lock().offered.insert(resource.to_owned(), devices);
        self.save_devices();
        self.tell(kubelet);
    }

    /// A plugin ended: its devices are there, and none is healthy.
    pub fn plugin_gone(&self, kubelet: &Kubelet, resource: &str, generation: u64) {
        {
            let mut plugins = self.plugins.lock();
            if plugins.get(resource).is_none_or(|plugin| plugin.generation != generation) {
                return;
            }
            plugins.remove(resource);
        }
        for device in self.pool.lock().offered.get_mut(resource).into_iter().flat_map(BTreeMap::values_mut) {
            device.healthy = false;
        }
        self.tell(kubelet);
    }

    fn tell(&self, kubelet: &Kubelet) {
        let mut allocatable = kubelet.node.allocatable.write();
        for (resource, (_, healthy)) in self.extended() {
            allocatable.insert(resource, healthy);
        }
        drop(allocatable);
        kubelet.node.status_soon.notify_one();
    }

    fn wants_any(&self, pod: &Pod) -> bool {
        let containers = || init_containers(pod).iter().chain(&spec(pod).containers);
        containers().any(|container| self.cpus_wanted(pod, container) > 0 || !self.devices_wanted(container).is_empty())
    }

    /// Whole processors that a container is to have for itself.
    fn cpus_wanted(&self, pod: &Pod, container: &Container) -> usize {
        if !self.settings.cpus || qos::class(pod) != Qos::Guaranteed {
            return 0;
        }
        match of_container(container, Requests, "cpu").or_else(|| of_container(container, Limits, "cpu")) {
            Some(milli) if milli > 0 && milli % 1000 == 0 => usize::try_from(milli / 1000).unwrap_or(0),
            _ => 0,
        }
    }

    fn devices_wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let pool = self.pool.lock();
        let names = pool.offered.keys().filter_map(|resource| {
            let amount = of_container(container, Limits, resource).filter(|amount| *amount > 0)?;
            Some((resource.clone(), usize::try_from(amount).ok()?))
        });
        names.collect()
    }

    async fn give(&self, pod: &Pod) -> Result<(), Refusal> {
        let nodes: Vec<usize> = self.settings.machine.nodes().into_iter().collect();
        let aligned = self.settings.topology != Policy::None;
        // What init containers had is free again once they ended; sidecars keep theirs.
        let mut reusable_cpus = CpuSet::default();
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let for_pod =
            if aligned && self.settings.by_pod { Some(self.align(pod, None, &reusable_cpus, &reusable, &nodes)?) } else { None };
        let all: Vec<(&Container, bool)> = init_containers(pod)
            .iter()
            .map(|container| (container, !is_sidecar(container)))
            .chain(spec(pod).containers.iter().map(|container| (container, false)))
            .collect();
        for (container, ends) in all {
            let mask = match (&for_pod, aligned) {
                (Some(hint), _) => hint.mask,
                (None, true) => self.align(pod, Some(container), &reusable_cpus, &reusable, &nodes)?.mask,
                (None, false) => u64::MAX,
            };
            let got = self.give_cpus(pod, container, mask, &reusable_cpus)?;
            reusable_cpus = if ends { reusable_cpus.with(&got) } else { reusable_cpus.without(&got) };
            for (resource, count) in self.devices_wanted(container) {
                let free = reusable.entry(resource.clone()).or_default();
                let got = self.give_devices(pod, container, &resource, count, free, mask).await?;
                if ends {
                    free.extend(got);
                } else {
                    free.retain(|id| !got.contains(id));
                }
            }
        }
        Ok(())
    }

    /// The memory nodes for a container, or for the whole pod.
    fn align(
        &self,
        pod: &Pod,
        container: Option<&Container>,
        reusable_cpus: &CpuSet,
        reusable: &BTreeMap<String, BTreeSet<String>>,
        nodes: &[usize],
    ) -> Result<Hint, Refusal> {
        metrics().topology_requests.inc();
        let chosen: Vec<&Container> = match container {
            Some(one) => vec![one],
            None => spec(pod).containers.iter().chain(init_containers(pod).iter().filter(|init| is_sidecar(init))).collect(),
        };
        let mut providers: Vec<Vec<Hint>> = Vec::new();
        let cpus: usize = chosen.iter().map(|container| self.cpus_wanted(pod, container)).sum();
        if cpus > 0 {
            let free = self.cpus.lock().free(&self.settings.reserved).with(reusable_cpus);
            providers.push(cpu::hints(&self.settings.machine, &free, cpus));
        }
        let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
        for (resource, count) in chosen.iter().flat_map(|container| self.devices_wanted(container)) {
            *wanted.entry(resource).or_default() += count;
        }
        let none = BTreeSet::new();
        for (resource, count) in wanted {
            let free = reusable.get(&resource).unwrap_or(&none);
            providers.extend(self.pool.lock().hints(&resource, count, free, nodes));
        }
        match topology::merge(self.settings.topology, nodes, &providers) {
            (hint, true) => Ok(hint),
            (_, false) => {
                metrics().topology_errors.inc();
                let message = "Resources cannot be allocated with Topology locality".to_owned();
                Err(Refusal { reason: "TopologyAffinityError", message })
            }
        }
    }

    fn give_cpus(&self, pod: &Pod, container: &Container, mask: u64, reusable: &CpuSet) -> Result<CpuSet, Refusal> {
        let count = self.cpus_wanted(pod, container);
        if count == 0 {
            return Ok(CpuSet::default());
        }
        metrics().cpu_pinning_requests.inc();
        let refuse = |reason, message| {
            metrics().cpu_pinning_errors.inc();
            Err(Refusal { reason, message })
        };
        let Settings { machine, options, reserved, .. } = &self.settings;
        let threads = machine.threads_per_core();
        if options.full_pcpus_only && !count.is_multiple_of(threads) {
            let message = format!("SMT Alignment Error: requested {count} cpus not multiple cpus per core = {threads}");
            return refuse("SMTAlignmentError", message);
        }
        let mut state = self.cpus.lock();
        let free = state.free(reserved).with(reusable);
        let near: CpuSet = free.0.intersection(&machine.on(mask).0).copied().collect();
        let first: CpuSet = reusable.0.intersection(&free.0).copied().collect();
        // What an init container had, then what is near, then what there is.
        let chosen = [&first, &near, &free].into_iter().find_map(|from| cpu::choose(machine, from, count, *options));
        let Some(chosen) = chosen else {
            let message = format!(
                "Allocate failed due to not enough cpus available to satisfy request: requested={count}, available={}, which is unexpected",
                free.len()
            );
            return refuse("UnexpectedAdmissionError", message);
        };
        state.give(pod::uid(pod), &container.name, chosen.clone());
        Ok(chosen)
    }

    async fn give_devices(
        &self,
        pod: &Pod,
        container: &Container,
        resource: &str,
        count: usize,
        reusable: &BTreeSet<String>,
        mask: u64,
    ) -> Result<BTreeSet<String>, Refusal> {
        let refuse = |why: String| Refusal {
            reason: "UnexpectedAdmissionError",
            message: format!("Allocate failed due to {why}, which is unexpected"),
        };
        let Some(plugin) = self.plugins.lock().get(resource).cloned() else {
            return Err(refuse(format!("no healthy devices present; cannot allocate unhealthy devices {resource}")));
        };
        let (mut chosen, free) = {
            let pool = self.pool.lock();
            (pool.choose(resource, count, reusable, mask).map_err(refuse)?, pool.free(resource, reusable))
        };
        if plugin.prefers {
            let must = reusable.iter().filter(|id| free.contains(*id)).take(count).cloned().collect();
            let preferred = plugin.preferred(&free, &must, count).await;
            if preferred.len() == count && preferred.is_subset(&free) {
                chosen = preferred;
            }
        }
        let began = Instant::now();
        let answer = plugin.allocate(&chosen).await.map_err(refuse)?;
        metrics().device_alloc_seconds.with_label_values(&[resource]).observe(began.elapsed().as_secs_f64());
        let key = (pod::uid(pod).to_owned(), container.name.clone(), resource.to_owned());
        self.pool.lock().given.insert(key, Given { ids: chosen.clone(), answer: answer.encode_to_vec() });
        Ok(chosen)
    }

    /// Takes back what pods have that nobody knows any more: those that went while no kubelet ran.
    fn sweep(&self, kubelet: &Kubelet) {
        if !kubelet.sources_ready() {
            return;
        }
        let gone = |uid: &String| kubelet.workers.get(uid).is_none();
        let mut state = self.cpus.lock();
        let stale: Vec<String> = state.owned.keys().filter(|uid| gone(uid)).cloned().collect();
        for uid in stale {
            state.take_back(&uid);
        }
        drop(state);
        self.pool.lock().given.retain(|(uid, ..), _| !gone(uid));
    }

    /// Moves the running containers without processors of their own to what is shared now.
    async fn reconcile(&self, kubelet: &Kubelet) {
        let (shared, owned) = {
            let state = self.cpus.lock();
            (state.shared.to_string(), state.owned.clone())
        };
        for handle in kubelet.workers.list() {
            let (pod, view) = (handle.request().pod, handle.view());
            for record in view.runtime.containers.iter().filter(|record| record.state == ContainerState::Running) {
                if owned.get(pod::uid(&pod)).is_some_and(|own| own.contains_key(record.name())) {
                    continue;
                }
                let linux = v1::LinuxContainerResources { cpuset_cpus: shared.clone(), ..Default::default() };
                if let Err(status) = kubelet.cri.update_container_resources(&record.id, linux).await {
                    tracing::warn!(pod = pod::log_name(&pod), container = record.name(), err = %status, "Failed to move a container to the shared processors");
                }
            }
        }
    }

    fn save_cpus(&self) {
        let state = self.cpus.lock();
        let exclusive: usize = state.owned.values().flat_map(BTreeMap::values).map(CpuSet::len).sum();
        metrics().cpu_exclusive.set(exclusive as f64);
        metrics().cpu_shared_pool.set(if self.settings.cpus { state.shared.len() as f64 * 1000.0 } else { 0.0 });
        let policy = if self.settings.cpus { "static" } else { "none" };
        checkpoint::save(&self.settings.cpu_file, &CpuFile::of(policy, &state));
    }

    fn save_devices(&self) {
        let pool = self.pool.lock();
        if pool.offered.is_empty() && pool.given.is_empty() {
            return;
        }
        let entries = pool.given.iter().map(|((uid, container, resource), given)| {
            let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for id in &given.ids {
                let device = pool.offered.get(resource).and_then(|devices| devices.get(id));
                let node = device.and_then(|device| device.nodes.first()).map_or("-1".to_owned(), usize::to_string);
                ids.entry(node).or_default().push(id.clone());
            }
            DeviceEntry {
                uid: uid.clone(),
                container: container.clone(),
                resource: resource.clone(),
                ids,
                answer: STANDARD.encode(&given.answer),
            }
        });
        let data = DeviceData {
            pod_device_entries: Some(entries.collect()),
            registered_devices: pool
                .offered
                .iter()
                .map(|(resource, devices)| (resource.clone(), devices.keys().cloned().collect()))
                .collect(),
        };
        checkpoint::save(&self.settings.device_file, &DeviceFile::of(data));
    }
}

impl Extras {
    fn add(&mut self, answer: ContainerAllocateResponse) {
        self.envs.extend(answer.envs);
        self.annotations.extend(answer.annotations);
        self.cdi.extend(answer.cdi_devices.into_iter().map(|device| device.name));
        self.mounts.extend(answer.mounts.into_iter().map(|mount| v1::Mount {
            container_path: mount.container_path,
            host_path: mount.host_path,
            readonly: mount.read_only,
            ..Default::default()
        }));
        for device in answer.devices {
            let made = v1::Device {
                container_path: device.container_path,
                host_path: device.host_path,
                permissions: device.permissions,
            };
            if !self.devices.contains(&made) {
                self.devices.push(made);
            }
        }
    }
}

impl Settings {
    fn load_cpus(&self) -> Result<cpu::State, String> {
        let fresh = cpu::State::new(&self.machine, &self.reserved, self.options);
        let Some(file) = checkpoint::load::<CpuFile>(&self.cpu_file) else { return Ok(fresh) };
        let policy = if self.cpus { "static" } else { "none" };
        let path = self.cpu_file.display();
        if file.policy != policy {
            // Upstream refuses to start here until a person removes the file. With nothing given away there is nothing to lose.
            if file.entries.is_empty() {
                return Ok(fresh);
            }
            return Err(format!(
                "could not restore state from checkpoint: configured policy {policy:?} differs from state checkpoint policy {:?}, please drain this node and delete the CPU manager checkpoint file {path:?} before restarting Kubelet",
                file.policy
            ));
        }
        if !self.cpus {
            return Ok(fresh);
        }
        match file.state() {
            Some(state) if state.fits(&self.machine, &self.reserved, self.options) => Ok(state),
            Some(state) if state.owned.is_empty() => Ok(fresh),
            _ => Err(format!(
                "[cpumanager] the state in {path:?} is damaged or of another set of CPUs; please drain this node and delete the CPU manager checkpoint file before restarting Kubelet"
            )),
        }
    }
}

fn load_devices(path: &std::path::Path) -> Pool {
    let mut pool = Pool::default();
    let Some(file) = checkpoint::load::<DeviceFile>(path) else { return pool };
    if !file.is_whole() {
        tracing::error!(path = %path.display(), "The device manager's checkpoint is damaged; starting without it");
        return pool;
    }
    for entry in file.data.pod_device_entries.into_iter().flatten() {
        let ids = entry.ids.into_values().flatten().collect();
        let answer = STANDARD.decode(entry.answer).unwrap_or_default();
        pool.given.insert((entry.uid, entry.container, entry.resource), Given { ids, answer });
    }
    // Known, and not there before their plugin comes again.
    for resource in file.data.registered_devices.into_keys() {
        pool.offered.insert(resource, Devices::new());
    }
    pool
}

/// Starts the sockets.
pub fn start(kubelet: &Shared) {
    let stop = kubelet.tasks.token();
    let (registration, listing) = (kubelet.clone(), kubelet.clone());
    let token = stop.clone();
    kubelet.tasks.spawn("device-plugins", async move {
        token.run_until_cancelled(plugin::serve(registration)).await;
    });
    kubelet.tasks.spawn("pod-resources", async move {
        stop.run_until_cancelled(pod_resources::serve(listing)).await;
    });
}

#[cfg(test)]
mod tests;
