//! The kernel's connection tracking table: reading flows and deleting those that lead where nothing is any more.

use std::net::{IpAddr, SocketAddr};

use crate::netlink::{self, Attributes, Error, Message, Request, Socket};

const SUBSYSTEM: u16 = 1 << 8; // NFNL_SUBSYS_CTNETLINK
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// One tracked flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    /// As the first packet came in, before any translation.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Who answers: the endpoint behind a translated destination.
    pub reply_source: SocketAddr,
    original: Vec<u8>,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

/// All flows of one address family and protocol.
pub fn list(socket: &Socket, ipv6: bool, protocol: u8) -> Result<Vec<Flow>, Error> {
    let messages = socket.dump("list tracked connections", || Request::new(CT_GET, 0).body(&header(ipv6)))?;
    Ok(messages.iter().filter_map(parse).filter(|flow| flow.protocol == protocol).collect())
}

/// Forgets a flow; idempotent. Its next packet is looked at as a new one.
pub fn delete(socket: &Socket, flow: &Flow) -> Result<(), Error> {
    let mut request = Request::new(CT_DELETE, 0).body(&header(flow.destination.is_ipv6()));
    request.attr(CTA_TUPLE_ORIG | NLA_F_NESTED, &flow.original).attr(CTA_ID, &flow.id);
    if let Some(zone) = &flow.zone {
        request.attr(CTA_ZONE, zone);
    }
    netlink::allow_missing(socket.change("delete a tracked connection", request))
}

#[allow(clippy::cast_possible_truncation)] // AF_INET and AF_INET6 are small
fn header(ipv6: bool) -> [u8; 4] {
    [if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8, 0, 0, 0]
}

fn parse(message: &Message) -> Option<Flow> {
    let attributes = message.attributes(4);
    let original = attributes.get(CTA_TUPLE_ORIG)?;
    let (protocol, source, destination) = tuple(original)?;
    let (_, reply_source, _) = tuple(attributes.get(CTA_TUPLE_REPLY)?)?;
    Some(Flow {
        protocol,
        source,
        destination,
        reply_source,
        original: original.to_vec(),
        id: attributes.get(CTA_ID)?.to_vec(),
        zone: attributes.get(CTA_ZONE).map(<[u8]>::to_vec),
    })
}

fn tuple(bytes: &[u8]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let mut addresses: [Option<IpAddr>; 2] = [None; 2];
    for (kind, value) in Attributes::of(Attributes::of(bytes).get(CTA_TUPLE_IP)?) {
        match kind {
            1 | 3 => addresses[0] = netlink::ip(value),
            2 | 4 => addresses[1] = netlink::ip(value),
            _ => {}
        }
    }
    let (mut protocol, mut ports) = (0, [0u16; 2]);
    for (kind, value) in Attributes::of(Attributes::of(bytes).get(CTA_TUPLE_PROTO)?) {
        match (kind, value) {
            (1, [number, ..]) => protocol = *number,
            (2, [high, low, ..]) => ports[0] = u16::from_be_bytes([*high, *low]),
            (3, [high, low, ..]) => ports[1] = u16::from_be_bytes([*high, *low]),
            _ => {}
        }
    }
    Some((protocol, SocketAddr::new(addresses[0]?, ports[0]), SocketAddr::new(addresses[1]?, ports[1])))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::{NetNs, link};

    #[test]
    fn a_udp_flow_is_seen_and_deleted() {
        let namespace = NetNs::fresh().unwrap();
        let socket = namespace.socket().unwrap();
        let lo = link::by_name(&socket, "lo").unwrap();
        link::change(&socket, lo.index, link::Change::up()).unwrap();
        namespace
            .run(|| {
                // Connection tracking only runs where a rule asks for it.
                crate::iptables::Iptables::new(crate::iptables::Family::V4)
                    .restore("*filter\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n")
                    .unwrap();
                let server = UdpSocket::bind("127.0.0.1:0").unwrap();
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(b"x", server.local_addr().unwrap()).unwrap();
                server.recv_from(&mut [0; 8]).unwrap();
                let netfilter = Socket::netfilter().unwrap();
                let ours = || {
                    let flows = list(&netfilter, false, UDP).unwrap();
                    flows.into_iter().find(|flow| flow.destination == server.local_addr().unwrap())
                };
                let flow = ours().expect("the flow is tracked");
                assert_eq!(flow.source, client.local_addr().unwrap());
                delete(&netfilter, &flow).unwrap();
                delete(&netfilter, &flow).unwrap();
                assert!(ours().is_none());
            })
            .unwrap();
    }
}
