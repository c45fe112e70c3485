//! Remembers answers for as long as they may be used, positive and negative, and forgets at random when full.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Cache as Settings;
use crate::handler::Reply;

/// Locks are per shard: threads rarely wait for each other.
const SHARDS: usize = 16;
/// Answers that carry no time to live of their own.
const MIN_TTL: u32 = 5;

/// What answers depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub labels: Vec<String>,
    pub kind: RecordType,
    /// The client wants signatures.
    pub dnssec: bool,
    /// The client checks signatures itself.
    pub unchecked: bool,
}

struct Entry {
    reply: Reply,
    stored: Instant,
    ttl: u32,
}

/// Answers by question. Which ones go in is [`Cache::put`]'s decision.
pub struct Cache {
    settings: Settings,
    shards: Vec<Mutex<HashMap<Key, Entry>>>,
}

impl Cache {
    pub fn new(settings: Settings) -> Self {
        Self { settings, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Whether the names of this question are cached at all.
    pub fn covers(&self, labels: &[String]) -> bool {
        self.settings.zones.iter().any(|zone| zone.contains(labels))
    }

    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Entry>> {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        key.hash(&mut hasher);
        &self.shards[usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0)]
    }

    /// A reply that is still good, with what is left of its time.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Reply> {
        self.look_up(key, now, 0)
    }

    /// A reply that has run out, where serving stale answers is on.
    pub fn get_stale(&self, key: &Key, now: Instant) -> Option<Reply> {
        self.look_up(key, now, self.settings.serve_stale?)
    }

    fn look_up(&self, key: &Key, now: Instant, beyond: u32) -> Option<Reply> {
        let shard = self.shard(key).lock();
        let entry = shard.get(key)?;
        let age = u32::try_from(now.saturating_duration_since(entry.stored).as_secs()).unwrap_or(u32::MAX);
        if age >= entry.ttl.saturating_add(beyond) {
            return None;
        }
        let mut reply = entry.reply.clone();
        let left = entry.ttl.saturating_sub(age);
        for record in reply.answers.iter_mut().chain(&mut reply.authority).chain(&mut reply.additional) {
            record.ttl = record.ttl.saturating_sub(age).min(left);
        }
        Some(reply)
    }

    /// Stores a reply if it is one to store.
    pub fn put(&self, key: Key, reply: &Reply, now: Instant) {
        let settings = &self.settings;
        if reply.truncated {
            return;
        }
        let off = |zones: &[crate::config::Zone]| zones.iter().any(|zone| zone.contains(&key.labels));
        let (ttl, capacity) = match reply.code {
            ResponseCode::NoError if !reply.answers.is_empty() => {
                if off(&settings.disable_success) {
                    return;
                }
                (least_ttl(&reply.answers).min(settings.success_ttl), settings.success)
            }
            ResponseCode::NoError | ResponseCode::NXDomain => {
                if off(&settings.disable_denial) {
                    return;
                }
                (negative_ttl(&reply.authority).min(settings.denial_ttl), settings.denial)
            }
            ResponseCode::ServFail => (settings.servfail_ttl, settings.denial),
            _ => return,
        };
        if ttl == 0 || capacity == 0 {
            return;
        }
        let mut shard = self.shard(&key).lock();
        if shard.len() >= capacity.div_ceil(SHARDS)
            && !shard.contains_key(&key)
            && let Some(victim) = shard.keys().next().cloned()
        {
            shard.remove(&victim);
        }
        let mut reply = reply.clone();
        // Nobody may keep an answer longer than we do.
        for record in reply.answers.iter_mut().chain(&mut reply.authority).chain(&mut reply.additional) {
            record.ttl = record.ttl.min(ttl);
        }
        shard.insert(key, Entry { reply, stored: now, ttl });
    }

    /// How many replies there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what nobody can use any more.
    pub fn sweep(&self, now: Instant) {
        let beyond = self.settings.serve_stale.unwrap_or(0);
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, entry| {
                now.saturating_duration_since(entry.stored) < Duration::from_secs(u64::from(entry.ttl) + u64::from(beyond))
            });
            shard.shrink_to_fit();
        }
    }
}

fn least_ttl(records: &[Record]) -> u32 {
    records.iter().map(|record| record.ttl).min().unwrap_or(MIN_TTL)
}

/// RFC 2308: the lesser of the SOA's own time and its minimum field.
fn negative_ttl(authority: &[Record]) -> u32 {
    authority
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
        .unwrap_or(MIN_TTL)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;
    use crate::config::Zone;

    fn settings() -> Settings {
        Settings {
            zones: vec![Zone::default()],
            success: 32,
            success_ttl: 30,
            denial: 32,
            denial_ttl: 30,
            servfail_ttl: 5,
            disable_success: vec![Zone::parse("cluster.local")],
            disable_denial: Vec::new(),
            serve_stale: None,
        }
    }

    fn key(name: &str) -> Key {
        Key { labels: Zone::parse(name).0, kind: RecordType::A, dnssec: false, unchecked: false }
    }

    fn positive(ttl: u32) -> Reply {
        let record = Record::from_rdata(Name::root(), ttl, RData::A(A([192, 0, 2, 1].into())));
        Reply { answers: vec![record], ..Reply::code(ResponseCode::NoError) }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_age_and_expire() {
        let cache = Cache::new(settings());
        let start = Instant::now();
        cache.put(key("a.example"), &positive(300), start);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(&key("a.example"), later(10)).unwrap().answers[0].ttl, 20);
        assert_eq!(cache.get(&key("a.example"), later(30)), None);
        cache.put(key("x.cluster.local"), &positive(300), start);
        assert_eq!(cache.get(&key("x.cluster.local"), start), None, "switched off");
        cache.sweep(later(31));
        assert!(cache.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn denials_live_as_the_soa_says() {
        let cache = Cache::new(settings());
        let start = Instant::now();
        let soa = RData::SOA(SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 7));
        let reply = Reply { authority: vec![Record::from_rdata(Name::root(), 60, soa)], ..Reply::code(ResponseCode::NXDomain) };
        cache.put(key("no.example"), &reply, start);
        assert_eq!(cache.get(&key("no.example"), start + Duration::from_secs(6)).unwrap().code, ResponseCode::NXDomain);
        assert_eq!(cache.get(&key("no.example"), start + Duration::from_secs(7)), None);
        cache.put(key("refused.example"), &Reply::code(ResponseCode::Refused), start);
        assert_eq!(cache.get(&key("refused.example"), start), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_stays_within_its_bounds_and_stale_answers_stand_in_when_allowed() {
        let cache = Cache::new(Settings { serve_stale: Some(100), ..settings() });
        let start = Instant::now();
        for number in 0..1000 {
            cache.put(key(&format!("n{number}.example")), &positive(300), start);
        }
        assert!(cache.len() <= 32);
        cache.put(key("a.example"), &positive(1), start);
        let later = start + Duration::from_secs(50);
        assert_eq!(cache.get(&key("a.example"), later), None);
        assert_eq!(cache.get_stale(&key("a.example"), later).unwrap().answers[0].ttl, 0);
    }
}
