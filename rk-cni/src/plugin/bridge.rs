//! Plugin type `rk-cni`: a veth pair from the pod to a bridge on the node, addresses, routes, port mappings, bandwidth.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use net::link::{self, Change, Link, Mac, VethEnd};
use net::{NetNs, Socket, address, route, sysctl};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::conf::{Environment, NetConf};
use super::error::{CniError, Code, io};
use super::ipam::{self, Lease, Owner, Store};
use super::result::{CniResult, Interface, Ip, Route, previous_addresses};
use super::{Type, bandwidth, portmap};

pub const TYPE: Type = Type { name: "rk-cni", add, del, check, status, gc };

/// Prefix of the host ends of our veth pairs; what follows is derived from container and interface.
const HOST_PREFIX: &str = "veth";
/// First bytes of the addresses of pods and bridges, locally administered. Upstream: plugins/pkg/utils/hwaddr (0a:58).
const MAC_PREFIX: (u8, u8) = (0x0a, 0x58);

/// What ADD makes, decided before anything is touched.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    host_name: String,
    pod_mac: Mac,
    bridge_mac: Mac,
    /// Gateways with their prefix: the bridge's addresses.
    bridge_addresses: Vec<IpNet>,
    pod_addresses: Vec<IpNet>,
    /// Destination and gateway inside the pod.
    routes: Vec<(IpNet, IpAddr)>,
}

/// The host end of an interface's veth pair: always the same for the same interface, so DEL and GC need no memory.
pub fn host_name(container_id: &str, ifname: &str) -> String {
    let digest = Sha256::digest(format!("{container_id}/{ifname}"));
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("{HOST_PREFIX}{hex}")
}

fn plan(environment: &Environment, conf: &NetConf, leases: &[Lease]) -> Result<Plan, CniError> {
    let Some(main) = leases.first() else {
        return Err(CniError::new(Code::InvalidConfig, "the configuration names no subnet to allocate addresses from"));
    };
    let mac = |ip| Mac::from_ip(MAC_PREFIX.0, MAC_PREFIX.1, ip);
    let gateway_of = |wanted: IpAddr| leases.iter().map(|lease| lease.gateway).find(|gw| gw.is_ipv4() == wanted.is_ipv4());
    let mut routes: Vec<(IpNet, IpAddr)> =
        conf.routes.iter().filter_map(|route| Some((route.dst, route.gw.or_else(|| gateway_of(route.dst.addr()))?))).collect();
    for lease in leases {
        let everywhere = route::everywhere(lease.gateway);
        if !routes.iter().any(|(to, _)| *to == everywhere) {
            routes.push((everywhere, lease.gateway));
        }
    }
    let bridge_addresses = leases.iter().filter_map(|lease| IpNet::new(lease.gateway, lease.address.prefix_len()).ok());
    Ok(Plan {
        host_name: host_name(&environment.container_id, &environment.ifname),
        pod_mac: mac(main.address.addr()),
        bridge_mac: mac(main.gateway),
        bridge_addresses: bridge_addresses.collect(),
        pod_addresses: leases.iter().map(|lease| lease.address).collect(),
        routes,
    })
}

fn owner(environment: &Environment) -> Owner {
    Owner { container_id: environment.container_id.clone(), ifname: environment.ifname.clone() }
}

fn add(environment: &Environment, conf: &NetConf) -> Result<Value, CniError> {
    let pod = NetNs::open(&environment.netns).map_err(io(format!("open netns {:?}", environment.netns)))?;
    let inside = pod.socket().map_err(io("enter the pod's network namespace"))?;
    let outside = Socket::route()?;
    let owner = owner(environment);
    if link::find(&inside, &environment.ifname)?.is_some() {
        let message = format!("the pod's network namespace already has an interface {:?}", environment.ifname);
        return Err(CniError::new(Code::InvalidEnvironment, message));
    }
    // The lock is held only for the choice: devices of different pods are made at the same time.
    let leases = Store::open(&conf.data_dir, &conf.name)?.allocate(&conf.ranges, &owner)?;
    let made = plan(environment, conf, &leases).and_then(|plan| {
        let result = attach(environment, conf, &plan, &leases, &pod, &inside, &outside)?;
        portmap::add(conf, &owner, &plan.pod_addresses)?;
        if let Some(limits) = conf.runtime.bandwidth {
            bandwidth::apply(limits, &outside, &plan.host_name, &inside, &environment.ifname)?;
        }
        Ok(result.to_json(&conf.version))
    });
    if made.is_err() {
        // Undo as far as possible; the error that counts is the first.
        let _ = link::delete(&outside, &host_name(&owner.container_id, &owner.ifname));
        let _ = portmap::del(&conf.data_dir, &owner);
        let _ = Store::open(&conf.data_dir, &conf.name).and_then(|store| store.release(&owner));
    }
    made
}

fn attach(
    environment: &Environment,
    conf: &NetConf,
    plan: &Plan,
    leases: &[Lease],
    pod: &NetNs,
    inside: &Socket,
    outside: &Socket,
) -> Result<CniResult, CniError> {
    let bridge = ensure_bridge(outside, conf, plan)?;
    let mtu = if conf.mtu == 0 { bridge.mtu } else { conf.mtu };
    // A host end of this name can only be the rest of an ADD that was killed.
    link::delete(outside, &plan.host_name)?;
    let near = VethEnd { name: &plan.host_name, mac: None, namespace: None };
    let far = VethEnd { name: &environment.ifname, mac: Some(plan.pod_mac), namespace: Some(pod.as_fd()) };
    link::create_veth(outside, &near, &far, mtu)?;

    let port = link::by_name(outside, &plan.host_name)?;
    link::change(outside, port.index, Change { up: Some(true), master: Some(bridge.index), ..Change::default() })?;
    if conf.hairpin {
        link::set_hairpin(outside, port.index, true)?;
    }
    configure_pod(environment, plan, pod, inside)?;
    Ok(CniResult {
        interfaces: vec![
            Interface {
                name: bridge.name,
                mac: bridge.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                mtu,
                sandbox: String::new(),
            },
            Interface {
                name: port.name,
                mac: port.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                mtu: port.mtu,
                sandbox: String::new(),
            },
            Interface {
                name: environment.ifname.clone(),
                mac: plan.pod_mac.to_string(),
                mtu,
                sandbox: environment.netns.clone(),
            },
        ],
        ips: leases.iter().map(|lease| Ip { interface: 2, address: lease.address, gateway: Some(lease.gateway) }).collect(),
        routes: plan.routes.iter().map(|(dst, gw)| Route { dst: *dst, gw: Some(*gw) }).collect(),
        dns: conf.dns.clone(),
    })
}

fn configure_pod(environment: &Environment, plan: &Plan, pod: &NetNs, inside: &Socket) -> Result<(), CniError> {
    let v6 = plan.pod_addresses.iter().any(|net| net.addr().is_ipv6());
    let name = &environment.ifname;
    pod.run(|| {
        if v6 {
            // Containers often start with IPv6 off in the namespace; and what others advertise must not change a pod's routes.
            let _ = sysctl::ensure("net/ipv6/conf/all/disable_ipv6", "0");
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0");
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
        }
    })
    .map_err(io("enter the pod's network namespace"))?;
    let eth = link::by_name(inside, name)?;
    if let Some(lo) = link::find(inside, "lo")?
        && !lo.up
    {
        link::change(inside, lo.index, Change::up())?;
    }
    for net in &plan.pod_addresses {
        address::add(inside, eth.index, *net)?;
    }
    link::change(inside, eth.index, Change::up())?;
    for (to, gateway) in &plan.routes {
        route::replace(inside, &route::Route::new(*to, eth.index).via(*gateway))?;
    }
    Ok(())
}

/// Makes the bridge as it has to be: present, up, with exactly the gateways as its addresses (a node that was given another
/// pod subnet keeps no address of the old one).
fn ensure_bridge(socket: &Socket, conf: &NetConf, plan: &Plan) -> Result<Link, CniError> {
    let found = match link::find(socket, &conf.bridge)? {
        Some(found) => found,
        None => {
            let mtu = if conf.mtu == 0 { 1500 } else { conf.mtu };
            net::netlink::allow_exists(link::create_bridge(socket, &conf.bridge, Some(plan.bridge_mac), mtu))?;
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{}/accept_dad", conf.bridge), "0");
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{}/accept_ra", conf.bridge), "0");
            link::by_name(socket, &conf.bridge)?
        }
    };
    if found.kind.as_deref() != Some("bridge") {
        return Err(CniError::new(Code::InvalidConfig, format!("{} exists and is not a bridge", conf.bridge)));
    }
    let present: Vec<_> = address::list(socket)?.into_iter().filter(|address| address.link == found.index).collect();
    for wanted in &plan.bridge_addresses {
        if !present.iter().any(|address| address.net == *wanted) {
            address::add(socket, found.index, *wanted)?;
        }
    }
    for stale in present.iter().filter(|address| address.scope == 0 && !plan.bridge_addresses.contains(&address.net)) {
        if plan.bridge_addresses.iter().any(|wanted| wanted.addr().is_ipv4() == stale.net.addr().is_ipv4()) {
            address::delete(socket, found.index, stale.net)?;
        }
    }
    let mac = Some(plan.bridge_mac).filter(|mac| found.mac != Some(*mac));
    if !found.up || mac.is_some() {
        link::change(socket, found.index, Change { up: Some(true), mac, ..Change::default() })?;
    }
    for wanted in &plan.bridge_addresses {
        let setting = if wanted.addr().is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
        sysctl::ensure(setting, "1").map_err(io("turn on forwarding"))?;
    }
    Ok(Link { mac: Some(plan.bridge_mac), up: true, ..found })
}

/// Brings back what somebody removed by hand: the bridge, its addresses, and the ports of pods that have an interface.
/// Returns how many ports were loose.
pub fn heal(conf: &NetConf, owners: &[Owner]) -> Result<usize, CniError> {
    let socket = Socket::route()?;
    let names: Vec<String> = owners.iter().map(|owner| host_name(&owner.container_id, &owner.ifname)).collect();
    let ports: Vec<Link> = link::list(&socket)?.into_iter().filter(|link| names.contains(&link.name)).collect();
    // Without pods there is nothing to connect: the next ADD makes the bridge.
    if ports.is_empty() {
        return Ok(0);
    }
    let gateways: Vec<(IpAddr, u8)> =
        conf.ranges.iter().filter_map(|set| set.first()).map(|range| (ipam::gateway(range), range.subnet.prefix_len())).collect();
    let Some((main, _)) = gateways.first() else { return Ok(0) };
    let plan = Plan {
        host_name: String::new(),
        pod_mac: Mac::from_ip(MAC_PREFIX.0, MAC_PREFIX.1, *main),
        bridge_mac: Mac::from_ip(MAC_PREFIX.0, MAC_PREFIX.1, *main),
        bridge_addresses: gateways.iter().filter_map(|(gateway, prefix)| IpNet::new(*gateway, *prefix).ok()).collect(),
        pod_addresses: Vec::new(),
        routes: Vec::new(),
    };
    let bridge = ensure_bridge(&socket, conf, &plan)?;
    let loose: Vec<&Link> = ports.iter().filter(|port| port.master != Some(bridge.index) || !port.up).collect();
    for port in &loose {
        link::change(&socket, port.index, Change { up: Some(true), master: Some(bridge.index), ..Change::default() })?;
        if conf.hairpin {
            link::set_hairpin(&socket, port.index, true)?;
        }
    }
    Ok(loose.len())
}

fn del(environment: &Environment, conf: &NetConf) -> Result<(), CniError> {
    let owner = owner(environment);
    // Everything is tried, so that one failure leaves as little behind as can be; the first is reported and DEL comes again.
    let mapped = portmap::del(&conf.data_dir, &owner);
    let unlinked = Socket::route().and_then(|socket| link::delete(&socket, &host_name(&owner.container_id, &owner.ifname)));
    let released = if Store::exists(&conf.data_dir, &conf.name) && unlinked.is_ok() {
        Store::open(&conf.data_dir, &conf.name).and_then(|store| store.release(&owner)).map(drop)
    } else {
        Ok(())
    };
    mapped.and(unlinked.map_err(CniError::from)).and(released)
}

fn check(environment: &Environment, conf: &NetConf) -> Result<(), CniError> {
    let drifted = |message: String| Err(CniError::new(Code::Drifted, message));
    let Some(previous) = &conf.prev_result else {
        return Err(CniError::new(Code::InvalidConfig, "required prevResult missing"));
    };
    let owner = owner(environment);
    let reserved = Store::open(&conf.data_dir, &conf.name)?.reservations()?;
    let pod = NetNs::open(&environment.netns).map_err(io(format!("open netns {:?}", environment.netns)))?;
    let inside = pod.socket().map_err(io("enter the pod's network namespace"))?;
    let outside = Socket::route()?;
    let Some(eth) = link::find(&inside, &environment.ifname)? else {
        return drifted(format!("interface {} is missing in the pod", environment.ifname));
    };
    let present = address::list(&inside)?;
    for wanted in previous_addresses(previous) {
        if reserved.get(&wanted.addr()) != Some(&owner) {
            return drifted(format!("address {} is not reserved for this container", wanted.addr()));
        }
        if !present.iter().any(|address| address.link == eth.index && address.net == wanted) {
            return drifted(format!("address {wanted} is missing on {}", environment.ifname));
        }
    }
    let routes = route::list(&inside)?;
    for set in &conf.ranges {
        let Some(range) = set.first() else { continue };
        let everywhere = route::everywhere(range.subnet.addr());
        if !routes.iter().any(|route| route.to == everywhere && route.via == Some(ipam::gateway(range))) {
            return drifted(format!("the default route via {} is missing in the pod", ipam::gateway(range)));
        }
    }
    let name = host_name(&owner.container_id, &owner.ifname);
    let bridge = link::find(&outside, &conf.bridge)?;
    match link::find(&outside, &name)? {
        Some(port) if port.up && port.master.is_some() && port.master == bridge.as_ref().map(|bridge| bridge.index) => Ok(()),
        Some(_) => drifted(format!("{name} is not an active port of {}", conf.bridge)),
        None => drifted(format!("{name}, the host end of the pod's interface, is missing")),
    }
}

fn status(conf: &NetConf) -> Result<(), CniError> {
    if conf.ranges.is_empty() {
        return Err(CniError::new(Code::InvalidConfig, "the configuration names no subnet to allocate addresses from"));
    }
    let unavailable = |what: String| CniError::new(Code::NotAvailable, what);
    Store::open(&conf.data_dir, &conf.name).map_err(|error| unavailable(error.message))?;
    Socket::route().map_err(|error| unavailable(error.to_string()))?;
    Ok(())
}

/// Removes whatever belongs to no valid attachment: addresses, port mappings, host ends of veth pairs.
fn gc(conf: &NetConf) -> Result<(), CniError> {
    let Some(valid) = &conf.valid_attachments else {
        return Err(CniError::new(Code::InvalidConfig, "required cni.dev/valid-attachments missing"));
    };
    let alive = |owner: &Owner| valid.iter().any(|a| a.container_id == owner.container_id && a.ifname == owner.ifname);
    let socket = Socket::route()?;
    if Store::exists(&conf.data_dir, &conf.name) {
        let store = Store::open(&conf.data_dir, &conf.name)?;
        for owner in store.reservations()?.into_values().filter(|owner| !alive(owner)) {
            link::delete(&socket, &host_name(&owner.container_id, &owner.ifname))?;
            portmap::del(&conf.data_dir, &owner)?;
            store.release(&owner)?;
        }
    }
    let known: Vec<String> = valid.iter().map(|a| host_name(&a.container_id, &a.ifname)).collect();
    if let Some(bridge) = link::find(&socket, &conf.bridge)? {
        let ports = link::list(&socket)?.into_iter().filter(|link| link.master == Some(bridge.index));
        for port in ports.filter(|port| port.name.starts_with(HOST_PREFIX) && !known.contains(&port.name)) {
            link::delete(&socket, &port.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
