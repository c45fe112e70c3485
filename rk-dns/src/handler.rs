//! One request's way: the responsible server block, then cache, hosts, Kubernetes, other servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::RwLock;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use crate::cache::{Cache, Key};
use crate::config::{Config, Server};
use crate::forward::{Forward, UDP_PAYLOAD};
use crate::index::Index;
use crate::kubernetes::{self, Outcome, Question};
use crate::{hosts, metrics};

/// Aliases that lead to aliases; more is a loop.
const MAX_ALIASES: usize = 8;
/// A probe of the loop detection that comes back this often has gone round.
const LOOP_LIMIT: u32 = 2;

/// What is said to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    pub authoritative: bool,
    pub authentic: bool,
    pub truncated: bool,
}

impl Reply {
    pub fn code(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            authoritative: false,
            authentic: false,
            truncated: false,
        }
    }

    /// What another server said.
    pub fn from_message(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: message.metadata.authoritative,
            authentic: message.metadata.authentic_data,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authority: message.authorities,
            additional: message.additionals,
        }
    }
}

/// A server block with its living parts.
pub struct Block {
    pub server: Server,
    pub cache: Option<Cache>,
    pub forwards: Vec<Forward>,
    /// The zone as metrics name it.
    pub title: String,
}

/// Everything that a reload replaces at once.
pub struct Running {
    pub blocks: Vec<Block>,
}

impl Running {
    pub fn new(config: Config) -> Self {
        let block = |server: Server| Block {
            cache: server.cache.clone().map(Cache::new),
            forwards: server.forwards.iter().cloned().map(Forward::new).collect(),
            title: server.zones.first().map(|(zone, _)| zone.to_string()).unwrap_or_default(),
            server,
        };
        Self { blocks: config.servers.into_iter().map(block).collect() }
    }

    fn responsible(&self, port: u16, labels: &[String]) -> Option<&Block> {
        let zones = self.blocks.iter().flat_map(|block| block.server.zones.iter().map(move |zone| (block, zone)));
        let fitting = zones.filter(|(_, (zone, at))| *at == port && zone.contains(labels));
        fitting.max_by_key(|(_, (zone, _))| zone.0.len()).map(|(block, _)| block)
    }
}

/// The names of loop probes that are under way, and how often each has been seen.
#[derive(Default)]
pub struct Probes(RwLock<HashMap<Vec<String>, AtomicU32>>);

impl Probes {
    pub fn add(&self, labels: Vec<String>) {
        self.0.write().insert(labels, AtomicU32::new(0));
    }

    pub fn remove(&self, labels: &[String]) {
        self.0.write().remove(labels);
    }

    /// Whether a question is a probe that has come back too often.
    fn looped(&self, labels: &[String]) -> bool {
        let probes = self.0.read();
        probes.get(labels).is_some_and(|seen| seen.fetch_add(1, Ordering::Relaxed) + 1 >= LOOP_LIMIT)
    }
}

/// What all listeners share.
pub struct Shared {
    pub running: ArcSwap<Running>,
    pub index: RwLock<Index>,
    /// The cluster's objects are known; before, questions about them cannot be answered.
    pub synced: AtomicBool,
    pub probes: Probes,
    /// Questions of ours come back to us: a misconfiguration that would eat the machine.
    pub loop_found: tokio::sync::Notify,
}

/// The handler of one port.
pub struct Handler {
    pub shared: Arc<Shared>,
    pub port: u16,
    /// `dns://:53`, for metrics.
    pub server: String,
}

/// The labels of a name in lower case.
pub fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

impl Shared {
    /// Answers one question on behalf of clients of `port`.
    pub async fn resolve(&self, port: u16, query: &Query, key: &Key, over_tcp: bool, depth: usize) -> (Reply, &'static str) {
        let running = self.running.load_full();
        let Some(block) = running.responsible(port, &key.labels) else { return (Reply::code(ResponseCode::Refused), "") };
        let now = Instant::now();
        let cache = block.cache.as_ref().filter(|cache| cache.covers(&key.labels));
        if let Some(reply) = cache.and_then(|cache| cache.get(key, now)) {
            metrics::cache_hit("dns://", &block.title, reply.answers.is_empty());
            return (with_name(reply, query.name()), "cache");
        }
        if cache.is_some() {
            metrics::cache_miss("dns://", &block.title);
        }
        let (mut reply, plugin) = self.uncached(block, port, query, key, over_tcp, depth).await;
        if let Some(cache) = cache {
            if reply.code == ResponseCode::ServFail
                && let Some(stale) = cache.get_stale(key, now)
            {
                return (with_name(stale, query.name()), "cache");
            }
            cache.put(key.clone(), &reply, now);
        }
        if block.server.load_balance {
            shuffle(&mut reply.answers);
        }
        (reply, plugin)
    }

    async fn uncached(
        &self,
        block: &Block,
        port: u16,
        query: &Query,
        key: &Key,
        over_tcp: bool,
        depth: usize,
    ) -> (Reply, &'static str) {
        let question = Question { name: query.name(), labels: &key.labels, kind: query.query_type() };
        if let Some(reply) = block.server.hosts.as_ref().and_then(|hosts| hosts::answer(hosts, &question)) {
            return (reply, "hosts");
        }
        if let Some(kubernetes) = &block.server.kubernetes {
            let ours = kubernetes.zones.iter().any(|zone| zone.contains(&key.labels));
            if ours && !self.synced.load(Ordering::Acquire) {
                return (Reply::code(ResponseCode::ServFail), "kubernetes");
            }
            let outcome = kubernetes::answer(kubernetes, &self.index.read(), &question);
            match outcome {
                Outcome::Pass => {}
                Outcome::Records { answers, additional } => {
                    return (
                        Reply { answers, additional, authoritative: true, ..Reply::code(ResponseCode::NoError) },
                        "kubernetes",
                    );
                }
                Outcome::NoData(soa) => {
                    return (
                        Reply { authority: vec![soa], authoritative: true, ..Reply::code(ResponseCode::NoError) },
                        "kubernetes",
                    );
                }
                Outcome::NoName(soa) => {
                    return (
                        Reply { authority: vec![soa], authoritative: true, ..Reply::code(ResponseCode::NXDomain) },
                        "kubernetes",
                    );
                }
                Outcome::Alias { record, target } => {
                    let mut reply = Reply { answers: vec![record], authoritative: true, ..Reply::code(ResponseCode::NoError) };
                    if matches!(query.query_type(), RecordType::A | RecordType::AAAA) && depth < MAX_ALIASES {
                        let next = Query::query(target.clone(), query.query_type());
                        let key = Key { labels: labels(&target), ..key.clone() };
                        let (found, _) = Box::pin(self.resolve(port, &next, &key, over_tcp, depth + 1)).await;
                        reply.answers.extend(found.answers);
                    }
                    return (reply, "kubernetes");
                }
            }
        }
        let servers = block.forwards.iter().filter(|forward| forward.covers(&key.labels));
        match servers.max_by_key(|forward| forward.settings.from.0.len()) {
            Some(forward) => {
                let reply = forward.ask(query, key, over_tcp).await;
                metrics::forwarded(code_name(reply.code));
                (reply, "forward")
            }
            None => (Reply::code(ResponseCode::Refused), ""),
        }
    }
}

/// The answer to the same question with other capitals: clients compare.
fn with_name(mut reply: Reply, name: &Name) -> Reply {
    for record in &mut reply.answers {
        if record.name == *name {
            record.name = name.clone();
        }
    }
    reply
}

/// Addresses in random order; aliases stay in front of what they lead to.
fn shuffle(answers: &mut [Record]) {
    let is_address = |record: &Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
    if let Some(first) = answers.iter().position(is_address)
        && answers[first..].iter().all(is_address)
    {
        answers[first..].shuffle(&mut rand::rng());
    }
}

/// Bytes of a record that every answer has at least: a pointer to its name and the fixed fields.
const LEAST_RECORD: usize = 12;
/// Bytes of header and EDNS record.
const FRAME: usize = 23;

/// Makes a reply fit into a datagram: what only helps goes first, then answers, and then the client is told to ask over TCP.
fn fit(reply: &mut Reply, query: Option<&Query>, limit: usize) {
    let records = |reply: &Reply| reply.answers.len() + reply.authority.len() + reply.additional.len();
    // Most replies are small, and this says so without encoding them.
    if FRAME + 512 / 2 + records(reply) * (LEAST_RECORD + 64) <= limit.min(512) {
        return;
    }
    let size = |reply: &Reply| {
        let mut message = Message::query();
        message.add_queries(query.cloned());
        message.answers.clone_from(&reply.answers);
        message.authorities.clone_from(&reply.authority);
        message.additionals.clone_from(&reply.additional);
        message.to_vec().map_or(usize::MAX, |bytes| bytes.len() + FRAME)
    };
    if size(reply) <= limit {
        return;
    }
    reply.additional.clear();
    while size(reply) > limit && !reply.answers.is_empty() {
        reply.truncated = true;
        let excess = (size(reply).saturating_sub(limit) / 256).max(1);
        reply.answers.truncate(reply.answers.len().saturating_sub(excess));
    }
}

/// As metrics and logs name it.
pub fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        _ => "OTHER",
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let begun = Instant::now();
        let over_tcp = request.protocol() != Protocol::Udp;
        let (mut reply, plugin) = self.reply(request, over_tcp).await;
        if !over_tcp {
            let limit = request.max_payload().min(UDP_PAYLOAD);
            fit(&mut reply, request.queries.queries().first().map(|query| query.original()), usize::from(limit));
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.authentic_data = reply.authentic;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [Record; 0] = [];
        let response = builder.build(metadata, &reply.answers, &reply.authority, &none, &reply.additional);
        let sent = handle.send_response(response).await;
        if let Ok(info) = request.request_info() {
            let (zone, kind) = (self.zone_title(info.query.original().name()), kind_name(info.query.query_type()));
            let row = metrics::Request {
                server: &self.server,
                zone: &zone,
                ipv6: request.src().is_ipv6(),
                tcp: over_tcp,
                kind,
                plugin,
                code: code_name(reply.code),
            };
            metrics::served(&row, begun.elapsed());
        }
        sent.unwrap_or_else(|error| {
            tracing::debug!(err = %error, "Failed to send a response");
            ResponseInfo::from(hickory_proto::op::Header { metadata, counts: hickory_proto::op::HeaderCounts::default() })
        })
    }
}

/// The types that clients usually ask for; the others share a label, as upstream has it.
fn kind_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::MX => "MX",
        RecordType::SOA => "SOA",
        RecordType::CNAME => "CNAME",
        RecordType::PTR => "PTR",
        RecordType::TXT => "TXT",
        RecordType::NS => "NS",
        RecordType::SRV => "SRV",
        RecordType::DS => "DS",
        RecordType::DNSKEY => "DNSKEY",
        RecordType::HTTPS => "HTTPS",
        _ => "other",
    }
}

impl Handler {
    fn zone_title(&self, name: &Name) -> String {
        let running = self.shared.running.load();
        running.responsible(self.port, &labels(name)).map(|block| block.title.clone()).unwrap_or_default()
    }

    async fn reply(&self, request: &Request, over_tcp: bool) -> (Reply, &'static str) {
        if request.metadata.op_code != OpCode::Query {
            return (Reply::code(ResponseCode::NotImp), "");
        }
        let Ok(info) = request.request_info() else { return (Reply::code(ResponseCode::FormErr), "") };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return (Reply::code(ResponseCode::BADVERS), "");
        }
        let query = info.query.original();
        if query.query_class() != DNSClass::IN || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return (Reply::code(ResponseCode::Refused), "");
        }
        let key = Key {
            labels: labels(query.name()),
            kind: query.query_type(),
            dnssec: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            unchecked: request.metadata.checking_disabled,
        };
        if query.query_type() == RecordType::HINFO && self.shared.probes.looped(&key.labels) {
            self.shared.loop_found.notify_one();
            return (Reply::code(ResponseCode::Refused), "loop");
        }
        self.shared.resolve(self.port, query, &key, over_tcp, 0).await
    }
}
