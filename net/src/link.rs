//! Links: finding, making, changing and removing network devices.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::netlink::{self, Attributes, Error, NLM_F_CREATE, NLM_F_EXCL, Request, Socket, string, u32_at};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
#[allow(clippy::cast_sign_loss)] // 1
const IFF_UP: u32 = libc::IFF_UP as u32;
#[allow(clippy::cast_possible_truncation)] // 7
const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// A link-layer address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered address that follows from an IP address: the same node or pod always has the same one.
    pub fn from_ip(first: u8, second: u8, ip: IpAddr) -> Self {
        let tail: [u8; 4] = match ip {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                [o[12] ^ o[4], o[13] ^ o[5], o[14] ^ o[6], o[15] ^ o[7]]
            }
        };
        Self([first, second, tail[0], tail[1], tail[2], tail[3]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a VXLAN device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    pub id: u32,
    pub port: u16,
    /// The local tunnel end.
    pub local: IpAddr,
    /// Index of the underlying link; 0 when the device is bound to none.
    pub device: u32,
}

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub mtu: u32,
    pub mac: Option<Mac>,
    pub master: Option<u32>,
    /// `veth`, `bridge`, `vxlan`…; none for hardware and the loopback.
    pub kind: Option<String>,
    pub vxlan: Option<Vxlan>,
}

fn info(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
}

fn parse(payload: &[u8], attributes: Attributes<'_>) -> Option<Link> {
    let link_info = attributes.get(IFLA_LINKINFO).map(Attributes::of);
    let kind = link_info.and_then(|info| info.get(IFLA_INFO_KIND)).map(string);
    let data = link_info.and_then(|info| info.get(IFLA_INFO_DATA)).map(Attributes::of);
    let vxlan = data.filter(|_| kind.as_deref() == Some("vxlan")).and_then(|data| {
        let port = data.get(IFLA_VXLAN_PORT)?;
        Some(Vxlan {
            id: u32_at(data.get(IFLA_VXLAN_ID)?, 0)?,
            port: u16::from_be_bytes(port.try_into().ok()?),
            local: netlink::ip(data.get(IFLA_VXLAN_LOCAL).or_else(|| data.get(IFLA_VXLAN_LOCAL6))?)?,
            device: data.get(IFLA_VXLAN_LINK).and_then(|b| u32_at(b, 0)).unwrap_or(0),
        })
    });
    Some(Link {
        index: u32_at(payload, 4)?,
        name: attributes.get(IFLA_IFNAME).map(string)?,
        up: u32_at(payload, 8)? & IFF_UP != 0,
        mtu: attributes.get(IFLA_MTU).and_then(|b| u32_at(b, 0)).unwrap_or(0),
        mac: attributes.get(IFLA_ADDRESS).and_then(|b| b.try_into().ok()).map(Mac),
        master: attributes.get(IFLA_MASTER).and_then(|b| u32_at(b, 0)),
        kind,
        vxlan,
    })
}

/// Finds a link; a missing one is an error for which [`Error::missing`] holds.
pub fn by_name(socket: &Socket, name: &str) -> Result<Link, Error> {
    let mut request = Request::new(RTM_GETLINK, 0).body(&info(0, 0, 0));
    request.attr_str(IFLA_IFNAME, name);
    let action = format!("find link {name}");
    let message = socket.get(&action, request)?;
    message
        .and_then(|message| parse(&message.payload, message.attributes(16)))
        .ok_or_else(|| Error::new(action, nix::errno::Errno::ENODEV))
}

/// Like [`by_name`], with `None` for a missing link.
pub fn find(socket: &Socket, name: &str) -> Result<Option<Link>, Error> {
    match by_name(socket, name) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links of the namespace.
pub fn list(socket: &Socket) -> Result<Vec<Link>, Error> {
    let messages = socket.dump("list links", || Request::new(RTM_GETLINK, 0).body(&info(0, 0, 0)))?;
    Ok(messages.iter().filter_map(|message| parse(&message.payload, message.attributes(16))).collect())
}

fn create(socket: &Socket, name: &str, fill: impl FnOnce(&mut Request)) -> Result<(), Error> {
    let mut request = Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL).body(&info(0, 0, 0));
    request.attr_str(IFLA_IFNAME, name);
    fill(&mut request);
    socket.change(format!("create link {name}"), request)
}

/// Makes a bridge.
pub fn create_bridge(socket: &Socket, name: &str, mac: Option<Mac>, mtu: u32) -> Result<(), Error> {
    create(socket, name, |request| {
        request.attr_u32(IFLA_MTU, mtu);
        if let Some(mac) = mac {
            request.attr(IFLA_ADDRESS, &mac.0);
        }
        request.nested(IFLA_LINKINFO, |r| {
            r.attr_str(IFLA_INFO_KIND, "bridge");
        });
    })
}

/// Makes a device that leads nowhere: it only holds addresses.
pub fn create_dummy(socket: &Socket, name: &str) -> Result<(), Error> {
    create(socket, name, |request| {
        request.nested(IFLA_LINKINFO, |r| {
            r.attr_str(IFLA_INFO_KIND, "dummy");
        });
    })
}

/// One end of a veth pair.
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
    /// Where the end lives; none is the socket's own namespace.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl VethEnd<'_> {
    fn fill(&self, request: &mut Request, mtu: u32) {
        request.attr_str(IFLA_IFNAME, self.name).attr_u32(IFLA_MTU, mtu);
        if let Some(mac) = self.mac {
            request.attr(IFLA_ADDRESS, &mac.0);
        }
        if let Some(namespace) = self.namespace {
            request.attr(IFLA_NET_NS_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
        }
    }
}

/// Makes a veth pair in one step, each end with its name, address and namespace.
pub fn create_veth(socket: &Socket, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) -> Result<(), Error> {
    let mut request = Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL).body(&info(0, 0, 0));
    near.fill(&mut request, mtu);
    request.nested(IFLA_LINKINFO, |r| {
        r.attr_str(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |r| {
            r.nested(VETH_INFO_PEER, |r| {
                r.raw(&info(0, 0, 0));
                far.fill(r, mtu);
            });
        });
    });
    socket.change(format!("create veth pair {} and {}", near.name, far.name), request)
}

/// Makes a VXLAN device that learns nothing: its forwarding table is filled by its owner.
pub fn create_vxlan(socket: &Socket, name: &str, mac: Mac, mtu: u32, vxlan: Vxlan) -> Result<(), Error> {
    create(socket, name, |request| {
        request.attr_u32(IFLA_MTU, mtu).attr(IFLA_ADDRESS, &mac.0).nested(IFLA_LINKINFO, |r| {
            r.attr_str(IFLA_INFO_KIND, "vxlan").nested(IFLA_INFO_DATA, |r| {
                let local = if vxlan.local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                r.attr_u32(IFLA_VXLAN_ID, vxlan.id)
                    .attr(local, &netlink::octets(vxlan.local))
                    .attr(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes())
                    .attr_u8(IFLA_VXLAN_LEARNING, 0);
                if vxlan.device != 0 {
                    r.attr_u32(IFLA_VXLAN_LINK, vxlan.device);
                }
            });
        });
    })
}

/// What to change about a link; `None` leaves it as it is.
#[derive(Debug, Default, Clone, Copy)]
pub struct Change {
    pub up: Option<bool>,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    pub master: Option<u32>,
}

impl Change {
    pub fn up() -> Self {
        Self { up: Some(true), ..Self::default() }
    }
}

/// Applies all changes in one request.
pub fn change(socket: &Socket, index: u32, change: Change) -> Result<(), Error> {
    let flags = if change.up == Some(true) { IFF_UP } else { 0 };
    let mask = if change.up.is_some() { IFF_UP } else { 0 };
    let mut request = Request::new(RTM_NEWLINK, 0).body(&info(index, flags, mask));
    if let Some(mtu) = change.mtu {
        request.attr_u32(IFLA_MTU, mtu);
    }
    if let Some(mac) = change.mac {
        request.attr(IFLA_ADDRESS, &mac.0);
    }
    if let Some(master) = change.master {
        request.attr_u32(IFLA_MASTER, master);
    }
    socket.change(format!("change link {index}"), request)
}

/// Lets a bridge port send frames back where they came from: a pod may reach itself through its own Service.
pub fn set_hairpin(socket: &Socket, index: u32, on: bool) -> Result<(), Error> {
    let mut body = info(index, 0, 0);
    body[0] = AF_BRIDGE;
    let mut request = Request::new(RTM_SETLINK, 0).body(&body);
    request.nested(IFLA_PROTINFO, |r| {
        r.attr_u8(IFLA_BRPORT_MODE, u8::from(on));
    });
    socket.change(format!("set hairpin mode of link {index}"), request)
}

/// Removes a link (and its veth peer); idempotent.
pub fn delete(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut request = Request::new(RTM_DELLINK, 0).body(&info(0, 0, 0));
    request.attr_str(IFLA_IFNAME, name);
    netlink::allow_missing(socket.change(format!("delete link {name}"), request))
}

/// The index of the link at the other end of a veth pair, in that end's namespace.
pub fn veth_peer(socket: &Socket, name: &str) -> Result<Option<u32>, Error> {
    let mut request = Request::new(RTM_GETLINK, 0).body(&info(0, 0, 0));
    request.attr_str(IFLA_IFNAME, name);
    let message = socket.get(format!("find the peer of {name}"), request)?;
    Ok(message.and_then(|message| message.attributes(16).get(IFLA_LINK).and_then(|b| u32_at(b, 0))))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use ipnet::IpNet;

    use super::*;
    use crate::{NetNs, address, neighbour, route};

    #[test]
    fn a_veth_pair_spans_two_namespaces_and_carries_a_route() {
        let (host, pod) = (NetNs::fresh().unwrap(), NetNs::fresh().unwrap());
        let (outside, inside) = (host.socket().unwrap(), pod.socket().unwrap());
        create_bridge(&outside, "br0", None, 1450).unwrap();
        let near = VethEnd { name: "vethabc", mac: None, namespace: None };
        let mac = Mac::from_ip(0x0a, 0x58, "10.1.0.2".parse().unwrap());
        let far = VethEnd { name: "eth0", mac: Some(mac), namespace: Some(pod.as_fd()) };
        create_veth(&outside, &near, &far, 1450).unwrap();
        let bridge = by_name(&outside, "br0").unwrap();
        let port = by_name(&outside, "vethabc").unwrap();
        change(&outside, port.index, Change { up: Some(true), master: Some(bridge.index), ..Change::default() }).unwrap();
        set_hairpin(&outside, port.index, true).unwrap();
        let eth0 = by_name(&inside, "eth0").unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(mac), 1450));
        assert_eq!(veth_peer(&outside, "vethabc").unwrap(), Some(eth0.index));

        change(&inside, eth0.index, Change::up()).unwrap();
        let net: IpNet = "10.1.0.2/24".parse().unwrap();
        address::add(&inside, eth0.index, net).unwrap();
        address::add(&inside, eth0.index, net).unwrap();
        assert!(address::list(&inside).unwrap().iter().any(|a| a.net == net && a.link == eth0.index));
        let default = route::Route::new("0.0.0.0/0".parse().unwrap(), eth0.index).via("10.1.0.1".parse().unwrap());
        route::replace(&inside, &default).unwrap();
        route::replace(&inside, &default).unwrap();
        assert!(route::list(&inside).unwrap().contains(&default));
        route::delete(&inside, &default).unwrap();
        route::delete(&inside, &default).unwrap();
        assert!(!route::list(&inside).unwrap().contains(&default));

        delete(&outside, "vethabc").unwrap();
        delete(&outside, "vethabc").unwrap();
        assert!(find(&inside, "eth0").unwrap().is_none());
    }

    #[test]
    fn a_vxlan_device_is_read_back_with_its_neighbours() {
        let host = NetNs::fresh().unwrap();
        let socket = host.socket().unwrap();
        let vxlan = Vxlan { id: 1, port: 8472, local: "127.0.0.1".parse().unwrap(), device: 0 };
        let mac = Mac::from_ip(0x02, 0x52, vxlan.local);
        create_vxlan(&socket, "rk.vxlan", mac, 1450, vxlan).unwrap();
        let link = by_name(&socket, "rk.vxlan").unwrap();
        assert_eq!((link.vxlan, link.mac, link.mtu), (Some(vxlan), Some(mac), 1450));
        let (ip, far) = ("10.244.1.0".parse().unwrap(), Mac([2, 0, 0, 0, 0, 1]));
        for entry in [
            neighbour::Neighbour { table: neighbour::Table::Arp, link: link.index, ip, mac: far },
            neighbour::Neighbour {
                table: neighbour::Table::Forwarding,
                link: link.index,
                ip: "172.30.0.2".parse().unwrap(),
                mac: far,
            },
        ] {
            neighbour::replace(&socket, &entry).unwrap();
            neighbour::replace(&socket, &entry).unwrap();
            assert!(neighbour::list(&socket, link.index).unwrap().contains(&entry), "{entry:?}");
            neighbour::delete(&socket, &entry).unwrap();
            assert!(!neighbour::list(&socket, link.index).unwrap().contains(&entry), "{entry:?}");
        }
    }
}
