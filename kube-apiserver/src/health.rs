//! `/healthz`, `/livez`, `/readyz`: named checks, as upstream lists them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::call::Response;
use crate::reply;
use crate::request_info::Query;
use crate::server::Server;

/// The steps after the start that readiness waits for, by upstream's names. All endpoints list them.
const HOOKS: &[&str] = &[
    "start-apiserver-admission-initializer",
    "generic-apiserver-start-informers",
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-filter",
    "storage-object-count-tracker-hook",
    "start-apiextensions-informers",
    "start-apiextensions-controllers",
    "crd-informer-synced",
    "start-system-namespaces-controller",
    "start-cluster-authentication-info-controller",
    "start-kube-apiserver-identity-lease-controller",
    "start-kube-apiserver-identity-lease-garbage-collector",
    "start-legacy-token-tracking-controller",
    "start-service-ip-repair-controllers",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
    "priority-and-fairness-config-producer",
    "bootstrap-controller",
    "start-kubernetes-service-cidr-controller",
    "aggregator-reload-proxy-client-cert",
    "start-kube-aggregator-informers",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-registration-controller",
    "apiservice-discovery-controller",
    "kube-apiserver-autoregistration",
    "apiservice-openapi-controller",
    "apiservice-openapiv3-controller",
];

/// The state of the checks.
pub struct Health {
    etcd: Mutex<Result<(), String>>,
    /// Why etcd takes no writes, though it answers.
    alarm: Mutex<Option<&'static str>>,
    bootstrapped: AtomicBool,
}

impl Health {
    /// Nothing is ready yet.
    pub fn new() -> Self {
        Self {
            etcd: Mutex::new(Err("etcd was not asked yet".into())),
            alarm: Mutex::default(),
            bootstrapped: AtomicBool::new(false),
        }
    }

    /// The default objects are there.
    pub fn set_bootstrapped(&self) {
        self.bootstrapped.store(true, Ordering::Release);
    }

    /// Whether everything is ready.
    pub fn is_ready(&self, server: &Server) -> bool {
        self.checks(server, "readyz").iter().all(|(_, result)| result.is_ok())
    }

    /// All checks of an endpoint and whether they are met.
    pub fn results(&self, server: &Server, endpoint: &str) -> Vec<(String, bool)> {
        self.checks(server, endpoint).into_iter().map(|(name, result)| (name, result.is_ok())).collect()
    }

    fn checks(&self, server: &Server, endpoint: &str) -> Vec<(String, Result<(), String>)> {
        let etcd = self.etcd.lock().clone();
        let synced = if server.caches.homes().all(|caches| caches.revision() > 0) {
            Ok(())
        } else {
            Err("the cache is not loaded".to_owned())
        };
        let bootstrapped = if self.bootstrapped.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) };
        let mut checks = vec![("ping".to_owned(), Ok(())), ("log".to_owned(), Ok(())), ("etcd".to_owned(), etcd.clone())];
        if endpoint == "readyz" {
            let alarm = self.alarm.lock().map_or(Ok(()), |why| Err(why.to_owned()));
            checks.push(("etcd-readiness".to_owned(), etcd.and(alarm)));
            checks.push(("informer-sync".to_owned(), synced));
        }
        for hook in HOOKS {
            let result = match *hook {
                "rbac/bootstrap-roles"
                | "scheduling/bootstrap-system-priority-classes"
                | "start-system-namespaces-controller" => bootstrapped.clone(),
                _ => Ok(()),
            };
            checks.push((format!("poststarthook/{hook}"), result));
        }
        if endpoint == "readyz" {
            let stopping = server.tasks.token().is_cancelled();
            checks.push(("shutdown".to_owned(), if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
        }
        checks
    }

    /// Answers `/<endpoint>` or `/<endpoint>/<check>`.
    pub fn answer(&self, server: &Server, endpoint: &str, only: &str, query: &Query) -> Response {
        let mut checks = self.checks(server, endpoint);
        if !only.is_empty() {
            checks.retain(|(name, _)| name == only);
            return match checks.first() {
                None => reply::text(404, "404 page not found\n"),
                Some((_, Ok(()))) => reply::text(200, "ok"),
                Some((name, Err(why))) => reply::text(500, format!("internal server error: {name}: {why}\n")),
            };
        }
        let excluded = query.all("exclude");
        let (mut lines, mut failed) = (String::new(), Vec::new());
        for (name, result) in &checks {
            if excluded.contains(&name.as_str()) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
            } else if let Err(why) = result {
                tracing::debug!(check = name, err = why, "A health check failed");
                // What an operator must see to from outside is told to everyone; it names nothing secret.
                let told = if name == "etcd-readiness" && self.alarm.lock().is_some() { why.as_str() } else { "reason withheld" };
                lines.push_str(&format!("[-]{name} failed: {told}\n"));
                failed.push(name.as_str());
            } else {
                lines.push_str(&format!("[+]{name} ok\n"));
            }
        }
        match (failed.is_empty(), query.has("verbose")) {
            (true, false) => reply::text(200, "ok"),
            (true, true) => reply::text(200, format!("{lines}{endpoint} check passed\n")),
            (false, _) => reply::text(500, format!("{lines}{endpoint} check failed\n")),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// Asks etcd for a sign of life every few seconds, and at once after the start.
pub async fn watch_etcd(server: Arc<Server>) {
    let timeout = server.config.etcd_healthcheck_timeout;
    loop {
        let all = futures::future::try_join_all(server.caches.homes().map(|caches| caches.storage.current_revision()));
        let result = match tokio::time::timeout(timeout, all).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("error getting data from etcd: context deadline exceeded".to_owned()),
        };
        let mut ok = result.is_ok();
        if ok {
            if let Ok(alarm) = server.caches.storage.alarm().await {
                if alarm.is_some() && server.health.alarm.lock().is_none() {
                    tracing::error!(err = alarm, "etcd takes no writes");
                }
                ok = alarm.is_none();
                *server.health.alarm.lock() = alarm;
            }
            if let Ok(size) = server.caches.storage.size().await {
                crate::metrics::storage_size(size);
            }
        }
        *server.health.etcd.lock() = result;
        tokio::time::sleep(if ok { Duration::from_secs(5) } else { Duration::from_millis(250) }).await;
    }
}
