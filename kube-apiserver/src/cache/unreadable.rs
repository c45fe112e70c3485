//! Objects in etcd that cannot be read: damaged, or encrypted by a key that is no longer configured.
//!
//! Who asks for one is told so, and lists of its resource fail as long as it is there: a list without it would be taken for the truth,
//! by those who delete what they do not find.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use api::status::Status;
use parking_lot::Mutex;

/// The unreadable objects of one resource.
#[derive(Default)]
pub struct Unreadable {
    /// Whether there are any: the usual answer costs one load.
    any: AtomicBool,
    /// Why, by key below the resource's path.
    keys: Mutex<BTreeMap<String, String>>,
}

impl Unreadable {
    /// This one cannot be read.
    pub(super) fn note(&self, key: &str, why: String) {
        self.keys.lock().insert(key.to_owned(), why);
        self.any.store(true, Ordering::Release);
    }

    /// This one was written anew, or is gone.
    pub(super) fn forget(&self, key: &str) {
        if self.any.load(Ordering::Acquire) {
            let mut keys = self.keys.lock();
            keys.remove(key);
            self.any.store(!keys.is_empty(), Ordering::Release);
        }
    }

    /// Nothing is known any more.
    pub(super) fn clear(&self) {
        self.keys.lock().clear();
        self.any.store(false, Ordering::Release);
    }

    /// Refuses to answer for this key (`None`: for all) where that cannot be done.
    ///
    /// # Errors
    /// 500, naming the key and why it cannot be read.
    pub fn check(&self, key: Option<&str>) -> Result<(), Status> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let keys = self.keys.lock();
        let found = match key {
            Some(key) => keys.get_key_value(key),
            None => keys.first_key_value(),
        };
        found.map_or(Ok(()), |(key, why)| Err(Status::internal(format!("unable to transform key {key:?}: {why}"))))
    }
}
