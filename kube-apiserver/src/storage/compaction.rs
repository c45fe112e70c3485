//! Compaction of etcd's history by upstream's protocol: all API servers of a cluster, ours and upstream's, race on the key
//! `compact_rev_key`; the winner of a round compacts to the revision that was current one round ago.
//!
//! Upstream: apiserver/pkg/storage/etcd3/compact.go

use std::time::Duration;

use etcd_client::{CompactionOptions, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use tracing::{debug, warn};

use super::{Error, Storage, revision_of, timed};

const KEY: &str = "compact_rev_key";

/// Compacts every `interval` (`--etcd-compaction-interval`; zero: never) until dropped.
pub async fn run(storage: Storage, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let (mut round, mut previous) = (0, 0);
    loop {
        tokio::time::sleep(interval).await;
        match compact(&storage, round, previous).await {
            Ok((next, revision)) => (round, previous) = (next, revision),
            Err(error) => warn!(err = %error, "Compacting etcd failed"),
        }
    }
}

/// One round: moves the shared counter from `round`, and compacts to `revision` if this server moved it. The next round and
/// revision.
async fn compact(storage: &Storage, round: i64, revision: u64) -> Result<(i64, u64), Error> {
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, round)])
        .and_then([TxnOp::put(KEY, revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let answer = timed("compact", storage.kv.clone().txn(txn)).await?;
    let current = revision_of(answer.header());
    if !answer.succeeded() {
        let seen = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(get) => get.kvs().first().map(|kv| kv.version()),
            _ => None,
        });
        return Ok((seen.unwrap_or(0), current));
    }
    if revision > 0 {
        let options = CompactionOptions::new();
        match timed("compact", storage.kv.clone().compact(revision.cast_signed(), Some(options))).await {
            Ok(_) | Err(Error::Compacted) => debug!(revision, "Compacted etcd"),
            Err(error) => return Err(error),
        }
    }
    Ok((round + 1, current))
}
