//! Which API server takes the next connection, and which one is given up.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::https::{self, Trust};

/// A host of the same network answers in milliseconds; one that does not within this is down or cut off.
const CONNECT: Duration = Duration::from_secs(1);
/// One look at /readyz.
const CHECK: Duration = Duration::from_secs(2);
/// Between looks at a server that is ready: a handshake costs it half a millisecond, and broken connections tell sooner.
const CHECK_READY: Duration = Duration::from_secs(10);
/// Between looks at one that is not.
const CHECK_DOWN: Duration = Duration::from_secs(1);
/// A host that lost its power sends no end of connection: keepalives and unanswered data tell within this.
const DEAD_AFTER: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Ready,
    /// Not looked at yet.
    Unknown,
    /// One look failed: the next decides.
    Doubtful,
    Down,
}

struct Server {
    address: SocketAddr,
    local: bool,
    open: AtomicUsize,
    /// Health, and when it was looked at.
    health: Mutex<(Health, Option<Instant>)>,
    /// Changes when the connections to this server are to end.
    cut: watch::Sender<u64>,
}

/// All API servers.
pub(super) struct Pool {
    servers: Mutex<Vec<Arc<Server>>>,
    own: Vec<IpAddr>,
}

/// A connection's place at a server.
pub(super) struct Lease {
    server: Arc<Server>,
    cut: watch::Receiver<u64>,
}

impl Lease {
    /// Ends when the server is given up.
    pub(super) async fn given_up(&mut self) {
        if self.cut.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
struct View {
    health: Health,
    local: bool,
    open: usize,
}

/// The order of trying: healthy before doubtful, this host's own first, then the one with the fewest connections. Pure.
fn order(views: &[View], start: usize) -> Vec<usize> {
    let mut list: Vec<usize> = (0..views.len()).map(|n| (n + start) % views.len().max(1)).collect();
    list.sort_by_key(|n| (views[*n].health, !views[*n].local, views[*n].open));
    list
}

/// After a look: the new health. Two failures in a row make a server down, one success makes it ready. Pure.
fn judged(before: Health, answered: bool) -> Health {
    match (before, answered) {
        (_, true) => Health::Ready,
        (Health::Ready, false) => Health::Doubtful,
        (_, false) => Health::Down,
    }
}

impl Pool {
    pub(super) fn new(own: Vec<IpAddr>) -> Pool {
        Pool { servers: Mutex::default(), own }
    }

    /// These are the servers from now on; what is known of those that stay is kept, connections to those that go end.
    pub(super) fn set(&self, addresses: &[SocketAddr]) {
        let mut servers = self.servers.lock();
        let mut next: Vec<Arc<Server>> = Vec::new();
        for address in addresses {
            if next.iter().any(|server| server.address == *address) {
                continue;
            }
            let known = servers.iter().find(|server| server.address == *address).cloned();
            next.push(known.unwrap_or_else(|| {
                Arc::new(Server {
                    address: *address,
                    local: self.own.contains(&address.ip()),
                    open: AtomicUsize::new(0),
                    health: Mutex::new((Health::Unknown, None)),
                    cut: watch::Sender::new(0),
                })
            }));
        }
        for gone in servers.iter().filter(|old| !next.iter().any(|server| server.address == old.address)) {
            gone.cut.send_modify(|n| *n += 1);
        }
        *servers = next;
    }

    fn list(&self) -> Vec<Arc<Server>> {
        self.servers.lock().clone()
    }

    /// A connection to the best server that takes one.
    pub(super) async fn connect(&self) -> Option<(TcpStream, Lease)> {
        let servers = self.list();
        let views: Vec<View> = servers
            .iter()
            .map(|server| View { health: server.health.lock().0, local: server.local, open: server.open.load(Ordering::Relaxed) })
            .collect();
        for n in order(&views, rand::random_range(0..servers.len().max(1))) {
            let server = &servers[n];
            let cut = server.cut.subscribe();
            match tokio::time::timeout(CONNECT, TcpStream::connect(server.address)).await {
                Ok(Ok(stream)) => {
                    prepare(&stream);
                    server.open.fetch_add(1, Ordering::Relaxed);
                    return Some((stream, Lease { server: server.clone(), cut }));
                }
                _ => self.fail(server),
            }
        }
        tracing::warn!("No API server takes a connection");
        None
    }

    /// A server that takes no connection is down at once.
    fn fail(&self, server: &Server) {
        let before = std::mem::replace(&mut server.health.lock().0, Health::Down);
        if before != Health::Down {
            tracing::warn!(server = %server.address, "API server takes no connection");
        }
    }

    /// Looks at one server. Connections to one that has become unready end where another is ready, so that their clients come again.
    async fn look(&self, server: &Server) {
        let answer = https::get(&server.address.to_string(), "/readyz", &Trust::Anybody, None, CHECK).await;
        // Anonymous requests may be refused: who refuses is up.
        let answered = answer.is_ok_and(|answer| matches!(answer.status, 200 | 401 | 403));
        let before = {
            let mut health = server.health.lock();
            let before = health.0;
            *health = (judged(before, answered), Some(Instant::now()));
            before
        };
        let now = judged(before, answered);
        if before == now {
            return;
        }
        tracing::info!(server = %server.address, ?before, ?now, "Health of an API server has changed");
        let another = self.list().iter().any(|other| other.address != server.address && other.health.lock().0 == Health::Ready);
        if now == Health::Down && another {
            server.cut.send_modify(|n| *n += 1);
        }
    }
}

fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let second = Duration::from_secs(1);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3));
    let _ = socket.set_tcp_user_timeout(Some(DEAD_AFTER));
}

/// Looks at every server, sooner at those that are not well.
pub(super) async fn watch(pool: &Arc<Pool>) {
    loop {
        let due = pool.list().into_iter().filter(|server| {
            let (health, looked) = *server.health.lock();
            let pause = if health == Health::Ready { CHECK_READY } else { CHECK_DOWN };
            looked.is_none_or(|at| at.elapsed() >= pause)
        });
        let due: Vec<_> = due.collect();
        futures::future::join_all(due.iter().map(|server| pool.look(server))).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_healthy_server_with_the_fewest_connections_is_first() {
        let view = |health, local, open| View { health, local, open };
        use Health::{Doubtful, Down, Ready, Unknown};
        assert_eq!(order(&[view(Ready, false, 3), view(Ready, false, 1), view(Ready, true, 9)], 0), [2, 1, 0]);
        assert_eq!(order(&[view(Down, true, 0), view(Doubtful, false, 0), view(Unknown, false, 5)], 0), [2, 1, 0]);
        assert_eq!(order(&[view(Ready, false, 0), view(Ready, false, 0)], 1), [1, 0], "equals are shared out");
        assert!(order(&[], 0).is_empty());
    }

    #[test]
    fn one_failed_look_is_no_proof() {
        assert_eq!(judged(Health::Ready, false), Health::Doubtful);
        assert_eq!(judged(Health::Doubtful, false), Health::Down);
        assert_eq!(judged(Health::Unknown, false), Health::Down);
        assert_eq!(judged(Health::Down, true), Health::Ready);
    }

    #[tokio::test]
    async fn connections_pass_by_a_dead_server() {
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (alive_at, dead_at) = (alive.local_addr().unwrap(), dead.local_addr().unwrap());
        drop(dead);
        let pool = Pool::new(Vec::new());
        pool.set(&[dead_at, alive_at]);
        for _ in 0..4 {
            let (stream, lease) = pool.connect().await.expect("one is alive");
            assert_eq!(stream.peer_addr().unwrap(), alive_at);
            drop(lease);
        }
        // One that leaves the list lets go of its connections.
        let (_stream, mut lease) = pool.connect().await.expect("one is alive");
        pool.set(&[dead_at]);
        lease.given_up().await;
        assert!(pool.connect().await.is_none());
    }
}
