//! Named health checks behind `/healthz`, `/livez` and `/readyz`, in upstream's words.

use std::sync::Arc;

use parking_lot::RwLock;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A set of checks that grows as the process starts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Checks(Arc<RwLock<Vec<(String, Check)>>>);

impl Checks {
    /// A set with upstream's always-there `ping`.
    pub fn new() -> Self {
        let checks = Self::default();
        checks.add("ping", || Ok(()));
        checks
    }

    /// Adds a check; it must answer at once (look at state, do no I/O).
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.write().push((name.to_owned(), Arc::new(check)));
    }

    /// Answers a probe of `endpoint` (`healthz`, `livez`, `readyz`): HTTP code and body.
    /// `verbose` and `exclude` are the query parameters of upstream; `only` is the rest of the path, naming one check.
    pub fn answer(&self, endpoint: &str, only: Option<&str>, exclude: &[String], verbose: bool) -> (u16, String) {
        let checks = self.0.read().clone();
        let mut lines = String::new();
        let mut failed = Vec::new();
        let mut found = false;
        for (name, check) in &checks {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            found = true;
            if exclude.contains(name) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
                Err(why) => {
                    tracing::debug!(check = name, err = why, "Health check failed");
                    lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                    failed.push(name.clone());
                }
            }
        }
        if only.is_some() && !found {
            return (404, "404 page not found\n".to_owned());
        }
        match (failed.is_empty(), verbose, only) {
            (true, false, _) => (200, "ok".to_owned()),
            (true, true, None) => (200, format!("{lines}{endpoint} check passed\n")),
            (true, true, Some(_)) => (200, "ok".to_owned()),
            (false, _, _) => (500, format!("{lines}{endpoint} check failed\n")),
        }
    }
}
