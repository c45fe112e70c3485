//! Node ports: a bitmap in a `RangeAllocation`, as upstream stores it (bit n is the n-th port, bytes of a big-endian integer).

use api::field::Path;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use serde_json::{Value, json};

use super::Failure;
use crate::cache::unavailable;
use crate::codec;
use crate::server::Server;
use crate::storage::Error;

const PATH: &str = "ranges/servicenodeports";
/// Tries of the compare-and-swap: every failure means that another server succeeded (those of this one wait for their turn).
const TRIES: usize = 1000;

/// A node port that is needed.
#[derive(Clone, Debug)]
pub(super) struct Need {
    /// The Service's port it is for; `None` for the health check's.
    pub(super) index: Option<usize>,
    /// This one, or any.
    pub(super) port: Option<u16>,
    /// The same as that of another port of the Service.
    pub(super) same_as: Option<usize>,
}

/// The ports in use, by number above the range's first.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Bitmap(Vec<u8>);

impl Bitmap {
    /// From big-endian bytes.
    fn decode(bytes: &[u8]) -> Self {
        let mut bytes = bytes.to_vec();
        bytes.reverse();
        Self(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes.reverse();
        bytes
    }

    pub(super) fn has(&self, bit: usize) -> bool {
        self.0.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    pub(super) fn set(&mut self, bit: usize, on: bool) {
        if self.0.len() <= bit / 8 {
            self.0.resize(bit / 8 + 1, 0);
        }
        let mask = 1 << (bit % 8);
        if on { self.0[bit / 8] |= mask } else { self.0[bit / 8] &= !mask }
    }
}

/// Reads the bitmap and its revision (0: there is none yet).
async fn read(server: &Server) -> Result<(Bitmap, u64), Error> {
    let storage = &server.caches.storage;
    let (found, _) = storage.get(&storage.key(PATH)).await?;
    Ok(found.map_or_else(|| (Bitmap::default(), 0), |stored| (parse(&stored.value), stored.revision)))
}

fn parse(value: &[u8]) -> Bitmap {
    let object: Option<Value> = codec::stored_json(value).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let data = object.as_ref().and_then(|object| object["data"].as_str()).unwrap_or("");
    Bitmap::decode(&STANDARD.decode(data).unwrap_or_default())
}

/// Changes the bitmap until a change holds.
async fn change<T>(
    server: &Server,
    (low, high): (u16, u16),
    mut make: impl FnMut(&mut Bitmap) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let storage = &server.caches.storage;
    let key = storage.key(PATH);
    let _turn = server.allocators.port_turn.lock().await;
    let (mut bitmap, mut revision) = read(server).await.map_err(unavailable)?;
    for _ in 0..TRIES {
        let mut next = bitmap.clone();
        let out = make(&mut next)?;
        if next == bitmap && revision > 0 {
            return Ok(out);
        }
        let object = json!({
            "apiVersion": "v1", "kind": "RangeAllocation", "metadata": {},
            "range": format!("{low}-{high}"), "data": STANDARD.encode(next.encode()),
        });
        let bytes = object.to_string();
        let result = if revision == 0 {
            storage.create(&key, bytes.as_bytes(), None).await
        } else {
            storage.update(&key, revision, bytes.as_bytes(), None).await
        };
        match result {
            Ok(_) => return Ok(out),
            Err(Error::Changed(Some(found))) => (bitmap, revision) = (parse(&found.value), found.revision),
            Err(Error::Changed(None) | Error::Exists) => (bitmap, revision) = read(server).await.map_err(unavailable)?,
            Err(error) => return Err(unavailable(error).into()),
        }
    }
    Err(Failure::Internal("failed to allocate a nodePort: too many others do so at once".into()))
}

/// Takes ports for all needs or for none; in the order of the needs.
pub(super) async fn take(server: &Server, range: (u16, u16), needs: &[Need], dry_run: bool) -> Result<Vec<u16>, Failure> {
    if dry_run {
        let (mut bitmap, _) = read(server).await.map_err(unavailable)?;
        return choose(&mut bitmap, range, needs);
    }
    change(server, range, |bitmap| choose(bitmap, range, needs)).await
}

/// Chooses ports and marks them.
fn choose(bitmap: &mut Bitmap, (low, high): (u16, u16), needs: &[Need]) -> Result<Vec<u16>, Failure> {
    let size = usize::from(high - low) + 1;
    let mut out: Vec<u16> = Vec::with_capacity(needs.len());
    for (at, need) in needs.iter().enumerate() {
        let path = match need.index {
            Some(index) => Path::new("spec").child("ports").index(index).child("nodePort"),
            None => Path::new("spec").child("healthCheckNodePort"),
        };
        if let Some(port) = need.port {
            if !(low..=high).contains(&port) {
                return Err(port_failure(
                    &path,
                    port,
                    &format!("provided port is not in the valid range. The range of valid ports is {low}-{high}"),
                ));
            }
            let bit = usize::from(port - low);
            if bitmap.has(bit) {
                return Err(port_failure(&path, port, "provided port is already allocated"));
            }
            bitmap.set(bit, true);
            out.push(port);
            continue;
        }
        let same = need.same_as.and_then(|index| needs[..at].iter().position(|other| other.index == Some(index)));
        if let Some(same) = same {
            out.push(out[same]);
            continue;
        }
        // At random above the band that is left to those who ask by number, then anywhere. Upstream: KEP-3668.
        let band = if size < 16 { 0 } else { (size / 32).clamp(16, 128) };
        let start = rand::rng().random_range(band..size);
        let free = (start..size).chain(band..start).chain(0..band).find(|bit| !bitmap.has(*bit));
        let Some(bit) = free else { return Err(Failure::Internal("failed to allocate a nodePort: range is full".into())) };
        bitmap.set(bit, true);
        out.push(low + u16::try_from(bit).unwrap_or(0));
    }
    Ok(out)
}

fn port_failure(path: &Path, port: u16, detail: &str) -> Failure {
    let mut errors = api::field::Errors::new();
    errors.invalid(path, port, detail);
    Failure::Invalid(errors)
}

/// Gives ports back.
pub(super) async fn release(server: &Server, ports: &[u16]) {
    if ports.is_empty() {
        return;
    }
    let range = server.config.node_ports;
    let result = change(server, range, |bitmap| {
        for port in ports.iter().filter(|port| (range.0..=range.1).contains(port)) {
            bitmap.set(usize::from(port - range.0), false);
        }
        Ok(())
    });
    if result.await.is_err() {
        tracing::warn!(?ports, "Failed to release node ports; the repair loop will");
    }
}

/// Makes the bitmap say that `held` are in use, and frees what was in use before `grace` and is not held.
pub(super) async fn repair(server: &Server, held: &[u16], free: &[u16]) {
    let range = server.config.node_ports;
    let bit = |port: u16| (range.0..=range.1).contains(&port).then(|| usize::from(port - range.0));
    let _ = change(server, range, |bitmap| {
        for at in free.iter().filter_map(|port| bit(*port)) {
            bitmap.set(at, false);
        }
        for at in held.iter().filter_map(|port| bit(*port)) {
            bitmap.set(at, true);
        }
        Ok(())
    })
    .await;
}

/// All ports in use.
pub(super) async fn in_use(server: &Server) -> Result<Vec<u16>, Error> {
    let (low, high) = server.config.node_ports;
    let (bitmap, _) = read(server).await?;
    Ok((low..=high).filter(|port| bitmap.has(usize::from(port - low))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_is_a_big_endian_integer() {
        let mut bitmap = Bitmap::default();
        bitmap.set(0, true);
        bitmap.set(9, true);
        assert_eq!(bitmap.encode(), [2, 1]);
        assert!(Bitmap::decode(&[2, 1]).has(9) && !Bitmap::decode(&[2, 1]).has(8));
    }

    #[test]
    fn ports_are_chosen_once() {
        let mut bitmap = Bitmap::default();
        let any = Need { index: Some(0), port: None, same_as: None };
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            let Ok(ports) = choose(&mut bitmap, (30000, 30019), std::slice::from_ref(&any)) else { panic!("full too early") };
            assert!(seen.insert(ports[0]));
        }
        assert!(choose(&mut bitmap, (30000, 30019), &[any]).is_err());
        let taken = Need { index: Some(0), port: Some(30000), same_as: None };
        assert!(matches!(choose(&mut bitmap, (30000, 30019), &[taken]), Err(Failure::Invalid(_))));
    }
}
