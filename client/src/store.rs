//! What an informer has seen: objects by key, with indexes. Readers get `Arc`s and never wait for the network.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

/// A function from an object to the values under which an index finds it.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

/// Objects by key (`namespace/name`), cheap to clone and share.
pub struct Store<K>(Arc<RwLock<Inner<K>>>);

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<K> {
    objects: BTreeMap<Arc<str>, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    values_of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<Arc<str>>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Arc<str>, object: &K) {
        for value in (self.values_of)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Arc<str>, object: &K) {
        for value in (self.values_of)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Inner { objects: BTreeMap::new(), indexes: HashMap::new() })))
    }
}

impl<K> Store<K> {
    /// The object, or `None`.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.0.read().objects.get(key).cloned()
    }

    /// All objects in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace in key order.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let prefix = format!("{namespace}/");
        let inner = self.0.read();
        let from = inner.objects.range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded));
        from.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }

    /// All keys in order.
    pub fn keys(&self) -> Vec<Arc<str>> {
        self.0.read().objects.keys().cloned().collect()
    }

    /// The objects for which the index `name` gave `value`. An index that was never added finds nothing.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let inner = self.0.read();
        let Some(keys) = inner.indexes.get(name).and_then(|index| index.keys.get(value)) else { return Vec::new() };
        keys.iter().filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index (once; a second call with the same name does nothing).
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        let mut inner = self.0.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values_of, keys: HashMap::new() };
        for (key, object) in &inner.objects {
            index.insert(key, object);
        }
        inner.indexes.insert(name, index);
    }

    /// Puts an object, returns the one it replaces. Informers do this; tests and assumed state may too.
    pub fn put(&self, key: &str, object: Arc<K>) -> Option<Arc<K>> {
        let mut inner = self.0.write();
        let inner = &mut *inner;
        let shared: Arc<str> = inner.objects.get_key_value(key).map_or_else(|| Arc::from(key), |(key, _)| key.clone());
        let old = inner.objects.insert(shared.clone(), object.clone());
        for index in inner.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&shared, old);
            }
            index.insert(&shared, &object);
        }
        old
    }

    /// Takes an object out.
    pub fn remove(&self, key: &str) -> Option<Arc<K>> {
        let mut inner = self.0.write();
        let inner = &mut *inner;
        let (shared, old) = inner.objects.remove_entry(key)?;
        for index in inner.indexes.values_mut() {
            index.remove(&shared, &old);
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_follow_every_change() {
        let store = Store::<(String, u8)>::default();
        store.add_index("color", |object| vec![object.0.clone()]);
        store.put("a/x", Arc::new(("red".into(), 1)));
        store.put("a/y", Arc::new(("red".into(), 2)));
        store.put("ab/z", Arc::new(("blue".into(), 3)));
        assert_eq!(store.by_index("color", "red").len(), 2);
        store.put("a/x", Arc::new(("blue".into(), 1)));
        assert_eq!(store.by_index("color", "red").len(), 1);
        assert_eq!(store.by_index("color", "blue").len(), 2);
        store.remove("ab/z");
        assert_eq!(store.by_index("color", "blue").len(), 1);
        assert_eq!(store.list_namespace("a").len(), 2, "`ab/` is another namespace");
        store.add_index("number", |object| vec![object.1.to_string()]);
        assert_eq!(store.by_index("number", "2").len(), 1, "a late index knows what is there");
    }
}
