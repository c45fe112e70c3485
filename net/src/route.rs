//! Routes of the main table.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{self, Error, NLM_F_CREATE, NLM_F_REPLACE, Request, Socket, u32_at};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;
const RTNH_F_ONLINK: u32 = 4;

/// Who made a route, as `ip route show proto` tells. Values from 192 on are nobody's in /etc/iproute2/rt_protos.
pub const PROTO_STATIC: u8 = 4;
/// Routes of rk-cni's agent; it removes only these.
pub const PROTO_RK: u8 = 214;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// `0.0.0.0/0` and `::/0` are the default routes.
    pub to: IpNet,
    pub via: Option<IpAddr>,
    /// Index of the link; 0 leaves the choice to the kernel.
    pub link: u32,
    /// The gateway is taken to be on the link although no address says so.
    pub on_link: bool,
    pub source: Option<IpAddr>,
    /// Largest packet along the route, bytes.
    pub mtu: Option<u32>,
    pub protocol: u8,
}

impl Route {
    pub fn new(to: IpNet, link: u32) -> Self {
        Self { to, via: None, link, on_link: false, source: None, mtu: None, protocol: PROTO_STATIC }
    }

    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self
    }

    pub fn on_link(mut self) -> Self {
        self.on_link = true;
        self
    }

    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }
}

/// Everything as one destination: the default route's `to`.
pub fn everywhere(family_of: IpAddr) -> IpNet {
    let unspecified = if family_of.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    IpNet::new(unspecified, 0).expect("a prefix length of 0 is always valid")
}

fn request(kind: u16, flags: u16, route: &Route) -> Request {
    let scope = if route.via.is_none() && route.to.addr().is_ipv4() { RT_SCOPE_LINK } else { 0 };
    let mut body =
        vec![netlink::family(route.to.addr()), route.to.prefix_len(), 0, 0, RT_TABLE_MAIN, route.protocol, scope, RTN_UNICAST];
    body.extend_from_slice(&(if route.on_link { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
    let mut request = Request::new(kind, flags).body(&body);
    if route.to.prefix_len() > 0 {
        request.attr(RTA_DST, &netlink::octets(route.to.network()));
    }
    if let Some(via) = route.via {
        request.attr(RTA_GATEWAY, &netlink::octets(via));
    }
    if route.link != 0 {
        request.attr_u32(RTA_OIF, route.link);
    }
    if let Some(source) = route.source {
        request.attr(RTA_PREFSRC, &netlink::octets(source));
    }
    if let Some(mtu) = route.mtu {
        request.nested(RTA_METRICS, |r| {
            r.attr_u32(RTAX_MTU, mtu);
        });
    }
    request
}

/// Makes the route to its destination this one; idempotent.
pub fn replace(socket: &Socket, route: &Route) -> Result<(), Error> {
    socket.change(format!("add route to {}", route.to), request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route))
}

/// Removes a route; idempotent.
pub fn delete(socket: &Socket, route: &Route) -> Result<(), Error> {
    netlink::allow_missing(socket.change(format!("delete route to {}", route.to), request(RTM_DELROUTE, 0, route)))
}

/// The unicast routes of the main table.
pub fn list(socket: &Socket) -> Result<Vec<Route>, Error> {
    let messages = socket.dump("list routes", || Request::new(RTM_GETROUTE, 0).body(&[0; 12]))?;
    Ok(messages.iter().filter_map(|message| parse(&message.payload, message.attributes(12))).collect())
}

fn parse(payload: &[u8], attributes: netlink::Attributes<'_>) -> Option<Route> {
    let (family, prefix, table, protocol, kind) =
        (*payload.first()?, *payload.get(1)?, *payload.get(4)?, *payload.get(5)?, *payload.get(7)?);
    let table = attributes.get(RTA_TABLE).and_then(|b| u32_at(b, 0)).unwrap_or(u32::from(table));
    if table != u32::from(RT_TABLE_MAIN) || kind != RTN_UNICAST {
        return None;
    }
    let unspecified: IpAddr = match i32::from(family) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let to = attributes.get(RTA_DST).and_then(netlink::ip).unwrap_or(unspecified);
    let metrics = attributes.get(RTA_METRICS).map(netlink::Attributes::of);
    Some(Route {
        to: IpNet::new(to, prefix).ok()?,
        via: attributes.get(RTA_GATEWAY).and_then(netlink::ip),
        link: attributes.get(RTA_OIF).and_then(|b| u32_at(b, 0)).unwrap_or(0),
        on_link: u32_at(payload, 8)? & RTNH_F_ONLINK != 0,
        source: attributes.get(RTA_PREFSRC).and_then(netlink::ip),
        mtu: metrics.and_then(|m| m.get(RTAX_MTU)).and_then(|b| u32_at(b, 0)),
        protocol,
    })
}
