//! What the machine is. Read from /proc, /sys and the file system.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use crate::config::Config;
use crate::pod::quantity;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Processors.
    pub cpus: i64,
    /// Bytes of memory that pods and the system share.
    pub memory: i64,
    /// Bytes of the file system that holds pods.
    pub storage: i64,
    /// Huge pages by size: (`2Mi`, bytes).
    pub huge_pages: Vec<(String, i64)>,
    /// /etc/machine-id.
    pub machine_id: String,
    /// Of the firmware.
    pub system_uuid: String,
    /// New with each boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// Bytes of swap.
    pub swap: i64,
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Looks at the machine.
pub fn machine(root_dir: &Path, cgroup_limit: u64) -> Machine {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| -> i64 {
        meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse::<i64>().ok())
            .unwrap_or(0)
            * 1024
    };
    let mut memory = kib("MemTotal:");
    // A node in a box (a lab node, a container) has what its cgroup gives it.
    if let Ok(limit) = i64::try_from(cgroup_limit)
        && limit > 0
    {
        memory = memory.min(limit);
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".to_owned());
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
        memory,
        storage: file_system(root_dir).map_or(0, |(total, ..)| total),
        huge_pages: huge_pages(),
        machine_id: line("/etc/machine-id"),
        system_uuid: Some(line("/sys/class/dmi/id/product_uuid"))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| line("/etc/machine-id")),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image,
        swap: kib("SwapTotal:"),
    }
}

/// Total and available bytes, total and free inodes of the file system at `path`.
pub fn file_system(path: &Path) -> Option<(i64, i64, i64, i64)> {
    let mut at = path.to_owned();
    while !at.exists() {
        at = at.parent()?.to_owned();
    }
    let stat = nix::sys::statvfs::statvfs(&at).ok()?;
    let block = i64::try_from(stat.fragment_size()).ok()?;
    let blocks = |count: u64| i64::try_from(count).unwrap_or(0) * block;
    Some((
        blocks(stat.blocks()),
        blocks(stat.blocks_available()),
        i64::try_from(stat.files()).unwrap_or(0),
        i64::try_from(stat.files_free()).unwrap_or(0),
    ))
}

fn huge_pages() -> Vec<(String, i64)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) =
            name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")).and_then(|n| n.parse::<i64>().ok())
        else {
            continue;
        };
        let count: i64 = std::fs::read_to_string(entry.path().join("nr_hugepages"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        out.push((quantity::from_bytes(kib * 1024).0, count * kib * 1024));
    }
    out.sort();
    out
}

/// The node's addresses, primary first: as told, else the one that the default route leaves from, else any that is global.
pub fn addresses(config: &Config) -> Vec<IpAddr> {
    if !config.node_ips.is_empty() {
        return config.node_ips.clone();
    }
    // Connecting a datagram socket sends nothing; it only asks for the route.
    let routed = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    if let Some(ip) = routed("0.0.0.0:0", "192.0.2.1:9") {
        return vec![ip];
    }
    let mut found: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| interface.address)
        .filter_map(|address| address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())))
        .filter(|ip| !ip.is_loopback())
        .collect();
    found.truncate(1);
    if found.is_empty() {
        found.extend(routed("[::]:0", "[2001:db8::1]:9"));
    }
    found
}

/// Capacity and allocatable: `cpu` in thousandths, others in units.
pub fn resources(config: &Config, machine: &Machine) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let kubelet = &config.kubelet;
    let mut pods = i64::from(kubelet.max_pods);
    if kubelet.pods_per_core > 0 {
        pods = pods.min(i64::from(kubelet.pods_per_core) * machine.cpus);
    }
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), machine.cpus * 1000),
        ("memory".to_owned(), machine.memory),
        ("ephemeral-storage".to_owned(), machine.storage),
        ("pods".to_owned(), pods),
    ]);
    capacity.extend(machine.huge_pages.iter().map(|(size, bytes)| (format!("hugepages-{size}"), *bytes)));
    let reserved = |name: &str| -> i64 {
        [&kubelet.system_reserved, &kubelet.kube_reserved]
            .iter()
            .filter_map(|map| map.get(name))
            .filter_map(|text| if name == "cpu" { quantity::parse_milli(text) } else { quantity::parse_value(text) })
            .sum()
    };
    let evicted = |signal: &str, total: i64| -> i64 {
        match kubelet.eviction_hard.get(signal).map(String::as_str) {
            Some(text) => match text.strip_suffix('%') {
                Some(percent) => percent.trim().parse::<f64>().map_or(0, |percent| (total as f64 * percent / 100.0) as i64),
                None => quantity::parse_value(text).unwrap_or(0),
            },
            None => 0,
        }
    };
    let mut allocatable = capacity.clone();
    for (name, amount) in &mut allocatable {
        *amount -= reserved(name);
        match name.as_str() {
            "memory" => {
                *amount -=
                    evicted("memory.available", machine.memory) + machine.huge_pages.iter().map(|(_, bytes)| bytes).sum::<i64>()
            }
            "ephemeral-storage" => *amount -= evicted("nodefs.available", machine.storage),
            _ => {}
        }
        *amount = (*amount).max(0);
    }
    (capacity, allocatable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocatable_is_what_is_left_after_reservations() {
        let args = [
            "--hostname-override=n",
            "--kube-reserved=cpu=200m,memory=256Mi",
            "--eviction-hard=memory.available<100Mi,nodefs.available<10%",
        ];
        let flags = crate::flags::Flags::parse(args.map(str::to_owned)).unwrap();
        let config = Config::load(&flags).unwrap();
        let machine = Machine { cpus: 2, memory: 1 << 30, storage: 1000, ..Default::default() };
        let (capacity, allocatable) = resources(&config, &machine);
        assert_eq!((capacity["cpu"], capacity["memory"], capacity["pods"]), (2000, 1 << 30, 110));
        assert_eq!(
            (allocatable["cpu"], allocatable["memory"], allocatable["ephemeral-storage"]),
            (1800, (1 << 30) - (356 << 20), 900)
        );
    }

    #[test]
    fn this_machine_is_read() {
        let machine = machine(Path::new("/"), 0);
        assert!(
            machine.cpus > 0
                && machine.memory > 0
                && machine.storage > 0
                && !machine.boot_id.is_empty()
                && !machine.kernel.is_empty()
        );
    }
}
