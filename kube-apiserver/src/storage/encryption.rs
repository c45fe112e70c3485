//! Encryption at rest (`--encryption-provider-config`): values in etcd carry the name of the provider and key that wrote them.
//!
//! The first provider of a resource writes, all of them read; what another than the first key wrote is stale, and any write of the
//! object (even one that changes nothing) renews it. The formats are upstream's, so either server reads what the other wrote.
//!
//! Upstream: apiserver/pkg/storage/value/encrypt, apiserver/pkg/server/options/encryptionconfig

mod cipher;
mod config;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;

use cipher::Cipher;

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// One key (or none, for `identity`) of a provider.
struct Key {
    /// `k8s:enc:aescbc:v1:<name>:`; empty for `identity`.
    prefix: Vec<u8>,
    cipher: Cipher,
}

/// The keys of one resource: the first writes.
type Keys = Vec<Key>;

/// Where a resource's objects are, and what it is called in the configuration.
#[derive(Clone, Debug)]
pub struct Place {
    /// Below etcd's prefix.
    pub path: String,
    /// API group.
    pub group: String,
    /// Plural name.
    pub plural: String,
}

/// The configuration in force.
pub struct Encryption {
    file: PathBuf,
    /// etcd's prefix with a trailing slash.
    prefix: String,
    places: Vec<Place>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    text: String,
    /// Keys by path below the prefix.
    by_path: HashMap<String, std::sync::Arc<Keys>>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Encryption {
    /// Reads the configuration. `prefix`: etcd's, with a trailing slash.
    ///
    /// # Errors
    /// What is wrong with the file, or the name of a provider that is not yet supported.
    pub fn load(file: &Path, prefix: &str, places: Vec<Place>) -> Result<Self, String> {
        let encryption = Self {
            file: file.to_owned(),
            prefix: prefix.to_owned(),
            places,
            current: ArcSwap::from_pointee(Loaded { text: String::new(), by_path: HashMap::new() }),
        };
        encryption.reload()?;
        Ok(encryption)
    }

    /// Reads the file again where it has changed (`--encryption-provider-config-automatic-reload`); whether it had. What is in force stays
    /// on any error.
    ///
    /// # Errors
    /// As [`Encryption::load`].
    pub fn reload(&self) -> Result<bool, String> {
        let at = self.file.display();
        let text = std::fs::read_to_string(&self.file).map_err(|error| {
            format!("error while parsing file: error reading encryption provider configuration file {at}: {error}")
        })?;
        if self.current.load().text == text {
            return Ok(false);
        }
        let rows = config::parse(&text)
            .map_err(|why| format!("error while parsing encryption provider configuration file {at}: {why}"))?;
        let mut by_path: HashMap<String, std::sync::Arc<Keys>> = HashMap::new();
        for row in rows {
            let keys = std::sync::Arc::new(row.keys);
            for place in self.places.iter().filter(|place| row.resources.iter().any(|name| config::names(name, place))) {
                // The first row that names a resource counts.
                by_path.entry(place.path.clone()).or_insert_with(|| keys.clone());
            }
        }
        self.current.store(std::sync::Arc::new(Loaded { text, by_path }));
        Ok(true)
    }

    fn keys(&self, key: &str) -> Option<std::sync::Arc<Keys>> {
        let path = key.strip_prefix(&self.prefix)?;
        let loaded = self.current.load();
        // Resources lie one or two segments deep; longer paths first.
        let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).take(2).collect();
        ends.reverse();
        ends.into_iter().find_map(|end| loaded.by_path.get(&path[..end]).cloned())
    }

    /// The value as it is written below `key`.
    ///
    /// # Errors
    /// The provider fails.
    pub fn seal<'a>(&self, key: &str, value: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let keys = self.keys(key);
        let Some(first) = keys.as_ref().and_then(|keys| keys.first()) else { return Ok(Cow::Borrowed(value)) };
        if matches!(first.cipher, Cipher::Identity) {
            return Ok(Cow::Borrowed(value));
        }
        let sealed = first.cipher.seal(value, key.as_bytes())?;
        Ok(Cow::Owned([first.prefix.as_slice(), &sealed].concat()))
    }

    /// The plain value that was read below `key`, and whether it is stale.
    ///
    /// # Errors
    /// No provider can read it.
    pub fn open<'a>(&self, key: &str, value: &'a [u8]) -> Result<(Cow<'a, [u8]>, bool), String> {
        let Some(keys) = self.keys(key) else { return Ok((Cow::Borrowed(value), false)) };
        let told = |why: &str| format!("unable to transform key {key:?}: {why}");
        let marked = value.starts_with(MARK);
        for (index, candidate) in keys.iter().enumerate() {
            match &candidate.cipher {
                Cipher::Identity if !marked => return Ok((Cow::Borrowed(value), index > 0)),
                Cipher::Identity => {}
                cipher => {
                    if let Some(sealed) = value.strip_prefix(candidate.prefix.as_slice()) {
                        let plain = cipher.open(sealed, key.as_bytes()).map_err(|why| told(&why))?;
                        return Ok((Cow::Owned(plain), index > 0));
                    }
                }
            }
        }
        Err(told(if marked { "no matching key was found for the provided transformer" } else { "no matching prefix found" }))
    }
}

#[cfg(test)]
mod tests;
