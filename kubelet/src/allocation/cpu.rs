//! Processors of one's own for guaranteed pods that ask for whole ones. Pure. Upstream: pkg/kubelet/cm/cpumanager

use std::collections::BTreeMap;

use super::cpuset::CpuSet;
use super::machine::{Cpu, Topology};
use super::topology::Hint;

/// `cpuManagerPolicyOptions` that change what is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whole cores only, else the pod is refused.
    pub full_pcpus_only: bool,
    /// As evenly as can be over the memory nodes that are needed.
    pub across_numa: bool,
    /// One thread of each core first.
    pub across_cores: bool,
    /// Reserved processors are nobody's, not even shared.
    pub strict_reservation: bool,
}

/// Names of options that are known and change nothing here.
const OTHER_OPTIONS: [&str; 2] = ["align-by-socket", "prefer-align-cpus-by-uncorecache"];

impl Options {
    /// Of the configuration.
    ///
    /// # Errors
    /// An unknown name, or no truth value.
    pub fn parse(map: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, text) in map {
            let on = text.parse::<bool>().map_err(|_| format!("bad value for option {name:?}: {text:?} is not a boolean"))?;
            match name.as_str() {
                "full-pcpus-only" => out.full_pcpus_only = on,
                "distribute-cpus-across-numa" => out.across_numa = on,
                "distribute-cpus-across-cores" => out.across_cores = on,
                "strict-cpu-reservation" => out.strict_reservation = on,
                name if OTHER_OPTIONS.contains(&name) => {}
                name => return Err(format!("unsupported cpumanager option: {name:?} ({text})")),
            }
        }
        if out.across_cores && (out.across_numa || out.full_pcpus_only) {
            return Err("static policy options distribute-cpus-across-cores and full-pcpus-only or distribute-cpus-across-numa can not be used at the same time".into());
        }
        Ok(out)
    }
}

/// Who has which processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Shared by everybody else.
    pub shared: CpuSet,
    /// By pod's uid and container.
    pub owned: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

impl State {
    /// Nothing given away yet.
    pub fn new(topology: &Topology, reserved: &CpuSet, options: Options) -> Self {
        let shared = if options.strict_reservation { topology.all().without(reserved) } else { topology.all() };
        Self { shared, owned: BTreeMap::new() }
    }

    /// What may be given away.
    pub fn free(&self, reserved: &CpuSet) -> CpuSet {
        self.shared.without(reserved)
    }

    /// Gives processors to a container.
    pub fn give(&mut self, uid: &str, container: &str, cpus: CpuSet) {
        self.shared = self.shared.without(&cpus);
        self.owned.entry(uid.to_owned()).or_default().insert(container.to_owned(), cpus);
    }

    /// Takes back what a pod has; whether that was anything.
    pub fn take_back(&mut self, uid: &str) -> bool {
        let Some(containers) = self.owned.remove(uid) else { return false };
        for cpus in containers.into_values() {
            self.shared = self.shared.with(&cpus);
        }
        true
    }

    /// Whether everything in the state is there, and given once: another machine's state is not believed.
    pub fn fits(&self, topology: &Topology, reserved: &CpuSet, options: Options) -> bool {
        let owned = self.owned.values().flat_map(BTreeMap::values).fold(CpuSet::default(), |all, cpus| all.with(cpus));
        let all = Self::new(topology, reserved, options).shared;
        owned.0.is_disjoint(&self.shared.0) && owned.with(&self.shared) == all
    }
}

/// Chooses `count` of `free`: whole sockets and memory nodes, then whole cores, then threads beside those in use.
/// Upstream: takeByTopologyNUMAPacked
pub fn choose(topology: &Topology, free: &CpuSet, count: usize, options: Options) -> Option<CpuSet> {
    if free.len() < count {
        return None;
    }
    if options.across_numa
        && let Some(found) = across_nodes(topology, free, count)
    {
        return Some(found);
    }
    let mut left: Vec<Cpu> = topology.cpus.iter().filter(|cpu| free.0.contains(&cpu.id)).copied().collect();
    let mut out = CpuSet::default();
    type Part = fn(&Cpu) -> (usize, usize);
    let parts: &[Part] = if options.across_cores {
        &[|cpu| (cpu.numa, usize::MAX), |cpu| (cpu.socket, usize::MAX)]
    } else {
        &[|cpu| (cpu.numa, usize::MAX), |cpu| (cpu.socket, usize::MAX), |cpu| (cpu.socket, cpu.core)]
    };
    for part in parts {
        loop {
            let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
            for cpu in &left {
                groups.entry(part(cpu)).or_default().push(cpu.id);
            }
            // Only what is wholly free: a part in use is left for smaller wishes.
            let whole = |key: &(usize, usize), ids: &Vec<usize>| {
                topology.cpus.iter().filter(|cpu| part(cpu) == *key).count() == ids.len()
            };
            let need = count - out.len();
            let Some((_, ids)) = groups.iter().find(|(key, ids)| need > 0 && ids.len() <= need && whole(key, ids)) else { break };
            out.0.extend(ids.iter().copied());
            left.retain(|cpu| !out.0.contains(&cpu.id));
        }
    }
    // Single threads: on the nodes and cores with the least left, so that others stay whole.
    while out.len() < count {
        let remaining = |same: fn(&Cpu, &Cpu) -> bool, cpu: &Cpu| left.iter().filter(|other| same(cpu, other)).count();
        let key = |cpu: &Cpu| {
            let node = remaining(|a, b| a.numa == b.numa, cpu);
            let core = remaining(|a, b| (a.socket, a.core) == (b.socket, b.core), cpu);
            let taken_core = topology
                .cpus
                .iter()
                .any(|other| (other.socket, other.core) == (cpu.socket, cpu.core) && out.0.contains(&other.id));
            (node, if options.across_cores { usize::from(taken_core) } else { core }, cpu.id)
        };
        let next = left.iter().min_by_key(|cpu| key(cpu)).map(|cpu| cpu.id)?;
        out.0.insert(next);
        left.retain(|cpu| cpu.id != next);
    }
    Some(out)
}

/// The same number on each of the fewest memory nodes where that works. Upstream: takeByTopologyNUMADistributed
fn across_nodes(topology: &Topology, free: &CpuSet, count: usize) -> Option<CpuSet> {
    let nodes: Vec<usize> = topology.nodes().into_iter().collect();
    for used in 1..=nodes.len() {
        if !count.is_multiple_of(used) {
            continue;
        }
        let each = count / used;
        let able: Vec<CpuSet> = nodes
            .iter()
            .filter(|node| **node < 64)
            .filter_map(|node| {
                let there: CpuSet = topology.on(1 << node).0.intersection(&free.0).copied().collect();
                choose(topology, &there, each, Options::default())
            })
            .collect();
        if able.len() >= used {
            return Some(able.into_iter().take(used).fold(CpuSet::default(), |all, cpus| all.with(&cpus)));
        }
    }
    None
}

/// Which memory nodes could give `count` processors; preferred are those with as few nodes as the machine needs for it.
pub fn hints(topology: &Topology, free: &CpuSet, count: usize) -> Vec<Hint> {
    let nodes: Vec<usize> = topology.nodes().into_iter().filter(|node| *node < 64).collect();
    let capacity = |mask: u64, of: &CpuSet| topology.on(mask).0.intersection(&of.0).count();
    let masks = super::topology::masks(&nodes);
    let all = topology.all();
    let fewest = masks.iter().filter(|mask| capacity(**mask, &all) >= count).map(|mask| mask.count_ones()).min().unwrap_or(0);
    masks
        .into_iter()
        .filter(|mask| capacity(*mask, free) >= count)
        .map(|mask| Hint { mask, preferred: mask.count_ones() == fewest })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets, a memory node each, of two cores with two threads: 0,4 1,5 | 2,6 3,7.
    fn machine() -> Topology {
        let cpus = (0..8).map(|id| Cpu { id, core: id % 4, socket: id % 4 / 2, numa: id % 4 / 2 });
        Topology { cpus: cpus.collect() }
    }

    #[test]
    fn whole_parts_are_chosen_first() {
        let set = |text: &str| CpuSet::parse(text).unwrap();
        let plain = Options::default();
        for (free, count, options, expected) in [
            ("0-7", 4, plain, Some("0-1,4-5")),
            ("0-7", 2, plain, Some("0,4")),
            ("1-7", 2, plain, Some("1,5")),
            ("1-7", 1, plain, Some("4")),
            ("1-7", 4, plain, Some("2-3,6-7")),
            ("0-7", 2, Options { across_cores: true, ..plain }, Some("0-1")),
            ("0-7", 4, Options { across_numa: true, ..plain }, Some("0-1,4-5")),
            ("1-7", 6, Options { across_numa: true, ..plain }, Some("1-6")),
            ("0-1", 3, plain, None),
        ] {
            let got = choose(&machine(), &set(free), count, options);
            if let Some(got) = &got {
                assert_eq!(got.len(), count);
            }
            assert_eq!(got.map(|cpus| cpus.to_string()).as_deref(), expected, "{count} of {free}");
        }
    }

    #[test]
    fn what_is_given_comes_back() {
        let reserved = CpuSet::parse("0").unwrap();
        let mut state = State::new(&machine(), &reserved, Options::default());
        state.give("u", "c", CpuSet::parse("1,5").unwrap());
        assert_eq!((state.shared.to_string(), state.free(&reserved).to_string()), ("0,2-4,6-7".into(), "2-4,6-7".into()));
        assert!(state.fits(&machine(), &reserved, Options::default()));
        assert!(state.take_back("u") && !state.take_back("u"));
        assert_eq!(state.shared.to_string(), "0-7");
        let smaller = Topology { cpus: machine().cpus[..4].to_vec() };
        assert!(!state.fits(&smaller, &reserved, Options::default()));
    }

    #[test]
    fn hints_prefer_the_fewest_nodes_that_could_ever_do() {
        let hint = |mask, preferred| Hint { mask, preferred };
        let free = CpuSet::parse("1-7").unwrap();
        assert_eq!(hints(&machine(), &free, 2), [hint(1, true), hint(2, true), hint(3, false)]);
        assert_eq!(hints(&machine(), &free, 4), [hint(2, true), hint(3, false)]);
        assert_eq!(hints(&machine(), &free, 5), [hint(3, true)]);
    }

    #[test]
    fn options_are_named_as_upstream_does() {
        let parse = |name: &str, value: &str| Options::parse(&[(name.to_owned(), value.to_owned())].into());
        assert!(parse("full-pcpus-only", "true").unwrap().full_pcpus_only);
        assert!(parse("nope", "true").is_err() && parse("full-pcpus-only", "x").is_err());
    }
}
