//! Values, and how they compare.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Str(Arc<str>),
    /// A list.
    List(Arc<Vec<Value>>),
    /// A map; keys are text.
    Map(Arc<BTreeMap<String, Value>>),
    /// A map of maps in which an absent key finds an empty map: attributes by domain.
    Domains(Arc<BTreeMap<String, Value>>),
    /// A Kubernetes quantity.
    Quantity(Arc<Quantity>),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// An optional.
    Optional(Option<Box<Value>>),
}

impl Value {
    /// Its type's name.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) | Self::Domains(_) => "map",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Optional(_) => "optional_type",
        }
    }

    /// How it compares; `None` for what has no order.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(one), Self::Bool(two)) => Some(one.cmp(two)),
            (Self::Str(one), Self::Str(two)) => Some(one.cmp(two)),
            (Self::Quantity(one), Self::Quantity(two)) => Some(one.cmp(two)),
            (Self::Semver(one), Self::Semver(two)) => Some(one.cmp(two)),
            _ => self.number()?.order(other.number()?),
        }
    }

    fn number(&self) -> Option<Number> {
        match self {
            Self::Int(value) => Some(Number::Whole(i128::from(*value))),
            Self::Uint(value) => Some(Number::Whole(i128::from(*value))),
            Self::Double(value) => Some(Number::Real(*value)),
            _ => None,
        }
    }
}

enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(two)) => Some(one.cmp(&two)),
            (Self::Whole(one), Self::Real(two)) => (one as f64).partial_cmp(&two),
            (Self::Real(one), Self::Whole(two)) => one.partial_cmp(&(two as f64)),
            (Self::Real(one), Self::Real(two)) => one.partial_cmp(&two),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(one), Self::List(two)) => one == two,
            (Self::Map(one) | Self::Domains(one), Self::Map(two) | Self::Domains(two)) => one == two,
            (Self::Optional(one), Self::Optional(two)) => one == two,
            _ => self.order(other) == Some(Ordering::Equal),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(Arc::from(text))
    }
}

/// A semantic version: numbers, and what precedes the release. Build metadata does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    /// Major, minor, patch.
    pub numbers: [u64; 3],
    pre: Vec<String>,
}

impl Semver {
    /// Parses a version; `normalize` also takes `v1.0`, and fills up missing numbers.
    pub fn parse(text: &str, normalize: bool) -> Option<Self> {
        let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let mut parts: Vec<&str> = numbers.split('.').collect();
        while normalize && parts.len() < 3 {
            parts.push("0");
        }
        let [major, minor, patch] = parts.as_slice() else { return None };
        let number = |part: &str| {
            let strict = part.len() == 1 || !part.starts_with('0');
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits && (strict || normalize) { part.parse().ok() } else { None }
        };
        let pre: Vec<String> = pre.map(|pre| pre.split('.').map(str::to_owned).collect()).unwrap_or_default();
        if pre.iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')) {
            return None;
        }
        Some(Self { numbers: [number(major)?, number(minor)?, number(patch)?], pre })
    }
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let part = |one: &String, two: &String| match (one.parse::<u64>(), two.parse::<u64>()) {
                    (Ok(one), Ok(two)) => one.cmp(&two),
                    (Ok(_), Err(_)) => Ordering::Less,
                    (Err(_), Ok(_)) => Ordering::Greater,
                    (Err(_), Err(_)) => one.cmp(two),
                };
                let different = self.pre.iter().zip(&other.pre).map(|(one, two)| part(one, two)).find(|order| order.is_ne());
                different.unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}
