//! Named background tasks with one shutdown: stop accepting, drain, then force.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a process (or of a part of it). Cheap to clone.
#[derive(Clone, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tasks of their own that also stop when these do (leader-elected parts, tests).
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tracker: TaskTracker::new() }
    }

    /// Runs `future` until it ends or shutdown is forced. A panic is logged and ends the process: state may be half changed.
    pub fn spawn<F>(&self, name: &str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(watched(name, future));
    }

    /// The same for what serves others to the very end, such as a cache: shutdown does not wait for it.
    pub fn spawn_background<F>(&self, name: &str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(watched(name, future));
    }

    /// The token to listen to in loops: `tokio::select! { () = tasks.stopping() => return, … }`.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Completes once shutdown has begun.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Begins the shutdown.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// Begins the shutdown and waits for the tasks to end, at most `grace`.
    pub async fn stop_and_wait(&self, grace: Duration) {
        self.stop();
        self.tracker.close();
        let _ = tokio::time::timeout(grace, self.tracker.wait()).await;
    }

    /// Completes on SIGTERM or SIGINT (or when somebody stopped the tasks).
    pub async fn until_signal(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return self.token.cancelled().await;
        };
        tokio::select! {
            _ = term.recv() => tracing::info!("Received SIGTERM, shutting down"),
            _ = int.recv() => tracing::info!("Received SIGINT, shutting down"),
            () = self.token.cancelled() => {}
        }
    }
}
/// Runs `future` in a task of its own; a panic in it ends the process.
fn watched<F>(name: &str, future: F) -> impl Future<Output = ()> + Send + 'static + use<F>
where
    F: Future<Output = ()> + Send + 'static,
{
    let name = name.to_owned();
    let inner = tokio::spawn(future);
    async move {
        if let Err(error) = inner.await
            && error.is_panic()
        {
            tracing::error!(task = name, "Task panicked; exiting");
            std::process::exit(101);
        }
    }
}
