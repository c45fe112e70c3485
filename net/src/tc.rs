//! Traffic control: one token bucket per link.

use crate::netlink::{Error, NLM_F_CREATE, NLM_F_REPLACE, Request, Socket};

const RTM_NEWQDISC: u16 = 36;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// How long a packet may wait in the bucket's queue, milliseconds. Upstream: plugins/meta/bandwidth latencyInMillis.
const LATENCY_MILLIS: u64 = 25;

/// Limits what leaves through the link to `rate` bytes per second with bursts of `burst` bytes; idempotent.
pub fn limit(socket: &Socket, link: u32, rate: u64, burst: u32) -> Result<(), Error> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&link.to_ne_bytes());
    body.extend_from_slice(&0x0001_0000_u32.to_ne_bytes()); // handle 1:
    body.extend_from_slice(&TC_H_ROOT.to_ne_bytes());
    body.extend_from_slice(&[0; 4]);
    let queue = u32::try_from(rate.saturating_mul(LATENCY_MILLIS) / 1000 + u64::from(burst)).unwrap_or(u32::MAX);
    let narrow = u32::try_from(rate).unwrap_or(u32::MAX);
    let mut parameters = Vec::with_capacity(36);
    parameters.extend_from_slice(&[0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parameters.extend_from_slice(&narrow.to_ne_bytes());
    parameters.extend_from_slice(&[0; 12]); // no peak rate
    parameters.extend_from_slice(&queue.to_ne_bytes());
    parameters.extend_from_slice(&[0; 8]); // buffer and MTU follow from the burst
    let mut request = Request::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE).body(&body);
    request.attr_str(TCA_KIND, "tbf").nested(TCA_OPTIONS, |r| {
        r.attr(TCA_TBF_PARMS, &parameters).attr_u32(TCA_TBF_BURST, burst);
        if rate > u64::from(u32::MAX) {
            r.attr(TCA_TBF_RATE64, &rate.to_ne_bytes());
        }
    });
    socket.change(format!("limit the bandwidth of link {link}"), request)
}

#[cfg(test)]
mod tests {
    use crate::{NetNs, link};

    #[test]
    fn a_limit_can_be_set_and_changed() {
        let namespace = NetNs::fresh().unwrap();
        let socket = namespace.socket().unwrap();
        link::create_bridge(&socket, "br0", None, 1500).unwrap();
        let index = link::by_name(&socket, "br0").unwrap().index;
        super::limit(&socket, index, 125_000, 65_536).unwrap();
        super::limit(&socket, index, 10_000_000_000, 65_536).unwrap();
    }
}
