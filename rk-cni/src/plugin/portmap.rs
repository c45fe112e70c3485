//! Port mappings: a port of the node leads to a port of the pod.
//!
//! One chain per pod holds its translations; `RK-HOSTPORTS` leads there. What was installed for a pod is noted in a file
//! before it is installed, so that DEL finds it without being told and after any crash.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use net::iptables::{Family, Iptables, Jump};
use net::sysctl;
use sha2::{Digest, Sha256};

use super::conf::{NetConf, PortMapping};
use super::error::{CniError, Code, io};
use super::ipam::Owner;

const HOSTPORTS: &str = "RK-HOSTPORTS";
const MASQUERADE: &str = "RK-HOSTPORT-MASQ";
/// Packets that must come back through the node. Distinct from kube-proxy's 0x4000 and 0x8000.
const MARK: &str = "0x2000/0x2000";

fn jumps() -> [Jump<'static>; 3] {
    let rule = "-m addrtype --dst-type LOCAL -m comment --comment rk-hostports -j RK-HOSTPORTS";
    [
        Jump { table: "nat", from: "PREROUTING", rule, first: false },
        Jump { table: "nat", from: "OUTPUT", rule, first: false },
        Jump { table: "nat", from: "POSTROUTING", rule: "-m comment --comment rk-hostports -j RK-HOSTPORT-MASQ", first: false },
    ]
}

fn chain(owner: &Owner) -> String {
    let digest = Sha256::digest(format!("{}/{}", owner.container_id, owner.ifname));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02X}")).collect();
    format!("RK-HP-{hex}")
}

fn note_path(data_dir: &Path, owner: &Owner) -> PathBuf {
    data_dir.join(".portmap").join(format!("{}-{}", owner.container_id, owner.ifname))
}

fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The pod's chain and the rules that lead into it.
#[derive(Debug, PartialEq, Eq)]
struct Rules {
    chain: Vec<String>,
    dispatch: Vec<String>,
}

fn rules(mappings: &[PortMapping], owner: &Owner, pod: IpNet) -> Rules {
    let name = chain(owner);
    let (ip, loopback) = (pod.addr(), if pod.addr().is_ipv4() { "127.0.0.1/32" } else { "::1/128" });
    let mut out = Rules { chain: Vec::new(), dispatch: Vec::new() };
    for mapping in mappings {
        let only: Option<IpAddr> = mapping.host_ip.parse().ok().filter(|host: &IpAddr| !host.is_unspecified());
        if only.is_some_and(|host| host.is_ipv4() != ip.is_ipv4()) {
            continue;
        }
        let protocol = mapping.protocol.to_ascii_lowercase();
        let host = only.map(|host| format!("-d {host} ")).unwrap_or_default();
        let matched = format!("{host}-p {protocol} -m {protocol} --dport {}", mapping.host_port);
        let to =
            if ip.is_ipv4() { format!("{ip}:{}", mapping.container_port) } else { format!("[{ip}]:{}", mapping.container_port) };
        for source in [pod.trunc().to_string(), loopback.to_owned()] {
            out.chain.push(format!("-s {source} {matched} -j MARK --set-xmark {MARK}"));
        }
        out.chain.push(format!("{matched} -j DNAT --to-destination {to}"));
        out.dispatch.push(format!("{matched} -m comment --comment \"id: {}\" -j {name}", owner.container_id));
    }
    out
}

/// Installs the mappings that the runtime asks for.
pub fn add(conf: &NetConf, owner: &Owner, addresses: &[IpNet]) -> Result<(), CniError> {
    let mappings: Vec<PortMapping> =
        conf.runtime.port_mappings.iter().filter(|mapping| mapping.host_port != 0).cloned().collect();
    if mappings.is_empty() {
        return Ok(());
    }
    for mapping in &mappings {
        let valid =
            matches!(mapping.protocol.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp") && mapping.container_port != 0;
        if !valid || (!mapping.host_ip.is_empty() && mapping.host_ip.parse::<IpAddr>().is_err()) {
            return Err(CniError::new(Code::InvalidConfig, format!("invalid port mapping {mapping:?}")));
        }
    }
    let note = note_path(&conf.data_dir, owner);
    let written = note.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&note, chain(owner)));
    written.map_err(io(format!("write {}", note.display())))?;
    for pod in addresses {
        let iptables = Iptables::new(family_of(pod.addr()));
        let rules = rules(&mappings, owner, *pod);
        let name = chain(owner);
        // Naming an existing chain in a batch would empty it, and this one belongs to all pods.
        iptables.ensure_chain("nat", HOSTPORTS)?;
        let mut batch = format!("*nat\n:{MASQUERADE} - [0:0]\n:{name} - [0:0]\n");
        batch.push_str(&format!("-A {MASQUERADE} -m mark --mark {MARK} -j MASQUERADE\n"));
        for rule in &rules.chain {
            batch.push_str(&format!("-A {name} {rule}\n"));
        }
        for rule in &rules.dispatch {
            batch.push_str(&format!("-A {HOSTPORTS} {rule}\n"));
        }
        batch.push_str("COMMIT\n");
        iptables.restore(&batch)?;
        for jump in jumps() {
            iptables.ensure_jump(&jump)?;
        }
        if pod.addr().is_ipv4() {
            // Connections from 127.0.0.1 leave through the bridge.
            sysctl::ensure(&format!("net/ipv4/conf/{}/route_localnet", conf.bridge), "1")
                .map_err(io("allow host ports on localhost"))?;
        }
    }
    Ok(())
}

/// Removes what [`add`] installed for the owner; idempotent.
pub fn del(data_dir: &Path, owner: &Owner) -> Result<(), CniError> {
    let note = note_path(data_dir, owner);
    if !note.exists() {
        return Ok(());
    }
    let name = chain(owner);
    for family in [Family::V4, Family::V6] {
        let iptables = Iptables::new(family);
        let saved = match iptables.save("nat") {
            Ok(saved) => saved,
            // A kernel without IPv6 NAT never had a rule of ours.
            Err(_) if family == Family::V6 => continue,
            Err(error) => return Err(error.into()),
        };
        let mut batch = String::from("*nat\n");
        let leads_here = format!(" -j {name}");
        for line in saved.lines().filter(|line| line.starts_with(&format!("-A {HOSTPORTS} ")) && line.ends_with(&leads_here)) {
            batch.push_str(&format!("-D{}\n", &line[2..]));
        }
        if saved.lines().filter_map(net::iptables::chain_name).any(|chain| chain == name) {
            batch.push_str(&format!(":{name} - [0:0]\n-X {name}\n"));
        }
        if batch.lines().count() > 1 {
            batch.push_str("COMMIT\n");
            iptables.restore(&batch)?;
        }
    }
    fs::remove_file(&note).map_err(io(format!("remove {}", note.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_of_the_other_family_gives_no_rules() {
        let owner = Owner { container_id: "x".into(), ifname: "eth0".into() };
        let mapping =
            |host_ip: &str| PortMapping { host_port: 80, container_port: 8080, protocol: "TCP".into(), host_ip: host_ip.into() };
        let pod = "10.1.0.2/24".parse().unwrap();
        assert!(rules(&[mapping("fd00::1")], &owner, pod).chain.is_empty());
        assert_eq!(rules(&[mapping("0.0.0.0")], &owner, pod).chain.len(), 3);
        let bound = rules(&[mapping("192.0.2.1")], &owner, pod);
        assert!(bound.chain[2].starts_with("-d 192.0.2.1 -p tcp"), "{bound:?}");
        assert!(bound.chain[2].ends_with("--to-destination 10.1.0.2:8080"));
    }
}
