//! Agrees on memory nodes for what a container gets. Pure. Upstream: pkg/kubelet/cm/topologymanager

/// A set of memory nodes that would do, and whether it is one of the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Bit n: memory node n.
    pub mask: u64,
    /// No narrower set could ever do.
    pub preferred: bool,
}

/// `topologyManagerPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody is asked.
    #[default]
    None,
    /// The best there is, whatever it is.
    BestEffort,
    /// The best, or the pod is refused.
    Restricted,
    /// One node, or the pod is refused.
    SingleNumaNode,
}

impl Policy {
    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "best-effort" => Self::BestEffort,
            "restricted" => Self::Restricted,
            "single-numa-node" => Self::SingleNumaNode,
            _ => return None,
        })
    }
}

/// All non-empty sets of `nodes`, narrow ones first. Upstream asks for at most eight nodes too: sets double with each.
pub fn masks(nodes: &[usize]) -> Vec<u64> {
    const MOST: usize = 8;
    let nodes = &nodes[..nodes.len().min(MOST)];
    let mut out: Vec<u64> = (1_u64..1 << nodes.len())
        .map(|choice| nodes.iter().enumerate().filter(|(bit, _)| choice & (1 << bit) != 0).map(|(_, node)| 1_u64 << node).sum())
        .collect();
    out.sort_by_key(|mask| (mask.count_ones(), *mask));
    out
}

/// The nodes that all providers agree on, and whether the pod is admitted. A provider without hints does not mind;
/// one whose list is empty cannot be served at all.
pub fn merge(policy: Policy, nodes: &[usize], providers: &[Vec<Hint>]) -> (Hint, bool) {
    let everywhere = nodes.iter().filter(|node| **node < 64).map(|node| 1_u64 << node).sum::<u64>().max(1);
    let any = Hint { mask: everywhere, preferred: true };
    if policy == Policy::None || providers.is_empty() {
        return (any, true);
    }
    let mut best: Option<Hint> = None;
    let mut stack = vec![(0, Hint { mask: everywhere, preferred: true })];
    while let Some((index, so_far)) = stack.pop() {
        let Some(hints) = providers.get(index) else {
            let wanted = policy != Policy::SingleNumaNode || so_far.mask.count_ones() == 1;
            let better = |best: &Hint| {
                let key = |hint: &Hint| (!hint.preferred, hint.mask.count_ones(), hint.mask);
                key(&so_far) < key(best)
            };
            if wanted && so_far.mask != 0 && best.as_ref().is_none_or(better) {
                best = Some(so_far);
            }
            continue;
        };
        for hint in hints {
            let mask = so_far.mask & hint.mask;
            if mask != 0 {
                // Only if all want just these nodes is it what each prefers.
                let agree = so_far.mask == everywhere && index == 0 || so_far.mask == hint.mask;
                stack.push((index + 1, Hint { mask, preferred: so_far.preferred && hint.preferred && agree }));
            }
        }
    }
    let best = best.unwrap_or(Hint { mask: everywhere, preferred: false });
    let admitted = match policy {
        Policy::None | Policy::BestEffort => true,
        Policy::Restricted => best.preferred,
        Policy::SingleNumaNode => best.preferred && (best.mask.count_ones() == 1 || nodes.len() == 1),
    };
    (best, admitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_agree_or_the_policy_decides() {
        let hint = |mask, preferred| Hint { mask, preferred };
        let both = vec![hint(1, true), hint(2, true), hint(3, false)];
        let second = vec![hint(2, true), hint(3, false)];
        let first = vec![hint(1, true), hint(3, false)];
        let wide = vec![hint(3, true)];
        for (policy, providers, expected, admitted) in [
            (Policy::None, vec![second.clone(), first.clone()], hint(3, true), true),
            (Policy::Restricted, vec![both.clone(), second.clone()], hint(2, true), true),
            (Policy::Restricted, vec![first.clone(), second.clone()], hint(1, false), false),
            (Policy::BestEffort, vec![first.clone(), second.clone()], hint(1, false), true),
            (Policy::SingleNumaNode, vec![both.clone()], hint(1, true), true),
            (Policy::SingleNumaNode, vec![wide.clone()], hint(3, false), false),
            (Policy::Restricted, vec![wide.clone()], hint(3, true), true),
            (Policy::Restricted, vec![vec![]], hint(3, false), false),
            (Policy::Restricted, vec![], hint(3, true), true),
        ] {
            assert_eq!(merge(policy, &[0, 1], &providers), (expected, admitted), "{policy:?} {providers:?}");
        }
        assert_eq!(masks(&[0, 2]), [1, 4, 5]);
    }
}
