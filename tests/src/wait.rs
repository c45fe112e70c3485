//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Looks every 100 ms until `look` gives a value; fails after `limit` with what was seen last.
///
/// # Errors
/// The limit passed.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("waited {} s for {what}; last: {last}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// [`until`] for a condition that is true or false.
///
/// # Errors
/// The limit passed.
pub fn holds(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(look()?.then_some(())))
}
