//! Bandwidth limits (`kubernetes.io/ingress-bandwidth`, `kubernetes.io/egress-bandwidth`): a token bucket at each end of the
//! pod's veth pair. What a pod receives is shaped on the host's end, what it sends on its own.
//!
//! Upstream: containernetworking/plugins plugins/meta/bandwidth

use net::{Socket, link, tc};

use super::conf::Bandwidth;
use super::error::CniError;

/// Largest packet that must always fit into the bucket, bytes: segments are that large before they are cut.
const LEAST_BURST_BYTES: u64 = 64 * 1024;

/// Applies the limits; 0 means none.
pub fn apply(limits: Bandwidth, outside: &Socket, host_name: &str, inside: &Socket, ifname: &str) -> Result<(), CniError> {
    for (rate, burst, socket, name) in [
        (limits.ingress_rate, limits.ingress_burst, outside, host_name),
        (limits.egress_rate, limits.egress_burst, inside, ifname),
    ] {
        if rate > 0 {
            let index = link::by_name(socket, name)?.index;
            // Runtimes pass "no limit" as the largest number; a bucket of a second is as large as is of use.
            let burst_bytes = (burst / 8).clamp(LEAST_BURST_BYTES, (rate / 8).max(LEAST_BURST_BYTES));
            tc::limit(socket, index, rate / 8, u32::try_from(burst_bytes).unwrap_or(u32::MAX))?;
        }
    }
    Ok(())
}
