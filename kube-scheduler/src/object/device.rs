//! Devices: what nodes have (ResourceSlices), what pods ask for (ResourceClaims), and what kinds there are (DeviceClasses).
//!
//! Upstream: api/resource/v1

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use k8s_openapi::api::{core::v1 as core, resource::v1 as resource};
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::cel::{Semver, Value};
use crate::object::resources::Amount;
use crate::object::selector::NodeSelector;
use crate::object::{Meta, stands_for};

/// A ResourceSlice: some devices of a pool.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireSlice")]
pub struct Slice {
    /// Name.
    pub metadata: ObjectMeta,
    /// Whose devices they are.
    pub driver: String,
    /// The pool's name.
    pub pool: String,
    /// Slices of older generations do not count.
    pub generation: i64,
    /// How many slices the pool has in this generation.
    pub count: i64,
    /// Which nodes reach the devices; `None` where each device says so.
    pub reach: Option<Reach>,
    /// The devices.
    pub devices: Vec<Device>,
    /// What devices of the pool share: by set and counter.
    pub counters: Counters,
}

/// Amounts by counter set and counter.
pub type Counters = BTreeMap<(String, String), i64>;

/// Which nodes reach a device.
#[derive(Clone, Debug, Default)]
pub enum Reach {
    /// One.
    Node(String),
    /// Those that match; compiled, and as it was written.
    Some(NodeSelector, Arc<core::NodeSelector>),
    /// All.
    #[default]
    All,
}

/// A device.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Its name in the pool.
    pub name: String,
    /// Which nodes reach it, where the slice leaves that to it.
    pub reach: Option<Reach>,
    /// What selectors see as `device`.
    pub variable: Option<Value>,
    /// Attributes by their full name, `domain/name`.
    pub attributes: BTreeMap<String, Value>,
    /// Why it should not be used.
    pub taints: Vec<Taint>,
    /// What it takes of what the pool's devices share.
    pub consumes: Counters,
}

/// A device's taint.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Taint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    effect: String,
}

/// A toleration of device taints.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Tolerance {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    operator: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    effect: Option<String>,
}

impl Taint {
    /// Whether it keeps the device from being allocated.
    pub fn forbids(&self, tolerations: &[Tolerance]) -> bool {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let tolerated = tolerations.iter().any(|one| {
            given(&one.effect).is_none_or(|effect| effect == self.effect)
                && given(&one.key).is_none_or(|key| key == self.key)
                && (one.operator.as_deref() == Some("Exists") || given(&one.value) == given(&self.value))
        });
        matches!(self.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerated
    }
}

/// A ResourceClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireClaim")]
pub struct DeviceClaim {
    /// Name.
    pub metadata: ObjectMeta,
    /// What it asks for.
    pub requests: Vec<Request>,
    /// What must hold for the devices together.
    pub constraints: Vec<Constraint>,
    /// Settings for drivers, as written.
    pub config: Vec<Json>,
    /// What it has.
    pub allocation: Option<Arc<Allocation>>,
    /// Uids of the pods it is reserved for.
    pub reserved: Vec<String>,
}

/// A request: the first of these that can be had.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// What will do, best first.
    pub alternatives: Vec<Alternative>,
}

/// Devices of a kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Alternative {
    /// The subrequest's name; "" where the request has only one form.
    pub name: String,
    /// The class.
    pub device_class_name: String,
    selectors: Option<Vec<WireSelector>>,
    allocation_mode: Option<String>,
    count: Option<i64>,
    admin_access: Option<bool>,
    tolerations: Option<Vec<Tolerance>>,
}

impl Alternative {
    /// How many devices; `None` for all there are.
    pub fn count(&self) -> Option<usize> {
        match self.allocation_mode.as_deref() {
            Some("All") => None,
            _ => Some(usize::try_from(self.count.unwrap_or(1)).unwrap_or(1)),
        }
    }

    /// Whether it is to look at devices that others use.
    pub fn admin(&self) -> bool {
        self.admin_access.unwrap_or(false)
    }

    /// CEL expressions that all must hold.
    pub fn selectors(&self) -> impl Iterator<Item = &str> {
        expressions(&self.selectors)
    }

    /// Tolerated taints.
    pub fn tolerations(&self) -> &[Tolerance] {
        self.tolerations.as_deref().unwrap_or(&[])
    }
}

/// What must hold for the devices of some requests together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Constraint {
    requests: Option<Vec<String>>,
    /// They have the same value of this attribute.
    pub match_attribute: Option<String>,
    /// They have different values of this attribute.
    pub distinct_attribute: Option<String>,
}

impl Constraint {
    /// Whether it is about a request; `full` is the name of the subrequest with that of the request before it.
    pub fn concerns(&self, request: &str, full: &str) -> bool {
        let names = self.requests.as_deref().unwrap_or(&[]);
        names.is_empty() || names.iter().any(|name| name == request || name == full)
    }
}

/// What a claim has.
#[derive(Clone, Debug, Default)]
pub struct Allocation {
    /// Driver, pool, device, of those that nobody else may use.
    pub devices: Vec<(String, String, String)>,
    /// Which nodes reach it all; `None` for every node.
    pub nodes: Option<NodeSelector>,
}

impl Allocation {
    /// Reads `status.allocation`.
    pub fn read(json: &Json) -> Self {
        let text = |value: &Json, key: &str| value.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let results = json.pointer("/devices/results").and_then(Json::as_array).into_iter().flatten();
        let exclusive = results.filter(|result| result.get("adminAccess").and_then(Json::as_bool) != Some(true));
        let selector = json.get("nodeSelector").and_then(|value| core::NodeSelector::deserialize(value).ok());
        Self {
            devices: exclusive.map(|result| (text(result, "driver"), text(result, "pool"), text(result, "device"))).collect(),
            nodes: selector.as_ref().map(NodeSelector::compile),
        }
    }
}

/// A DeviceClass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireClass")]
pub struct DeviceClass {
    /// Name.
    pub metadata: ObjectMeta,
    selectors: Option<Vec<WireSelector>>,
    /// Settings for drivers, as written.
    pub config: Vec<Json>,
}

impl DeviceClass {
    /// CEL expressions that all must hold.
    pub fn selectors(&self) -> impl Iterator<Item = &str> {
        expressions(&self.selectors)
    }
}

stands_for!(Slice, resource::ResourceSlice);
stands_for!(DeviceClaim, resource::ResourceClaim);
stands_for!(DeviceClass, resource::DeviceClass);

fn expressions(selectors: &Option<Vec<WireSelector>>) -> impl Iterator<Item = &str> {
    selectors.iter().flatten().filter_map(|selector| selector.cel.as_ref()).map(|cel| cel.expression.as_str())
}

#[derive(Clone, Debug, Default, Deserialize)]
struct WireSelector {
    #[serde(default)]
    cel: Option<WireExpression>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct WireExpression {
    #[serde(default)]
    expression: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSlice {
    metadata: Meta,
    spec: WireSliceSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSliceSpec {
    driver: String,
    pool: WirePool,
    node_name: Option<String>,
    node_selector: Option<core::NodeSelector>,
    all_nodes: Option<bool>,
    devices: Option<Vec<WireDevice>>,
    shared_counters: Option<Vec<WireCounterSet>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WirePool {
    name: String,
    generation: i64,
    resource_slice_count: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireCounterSet {
    name: String,
    counters: BTreeMap<String, WireAmount>,
}

#[derive(Deserialize)]
struct WireAmount {
    value: Amount,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireDevice {
    name: String,
    attributes: Option<BTreeMap<String, WireAttribute>>,
    capacity: Option<BTreeMap<String, WireAmount>>,
    node_name: Option<String>,
    node_selector: Option<core::NodeSelector>,
    all_nodes: Option<bool>,
    taints: Option<Vec<Taint>>,
    consumes_counters: Option<Vec<WireConsumption>>,
    allow_multiple_allocations: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireConsumption {
    counter_set: String,
    counters: BTreeMap<String, WireAmount>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAttribute {
    int: Option<i64>,
    bool: Option<bool>,
    string: Option<String>,
    version: Option<String>,
}

impl WireAttribute {
    fn value(self) -> Option<Value> {
        self.int
            .map(Value::Int)
            .or_else(|| self.bool.map(Value::Bool))
            .or_else(|| self.string.map(|text| Value::from(text.as_str())))
            .or_else(|| self.version.and_then(|text| Semver::parse(&text, false)).map(|version| Value::Semver(Arc::new(version))))
    }
}

fn reach(node: Option<String>, selector: Option<core::NodeSelector>, all: Option<bool>) -> Option<Reach> {
    match (node.filter(|name| !name.is_empty()), selector) {
        (Some(name), _) => Some(Reach::Node(name)),
        (None, Some(selector)) => Some(Reach::Some(NodeSelector::compile(&selector), Arc::new(selector))),
        (None, None) => (all == Some(true)).then_some(Reach::All),
    }
}

/// Splits `domain/name`; names without a domain are the driver's.
fn split<'a>(name: &'a str, driver: &'a str) -> (&'a str, &'a str) {
    name.split_once('/').unwrap_or((driver, name))
}

/// By domain, then by name: how selectors address attributes and capacities.
fn domains(values: impl Iterator<Item = (String, Value)>, driver: &str) -> Value {
    let mut out: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for (name, value) in values {
        let (domain, name) = split(&name, driver);
        out.entry(domain.to_owned()).or_default().insert(name.to_owned(), value);
    }
    Value::Domains(Arc::new(out.into_iter().map(|(domain, map)| (domain, Value::Map(Arc::new(map)))).collect()))
}

fn device(wire: WireDevice, driver: &str) -> Device {
    let attributes = wire.attributes.into_iter().flatten().filter_map(|(name, value)| Some((name, value.value()?)));
    let attributes: Vec<(String, Value)> = attributes.collect();
    let capacity = wire.capacity.into_iter().flatten().map(|(name, amount)| {
        let quantity = amount.value.quantity().unwrap_or_else(Quantity::zero);
        (name, Value::Quantity(Arc::new(quantity)))
    });
    let variable = [
        ("driver", Value::from(driver)),
        ("capacity", domains(capacity, driver)),
        ("attributes", domains(attributes.iter().cloned(), driver)),
        ("allowMultipleAllocations", Value::Bool(wire.allow_multiple_allocations.unwrap_or(false))),
    ];
    let consumed = wire.consumes_counters.into_iter().flatten().flat_map(|set| {
        let name = set.counter_set;
        set.counters.into_iter().map(move |(counter, amount)| ((name.clone(), counter), amount.value.value()))
    });
    Device {
        name: wire.name,
        reach: reach(wire.node_name, wire.node_selector, wire.all_nodes),
        variable: Some(Value::Map(Arc::new(variable.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))),
        attributes: attributes
            .into_iter()
            .map(|(name, value)| {
                let (domain, name) = split(&name, driver);
                (format!("{domain}/{name}"), value)
            })
            .collect(),
        taints: wire.taints.unwrap_or_default(),
        consumes: consumed.collect(),
    }
}

impl From<WireSlice> for Slice {
    fn from(wire: WireSlice) -> Self {
        let spec = wire.spec;
        let driver = spec.driver;
        let counters = spec.shared_counters.into_iter().flatten().flat_map(|set| {
            let name = set.name;
            set.counters.into_iter().map(move |(counter, amount)| ((name.clone(), counter), amount.value.value()))
        });
        Self {
            metadata: wire.metadata.into(),
            pool: spec.pool.name,
            generation: spec.pool.generation,
            count: spec.pool.resource_slice_count,
            reach: reach(spec.node_name, spec.node_selector, spec.all_nodes),
            devices: spec.devices.into_iter().flatten().map(|wire| device(wire, &driver)).collect(),
            counters: counters.collect(),
            driver,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireClaim {
    metadata: Meta,
    spec: WireClaimSpec,
    status: WireClaimStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireClaimSpec {
    devices: WireClaimDevices,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireClaimDevices {
    requests: Option<Vec<WireRequest>>,
    constraints: Option<Vec<Constraint>>,
    config: Option<Vec<Json>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireRequest {
    name: String,
    exactly: Option<Alternative>,
    first_available: Option<Vec<Alternative>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireClaimStatus {
    allocation: Option<Json>,
    reserved_for: Option<Vec<WireConsumer>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireConsumer {
    uid: String,
}

impl From<WireClaim> for DeviceClaim {
    fn from(wire: WireClaim) -> Self {
        let devices = wire.spec.devices;
        let request = |request: WireRequest| Request {
            name: request.name,
            alternatives: request.exactly.into_iter().chain(request.first_available.into_iter().flatten()).collect(),
        };
        Self {
            metadata: wire.metadata.into(),
            requests: devices.requests.into_iter().flatten().map(request).collect(),
            constraints: devices.constraints.unwrap_or_default(),
            config: devices.config.unwrap_or_default(),
            allocation: wire.status.allocation.map(|json| Arc::new(Allocation::read(&json))),
            reserved: wire.status.reserved_for.into_iter().flatten().map(|consumer| consumer.uid).collect(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireClass {
    metadata: Meta,
    spec: WireClassSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireClassSpec {
    selectors: Option<Vec<WireSelector>>,
    config: Option<Vec<Json>>,
}

impl From<WireClass> for DeviceClass {
    fn from(wire: WireClass) -> Self {
        let config = wire.spec.config.unwrap_or_default();
        Self { metadata: wire.metadata.into(), selectors: wire.spec.selectors, config }
    }
}
