//! Addresses of one node: a directory with one file per reserved address, in the layout of upstream's host-local plugin.
//!
//! A reservation appears by rename, so a file is either whole or absent whenever we crash. All of it happens under one
//! lock. A malformed file (another program's crash, a lost disk write) belongs to nobody and is taken back. Reservations
//! made before the last boot are stale: no network namespace survives a boot.
//!
//! Upstream: containernetworking/plugins plugins/ipam/host-local

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};

use super::conf::Range;
use super::error::{CniError, Code, io};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub container_id: String,
    pub ifname: String,
}

impl Owner {
    fn to_file(&self) -> String {
        format!("{}\r\n{}", self.container_id, self.ifname)
    }

    fn from_file(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        let container_id = lines.next().filter(|line| !line.is_empty())?.to_owned();
        // Very old files hold the container only.
        Some(Self { container_id, ifname: lines.next().unwrap_or("eth0").to_owned() })
    }
}

/// An address given to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: IpNet,
    pub gateway: IpAddr,
}

/// The reservations of a network, locked against every other user of them.
pub struct Store {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Opens (and makes) the directory and waits for its lock.
    pub fn open(data_dir: &Path, network: &str) -> Result<Self, CniError> {
        let dir = data_dir.join(network);
        fs::create_dir_all(&dir).map_err(io(format!("create {}", dir.display())))?;
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io(format!("open {}", path.display())))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| CniError::new(Code::Io, format!("failed to lock {}: {}", path.display(), errno.desc())))?;
        let store = Self { dir, _lock: lock };
        store.forget_earlier_boots()?;
        Ok(store)
    }

    /// The directory of a network, if it was ever used.
    pub fn exists(data_dir: &Path, network: &str) -> bool {
        data_dir.join(network).is_dir()
    }

    fn forget_earlier_boots(&self) -> Result<(), CniError> {
        let Ok(current) = fs::read_to_string(BOOT_ID) else { return Ok(()) };
        let path = self.dir.join("boot_id");
        match fs::read_to_string(&path) {
            Ok(seen) if seen == current => return Ok(()),
            // Reservations without a stamp are upstream's; they may be alive.
            Err(_) => {}
            Ok(_) => {
                for address in self.reservations()?.into_keys() {
                    self.remove(address)?;
                }
            }
        }
        self.write("boot_id", &current)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CniError> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!(".{name}.new"));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(io(format!("write {}", path.display())))
    }

    /// Every reserved address with its owner; malformed files are removed on the way.
    pub fn reservations(&self) -> Result<BTreeMap<IpAddr, Owner>, CniError> {
        let mut all = BTreeMap::new();
        let entries = fs::read_dir(&self.dir).map_err(io(format!("read {}", self.dir.display())))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(address) = name.to_str().and_then(parse_name) else { continue };
            match fs::read_to_string(entry.path()).ok().as_deref().and_then(Owner::from_file) {
                Some(owner) => {
                    all.insert(address, owner);
                }
                None => self.remove(address)?,
            }
        }
        Ok(all)
    }

    fn remove(&self, address: IpAddr) -> Result<(), CniError> {
        let path = self.dir.join(address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(format!("remove {}", path.display()))(error)),
            _ => Ok(()),
        }
    }

    /// Gives `owner` one address of each set; an owner that already has one keeps it.
    ///
    /// # Errors
    /// [`Code::Exhausted`] when a set has no free address; addresses taken on the way are given back.
    pub fn allocate(&self, sets: &[Vec<Range>], owner: &Owner) -> Result<Vec<Lease>, CniError> {
        let reserved = self.reservations()?;
        let mut leases: Vec<Lease> = Vec::with_capacity(sets.len());
        let mut fresh = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            let last = self.last(number);
            let taken = |address: IpAddr| reserved.contains_key(&address) || leases.iter().any(|l| l.address.addr() == address);
            let within = |address: &IpAddr| set.iter().any(|range| range.subnet.contains(address));
            let own = reserved.iter().find(|(address, held)| *held == owner && within(address)).map(|(address, _)| *address);
            let chosen = choose(set, last, own, taken);
            let Some(lease) = chosen else {
                for address in fresh {
                    self.remove(address)?;
                }
                let ranges: Vec<String> = set.iter().map(|range| range.subnet.to_string()).collect();
                let message = format!("no IP addresses available in range set: {}", ranges.join(", "));
                return Err(CniError::new(Code::Exhausted, message));
            };
            let address = lease.address.addr();
            if !reserved.contains_key(&address) {
                self.write(&address.to_string(), &owner.to_file())?;
                self.write(&format!("last_reserved_ip.{number}"), &address.to_string())?;
                fresh.push(address);
            }
            leases.push(lease);
        }
        Ok(leases)
    }

    fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.dir.join(format!("last_reserved_ip.{set}"))).ok()?.trim().parse().ok()
    }

    /// Gives back what `owner` has; returns the addresses.
    pub fn release(&self, owner: &Owner) -> Result<Vec<IpAddr>, CniError> {
        self.release_where(|held, _| held == owner)
    }

    /// Gives back every address whose owner, and the time since it was reserved, satisfy `condition`.
    pub fn release_where(&self, condition: impl Fn(&Owner, Duration) -> bool) -> Result<Vec<IpAddr>, CniError> {
        let gone: Vec<IpAddr> = self
            .reservations()?
            .into_iter()
            .filter(|(address, owner)| condition(owner, self.age(*address)))
            .map(|(address, _)| address)
            .collect();
        for address in &gone {
            self.remove(*address)?;
        }
        Ok(gone)
    }

    fn age(&self, address: IpAddr) -> Duration {
        let modified = fs::metadata(self.dir.join(address.to_string())).and_then(|metadata| metadata.modified());
        // A clock that was set back makes things look young, which is the safe side.
        modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or(Duration::ZERO)
    }
}

fn parse_name(name: &str) -> Option<IpAddr> {
    name.parse().ok()
}

/// The gateway of a range: as configured, else the first address of the subnet.
pub fn gateway(range: &Range) -> IpAddr {
    range.gateway.unwrap_or_else(|| step(range.subnet.network(), 1).unwrap_or(range.subnet.network()))
}

/// Picks an address: the owner's own, else the first free one after `last`, round robin.
fn choose(set: &[Range], last: Option<IpAddr>, own: Option<IpAddr>, taken: impl Fn(IpAddr) -> bool) -> Option<Lease> {
    let lease = |range: &Range, address: IpAddr| {
        let address = IpNet::new(address, range.subnet.prefix_len()).ok()?;
        Some(Lease { address, gateway: gateway(range) })
    };
    let bounds: Vec<(&Range, u128, u128)> = set.iter().filter_map(|range| Some((range, first(range), last_of(range)?))).collect();
    if let Some(own) = own
        && let Some(range) = set.iter().find(|range| range.subnet.contains(&own))
    {
        return lease(range, own);
    }
    // Positions run through the ranges one after the other, starting behind the last reservation.
    let start = last.and_then(|last| {
        bounds.iter().position(|(range, low, high)| range.subnet.contains(&last) && (*low..=*high).contains(&number(last)))
    });
    let count = bounds.len();
    let begin = start.unwrap_or(0);
    for turn in 0..=count {
        let (range, low, high) = bounds.get((begin + turn) % count.max(1))?;
        let resume = if turn == 0 { start.and(last).map_or(*low, |last| number(last) + 1) } else { *low };
        // The last turn comes back to the first range, for the part before the last reservation.
        let end = if turn == count { start.and(last).map_or(*high, number) } else { *high };
        let mut candidate = resume;
        while candidate <= end.min(*high) {
            let address = from_number(range.subnet, candidate)?;
            if address != gateway(range) && !taken(address) {
                return lease(range, address);
            }
            candidate += 1;
        }
    }
    None
}

fn first(range: &Range) -> u128 {
    range.range_start.map_or_else(|| number(range.subnet.network()) + 1, number)
}

/// The last address to give out; the broadcast address never is one.
fn last_of(range: &Range) -> Option<u128> {
    let top = number(range.subnet.broadcast());
    let usable = if range.subnet.addr().is_ipv4() { top.checked_sub(1)? } else { top };
    Some(range.range_end.map_or(usable, |end| number(end).min(usable)))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(subnet: IpNet, number: u128) -> Option<IpAddr> {
    match subnet {
        IpNet::V4(_) => Some(IpAddr::V4(Ipv4Addr::from(u32::try_from(number).ok()?))),
        IpNet::V6(_) => Some(IpAddr::V6(Ipv6Addr::from(number))),
    }
}

fn step(address: IpAddr, by: u128) -> Option<IpAddr> {
    let wide = number(address).checked_add(by)?;
    match address {
        IpAddr::V4(_) => Some(IpAddr::V4(Ipv4Addr::from(u32::try_from(wide).ok()?))),
        IpAddr::V6(_) => Some(IpAddr::V6(Ipv6Addr::from(wide))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(subnet: &str) -> Vec<Vec<Range>> {
        vec![vec![Range { subnet: subnet.parse().unwrap(), range_start: None, range_end: None, gateway: None }]]
    }

    fn owner(id: &str) -> Owner {
        Owner { container_id: id.into(), ifname: "eth0".into() }
    }

    fn allocate(store: &Store, sets: &[Vec<Range>], id: &str) -> String {
        store.allocate(sets, &owner(id)).unwrap()[0].address.to_string()
    }

    #[test]
    fn addresses_go_round_and_are_not_reused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "rk").unwrap();
        let sets = set("10.1.0.0/29");
        assert_eq!(allocate(&store, &sets, "a"), "10.1.0.2/29");
        assert_eq!(allocate(&store, &sets, "b"), "10.1.0.3/29");
        assert_eq!(store.release(&owner("a")).unwrap().len(), 1);
        assert_eq!(allocate(&store, &sets, "c"), "10.1.0.4/29");
        assert_eq!(allocate(&store, &sets, "c"), "10.1.0.4/29", "the same owner keeps its address");
        assert_eq!(allocate(&store, &sets, "d"), "10.1.0.5/29");
        assert_eq!(allocate(&store, &sets, "e"), "10.1.0.6/29");
        assert_eq!(allocate(&store, &sets, "f"), "10.1.0.2/29", "after the end comes the beginning");
        let error = store.allocate(&sets, &owner("g")).unwrap_err();
        assert_eq!(error.code, Code::Exhausted);
        assert!(error.message.contains("no IP addresses available in range set: 10.1.0.0/29"));
    }

    #[test]
    fn a_second_set_that_is_full_gives_the_first_one_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "rk").unwrap();
        let mut sets = set("10.1.0.0/24");
        sets.extend(set("10.2.0.0/30"));
        assert_eq!(store.allocate(&sets, &owner("a")).unwrap().len(), 2);
        store.allocate(&sets, &owner("b")).unwrap_err();
        assert_eq!(store.reservations().unwrap().len(), 2);
    }

    #[test]
    fn both_families_are_served_from_large_subnets() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "rk").unwrap();
        let mut sets = set("10.1.0.0/16");
        sets.extend(set("fd00:10::/64"));
        let leases = store.allocate(&sets, &owner("a")).unwrap();
        assert_eq!(leases[1].address.to_string(), "fd00:10::2/64");
        assert_eq!(leases[1].gateway.to_string(), "fd00:10::1");
    }

    #[test]
    fn half_written_files_belong_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "rk").unwrap();
        fs::write(dir.path().join("rk/10.1.0.2"), "").unwrap();
        fs::write(dir.path().join("rk/.10.1.0.3.new"), "torn").unwrap();
        fs::write(dir.path().join("rk/last_reserved_ip.0"), "gar\0bage").unwrap();
        assert_eq!(allocate(&store, &set("10.1.0.0/24"), "a"), "10.1.0.2/24");
    }

    #[test]
    fn reservations_of_an_earlier_boot_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path(), "rk").unwrap();
            allocate(&store, &set("10.1.0.0/24"), "a");
        }
        fs::write(dir.path().join("rk/boot_id"), "an earlier one").unwrap();
        assert!(Store::open(dir.path(), "rk").unwrap().reservations().unwrap().is_empty());
    }

    #[test]
    fn ranges_are_kept_within_their_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "rk").unwrap();
        let mut sets = set("10.1.0.0/24");
        sets[0][0].range_start = Some("10.1.0.10".parse().unwrap());
        sets[0][0].range_end = Some("10.1.0.11".parse().unwrap());
        assert_eq!(allocate(&store, &sets, "a"), "10.1.0.10/24");
        assert_eq!(allocate(&store, &sets, "b"), "10.1.0.11/24");
        assert!(store.allocate(&sets, &owner("c")).is_err());
        store.release(&owner("a")).unwrap();
        assert_eq!(allocate(&store, &sets, "c"), "10.1.0.10/24");
    }
}
