//! Label and node selectors, compiled.
//!
//! Upstream: apimachinery/pkg/labels, component-helpers/scheduling/corev1/nodeaffinity

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::object::Labels;

/// What one requirement asks of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// One of these values.
    In(Vec<String>),
    /// None of these values; an absent label is fine.
    NotIn(Vec<String>),
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
    /// A number greater than this.
    Gt(i64),
    /// A number less than this.
    Lt(i64),
    /// Malformed: matches nothing.
    Never,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What of it.
    pub op: Op,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: Option<&Vec<String>>) -> Self {
        let values = values.cloned().unwrap_or_default();
        let number = || match values.as_slice() {
            [one] => one.parse::<i64>().ok(),
            _ => None,
        };
        let op = match operator {
            "In" if !values.is_empty() => Op::In(values),
            "NotIn" if !values.is_empty() => Op::NotIn(values),
            "Exists" => Op::Exists,
            "DoesNotExist" => Op::DoesNotExist,
            "Gt" => number().map_or(Op::Never, Op::Gt),
            "Lt" => number().map_or(Op::Never, Op::Lt),
            _ => Op::Never,
        };
        Self { key: key.to_owned(), op }
    }

    /// Whether a value (`None`: no such label) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = |value: &str| value.parse::<i64>().ok();
        match (&self.op, value) {
            (Op::In(values), Some(value)) => values.iter().any(|own| own == value),
            (Op::NotIn(values), Some(value)) => !values.iter().any(|own| own == value),
            (Op::NotIn(_) | Op::DoesNotExist, None) | (Op::Exists, Some(_)) => true,
            (Op::Gt(bound), Some(value)) => number(value).is_some_and(|value| value > *bound),
            (Op::Lt(bound), Some(value)) => number(value).is_some_and(|value| value < *bound),
            _ => false,
        }
    }
}

/// A label selector. Without requirements it matches everything; see [`Selector::Nothing`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// An absent selector.
    Nothing,
    /// All of these.
    All(Vec<Requirement>),
}

impl Selector {
    /// Compiles a `LabelSelector`; an absent one matches nothing.
    pub fn compile(selector: Option<&meta::LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self::Nothing };
        let mut all = Self::of_map(selector.match_labels.as_ref());
        for expression in selector.match_expressions.iter().flatten() {
            all.push(Requirement::new(&expression.key, &expression.operator, expression.values.as_ref()));
        }
        Self::All(all)
    }

    /// Equality with every entry.
    pub fn of_map(labels: Option<&Labels>) -> Vec<Requirement> {
        let entries = labels.into_iter().flatten();
        entries.map(|(key, value)| Requirement { key: key.clone(), op: Op::In(vec![value.clone()]) }).collect()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(all) => all.iter().all(|one| one.matches(labels.get(&one.key).map(String::as_str))),
        }
    }

    /// Whether it has no requirement at all (and so matches everything).
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(all) if all.is_empty())
    }

    /// Adds a requirement.
    pub fn and(&mut self, requirement: Requirement) {
        if let Self::All(all) = self
            && !all.contains(&requirement)
        {
            all.push(requirement);
        }
    }
}

/// One term of a node selector: all expressions and fields must match. An empty term matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    /// On labels.
    pub labels: Vec<Requirement>,
    /// On `metadata.name`.
    pub fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Compiles a term.
    pub fn compile(term: &core::NodeSelectorTerm) -> Self {
        let compile = |list: &Option<Vec<core::NodeSelectorRequirement>>| {
            let list = list.iter().flatten();
            list.map(|one| Requirement::new(&one.key, &one.operator, one.values.as_ref())).collect()
        };
        Self { labels: compile(&term.match_expressions), fields: compile(&term.match_fields) }
    }

    /// Whether a node matches.
    pub fn matches(&self, labels: &Labels, name: &str) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.labels.iter().all(|one| one.matches(labels.get(&one.key).map(String::as_str)))
            && self.fields.iter().all(|one| one.matches((one.key == "metadata.name").then_some(name)))
    }

    /// The node names this term pins, where it does.
    fn names(&self) -> Option<Vec<String>> {
        self.fields.iter().find_map(|one| match &one.op {
            Op::In(names) if one.key == "metadata.name" => Some(names.clone()),
            _ => None,
        })
    }
}

/// Terms of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSelector(pub Vec<NodeTerm>);

impl NodeSelector {
    /// Compiles a node selector.
    pub fn compile(selector: &core::NodeSelector) -> Self {
        Self(selector.node_selector_terms.iter().map(NodeTerm::compile).collect())
    }

    /// Whether a node matches.
    pub fn matches(&self, labels: &Labels, name: &str) -> bool {
        self.0.iter().any(|term| term.matches(labels, name))
    }

    /// The names of all nodes that can match, where every term pins names.
    pub fn names(&self) -> Option<Vec<String>> {
        let mut out = Vec::new();
        for term in &self.0 {
            out.extend(term.names()?);
        }
        (!self.0.is_empty()).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_match_as_upstreams() {
        let require = |operator: &str, values: &[&str]| {
            Requirement::new("k", operator, Some(&values.iter().map(|value| (*value).to_owned()).collect()))
        };
        for (requirement, value, expected) in [
            (require("In", &["a", "b"]), Some("b"), true),
            (require("In", &["a"]), None, false),
            (require("NotIn", &["a"]), None, true),
            (require("NotIn", &["a"]), Some("a"), false),
            (require("Exists", &[]), Some(""), true),
            (require("DoesNotExist", &[]), None, true),
            (require("DoesNotExist", &[]), Some("x"), false),
            (require("Gt", &["3"]), Some("4"), true),
            (require("Gt", &["3"]), Some("3"), false),
            (require("Lt", &["3"]), Some("x"), false),
            (require("Gt", &["x"]), Some("4"), false),
        ] {
            assert_eq!(requirement.matches(value), expected, "{requirement:?} {value:?}");
        }
    }

    #[test]
    fn an_empty_selector_matches_all_and_an_absent_one_nothing() {
        assert!(Selector::compile(Some(&meta::LabelSelector::default())).matches(&Labels::new()));
        assert!(!Selector::compile(None).matches(&Labels::new()));
        assert!(!NodeTerm::compile(&core::NodeSelectorTerm::default()).matches(&Labels::new(), "n"));
    }
}
