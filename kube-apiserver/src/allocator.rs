//! Addresses and node ports of Services, allocated in etcd itself, so that any number of servers and requests never hand out one twice.
//!
//! An address is an `IPAddress` object (as upstream since 1.33): creating its key is the allocation. Node ports are one bitmap, a
//! `RangeAllocation` below `ranges/servicenodeports` (as upstream), changed by compare-and-swap.
//! What a crash leaves behind is found by [`repair`].

mod address;
mod port;
pub mod repair;

use std::net::IpAddr;

use api::field::{Errors, Path};
use api::status::Status;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::call::Call;
use crate::config::Config;
use crate::metadata;
use crate::server::Server;
use crate::table::Served;

/// The ranges to allocate from.
pub struct Allocators {
    cidrs: Vec<IpNet>,
    ports: (u16, u16),
    /// Changes of the ports' bitmap by this server, one after the other: they would only fail each other's compare-and-swap.
    port_turn: tokio::sync::Mutex<()>,
}

/// What was allocated for a request that is not stored yet.
#[must_use]
pub struct Reserved {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Reserved {
    fn none() -> Self {
        Self { addresses: Vec::new(), ports: Vec::new() }
    }

    /// The object was stored.
    pub fn keep(self) {}

    /// The object was not stored: gives back what it got.
    pub async fn release(self, server: &Server, dry_run: bool) {
        if dry_run {
            return;
        }
        for address in self.addresses {
            address::release(server, address).await;
        }
        port::release(server, &self.ports).await;
    }
}

fn is_service(served: &Served) -> bool {
    served.group().is_empty() && served.plural() == "services"
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

impl Allocators {
    /// Of the flags.
    ///
    /// # Errors
    /// No range of addresses.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        anyhow::ensure!(!config.service_cidrs.is_empty(), "--service-cluster-ip-range must be specified");
        Ok(Self { cidrs: config.service_cidrs.clone(), ports: config.node_ports, port_turn: tokio::sync::Mutex::default() })
    }

    /// The ranges of addresses, the primary one first.
    pub fn cidrs(&self) -> &[IpNet] {
        &self.cidrs
    }

    /// The first address of the primary range: the `kubernetes` Service's.
    pub fn first_address(&self) -> IpAddr {
        self.cidrs[0].hosts().next().unwrap_or_else(|| self.cidrs[0].addr())
    }

    /// Fills in what a new Service gets.
    ///
    /// # Errors
    /// 422 for addresses and ports that cannot be had, 500 when a range is used up.
    pub async fn on_create(&self, call: &Call, served: &Served, object: &mut Value, dry_run: bool) -> Result<Reserved, Status> {
        if !is_service(served) {
            return Ok(Reserved::none());
        }
        self.allocate(call, served, object, None, dry_run).await
    }

    /// Fills in what a changed Service gets in addition.
    ///
    /// # Errors
    /// As [`Allocators::on_create`].
    pub async fn on_change(
        &self,
        call: &Call,
        served: &Served,
        old: &Value,
        object: &mut Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        if is_service(served) && call.info.subresource.is_empty() {
            // What a lost race leaves allocated is found by the repair loop.
            self.allocate(call, served, object, Some(old), dry_run).await?.keep();
        }
        Ok(())
    }

    /// Gives back what a changed or removed Service no longer has.
    pub async fn after_change(&self, call: &Call, served: &Served, old: &Value, new: Option<&Value>) {
        if !is_service(served) {
            return;
        }
        let server = &call.server;
        let kept = new.map(addresses_of).unwrap_or_default();
        for address in addresses_of(old).into_iter().filter(|address| !kept.contains(address)) {
            address::release(server, address).await;
        }
        let kept = new.map(ports_of).unwrap_or_default();
        let gone: Vec<u16> = ports_of(old).into_iter().filter(|port| !kept.contains(port)).collect();
        port::release(server, &gone).await;
    }

    async fn allocate(
        &self,
        call: &Call,
        served: &Served,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Reserved, Status> {
        let families: Vec<&str> = self.cidrs.iter().map(|cidr| family(cidr.addr())).collect();
        registry::core::service::default_families(object, &families);
        let mut reserved = Reserved::none();
        let result = async {
            self.allocate_addresses(call, object, old, dry_run, &mut reserved).await?;
            self.allocate_ports(call, object, old, dry_run, &mut reserved).await
        };
        match result.await {
            Ok(()) => Ok(reserved),
            Err(errors) => {
                reserved.release(&call.server, dry_run).await;
                Err(errors.status(served, object))
            }
        }
    }

    async fn allocate_addresses(
        &self,
        call: &Call,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        reserved: &mut Reserved,
    ) -> Result<(), Failure> {
        let kind = object.pointer("/spec/type").and_then(Value::as_str).unwrap_or("");
        if kind == "ExternalName" || object.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None") {
            return Ok(());
        }
        let mut given: Vec<String> = strings(object, "/spec/clusterIPs");
        if given.is_empty()
            && let Some(ip) = object.pointer("/spec/clusterIP").and_then(Value::as_str).filter(|ip| !ip.is_empty())
        {
            given.push(ip.to_owned());
        }
        if given.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        let before = old.map(addresses_of).unwrap_or_default();
        let owner = (metadata::namespace(object).to_owned(), metadata::name(object).to_owned());
        let families = strings(object, "/spec/ipFamilies");
        let mut out = Vec::new();
        for (index, wanted_family) in families.iter().enumerate() {
            let Some(cidr) = self.cidrs.iter().find(|cidr| family(cidr.addr()) == wanted_family) else {
                return Err(Failure::invalid(
                    &Path::new("spec").child("ipFamilies").index(index),
                    wanted_family,
                    "not configured on this cluster",
                ));
            };
            match given.get(index) {
                Some(text) => {
                    // Malformed and foreign addresses are for validation to refuse.
                    let Ok(address) = text.parse::<IpAddr>() else { return Ok(()) };
                    if !before.contains(&address) {
                        address::take(&call.server, *cidr, address, &owner, dry_run).await.map_err(|why| {
                            let shown: Vec<Value> = given.iter().map(|ip| ip.as_str().into()).collect();
                            Failure::invalid_list(
                                &Path::new("spec").child("clusterIPs"),
                                shown,
                                &format!("failed to allocate IP {address}: {why}"),
                            )
                        })?;
                        reserved.addresses.push(address);
                    }
                    out.push(text.clone());
                }
                None => {
                    let address = address::any(&call.server, *cidr, &owner, dry_run)
                        .await
                        .map_err(|why| Failure::Internal(format!("failed to allocate a serviceIP: {why}")))?;
                    reserved.addresses.push(address);
                    out.push(address.to_string());
                }
            }
        }
        if let Some(first) = out.first() {
            object["spec"]["clusterIP"] = first.as_str().into();
            object["spec"]["clusterIPs"] = json!(out);
        }
        Ok(())
    }

    async fn allocate_ports(
        &self,
        call: &Call,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        reserved: &mut Reserved,
    ) -> Result<(), Failure> {
        let spec = &object["spec"];
        let wants = match spec["type"].as_str().unwrap_or("") {
            "NodePort" => true,
            "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
            _ => false,
        };
        let health = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
        let before = old.map(ports_of).unwrap_or_default();
        let mut needed: Vec<port::Need> = Vec::new();
        // (index of the port, its node port): what stands or comes.
        let ports = spec["ports"].as_array().cloned().unwrap_or_default();
        let load_balancer = spec["type"] == "LoadBalancer";
        let mut shared: Vec<(i64, String, usize)> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let key = (&port["protocol"], &port["nodePort"]);
            let twice = ports[..index].iter().any(|other| (&other["protocol"], &other["nodePort"]) == key);
            if old.is_some() && (wants || load_balancer) && twice && key.1.as_u64().is_some_and(|port| port > 0) {
                // Upstream's allocator comes before validation, and has no better class for this.
                let why = format!("duplicate nodePort: {{{} {}}}", key.0.as_str().unwrap_or("TCP"), key.1);
                return Err(Failure::Status(Status::new(500, "", why)));
            }
            let given = port["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
            match given {
                Some(given) if wants || load_balancer => {
                    let again = needed.iter().any(|need| need.port == Some(given));
                    if !before.contains(&given) && !again {
                        needed.push(port::Need { index: Some(index), port: Some(given), same_as: None });
                    }
                }
                None if wants => {
                    // The same port number with another protocol shares its node port.
                    let number = port["port"].as_i64().unwrap_or(0);
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                    let same_as =
                        shared.iter().find(|(have, other, _)| *have == number && *other != protocol).map(|(_, _, at)| *at);
                    shared.push((number, protocol, index));
                    needed.push(port::Need { index: Some(index), port: None, same_as });
                }
                _ => {}
            }
        }
        if health {
            let given = spec["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
            if given.is_none_or(|given| !before.contains(&given)) {
                needed.push(port::Need { index: None, port: given, same_as: None });
            }
        }
        if needed.is_empty() {
            return Ok(());
        }
        let taken = port::take(&call.server, self.ports, &needed, dry_run).await?;
        for (need, port) in needed.iter().zip(&taken) {
            match need.index {
                Some(index) => object["spec"]["ports"][index]["nodePort"] = (*port).into(),
                None => object["spec"]["healthCheckNodePort"] = (*port).into(),
            }
        }
        reserved.ports.extend(taken);
        Ok(())
    }
}

/// Why an allocation failed.
enum Failure {
    Invalid(Errors),
    Internal(String),
    Status(Status),
}

impl Failure {
    fn invalid(path: &Path, value: &str, detail: &str) -> Self {
        let mut errors = Errors::new();
        errors.invalid(path, value, detail);
        Self::Invalid(errors)
    }

    fn invalid_list(path: &Path, value: Vec<Value>, detail: &str) -> Self {
        let mut errors = Errors::new();
        errors.invalid(path, value, detail);
        Self::Invalid(errors)
    }

    fn status(self, served: &Served, object: &Value) -> Status {
        match self {
            Self::Invalid(errors) => {
                Status::invalid(served.group(), &served.resource.names.kind, metadata::name(object), &errors)
            }
            Self::Internal(why) => Status::internal(why),
            Self::Status(status) => status,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn strings(object: &Value, pointer: &str) -> Vec<String> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
}

/// The addresses that a Service holds.
fn addresses_of(service: &Value) -> Vec<IpAddr> {
    let mut texts = strings(service, "/spec/clusterIPs");
    if let Some(ip) = service.pointer("/spec/clusterIP").and_then(Value::as_str).filter(|ip| !texts.iter().any(|have| have == ip))
    {
        texts.push(ip.to_owned());
    }
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The node ports that a Service holds, each once.
fn ports_of(service: &Value) -> Vec<u16> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut out: Vec<u16> = ports
        .iter()
        .map(|port| &port["nodePort"])
        .chain(std::iter::once(&service["spec"]["healthCheckNodePort"]))
        .filter_map(|port| u16::try_from(port.as_u64()?).ok())
        .filter(|port| *port > 0)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}
