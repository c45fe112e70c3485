//! Leader election on a Lease: one of several equal processes acts.
//!
//! Upstream: client-go/tools/leaderelection

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use component::metrics::prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};
use component::tasks::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::is_not_found;

static MASTER: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is \
                the string used to identify the lease. Please make sure to group by name.";
    register_int_gauge_vec!("leader_election_master_status", help, &["name"]).expect("the name is registered once, here")
});

static SLOW_PATH: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Total number of slow path exercised in renewing leader leases. 'name' is the string used to identify the lease. \
                Please make sure to group by name.";
    register_int_counter_vec!("leader_election_slowpath_total", help, &["name"]).expect("the name is registered once, here")
});

/// Whose lease, and how patient. Defaults are upstream's 15 s, 10 s, 2 s.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Lease's namespace, `kube-system`.
    pub namespace: String,
    /// The Lease's name, `kube-scheduler`.
    pub name: String,
    /// Who we are: host name and something unique.
    pub identity: String,
    /// How long others wait before they take over from a silent leader.
    pub lease_duration: Duration,
    /// A leader that could not renew for this long gives up.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry_period: Duration,
}

impl Config {
    /// Upstream's defaults for a component's lease in kube-system.
    pub fn new(name: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = format!("{}_{:08x}-{:08x}", host.trim(), rand::random::<u32>(), rand::random::<u32>());
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What to do about a lease that was just read.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write this spec: we lead if the write succeeds.
    Take(Box<LeaseSpec>),
    /// Somebody else leads.
    Wait,
}

/// Pure decision. `unchanged_for`: how long the lease has looked the same to us (clocks of others are not trusted).
fn decide(config: &Config, spec: Option<&LeaseSpec>, unchanged_for: Duration, now: Timestamp) -> Step {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or("");
    let mine = holder == config.identity;
    let duration =
        spec.and_then(|spec| spec.lease_duration_seconds).map_or(config.lease_duration, |s| Duration::from_secs(s.max(0) as u64));
    if !mine && !holder.is_empty() && unchanged_for < duration {
        return Step::Wait;
    }
    let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    let acquired = spec.and_then(|spec| spec.acquire_time.clone()).filter(|_| mine).unwrap_or(MicroTime(now));
    Step::Take(Box::new(LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(acquired),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if mine || spec.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }))
}

/// Waits to become leader, then runs `lead` with tasks of its own until leadership is lost or `tasks` stop.
///
/// Returns `true` if it ended by shutdown (the lease is released, so that the next one starts at once), `false` if
/// leadership was lost: the caller must exit the process, as upstream does, since its work may go on nowhere else.
pub async fn run<F, Fut>(client: Client, config: Config, tasks: &Tasks, lead: F) -> bool
where
    F: FnOnce(Tasks) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let stop = tasks.token();
    let mut observer = Observer::default();
    MASTER.with_label_values(&[&config.name]).set(0);
    SLOW_PATH.with_label_values(&[&config.name]).inc_by(0);
    loop {
        if observer.attempt(&api, &config).await {
            break;
        }
        let pause = config.retry_period.mul_f64(1.0 + 0.2 * rand::random::<f64>());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return true;
        }
    }
    tracing::info!(lease = config.name, identity = config.identity, "Became leader");
    MASTER.with_label_values(&[&config.name]).set(1);
    let leading = tasks.child();
    leading.spawn("leading", lead(leading.clone()));
    let mut renewed = Instant::now();
    let lost = loop {
        if stop.run_until_cancelled(tokio::time::sleep(config.retry_period)).await.is_none() {
            break false;
        }
        let remaining = config.renew_deadline.saturating_sub(renewed.elapsed());
        let renewal = tokio::time::timeout(remaining.max(config.retry_period), observer.attempt(&api, &config));
        let renewal = stop.run_until_cancelled(renewal).await;
        match renewal {
            None => break false,
            Some(Ok(true)) => renewed = Instant::now(),
            Some(_) if observer.taken_by_other(&config) || renewed.elapsed() >= config.renew_deadline => break true,
            Some(_) => {}
        }
    };
    leading.stop_and_wait(Duration::from_secs(2)).await;
    MASTER.with_label_values(&[&config.name]).set(0);
    if lost {
        tracing::error!(lease = config.name, "Leader election lost");
        return false;
    }
    release(&api, &config, &observer).await;
    true
}

/// What we last saw of the lease, and since when.
#[derive(Default)]
struct Observer {
    lease: Option<Lease>,
    since: Option<Instant>,
}

impl Observer {
    /// One try to take or renew; whether we lead now.
    async fn attempt(&mut self, api: &Api<Lease>, config: &Config) -> bool {
        match self.try_attempt(api, config).await {
            Ok(leading) => leading,
            Err(error) => {
                tracing::debug!(lease = config.name, err = %component::chain(&error), "Failed to take or renew the lease");
                false
            }
        }
    }

    async fn try_attempt(&mut self, api: &Api<Lease>, config: &Config) -> Result<bool, kube::Error> {
        // The holder writes without reading first; a conflict makes it look again.
        if self.lease.as_ref().is_none_or(|lease| !held_by(lease, &config.identity)) {
            match api.get(&config.name).await {
                Ok(lease) => self.observe(lease),
                Err(error) if is_not_found(&error) => self.lease = None,
                Err(error) => return Err(error),
            }
        }
        let unchanged = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let seen = self.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let Step::Take(spec) = decide(config, seen, unchanged, Timestamp::now()) else { return Ok(false) };
        let written = match &self.lease {
            None => {
                let metadata = ObjectMeta {
                    name: Some(config.name.clone()),
                    namespace: Some(config.namespace.clone()),
                    ..Default::default()
                };
                let lease = Lease { metadata, spec: Some(*spec) };
                api.create(&PostParams::default(), &lease).await
            }
            Some(seen) => {
                let lease = Lease { metadata: seen.metadata.clone(), spec: Some(*spec) };
                api.replace(&config.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.observe(lease);
                Ok(true)
            }
            Err(error) => {
                if crate::is_conflict(&error) || is_not_found(&error) {
                    SLOW_PATH.with_label_values(&[&config.name]).inc();
                    if let Ok(lease) = api.get(&config.name).await {
                        self.observe(lease);
                    } else {
                        self.lease = None;
                    }
                }
                Err(error)
            }
        }
    }

    fn observe(&mut self, lease: Lease) {
        let same = self.lease.as_ref().is_some_and(|old| old.spec == lease.spec);
        if !same || self.since.is_none() {
            self.since = Some(Instant::now());
        }
        self.lease = Some(lease);
    }

    fn taken_by_other(&self, config: &Config) -> bool {
        self.lease.as_ref().is_some_and(|lease| !held_by(lease, &config.identity))
    }
}

fn held_by(lease: &Lease, identity: &str) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(identity)
}

/// Gives the lease up, so that another need not wait for it to run out. Best effort.
async fn release(api: &Api<Lease>, config: &Config, observer: &Observer) {
    let Some(lease) = observer.lease.as_ref().filter(|lease| held_by(lease, &config.identity)) else { return };
    let mut lease = lease.clone();
    let now = MicroTime(Timestamp::now());
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: transitions,
        ..LeaseSpec::default()
    });
    let parameters = PostParams::default();
    let write = api.replace(&config.name, &parameters, &lease);
    if !matches!(tokio::time::timeout(Duration::from_secs(2), write).await, Ok(Ok(_))) {
        tracing::debug!(lease = config.name, "Failed to release the lease");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..Default::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_absent_released_ours_or_silent_too_long() {
        let config = Config { identity: "me".into(), ..Config::new("x") };
        let now = Timestamp::UNIX_EPOCH;
        let transitions = |step| match step {
            Step::Take(spec) => spec.lease_transitions,
            Step::Wait => None,
        };
        assert_eq!(transitions(decide(&config, None, Duration::ZERO, now)), Some(0));
        assert_eq!(transitions(decide(&config, Some(&spec("")), Duration::ZERO, now)), Some(4));
        assert_eq!(transitions(decide(&config, Some(&spec("me")), Duration::ZERO, now)), Some(3));
        assert_eq!(decide(&config, Some(&spec("other")), Duration::from_secs(14), now), Step::Wait);
        assert_eq!(transitions(decide(&config, Some(&spec("other")), Duration::from_secs(15), now)), Some(4));
    }
}
