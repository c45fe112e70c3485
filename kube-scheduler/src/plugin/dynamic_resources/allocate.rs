//! Finds devices for claims on one node: a search with a way back, since constraints may rule the first choice out.
//!
//! Upstream: k8s.io/dynamic-resource-allocation/structured/internal/stable/allocator_stable.go

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::inventory::{DeviceId, Inventory, Pool, reach_of};
use crate::cel::{Program, Value};
use crate::object::Named;
use crate::object::device::{Alternative, Constraint, Counters, Device, DeviceClaim, DeviceClass, Reach};
use crate::object::node::Node;

/// Steps of one search: some tenths of a second. More is given up, as upstream does by time.
const MAX_STEPS: usize = 200_000;
/// Devices of one claim. Upstream: AllocationResultsMaxSize
const MAX_DEVICES: usize = 32;

/// A claim to allocate, with everything looked up.
pub(super) struct Wanted {
    pub(super) claim: Arc<DeviceClaim>,
    /// For each request, its alternatives.
    pub(super) requests: Vec<Vec<Kind>>,
}

/// An alternative, with its class and what devices must be like.
pub(super) struct Kind {
    /// As results name it: the request, or `request/subrequest`.
    pub(super) name: String,
    pub(super) alternative: Alternative,
    pub(super) class: Arc<DeviceClass>,
    pub(super) selectors: Vec<Arc<Program>>,
}

/// What selectors said about devices: by device and program, each of which lives as long as the attempt.
pub(super) type Memory = RefCell<HashMap<(usize, usize), Result<bool, String>>>;

struct Candidate<'a> {
    id: DeviceId,
    device: &'a Device,
    reach: &'a Reach,
    pool: &'a Pool,
}

struct Search<'a> {
    wanted: &'a [Wanted],
    candidates: Vec<Candidate<'a>>,
    /// Pools that this node uses and that are not complete.
    incomplete: bool,
    memory: &'a Memory,
    /// Candidates that are taken, by others or in this search.
    taken: Vec<bool>,
    used: HashMap<(String, String), Counters>,
    /// Claim, request, alternative, candidate.
    chosen: Vec<(usize, usize, usize, usize)>,
    steps: usize,
}

/// What each claim would have on the node, as `status.allocation`; `None` where it cannot be.
///
/// # Errors
/// A selector failed, or the search takes too long.
pub(super) fn allocate(
    wanted: &[Wanted],
    inventory: &Inventory,
    node: &Node,
    memory: &Memory,
) -> Result<Option<Vec<Json>>, String> {
    let mut search = Search {
        wanted,
        candidates: Vec::new(),
        incomplete: false,
        memory,
        taken: Vec::new(),
        used: HashMap::new(),
        chosen: Vec::new(),
        steps: 0,
    };
    for ((driver, name), pool) in &inventory.pools {
        let devices = pool.slices.iter().flat_map(|slice| slice.devices.iter().map(move |device| (slice, device)));
        let reached: Vec<_> = devices.filter_map(|(slice, device)| Some((device, reach_of(slice, device, node)?))).collect();
        if reached.is_empty() {
            continue;
        }
        if !pool.complete {
            search.incomplete = true;
            continue;
        }
        for (device, reach) in reached {
            let id = (driver.clone(), name.clone(), device.name.clone());
            search.taken.push(inventory.taken.contains(&id));
            search.candidates.push(Candidate { id, device, reach, pool });
        }
    }
    if !search.request(0, 0)? {
        return Ok(None);
    }
    Ok(Some((0..wanted.len()).map(|claim| search.result(claim, node)).collect()))
}

impl<'a> Search<'a> {
    /// Finds devices for this request and all after it.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, String> {
        let wanted = self.wanted;
        let Some(own) = wanted.get(claim) else { return Ok(true) };
        let Some(kinds) = own.requests.get(request) else { return self.request(claim + 1, 0) };
        for (number, kind) in kinds.iter().enumerate() {
            let place = (claim, request, number);
            let found = match kind.alternative.count() {
                Some(count) => self.some(place, kind, count, 0)?,
                None => self.all(place, kind)?,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds `count` more devices, beginning at a candidate.
    fn some(&mut self, place: (usize, usize, usize), kind: &Kind, count: usize, from: usize) -> Result<bool, String> {
        if count == 0 {
            return self.request(place.0, place.1 + 1);
        }
        for at in from..self.candidates.len() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err("timed out trying to allocate devices".to_owned());
            }
            if !self.suits(kind, at)? || !self.take(place, kind, at) {
                continue;
            }
            if self.some(place, kind, count - 1, at + 1)? {
                return Ok(true);
            }
            self.give_back(kind);
        }
        Ok(false)
    }

    /// Takes every device that suits; one that is taken already, or a pool in the making, rules that out.
    fn all(&mut self, place: (usize, usize, usize), kind: &Kind) -> Result<bool, String> {
        if self.incomplete {
            return Ok(false);
        }
        let mut count = 0;
        let mut good = true;
        for at in 0..self.candidates.len() {
            if !self.suits(kind, at)? {
                continue;
            }
            if !self.take(place, kind, at) {
                good = false;
                break;
            }
            count += 1;
        }
        if good && count > 0 && self.request(place.0, place.1 + 1)? {
            return Ok(true);
        }
        for _ in 0..count {
            self.give_back(kind);
        }
        Ok(false)
    }

    /// Whether a device is of the kind, whoever has it.
    fn suits(&self, kind: &Kind, at: usize) -> Result<bool, String> {
        let device = self.candidates[at].device;
        for (number, program) in kind.selectors.iter().enumerate() {
            let key = (std::ptr::from_ref(device) as usize, Arc::as_ptr(program) as usize);
            let known = self.memory.borrow().get(&key).cloned();
            let verdict = known.unwrap_or_else(|| {
                let variable = device.variable.clone().unwrap_or(Value::Null);
                let verdict = match program.evaluate(&[("device", variable)]) {
                    Ok(Value::Bool(verdict)) => Ok(verdict),
                    Ok(_) => Err("result type should be bool".to_owned()),
                    Err(error) => Err(format!("runtime error: {error}")),
                };
                self.memory.borrow_mut().insert(key, verdict.clone());
                verdict
            });
            if !verdict.map_err(|error| format!("selector #{number}: {error}"))? {
                return Ok(false);
            }
        }
        Ok(!device.taints.iter().any(|taint| taint.forbids(kind.alternative.tolerations())))
    }

    /// Takes a device, if it can be had.
    fn take(&mut self, place: (usize, usize, usize), kind: &Kind, at: usize) -> bool {
        let (claim, request, number) = place;
        let of_claim = self.chosen.iter().filter(|chosen| chosen.0 == claim).count();
        let twice = self.chosen.iter().any(|chosen| chosen.0 == claim && chosen.3 == at);
        if of_claim >= MAX_DEVICES || twice || (!kind.alternative.admin() && self.taken[at]) {
            return false;
        }
        let own = &self.wanted[claim].claim;
        if !own.constraints.iter().all(|constraint| self.holds(constraint, claim, &own.requests[request].name, kind, at)) {
            return false;
        }
        if !kind.alternative.admin() {
            let candidate = &self.candidates[at];
            if !candidate.device.consumes.is_empty() {
                let pool = (candidate.id.0.clone(), candidate.id.1.clone());
                let used = self.used.entry(pool).or_default();
                let left = |counter| {
                    candidate.pool.counters.get(counter).copied().unwrap_or(0) - used.get(counter).copied().unwrap_or(0)
                };
                if candidate.device.consumes.iter().any(|(counter, amount)| *amount > left(counter)) {
                    return false;
                }
                for (counter, amount) in &candidate.device.consumes {
                    *used.entry(counter.clone()).or_default() += amount;
                }
            }
            self.taken[at] = true;
        }
        self.chosen.push((claim, request, number, at));
        true
    }

    fn give_back(&mut self, kind: &Kind) {
        let Some((_, _, _, at)) = self.chosen.pop() else { return };
        if kind.alternative.admin() {
            return;
        }
        self.taken[at] = false;
        let candidate = &self.candidates[at];
        if let Some(used) = self.used.get_mut(&(candidate.id.0.clone(), candidate.id.1.clone())) {
            for (counter, amount) in &candidate.device.consumes {
                *used.entry(counter.clone()).or_default() -= amount;
            }
        }
    }

    /// Whether a constraint of the claim holds with one more device.
    fn holds(&self, constraint: &Constraint, claim: usize, request: &str, kind: &Kind, at: usize) -> bool {
        if !constraint.concerns(request, &kind.name) {
            return true;
        }
        let (name, same) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => return true,
        };
        let Some(value) = self.candidates[at].device.attributes.get(name) else { return false };
        let others = self.chosen.iter().filter(|chosen| chosen.0 == claim).filter(|(_, request, number, _)| {
            let kind = &self.wanted[claim].requests[*request][*number];
            constraint.concerns(&self.wanted[claim].claim.requests[*request].name, &kind.name)
        });
        others.into_iter().all(|(_, _, _, other)| {
            let equal = self.candidates[*other].device.attributes.get(name) == Some(value);
            equal == same
        })
    }

    /// `status.allocation` of a claim.
    fn result(&self, claim: usize, node: &Node) -> Json {
        let wanted = &self.wanted[claim];
        let chosen: Vec<_> = self.chosen.iter().filter(|chosen| chosen.0 == claim).collect();
        let mut results = Vec::new();
        let mut config = Vec::new();
        let mut configured = HashSet::new();
        for (_, request, number, at) in &chosen {
            let (kind, candidate) = (&wanted.requests[*request][*number], &self.candidates[*at]);
            let mut result = json!({
                "request": kind.name, "driver": candidate.id.0, "pool": candidate.id.1, "device": candidate.id.2,
            });
            if kind.alternative.admin() {
                result["adminAccess"] = true.into();
            }
            results.push(result);
            if configured.insert(&kind.name) {
                config.extend(kind.class.config.iter().map(|own| {
                    let mut own = own.clone();
                    own["source"] = "FromClass".into();
                    own["requests"] = json!([kind.name]);
                    own
                }));
            }
        }
        for own in &wanted.claim.config {
            let names: Vec<&str> = own["requests"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            let used = |name: &str| configured.iter().any(|kind| *kind == name || kind.split('/').next() == Some(name));
            if names.is_empty() || names.iter().any(|name| used(name)) {
                let mut own = own.clone();
                own["source"] = "FromClaim".into();
                config.push(own);
            }
        }
        let mut devices = json!({"results": results});
        if !config.is_empty() {
            devices["config"] = config.into();
        }
        let mut out = json!({"devices": devices});
        if let Some(selector) = selector(chosen.iter().map(|(_, _, _, at)| self.candidates[*at].reach), node) {
            out["nodeSelector"] = selector;
        }
        out
    }
}

/// Which nodes reach all of the devices: this one where one is its own; else what all of them want; `None` for every node.
fn selector<'a>(reaches: impl Iterator<Item = &'a Reach>, node: &Node) -> Option<Json> {
    let (mut expressions, mut fields): (Vec<Json>, Vec<Json>) = Default::default();
    for reach in reaches {
        match reach {
            Reach::Node(_) => {
                let only = json!({"key": "metadata.name", "operator": "In", "values": [node.name()]});
                return Some(json!({"nodeSelectorTerms": [{"matchFields": [only]}]}));
            }
            Reach::Some(_, written) => {
                for term in &written.node_selector_terms {
                    let all = |list: &Option<Vec<_>>| {
                        list.iter().flatten().filter_map(|one| serde_json::to_value(one).ok()).collect::<Vec<_>>()
                    };
                    expressions.extend(
                        all(&term.match_expressions).into_iter().filter(|one| !expressions.contains(one)).collect::<Vec<_>>(),
                    );
                    fields.extend(all(&term.match_fields).into_iter().filter(|one| !fields.contains(one)).collect::<Vec<_>>());
                }
            }
            Reach::All => {}
        }
    }
    if expressions.is_empty() && fields.is_empty() {
        return None;
    }
    let mut term = json!({});
    if !expressions.is_empty() {
        term["matchExpressions"] = expressions.into();
    }
    if !fields.is_empty() {
        term["matchFields"] = fields.into();
    }
    Some(json!({"nodeSelectorTerms": [term]}))
}
