//! Facts about this host: gathered once, judged by pure functions elsewhere.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

/// What the host is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub hostname: String,
    /// systemd is PID 1.
    pub systemd: bool,
    pub root: bool,
    pub cpus: usize,
    pub memory_mib: u64,
    pub swap_on: bool,
    pub ipv4_forwarding: bool,
    pub default_address: Option<IpAddr>,
    /// `resolv.conf` of systemd-resolved, where that runs.
    pub resolved: bool,
    pub cgroup_v2: bool,
}

/// Looks at the host.
pub fn observe() -> Host {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Host {
        hostname: hostname(),
        systemd: Path::new("/run/systemd/system").is_dir(),
        root: nix::unistd::geteuid().is_root(),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
        memory_mib: memory_mib(&memory),
        swap_on: std::fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1,
        ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1"),
        default_address: default_address(),
        resolved: Path::new("/run/systemd/resolve/resolv.conf").exists()
            && std::fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text.contains("127.0.0.53")),
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
    }
}

/// The host's name as a node's name: lower case, without surrounding space.
pub fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().trim().to_lowercase()).unwrap_or_default()
}

/// The first line of /proc/meminfo in MiB.
fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The source address of the default route; without one, the first address of an interface that is up and no loopback.
/// Connecting a datagram socket sends nothing.
fn default_address() -> Option<IpAddr> {
    let routed = |bind: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
    };
    routed("0.0.0.0:0", "192.0.2.1:9").or_else(|| routed("[::]:0", "[2001:db8::1]:9")).or_else(first_interface_address)
}

fn first_interface_address() -> Option<IpAddr> {
    let up = nix::net::if_::InterfaceFlags::IFF_UP;
    let loopback = nix::net::if_::InterfaceFlags::IFF_LOOPBACK;
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|interface| interface.flags.contains(up) && !interface.flags.contains(loopback))
        .find_map(|interface| Some(IpAddr::V4(interface.address?.as_sockaddr_in()?.ip())))
}

/// Whether a program of this host listens on a TCP port of any address.
pub fn port_in_use(port: u16) -> bool {
    TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).is_err()
}

/// A program on PATH, or in the directories that daemons live in although users' PATHs lack them.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

/// A binary of ours: beside this executable first, so that a build tree or a bundle is used as one.
pub fn find_own(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    beside.filter(|path| is_executable(path)).or_else(|| find_program(name))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(memory_mib("MemTotal:       24580316 kB\nMemFree: 1 kB\n"), 24004);
        assert_eq!(memory_mib(""), 0);
    }

    #[test]
    fn a_port_that_somebody_holds_is_in_use() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(port_in_use(listener.local_addr().unwrap().port()));
    }

    #[test]
    fn programs_are_found() {
        assert!(find_program("sh").is_some() && find_program("no-such-program-anywhere").is_none());
    }
}
