//! etcd leases for keys that expire (events): one lease serves all writes of a minute, as upstream's lease manager does,
//! for a lease per event would be dearer than the event.

use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::sync::Mutex;

use super::Error;

/// How long a lease is handed out again. Upstream: --lease-reuse-duration-seconds, 60.
const REUSE: Duration = Duration::from_secs(60);
/// Most keys on one lease: revoking a huge lease stalls etcd. Upstream: defaultLeaseMaxObjectCount, 1000.
const MOST_KEYS: u32 = 1000;

#[derive(Default)]
pub(super) struct Leases {
    held: Mutex<Option<Held>>,
}

struct Held {
    id: i64,
    ttl: Duration,
    since: Instant,
    keys: u32,
}

impl Leases {
    /// A lease that lives at least `ttl` from now.
    pub(super) async fn get(&self, client: &Client, ttl: Duration) -> Result<i64, Error> {
        let mut held = self.held.lock().await;
        if let Some(lease) = held.as_mut()
            && lease.ttl == ttl
            && lease.since.elapsed() < REUSE
            && lease.keys < MOST_KEYS
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let seconds = i64::try_from((ttl + REUSE).as_secs()).unwrap_or(i64::MAX);
        let answer = client.lease_client().grant(seconds, None).await?;
        *held = Some(Held { id: answer.id(), ttl, since: Instant::now(), keys: 1 });
        Ok(answer.id())
    }
}
