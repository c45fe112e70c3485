//! Addresses on links.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{self, Error, NLM_F_CREATE, NLM_F_REPLACE, Request, Socket, u32_at};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;

/// One address of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub net: IpNet,
    /// 0 universe, 253 link, 254 host.
    pub scope: u8,
}

fn request(kind: u16, flags: u16, link: u32, net: IpNet) -> Request {
    // Duplicate address detection would keep a pod's IPv6 address unusable for a second; the allocator already excludes doubles.
    let noticed = if net.addr().is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut body = vec![netlink::family(net.addr()), net.prefix_len(), noticed, 0];
    body.extend_from_slice(&link.to_ne_bytes());
    let mut request = Request::new(kind, flags).body(&body);
    let octets = netlink::octets(net.addr());
    request.attr(IFA_LOCAL, &octets).attr(IFA_ADDRESS, &octets);
    request
}

/// Puts an address on a link; idempotent.
pub fn add(socket: &Socket, link: u32, net: IpNet) -> Result<(), Error> {
    let mut request = request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, link, net);
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
    {
        request.attr(IFA_BROADCAST, &v4.broadcast().octets());
    }
    socket.change(format!("add address {net}"), request)
}

/// Takes an address off a link; idempotent.
pub fn delete(socket: &Socket, link: u32, net: IpNet) -> Result<(), Error> {
    netlink::allow_missing(socket.change(format!("delete address {net}"), request(RTM_DELADDR, 0, link, net)))
}

/// All addresses in the namespace.
pub fn list(socket: &Socket) -> Result<Vec<Address>, Error> {
    let messages = socket.dump("list addresses", || Request::new(RTM_GETADDR, 0).body(&[0; 8]))?;
    Ok(messages
        .iter()
        .filter_map(|message| {
            let (prefix, scope) = (*message.payload.get(1)?, *message.payload.get(3)?);
            let attributes = message.attributes(8);
            let address: IpAddr = netlink::ip(attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?)?;
            Some(Address { link: u32_at(&message.payload, 4)?, net: IpNet::new(address, prefix).ok()?, scope })
        })
        .collect())
}
