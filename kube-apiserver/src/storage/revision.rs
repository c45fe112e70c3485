//! Reads of the current revision, shared: a request may use any read that began after it arrived, so all that arrive while
//! one is under way wait together for the next.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Error;

/// Requests waiting for a read that has not begun. Bounded by the requests in flight.
#[derive(Default)]
pub(super) struct Batcher {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    waiting: Vec<oneshot::Sender<Result<u64, String>>>,
}

impl Batcher {
    /// The result of a read that began after this call. The first caller drives the reads of those who join it.
    pub(super) async fn read<F, Fut>(self: &std::sync::Arc<Self>, read: F) -> Result<u64, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<u64, Error>> + Send,
    {
        let (sender, receiver) = oneshot::channel();
        let lead = {
            let mut state = self.state.lock();
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if lead {
            let this = self.clone();
            // A task of its own: the leader's request may be cancelled while others wait for its read.
            tokio::spawn(async move { this.drive(read).await });
        }
        match receiver.await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(message)) => Err(Error::Unavailable(message)),
            Err(_) => Err(Error::Unavailable("revision read was abandoned".into())),
        }
    }

    async fn drive<F, Fut>(&self, read: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<u64, Error>>,
    {
        loop {
            let batch = {
                let mut state = self.state.lock();
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let result = read().await.map_err(|error| error.to_string());
            for sender in batch {
                let _ = sender.send(result.clone());
            }
        }
    }
}
