//! Amounts of resources, as plain numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use serde::Deserialize;
use smallvec::SmallVec;

/// What a container without a CPU request counts as when nodes are scored, thousandths of a core. Upstream: DefaultMilliCPURequest.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// The same for memory, bytes. Upstream: DefaultMemoryRequest.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource. Extended resources are few, so a short list beats a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Only in allocatable: how many pods.
    pub pods: i64,
    /// Everything else, whole units.
    pub scalars: SmallVec<[(Arc<str>, i64); 1]>,
}

/// `requests`, `limits`, `allocatable` on the wire.
pub(crate) type List = BTreeMap<String, Amount>;

/// A quantity on the wire: text, or a number that a client wrote without quotes.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    Text(String),
    Number(serde_json::Number),
}

impl Amount {
    /// The quantity; `None` where it is none.
    pub(crate) fn quantity(&self) -> Option<Quantity> {
        match self {
            Self::Text(text) => Quantity::parse(text).ok(),
            Self::Number(number) => Quantity::parse(&number.to_string()).ok(),
        }
    }

    /// Whole units, rounded up.
    pub(crate) fn value(&self) -> i64 {
        match self {
            Self::Text(text) => plain(text).unwrap_or_else(|| self.quantity().map_or(0, |quantity| quantity.value())),
            Self::Number(_) => self.quantity().map_or(0, |quantity| quantity.value()),
        }
    }

    /// Thousandths, rounded up.
    pub(crate) fn milli(&self) -> i64 {
        if let Self::Text(text) = self {
            if let Some(milli) = text.strip_suffix('m').and_then(|digits| digits.parse().ok()) {
                return milli;
            }
            if let Some(whole) = text.parse::<i64>().ok().and_then(|whole| whole.checked_mul(1000)) {
                return whole;
            }
        }
        self.quantity().map_or(0, |quantity| quantity.milli_value())
    }
}

/// The forms that nearly all amounts have, without the general parser.
fn plain(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: i64 = text[..digits].parse().ok()?;
    let shift = match &text[digits..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

impl Resources {
    /// From the wire.
    pub(crate) fn from_list(list: &List) -> Self {
        let mut out = Self::default();
        for (name, amount) in list {
            match name.as_str() {
                "cpu" => out.milli_cpu = amount.milli(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral_storage = amount.value(),
                "pods" => out.pods = amount.value(),
                other => out.scalars.push((Arc::from(other), amount.value())),
            }
        }
        out
    }

    /// The amount of an extended resource.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.iter().find(|(own, _)| **own == *name).map_or(0, |(_, amount)| *amount)
    }

    /// The amount by name, CPU in thousandths.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            other => self.scalar(other),
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` off.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// The larger of both, resource by resource.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalars {
            match self.scalars.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => *own = with(*own, *amount),
                None => self.scalars.push((name.clone(), with(0, *amount))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_every_form() {
        let text = |text: &str| Amount::Text(text.to_owned());
        assert_eq!(text("100m").milli(), 100);
        assert_eq!(text("2").milli(), 2000);
        assert_eq!(text("0.5").milli(), 500);
        assert_eq!(text("2Gi").value(), 2 << 30);
        assert_eq!(text("1.5Gi").value(), 3 << 29);
        assert_eq!(text("1e3").value(), 1000);
        assert_eq!(text("1500m").value(), 2);
        assert_eq!(serde_json::from_str::<Amount>("4").unwrap().value(), 4);
        assert_eq!(text("rubbish").value(), 0);
    }
}
