//! client-go's work queue: a key is worked on by one worker at a time, however often it is added; failures back off.

mod metrics;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use component::tasks::Tasks;
use metrics::Metrics;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Backoff of a failing key: doubles from 5 ms to 1,000 s. Upstream: DefaultTypedControllerRateLimiter.
const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// What is being worked on at shutdown may take this long; then it is dropped where it is, as in a crash. Shorter than what
/// [`crate::leader::run`] waits before it gives the lease back, so that two leaders never act at once.
const GRACE: Duration = Duration::from_millis(1500);

/// A keyed, rate-limited, delaying queue. Cheap to clone.
pub struct Queue<K>(Arc<Shared<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<K> {
    name: String,
    max_delay: Duration,
    state: Mutex<State<K>>,
    wake: Notify,
    metrics: Metrics,
}

impl<K: Hash + Eq + Send + Sync> metrics::Running for Shared<K> {
    fn name(&self) -> &str {
        &self.name
    }

    fn unfinished(&self) -> (f64, f64) {
        let state = self.state.lock();
        let times = state.working.values().map(|since| since.elapsed().as_secs_f64());
        times.fold((0.0, 0.0), |(sum, longest), time| (sum + time, f64::max(longest, time)))
    }
}

struct State<K> {
    ready: VecDeque<K>,
    /// Waiting in `ready`, or added again while being worked on; and since when.
    dirty: HashMap<K, Instant>,
    /// Being worked on, and since when.
    working: HashMap<K, Instant>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, K>,
    /// The earliest due time of each delayed key, and its ticket.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    tickets: u64,
    closed: bool,
}

/// What a sync wants after it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Nothing until the key is added again.
    No,
    /// Another look after this time.
    After(Duration),
    /// Another look with the key's backoff, as after a failure but without an error.
    Backoff,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Queue<K> {
    /// An empty queue; `name` is the label of its metrics.
    pub fn new(name: &str) -> Self {
        Self::with_max_delay(name, MAX_DELAY)
    }

    /// With another longest backoff.
    pub fn with_max_delay(name: &str, max_delay: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            working: HashMap::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            tickets: 0,
            closed: false,
        };
        let (name, metrics) = (name.to_owned(), Metrics::new(name));
        let shared = Arc::new(Shared { name, max_delay, state: Mutex::new(state), wake: Notify::new(), metrics });
        let weak: Weak<Shared<K>> = Arc::downgrade(&shared);
        metrics::watch(weak);
        Self(shared)
    }

    /// Adds a key, unless it already waits.
    pub fn add(&self, key: K) {
        if self.0.state.lock().add(key, &self.0.metrics) {
            self.0.wake.notify_one();
        }
    }

    /// Adds a key after a while; of several delays the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.0.metrics.retries.inc();
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.0.state.lock();
        let at = Instant::now() + delay;
        if state.due.get(&key).is_some_and(|(due, _)| *due <= at) {
            return;
        }
        state.tickets += 1;
        let ticket = state.tickets;
        if let Some((_, old)) = state.due.insert(key.clone(), (at, ticket)) {
            state.delayed_keys.remove(&old);
        }
        state.delayed_keys.insert(ticket, key);
        state.delayed.push(Reverse((at, ticket)));
        drop(state);
        self.0.wake.notify_one();
    }

    /// Adds a key after its backoff, which doubles with each call until [`Queue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let failures = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            *failures - 1
        };
        let delay = BASE_DELAY.saturating_mul(2_u32.saturating_pow(failures.min(30))).min(self.0.max_delay);
        self.add_after(key, delay);
    }

    /// Resets the backoff of a key.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// How often the key has failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Keys ready to be worked on.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, or `None` once closed. Call [`Queue::done`] with it afterwards.
    pub async fn next(&self) -> Option<K> {
        loop {
            let woken = self.0.wake.notified();
            let wait = {
                let mut state = self.0.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                state.promote(now, &self.0.metrics);
                if let Some(key) = state.ready.pop_front() {
                    self.0.metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
                    if let Some(since) = state.dirty.remove(&key) {
                        self.0.metrics.waited.observe(now.duration_since(since).as_secs_f64());
                    }
                    state.working.insert(key.clone(), now);
                    if !state.ready.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match wait {
                None => woken.await,
                Some(at) => tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// Ends the work on a key; it comes again at once if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.0.state.lock();
        if let Some(since) = state.working.remove(key) {
            self.0.metrics.worked.observe(since.elapsed().as_secs_f64());
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            self.0.metrics.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Ends all workers after their current key.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_waiters();
        self.0.wake.notify_one();
    }

    /// Runs `workers` workers until `tasks` stop: `sync(key)`, then requeue as it says, or with backoff where it failed.
    pub fn run<F, Fut, E>(&self, tasks: &Tasks, workers: usize, sync: F)
    where
        K: Display + Send + Sync + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Requeue, E>> + Send,
        E: Display + Send,
    {
        let sync = Arc::new(sync);
        for _ in 0..workers.max(1) {
            let (queue, sync, stop) = (self.clone(), sync.clone(), tasks.token());
            tasks.spawn(&self.0.name.clone(), async move {
                loop {
                    let Some(Some(key)) = stop.run_until_cancelled(queue.next()).await else { return queue.close() };
                    let outcome = tokio::select! {
                        outcome = sync(key.clone()) => outcome,
                        // The lease is given back soon: what is left undone is done by the next leader.
                        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => return queue.close(),
                    };
                    match outcome {
                        Ok(Requeue::No) => queue.forget(&key),
                        Ok(Requeue::After(delay)) => {
                            queue.forget(&key);
                            queue.add_after(key.clone(), delay);
                        }
                        Ok(Requeue::Backoff) => queue.add_rate_limited(key.clone()),
                        Err(error) => {
                            let failures = queue.failures(&key);
                            if failures >= 3 {
                                tracing::warn!(queue = queue.0.name, key = %key, err = %error, failures, "Sync failed");
                            } else {
                                tracing::debug!(queue = queue.0.name, key = %key, err = %error, "Sync failed");
                            }
                            queue.add_rate_limited(key.clone());
                        }
                    }
                    queue.done(&key);
                }
            });
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    /// Whether the key became ready.
    fn add(&mut self, key: K, metrics: &Metrics) -> bool {
        if self.closed || self.dirty.contains_key(&key) {
            return false;
        }
        metrics.adds.inc();
        self.dirty.insert(key.clone(), Instant::now());
        if self.working.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        metrics.depth.set(i64::try_from(self.ready.len()).unwrap_or(i64::MAX));
        true
    }

    fn promote(&mut self, now: Instant, metrics: &Metrics) {
        while let Some(Reverse((at, ticket))) = self.delayed.peek().copied() {
            if at > now {
                break;
            }
            self.delayed.pop();
            if let Some(key) = self.delayed_keys.remove(&ticket) {
                self.due.remove(&key);
                self.add(key, metrics);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_once_more_after_it_is_done() {
        let queue = Queue::new("test");
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("b"), "`a` is still being worked on");
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_delays_counts_and_failures_double() {
        let queue = Queue::new("test");
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a");
        for expected in [5, 10, 20] {
            let before = Instant::now();
            queue.add_rate_limited("b");
            assert_eq!(queue.next().await, Some("b"));
            let waited = before.elapsed().as_millis();
            assert!((expected..=expected + 1).contains(&waited), "{waited} ms instead of {expected}");
            queue.done(&"b");
        }
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_tell_what_waits_and_what_is_being_worked_on() {
        let queue = Queue::new("metrics-test");
        for key in ["a", "a", "b"] {
            queue.add(key);
        }
        queue.add_after("c", Duration::from_secs(100));
        assert_eq!(queue.next().await, Some("a"));
        tokio::time::advance(Duration::from_secs(3)).await;
        let text = component::metrics::render();
        for row in [
            "workqueue_depth{name=\"metrics-test\"} 1",
            "workqueue_adds_total{name=\"metrics-test\"} 2",
            "workqueue_retries_total{name=\"metrics-test\"} 1",
            "workqueue_queue_duration_seconds_count{name=\"metrics-test\"} 1",
            "workqueue_work_duration_seconds_count{name=\"metrics-test\"} 0",
            "workqueue_unfinished_work_seconds{name=\"metrics-test\"} 3",
            "workqueue_longest_running_processor_seconds{name=\"metrics-test\"} 3",
        ] {
            assert!(text.lines().any(|line| line == row), "{row} is not in\n{text}");
        }
        queue.done(&"a");
        let text = component::metrics::render();
        assert!(text.contains("workqueue_work_duration_seconds_count{name=\"metrics-test\"} 1"));
        assert!(text.contains("workqueue_unfinished_work_seconds{name=\"metrics-test\"} 0"));
    }
}
