//! What the server can be told to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Switches flipped over HTTP: `POST /fail/liveness`, `POST /heal/readiness`, …
pub struct State {
    started: Instant,
    live: AtomicBool,
    ready: AtomicBool,
    requests: AtomicU64,
    /// `/startupz` fails for this many seconds after the start.
    pub startup_seconds: u64,
}

impl State {
    /// Everything healthy.
    pub fn new(startup_seconds: u64) -> Self {
        Self { started: Instant::now(), live: true.into(), ready: true.into(), requests: 0.into(), startup_seconds }
    }

    /// Counts a request; the number of this one.
    pub fn count(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sets a probe (`liveness` or `readiness`); `false` for another name.
    pub fn set(&self, probe: &str, healthy: bool) -> bool {
        match probe {
            "liveness" => self.live.store(healthy, Ordering::Relaxed),
            "readiness" => self.ready.store(healthy, Ordering::Relaxed),
            _ => return false,
        }
        true
    }

    /// Whether the probe at this path passes; `None` if it is no probe.
    pub fn probe(&self, path: &str) -> Option<bool> {
        match path {
            "/healthz" | "/livez" => Some(self.live.load(Ordering::Relaxed)),
            "/readyz" => Some(self.ready.load(Ordering::Relaxed)),
            "/startupz" => Some(self.started.elapsed().as_secs() >= self.startup_seconds),
            _ => None,
        }
    }
}
