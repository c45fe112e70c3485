//! Watches without a store: an object is reduced to what rules need and let go. What a list does not hold any more is found by
//! the names it does hold.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use client::informer::Object;
use component::tasks::Tasks;
use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;

/// Objects that a list answers with at once: all of them are in memory together.
const PAGE: u32 = 100;

/// Called on the watch's task, in order.
type Call<T> = Box<dyn Fn(&T) + Send + Sync>;

/// What to do with objects of one kind.
pub struct Handler<K, N> {
    /// How the kind calls its objects; `None` for those without a name.
    pub name: fn(&K) -> Option<N>,
    pub set: Call<K>,
    pub delete: Call<N>,
    /// Everything but these is gone.
    pub keep: Call<HashSet<N>>,
}

/// Starts to follow a kind until `tasks` stop; turns true once the first list is complete.
pub fn follow<K, N>(tasks: &Tasks, api: Api<K>, config: watcher::Config, handler: Handler<K, N>) -> watch::Receiver<bool>
where
    K: Object,
    K::DynamicType: Default,
    N: Eq + Hash + Send + Sync + 'static,
{
    let (complete, receiver) = watch::channel(false);
    let (stop, handler) = (tasks.token(), Arc::new(handler));
    let name = format!("watch-{}", K::plural(&K::DynamicType::default()));
    tasks.spawn(&name, async move {
        let work = async {
            let mut stream = std::pin::pin!(watcher::watcher(api, config.page_size(PAGE)));
            let mut listed: HashSet<N> = HashSet::new();
            let mut failures = 0_u32;
            while let Some(event) = stream.next().await {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        failures += 1;
                        if failures == 3 || failures.is_multiple_of(60) {
                            tracing::warn!(err = component::chain(&error), "Watch failed, trying again");
                        }
                        // 50 ms, 100 ms … 3.2 s: a restarted API server is found again quickly, an absent one is not hammered.
                        let pause = Duration::from_millis(50 << failures.saturating_sub(1).min(6));
                        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                        continue;
                    }
                };
                failures = 0;
                match event {
                    Event::Init => listed.clear(),
                    Event::InitApply(object) => {
                        (handler.set)(&object);
                        listed.extend((handler.name)(&object));
                    }
                    Event::InitDone => {
                        (handler.keep)(&listed);
                        listed = HashSet::new();
                        complete.send_replace(true);
                    }
                    Event::Apply(object) => (handler.set)(&object),
                    Event::Delete(object) => {
                        if let Some(name) = (handler.name)(&object) {
                            (handler.delete)(&name);
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    });
    receiver
}
