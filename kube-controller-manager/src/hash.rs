//! Short hashes of pod templates and revisions, as they appear in names and labels.

use serde::Serialize;

/// FNV-1a with upstream's parameters (hash/fnv New32a).
fn fnv32a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Letters that form no words and no look-alikes. Upstream: apimachinery/pkg/util/rand.SafeEncodeString.
fn safe(text: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}

/// A hash of the object's canonical JSON, made different by `collision_count`. The value differs from upstream's (which hashes
/// Go's memory dump); nothing may depend on it but equality: existing children are found by comparing templates.
pub fn of<T: Serialize>(object: &T, collision_count: Option<i32>) -> String {
    let document = serde_json::to_vec(&serde_json::to_value(object).unwrap_or_default()).unwrap_or_default();
    let collision = collision_count.map(|n| n.to_le_bytes());
    safe(&fnv32a(document.into_iter().chain(collision.into_iter().flatten())).to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn hashes_are_safe_and_depend_on_the_collision_count() {
        let a = super::of(&serde_json::json!({"a": 1}), None);
        let b = super::of(&serde_json::json!({"a": 1}), Some(1));
        assert_ne!(a, b);
        assert!(a.bytes().all(|c| b"bcdfghjklmnpqrstvwxz2456789".contains(&c)));
        assert_eq!(super::fnv32a(*b"foobar"), 0xbf9c_f968);
    }
}
