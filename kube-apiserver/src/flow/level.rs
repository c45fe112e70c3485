//! One priority level: seats, and flows that wait for one in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

/// A priority level.
pub struct Level {
    /// Its name.
    pub name: String,
    /// Its uid, as a header's value.
    pub uid: HeaderValue,
    /// Whether nobody waits here.
    pub exempt: bool,
    seats: usize,
    /// Requests that may wait, of all flows and of one.
    most: usize,
    most_of_one: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    waiting: usize,
    flows: HashMap<u64, VecDeque<oneshot::Sender<Seat>>>,
    /// Flows that wait, the next one first.
    turns: VecDeque<u64>,
}

/// A place among those being served; given on when dropped.
pub struct Seat(Option<Arc<Level>>);

impl Seat {
    /// Takes the seat away from its holder, without leaving it.
    fn give_up(mut self) {
        self.0 = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.leave();
        }
    }
}

impl Level {
    /// Of a PriorityLevelConfiguration with so many seats.
    pub(super) fn of(object: &Value, seats: usize) -> Self {
        let spec = &object["spec"];
        let response = &spec["limited"]["limitResponse"];
        let queuing = &response["queuing"];
        let number = |key: &str, default: u64| usize::try_from(queuing[key].as_u64().unwrap_or(default)).unwrap_or(usize::MAX);
        let queues = if response["type"] == "Queue" { number("queues", 64) } else { 0 };
        let (length, hand) = (number("queueLengthLimit", 50), number("handSize", 8));
        Self {
            name: object["metadata"]["name"].as_str().unwrap_or("").to_owned(),
            uid: super::schema::uid(object),
            exempt: spec["type"] == "Exempt",
            seats,
            most: queues.saturating_mul(length),
            most_of_one: hand.min(queues).saturating_mul(length),
            state: Mutex::default(),
        }
    }

    /// Whether the other one is configured the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.uid, self.exempt, self.seats, self.most, self.most_of_one)
            == (&other.uid, other.exempt, other.seats, other.most, other.most_of_one)
    }

    /// Waits for a seat.
    ///
    /// # Errors
    /// Why there is no place to wait, in the words of upstream's metric.
    pub(super) async fn enter(self: Arc<Self>, flow: u64) -> Result<Seat, &'static str> {
        let receiver = {
            let mut state = self.state.lock();
            if state.taken < self.seats {
                state.taken += 1;
                return Ok(Seat(Some(self.clone())));
            }
            if self.most == 0 {
                return Err("concurrency-limit");
            }
            if state.waiting >= self.most || state.flows.get(&flow).is_some_and(|queue| queue.len() >= self.most_of_one) {
                state.forget_the_gone();
            }
            if state.waiting >= self.most || state.flows.get(&flow).is_some_and(|queue| queue.len() >= self.most_of_one) {
                return Err("queue-full");
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting += 1;
            let queue = state.flows.entry(flow).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                state.turns.push_back(flow);
            }
            receiver
        };
        // The sender is only dropped with a request that is gone itself.
        receiver.await.map_err(|_| "cancelled")
    }

    /// Gives a seat on, to the flow whose turn it is.
    fn leave(self: Arc<Self>) {
        let mut state = self.state.lock();
        while let Some(flow) = state.turns.pop_front() {
            let Some(queue) = state.flows.get_mut(&flow) else { continue };
            let next = queue.pop_front();
            let more = !queue.is_empty();
            if more {
                state.turns.push_back(flow);
            } else {
                state.flows.remove(&flow);
            }
            let Some(next) = next else { continue };
            state.waiting -= 1;
            match next.send(Seat(Some(self.clone()))) {
                Ok(()) => return,
                // Gone meanwhile. Its seat is not left: it is offered to the next one.
                Err(seat) => seat.give_up(),
            }
        }
        state.taken -= 1;
    }

    /// Requests that sit and that wait.
    #[cfg(test)]
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.taken, state.waiting)
    }
}

impl State {
    fn forget_the_gone(&mut self) {
        let mut waiting = 0;
        self.flows.retain(|_, queue| {
            queue.retain(|sender| !sender.is_closed());
            waiting += queue.len();
            !queue.is_empty()
        });
        self.waiting = waiting;
        let flows = &self.flows;
        self.turns.retain(|flow| flows.contains_key(flow));
    }
}
