//! Neighbour tables: ARP and NDP entries, and the forwarding database of a VXLAN device.

use std::net::IpAddr;

use crate::link::Mac;
use crate::netlink::{self, Error, NLM_F_CREATE, NLM_F_REPLACE, Request, Socket, u16_at, u32_at};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
#[allow(clippy::cast_possible_truncation)] // 7
const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// Which table an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// IP address → link-layer address.
    Arp,
    /// Link-layer address → remote tunnel end.
    Forwarding,
}

/// A permanent entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    pub table: Table,
    pub link: u32,
    pub ip: IpAddr,
    pub mac: Mac,
}

fn request(kind: u16, flags: u16, entry: &Neighbour) -> Request {
    let (family, ntf) = match entry.table {
        Table::Arp => (netlink::family(entry.ip), 0),
        Table::Forwarding => (AF_BRIDGE, NTF_SELF),
    };
    let mut body = vec![family, 0, 0, 0];
    body.extend_from_slice(&entry.link.to_ne_bytes());
    body.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
    body.extend_from_slice(&[ntf, 0]);
    let mut request = Request::new(kind, flags).body(&body);
    request.attr(NDA_DST, &netlink::octets(entry.ip)).attr(NDA_LLADDR, &entry.mac.0);
    request
}

/// Adds or replaces a permanent entry.
pub fn replace(socket: &Socket, entry: &Neighbour) -> Result<(), Error> {
    let action = format!("add neighbour {} at {}", entry.ip, entry.mac);
    socket.change(action, request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, entry))
}

/// Removes an entry; idempotent.
pub fn delete(socket: &Socket, entry: &Neighbour) -> Result<(), Error> {
    let action = format!("delete neighbour {} at {}", entry.ip, entry.mac);
    netlink::allow_missing(socket.change(action, request(RTM_DELNEIGH, 0, entry)))
}

/// The permanent entries of one link, of both tables.
pub fn list(socket: &Socket, link: u32) -> Result<Vec<Neighbour>, Error> {
    let mut entries = Vec::new();
    for family in [0, AF_BRIDGE] {
        let messages = socket.dump("list neighbours", || {
            let mut body = [0; 12];
            body[0] = family;
            Request::new(RTM_GETNEIGH, 0).body(&body)
        })?;
        let table = if family == AF_BRIDGE { Table::Forwarding } else { Table::Arp };
        entries.extend(messages.iter().filter_map(|message| {
            let attributes = message.attributes(12);
            let permanent = u16_at(&message.payload, 8)? & NUD_PERMANENT != 0;
            let ours = permanent && u32_at(&message.payload, 4)? == link;
            let mac = Mac(attributes.get(NDA_LLADDR)?.try_into().ok()?);
            ours.then_some(Neighbour { table, link, ip: netlink::ip(attributes.get(NDA_DST)?)?, mac })
        }));
    }
    Ok(entries)
}
