//! Priority and fairness: every request gets a FlowSchema, its priority level has seats, and those who find none wait in turn of their flows.
//!
//! Compiled from the FlowSchemas and PriorityLevelConfigurations in the cache whenever these change. Seats are not lent between levels.
//!
//! Upstream: apiserver/pkg/util/flowcontrol

mod level;
mod schema;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::lister::Lister;
use api::status::Status;
use arc_swap::ArcSwap;
use auth::user::User;
use serde_json::Value;

use crate::cache::Caches;
use crate::metrics;
use crate::request_info::RequestInfo;
pub use level::{Level, Seat};
pub use schema::Schema;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Longest wait for a seat. Upstream: a quarter of the request timeout.
const WAIT: Duration = Duration::from_secs(15);

/// Sorts requests.
pub struct Flow {
    /// Seats of all levels together: `--max-requests-inflight` and `--max-mutating-requests-inflight`; 0: nothing is limited.
    seats: usize,
    current: ArcSwap<Compiled>,
}

#[derive(Default)]
struct Compiled {
    /// The versions of the two resources that this was made of.
    of: (u64, u64),
    schemas: Vec<Arc<Schema>>,
}

impl Flow {
    /// Nothing is known yet.
    pub fn new(seats: usize) -> Self {
        Self { seats, current: ArcSwap::default() }
    }

    fn compiled(&self, caches: &Caches) -> Arc<Compiled> {
        let version = |plural: &str| caches.by_path(plural).map_or(0, |cache| cache.version());
        let of = (version("flowschemas"), version("prioritylevelconfigurations"));
        let current = self.current.load_full();
        if current.of == of {
            return current;
        }
        let levels: HashMap<String, Arc<Level>> =
            current.schemas.iter().map(|schema| (schema.level.name.clone(), schema.level.clone())).collect();
        let made = Arc::new(Compiled {
            of,
            schemas: compile(
                &caches.list(GROUP, "flowschemas", None),
                &caches.list(GROUP, "prioritylevelconfigurations", None),
                self.seats,
                &levels,
            ),
        });
        self.current.store(made.clone());
        made
    }

    /// The schema of a request; `None` while there is none that fits (before the defaults are made).
    pub fn classify(&self, caches: &Caches, info: &RequestInfo, user: &User) -> Option<Arc<Schema>> {
        self.compiled(caches).schemas.iter().find(|schema| schema.matches(info, user)).cloned()
    }

    /// Waits for a seat.
    ///
    /// # Errors
    /// 429 where the queues are full or the wait is too long.
    pub async fn enter(&self, schema: &Schema, info: &RequestInfo, user: &User) -> Result<Option<Seat>, Status> {
        let level = &schema.level;
        if level.exempt || self.seats == 0 {
            metrics::dispatched(&level.name, &schema.name);
            return Ok(None);
        }
        let refused = |reason: &str| {
            metrics::rejected(&level.name, &schema.name, reason);
            Err(Status::too_many_requests("Too many requests, please try again later.", 1))
        };
        let began = Instant::now();
        let entered = tokio::time::timeout(WAIT, level.clone().enter(schema.flow(info, user))).await;
        metrics::waited(&level.name, &schema.name, began.elapsed(), matches!(entered, Ok(Ok(_))));
        match entered {
            Ok(Ok(seat)) => {
                metrics::dispatched(&level.name, &schema.name);
                Ok(Some(seat))
            }
            Ok(Err(reason)) => refused(reason),
            Err(_) => refused("time-out"),
        }
    }
}

/// Schemas in the order in which they are tried, with their levels. Levels that are as they were are kept, with those who sit there.
fn compile(schemas: &[Arc<Value>], levels: &[Arc<Value>], seats: usize, known: &HashMap<String, Arc<Level>>) -> Vec<Arc<Schema>> {
    let shares = |object: &Value| {
        let part = if object["spec"]["type"] == "Exempt" { "exempt" } else { "limited" };
        object["spec"][part]["nominalConcurrencyShares"].as_u64().unwrap_or(if part == "limited" { 30 } else { 0 })
    };
    let all: u64 = levels.iter().map(|object| shares(object)).sum();
    let mut by_name: HashMap<String, Arc<Level>> = HashMap::new();
    for object in levels {
        let part = (seats as u64 * shares(object)).div_ceil(all.max(1));
        let level = Level::of(object, usize::try_from(part).unwrap_or(usize::MAX).max(1));
        metrics::seats(&level.name, part);
        let level = known.get(&level.name).filter(|have| have.same(&level)).cloned().unwrap_or_else(|| Arc::new(level));
        by_name.insert(level.name.clone(), level);
    }
    let mut out: Vec<Arc<Schema>> = schemas
        .iter()
        .filter_map(|object| {
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str()?;
            Some(Arc::new(Schema::of(object, by_name.get(level)?.clone())))
        })
        .collect();
    out.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    out
}

#[cfg(test)]
mod tests;
