//! Plugin type `loopback`: brings `lo` up. containerd runs it for every pod before the real network.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Type;
use super::conf::{Environment, NetConf};
use super::error::{CniError, Code, io};
use super::result::{CniResult, Interface, Ip};

pub const TYPE: Type = Type { name: "loopback", add, del, check, status: |_| Ok(()), gc: |_| Ok(()) };

fn add(environment: &Environment, conf: &NetConf) -> Result<Value, CniError> {
    let namespace = net::NetNs::open(&environment.netns).map_err(io(format!("open netns {:?}", environment.netns)))?;
    let socket = namespace.socket().map_err(io("enter the pod's network namespace"))?;
    let lo = net::link::by_name(&socket, "lo")?;
    net::link::change(&socket, lo.index, net::link::Change::up())?;
    if let Some(previous) = &conf.prev_result {
        return Ok(previous.clone());
    }
    let addresses = net::address::list(&socket)?;
    let ips = addresses.into_iter().filter(|address| address.link == lo.index && address.net.addr().is_loopback());
    let result = CniResult {
        interfaces: vec![Interface {
            name: "lo".to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            mtu: 0,
            sandbox: environment.netns.clone(),
        }],
        ips: ips.map(|address| Ip { interface: 0, address: address.net, gateway: None }).collect(),
        ..CniResult::default()
    };
    Ok(result.to_json(&conf.version))
}

fn del(_: &Environment, _: &NetConf) -> Result<(), CniError> {
    // The namespace goes, and its loopback with it; taking it down earlier would only disturb processes that still stop.
    Ok(())
}

fn check(environment: &Environment, _: &NetConf) -> Result<(), CniError> {
    let namespace = net::NetNs::open(&environment.netns).map_err(io(format!("open netns {:?}", environment.netns)))?;
    let socket = namespace.socket().map_err(io("enter the pod's network namespace"))?;
    let lo = net::link::by_name(&socket, "lo")?;
    let local: IpNet = IpNet::new(IpAddr::from([127, 0, 0, 1]), 8).expect("8 is a valid prefix length");
    if lo.up && net::address::list(&socket)?.iter().any(|address| address.net == local) {
        return Ok(());
    }
    Err(CniError::new(Code::Drifted, "loopback interface is down"))
}
