//! When several results in a row become a verdict. Pure.

use crate::runtime::actions::Health;

/// One probe's result.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Passed.
    Success,
    /// Failed; why.
    Failure(String),
    /// Could not be tried; says nothing.
    Error(String),
}

/// Counts results in a row.
pub struct Counter {
    success: i32,
    failure: i32,
    last: Option<Health>,
    run: i32,
}

impl Counter {
    /// Verdicts after so many of a kind in a row.
    pub fn new(success: i32, failure: i32) -> Self {
        Self { success: success.max(1), failure: failure.max(1), last: None, run: 0 }
    }

    /// Counts a result; the verdict, once there are enough.
    pub fn count(&mut self, outcome: &Outcome) -> Option<Health> {
        let health = match outcome {
            Outcome::Success => Health::Success,
            Outcome::Failure(_) => Health::Failure,
            Outcome::Error(_) => return None,
        };
        if self.last == Some(health) {
            self.run += 1;
        } else {
            self.last = Some(health);
            self.run = 1;
        }
        let needed = if health == Health::Success { self.success } else { self.failure };
        (self.run >= needed).then_some(health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_enough_in_a_row() {
        let mut counter = Counter::new(2, 3);
        let (ok, bad) = (Outcome::Success, Outcome::Failure(String::new()));
        let got: Vec<_> = [&bad, &bad, &ok, &bad, &Outcome::Error(String::new()), &bad, &bad, &bad, &ok, &ok]
            .map(|outcome| counter.count(outcome))
            .into();
        use Health::{Failure, Success};
        assert_eq!(got, [None, None, None, None, None, None, Some(Failure), Some(Failure), None, Some(Success)]);
    }
}
