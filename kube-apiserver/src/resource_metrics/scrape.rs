//! Readings of kubelets, on demand, two kept per node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::rate::{self, Rates, Reading};
use crate::server::Server;
use crate::subresource::location;

/// An answer serves other requests for so long. Below the autoscaler's 15 s, so that each of its looks is a new one.
pub const FRESH: Duration = Duration::from_secs(10);
/// An older reading is no base for a rate of now: another is made first.
const STALE: Duration = Duration::from_secs(120);
/// Between the first two readings.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// A kubelet that does not answer by then is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer read: about 500 bytes for each of 30,000 containers.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What is remembered of the nodes that were asked.
#[derive(Default)]
pub struct Readings(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Slot>>>>);

#[derive(Default)]
struct Slot {
    last: Option<(Instant, Reading)>,
    rates: Option<(Instant, Arc<Rates>)>,
}

/// The rates on a node, at most [`FRESH`] old.
///
/// # Errors
/// Its kubelet does not answer.
pub async fn rates(server: &Server, node: &str) -> Result<Arc<Rates>, String> {
    let slot = {
        let mut slots = server.readings.0.lock();
        if slots.len() > 256 && !slots.contains_key(node) {
            // Nodes come and go; those in use are in somebody's hands.
            slots.retain(|_, slot| {
                slot.try_lock().map_or(true, |slot| slot.last.as_ref().is_some_and(|(at, _)| at.elapsed() < STALE))
            });
        }
        slots.entry(node.to_owned()).or_default().clone()
    };
    let mut slot = slot.lock().await;
    if let Some((at, rates)) = &slot.rates
        && at.elapsed() < FRESH
    {
        return Ok(rates.clone());
    }
    if slot.last.as_ref().is_none_or(|(at, _)| at.elapsed() > STALE) {
        let first = read(server, node).await?;
        slot.last = Some((Instant::now(), first));
        tokio::time::sleep(FIRST_WINDOW).await;
    }
    let reading = read(server, node).await?;
    let before = slot.last.take().map(|(_, reading)| reading).unwrap_or_default();
    let rates = Arc::new(rate::rates(&before, &reading));
    let now = Instant::now();
    slot.last = Some((now, reading));
    slot.rates = Some((now, rates.clone()));
    Ok(rates)
}

async fn read(server: &Server, node: &str) -> Result<Reading, String> {
    let kubelet = location::kubelet_of(server, node).ok_or_else(|| "the node has no address".to_owned())?;
    let body = Empty::new().map_err(|never| match never {}).boxed();
    let request = Request::get("/metrics/resource")
        .header("host", format!("{}:{}", kubelet.host, kubelet.port))
        .body(body)
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = server.kubelets.send(&kubelet.host, kubelet.port, request).await?;
        if !response.status().is_success() {
            return Err(format!("the kubelet answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    let text = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "the kubelet did not answer in time".to_owned())??;
    Ok(rate::parse(&text, Timestamp::now().as_millisecond()))
}
