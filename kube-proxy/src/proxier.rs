//! The sync loop: takes changes, lets each family's backend apply them, reports how that went.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use net::iptables::Family;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Portals, Scope};
use crate::conntrack::{self, Allowed};
use crate::health::Health;
use crate::metrics::METRICS;
use crate::portal::Portal;
use crate::service::ServiceName;
use crate::service_health::ServiceHealth;
use crate::state::{Seen, State};

/// Of the time, at most one part in this many plus one goes into syncing when changes never end.
const REST: u32 = 4;
/// No change waits longer than this for a sync that took long; the first one does, and few others.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Wait after a failed sync; doubles up to the sync period.
const RETRY: Duration = Duration::from_millis(500);

/// One family's rules and what they are made of.
struct FamilyProxy {
    family: Family,
    backend: Box<dyn Backend>,
    portals: Portals,
    /// Everything has to be written: at first, after a failure, after somebody flushed our rules.
    full: bool,
}

/// Called with the error after a sync failed, and with `None` after the first success that follows.
pub type OnResult = Box<dyn Fn(Family, Option<&str>) + Send + Sync>;

/// Called once, after every family has been synced for the first time.
pub type AfterFirst = Box<dyn FnOnce() + Send>;

/// The loop's parts.
pub struct Proxier {
    pub state: Arc<Mutex<State>>,
    pub changed: Arc<Notify>,
    pub health: Health,
    pub service_health: ServiceHealth,
    pub min_sync_period: Duration,
    pub sync_period: Duration,
    pub on_result: OnResult,
    mode: String,
    after_first: Option<AfterFirst>,
    families: Vec<FamilyProxy>,
    health_checked: BTreeMap<ServiceName, (u16, usize)>,
}

/// What the loop is made of besides backends.
pub struct Parts {
    pub state: Arc<Mutex<State>>,
    pub changed: Arc<Notify>,
    pub health: Health,
    pub service_health: ServiceHealth,
    pub min_sync_period: Duration,
    pub sync_period: Duration,
    pub on_result: OnResult,
    /// As in `--proxy-mode`.
    pub mode: String,
    pub after_first: AfterFirst,
}

impl Proxier {
    pub fn new(parts: Parts, backends: Vec<(Family, Box<dyn Backend>)>) -> Self {
        let Parts { state, changed, health, service_health, min_sync_period, sync_period, on_result, mode, after_first } = parts;
        let family = |(family, backend)| FamilyProxy { family, backend, portals: Portals::new(), full: true };
        let families = backends.into_iter().map(family).collect();
        Self {
            state,
            changed,
            health,
            service_health,
            min_sync_period,
            sync_period,
            on_result,
            mode,
            after_first: Some(after_first),
            families,
            health_checked: BTreeMap::new(),
        }
    }

    /// Syncs until stopped: at once after a change, but never more than a fraction of the time; now and then without one.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut retry = RETRY;
        loop {
            let begun = Instant::now();
            let (this, ok) = match tokio::task::spawn_blocking(move || {
                let ok = self.sync();
                (self, ok)
            })
            .await
            {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(err = %error, "Sync panicked");
                    std::process::exit(101);
                }
            };
            self = this;
            self.sync_service_health();
            let pause = if ok {
                retry = RETRY;
                self.min_sync_period.max((begun.elapsed() * REST).min(LONGEST_REST))
            } else {
                let pause = retry;
                retry = (retry * 2).min(self.sync_period);
                pause
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause.min(self.sync_period)) => {}
            }
            if !ok {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(self.sync_period) => self.look_after_rules(),
            }
        }
    }

    /// Asks for a full sync where rules have vanished.
    fn look_after_rules(&mut self) {
        for proxy in &mut self.families {
            match proxy.backend.verify() {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(family = %proxy.family, "Rules have been changed by somebody else, writing all of them");
                    proxy.full = true;
                }
                Err(error) => tracing::warn!(err = %error, "Failed to look at the rules"),
            }
        }
    }

    /// One sync of every family; `true` when all succeeded.
    fn sync(&mut self) -> bool {
        let (changes, seen) = {
            let mut state = self.state.lock();
            (state.take_changes(), state.take_seen())
        };
        let mut ok = true;
        for index in 0..self.families.len() {
            ok &= self.sync_family(index, &changes, &seen);
        }
        METRICS.taken(&seen);
        self.note_health_checks(&changes);
        if ok && let Some(after_first) = self.after_first.take() {
            after_first();
        }
        ok
    }

    fn sync_family(&mut self, index: usize, changes: &[ServiceName], seen: &Seen) -> bool {
        let proxy = &mut self.families[index];
        let family = proxy.family;
        let mut before: Vec<Arc<[Portal]>> = Vec::new();
        let mut names: BTreeSet<ServiceName> = BTreeSet::new();
        {
            let state = self.state.lock();
            for name in changes {
                let portals = state.portals(name, family);
                let old = if portals.is_empty() {
                    proxy.portals.remove(name)
                } else if proxy.portals.get(name).is_some_and(|old| **old == *portals) {
                    continue;
                } else {
                    proxy.portals.insert(name.clone(), portals.into())
                };
                before.extend(old);
                names.insert(name.clone());
            }
        }
        if !proxy.full && names.is_empty() {
            self.health.updated(family);
            return true;
        }
        self.health.queued(family);
        METRICS.queued(family);
        let names: Vec<ServiceName> = names.into_iter().collect();
        let scope = if proxy.full { Scope::All } else { Scope::Only(&names) };
        let begun = Instant::now();
        let result = proxy.backend.sync(&proxy.portals, scope);
        let took = begun.elapsed();
        match result {
            Ok(report) => {
                METRICS.synced(family, took, report);
                METRICS.programmed(family, seen);
                tracing::debug!(%family, services = proxy.portals.len(), changed = names.len(), ?report, ?took, "Synced rules");
                proxy.full = false;
                let now = names.iter().filter_map(|name| proxy.portals.get(name));
                let allowed = Allowed::new(before.iter(), now);
                let begun = Instant::now();
                match conntrack::clean(&allowed, family == Family::V6) {
                    Ok(count) => {
                        METRICS.cleaned(begun.elapsed(), count);
                        if count > 0 {
                            tracing::debug!(%family, count, "Deleted stale flows");
                        }
                    }
                    Err(error) => tracing::warn!(err = %error, "Failed to clean tracked connections"),
                }
                self.health.updated(family);
                (self.on_result)(family, None);
                true
            }
            Err(error) => {
                METRICS.failed(&self.mode, family, !proxy.full);
                proxy.full = true;
                let failures = self.health.failed(family, &error.to_string());
                tracing::error!(err = %error, failures, "Failed to sync rules, trying again");
                (self.on_result)(family, Some(&error.to_string()));
                false
            }
        }
    }

    fn note_health_checks(&mut self, changes: &[ServiceName]) {
        let state = self.state.lock();
        for name in changes {
            let port = state.ports(name).iter().map(|port| port.health_check_node_port).find(|port| *port != 0);
            match port {
                Some(port) => self.health_checked.insert(name.clone(), (port, state.local_ready(name))),
                None => self.health_checked.remove(name),
            };
        }
    }

    fn sync_service_health(&mut self) {
        for (service, error) in self.service_health.sync(&self.health_checked) {
            tracing::error!(%service, err = error, "Failed to serve a health check NodePort");
        }
    }
}
