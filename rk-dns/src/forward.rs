//! Asks other servers. Every question has its own socket with a port of the kernel's choice and an unpredictable number, so
//! that answers cannot be guessed; a server that does not answer is left alone for a while.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use crate::cache::Key;
use crate::config::{Forward as Settings, Policy};
use crate::handler::Reply;

/// One server's time for one answer. Upstream: coredns plugin/pkg/proxy readTimeout (2 s); clients give up after 5 s, and two
/// tries must fit.
const PATIENCE: Duration = Duration::from_millis(1800);
/// A server that failed is asked again after this long.
const REST: Duration = Duration::from_millis(500);
/// Tries per question, over all servers.
const TRIES: usize = 3;
/// What an answer over UDP may measure, bytes: fits every path unfragmented. Source: DNS flag day 2020.
pub const UDP_PAYLOAD: u16 = 1232;

struct Upstream {
    address: SocketAddr,
    failures: AtomicU32,
    failed_at: Mutex<Option<Instant>>,
}

/// The servers for a zone.
pub struct Forward {
    pub settings: Settings,
    upstreams: Vec<Upstream>,
    turn: AtomicUsize,
    pending: AtomicUsize,
}

/// Counts a question as pending while it lives.
struct Pending<'a>(&'a AtomicUsize);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Forward {
    pub fn new(settings: Settings) -> Self {
        let upstream =
            |address: &SocketAddr| Upstream { address: *address, failures: AtomicU32::new(0), failed_at: Mutex::new(None) };
        let upstreams = settings.to.iter().map(upstream).collect();
        Self { settings, upstreams, turn: AtomicUsize::new(0), pending: AtomicUsize::new(0) }
    }

    /// Whether these servers are to be asked about a name.
    pub fn covers(&self, labels: &[String]) -> bool {
        self.settings.from.contains(labels) && !self.settings.except.iter().any(|zone| zone.contains(labels))
    }

    /// The servers in the order in which they are tried: those that work first.
    fn order(&self) -> Vec<&Upstream> {
        let mut all: Vec<&Upstream> = self.upstreams.iter().collect();
        match self.settings.policy {
            Policy::Random => all.shuffle(&mut rand::rng()),
            Policy::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                all.rotate_left(turn % self.upstreams.len().max(1));
            }
            Policy::Sequential => {}
        }
        let limit = self.settings.max_fails;
        let resting = |upstream: &Upstream| {
            let failed = limit > 0 && upstream.failures.load(Ordering::Relaxed) >= limit;
            failed && upstream.failed_at.lock().is_some_and(|at| at.elapsed() < REST)
        };
        all.sort_by_key(|upstream| resting(upstream));
        all
    }

    /// Asks until one server answers; SERVFAIL when none does.
    pub async fn ask(&self, query: &Query, key: &Key, over_tcp: bool) -> Reply {
        let _pending = Pending(&self.pending);
        let pending = self.pending.fetch_add(1, Ordering::Relaxed);
        if self.settings.max_concurrent > 0 && pending >= self.settings.max_concurrent {
            return Reply::code(ResponseCode::Refused);
        }
        let order = self.order();
        for upstream in order.iter().cycle().take(TRIES.max(order.len().min(TRIES))) {
            match self.ask_one(upstream.address, query, key, over_tcp).await {
                Ok(reply) => {
                    upstream.failures.store(0, Ordering::Relaxed);
                    return reply;
                }
                Err(error) => {
                    upstream.failures.fetch_add(1, Ordering::Relaxed);
                    *upstream.failed_at.lock() = Some(Instant::now());
                    tracing::debug!(upstream = %upstream.address, name = %query.name(), err = %error, "Upstream did not answer");
                }
            }
        }
        Reply::code(ResponseCode::ServFail)
    }

    async fn ask_one(&self, upstream: SocketAddr, query: &Query, key: &Key, over_tcp: bool) -> std::io::Result<Reply> {
        let message = request(query, key);
        let bytes = message.to_vec().map_err(std::io::Error::other)?;
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
        if !over_tcp && !self.settings.force_tcp {
            let answer = timeout(PATIENCE, over_udp(upstream, &bytes, &message)).await.map_err(late)??;
            if !answer.metadata.truncation {
                return Ok(Reply::from_message(answer));
            }
        }
        let answer = timeout(PATIENCE, over_stream(upstream, &bytes, &message)).await.map_err(late)??;
        Ok(Reply::from_message(answer))
    }
}

fn request(query: &Query, key: &Key) -> Message {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = key.unchecked;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    edns.set_dnssec_ok(key.dnssec);
    message.set_edns(edns);
    message
}

/// An answer counts only if it is one to this very question.
fn matches(answer: &Message, asked: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == asked.metadata.id
        && (answer.queries.is_empty() || answer.queries == asked.queries)
}

async fn over_udp(upstream: SocketAddr, bytes: &[u8], asked: &Message) -> std::io::Result<Message> {
    let any: IpAddr = if upstream.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: the kernel drops what comes from anybody else, and reports a closed port.
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && matches(&answer, asked)
        {
            return Ok(answer);
        }
    }
}

async fn over_stream(upstream: SocketAddr, bytes: &[u8], asked: &Message) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if matches(&answer, asked) { Ok(answer) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
