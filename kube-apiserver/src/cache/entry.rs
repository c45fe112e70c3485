//! One object in memory: its encoded JSON with the resource version inside, and the few facts that reads select by.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::extract::Extract;
use super::facts::Facts;

/// What stands before an object in a frame of a JSON watch. Every object is kept with it, so that the commonest event needs no copy.
const FRAME_HEAD: &[u8] = br#"{"type":"MODIFIED","object":"#;
/// What stands behind it.
const FRAME_TAIL: &[u8] = b"}\n";

/// An immutable version of an object. Shared by the map, the event window, lists under way and watchers.
pub struct Entry {
    /// Its key is `<namespace>/<name>`, or `<name>` for cluster-scoped objects: the order of etcd. Labels are sorted by key, fields in
    /// the resource's order.
    facts: Facts,
    /// Length of the namespace in `key`; 0 without one.
    namespace: u8,
    /// The revision that wrote it.
    revision: u64,
    /// `{"type":"MODIFIED","object":` + document + `}\n`.
    frame: Bytes,
    /// Where `"resourceVersion":"…",` stands in `frame`.
    version_at: u32,
    more: OnceLock<Box<More>>,
}

/// Forms made on first demand.
#[derive(Default)]
struct More {
    parsed: OnceLock<Arc<Value>>,
    encoded: parking_lot::Mutex<Vec<(u32, Bytes)>>,
    rows: parking_lot::Mutex<Vec<(u32, Arc<Row>)>>,
}

/// A Table row of an object, as far as it does not change with time.
pub struct Row {
    /// The encoded cells, with commas; ages are put between them.
    pub cells: Vec<Cell>,
    /// Where the object's metadata stands in its document.
    pub metadata: std::ops::Range<usize>,
}

/// A run of encoded cells, or one that tells an age.
pub enum Cell {
    /// Encoded cells.
    Text(Box<[u8]>),
    /// Unix seconds since when.
    Age(i64),
}

/// Why a stored value is not an object.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is not JSON, or JSON of another shape.
    #[error("not an object: {0}")]
    Json(#[from] serde_json::Error),
    /// It is in an encoding that cannot be read.
    #[error("{0}")]
    Encoding(String),
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default)]
    labels: Option<std::collections::BTreeMap<std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>>>,
    #[serde(rename = "resourceVersion", default)]
    resource_version: Option<&'a RawValue>,
}

impl Entry {
    /// Makes the entry of a stored JSON document (without `metadata.resourceVersion`).
    ///
    /// # Errors
    /// The value is not a JSON object with metadata.
    pub fn new(key: &str, namespaced: bool, value: &[u8], revision: u64, extract: &Extract) -> Result<Self, Malformed> {
        let (metadata, fields) = extract.read(value)?;
        let meta: Meta<'_> = match metadata {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => Meta { labels: None, resource_version: None },
        };
        let Some(metadata) = metadata.filter(|_| meta.resource_version.is_none()) else {
            // A foreign writer left a resourceVersion in, or no metadata at all: put it right and come again.
            let mut document: Value = serde_json::from_slice(value)?;
            let Some(object) = document.as_object_mut() else { return Err(Malformed::Encoding("not a JSON object".into())) };
            let metadata = object.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if !metadata.is_object() {
                return Err(Malformed::Encoding("metadata is not an object".into()));
            }
            metadata.as_object_mut().map(|map| map.remove("resourceVersion"));
            return Self::new(key, namespaced, document.to_string().as_bytes(), revision, extract);
        };
        // Just behind the opening brace of metadata.
        let at = metadata.get().as_ptr() as usize - value.as_ptr() as usize + 1;
        let empty = metadata.get()[1..].trim_start().starts_with('}');
        let labels = meta.labels.unwrap_or_default();
        Ok(Self {
            namespace: if namespaced { u8::try_from(key.find('/').unwrap_or(0)).unwrap_or(0) } else { 0 },
            facts: Facts::new(key, &fields, labels.iter().map(|(key, value)| (&**key, &**value))),
            revision,
            version_at: u32::try_from(at + FRAME_HEAD.len()).map_err(|_| Malformed::Encoding("too large".into()))?,
            frame: splice(value, at, revision, empty),
            more: OnceLock::new(),
        })
    }

    /// The same object with another version: as it was when `revision` removed it.
    pub fn at(&self, revision: u64) -> Self {
        let document = self.json_slice();
        let at = self.version_at as usize - FRAME_HEAD.len();
        let rest = &document[at..];
        // `"resourceVersion":"123",` or, alone in metadata, without the comma.
        let head = br#""resourceVersion":""#.len();
        let digits = rest[head..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = head + digits + 1;
        let empty = rest.get(end) != Some(&b',');
        if !empty {
            end += 1;
        }
        let mut bare = Vec::with_capacity(document.len());
        bare.extend_from_slice(&document[..at]);
        bare.extend_from_slice(&rest[end..]);
        Self {
            facts: self.facts.clone(),
            namespace: self.namespace,
            revision,
            frame: splice(&bare, at, revision, empty),
            version_at: self.version_at,
            more: OnceLock::new(),
        }
    }

    /// `<namespace>/<name>` or `<name>`.
    pub fn key(&self) -> &str {
        self.facts.key()
    }

    /// The namespace, or empty.
    pub fn namespace(&self) -> &str {
        &self.key()[..usize::from(self.namespace)]
    }

    /// The name.
    pub fn name(&self) -> &str {
        if self.namespace == 0 { self.key() } else { &self.key()[usize::from(self.namespace) + 1..] }
    }

    /// The resource version.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.labels().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The value of the resource's selectable field number `index`.
    pub fn field(&self, index: usize) -> &str {
        self.facts.field(index)
    }

    /// The document, as it goes to clients.
    pub fn json(&self) -> Bytes {
        self.frame.slice(FRAME_HEAD.len()..self.frame.len() - FRAME_TAIL.len())
    }

    /// The same without the reference count.
    pub fn json_slice(&self) -> &[u8] {
        &self.frame[FRAME_HEAD.len()..self.frame.len() - FRAME_TAIL.len()]
    }

    /// `{"type":"MODIFIED","object":…}\n`.
    pub fn modified_frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// Bytes that this entry holds, roughly.
    pub fn size(&self) -> usize {
        self.frame.len() + self.facts.size() + 192
    }

    /// The document as a tree, parsed now.
    pub fn parse(&self) -> Value {
        // Every entry's document was parsed when the entry was made.
        serde_json::from_slice(self.json_slice()).unwrap_or_default()
    }

    /// The document as a tree, parsed once and kept: for small objects that are read often.
    pub fn parsed(&self) -> Arc<Value> {
        self.more().parsed.get_or_init(|| Arc::new(self.parse())).clone()
    }

    /// The object in another encoding (`form` names it), made once and kept.
    pub fn encoded<E>(&self, form: u32, make: impl FnOnce(&Self) -> Result<Bytes, E>) -> Result<Bytes, E> {
        let more = self.more();
        if let Some((_, bytes)) = more.encoded.lock().iter().find(|(have, _)| *have == form) {
            return Ok(bytes.clone());
        }
        let bytes = make(self)?;
        more.encoded.lock().push((form, bytes.clone()));
        Ok(bytes)
    }

    /// The object's Table row for the resource number `form`, made once and kept; `None` where all of it changes with time.
    pub fn row(&self, form: u32, make: impl FnOnce(&Self) -> Option<Row>) -> Option<Arc<Row>> {
        let more = self.more();
        if let Some((_, row)) = more.rows.lock().iter().find(|(have, _)| *have == form) {
            return Some(row.clone());
        }
        let row = Arc::new(make(self)?);
        more.rows.lock().push((form, row.clone()));
        Some(row)
    }

    /// Where the metadata stands in the document.
    pub fn metadata_range(&self) -> Option<std::ops::Range<usize>> {
        let document = self.json_slice();
        let (metadata, _) = Extract::none().read(document).ok()?;
        let text = metadata?.get();
        let start = text.as_ptr() as usize - document.as_ptr() as usize;
        Some(start..start + text.len())
    }

    fn more(&self) -> &More {
        self.more.get_or_init(Box::default)
    }
}

/// The frame of a document with `"resourceVersion":"<revision>"` put in at `at`.
fn splice(document: &[u8], at: usize, revision: u64, empty: bool) -> Bytes {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    let mut rest = revision;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let digits = &digits[start..];
    let key = br#""resourceVersion":""#;
    let tail: &[u8] = if empty { b"\"" } else { b"\"," };
    let size = FRAME_HEAD.len() + document.len() + key.len() + digits.len() + tail.len() + FRAME_TAIL.len();
    let mut out = Vec::with_capacity(size);
    for part in [FRAME_HEAD, &document[..at], key, digits, tail, &document[at..], FRAME_TAIL] {
        out.extend_from_slice(part);
    }
    out.into()
}

/// `document` with the resource version spliced in, as a response to a write: the same bytes a later read gives.
pub fn with_version(document: &[u8], revision: u64) -> Result<Bytes, Malformed> {
    let extract = Extract::none();
    Ok(Entry::new("", false, document, revision, &extract)?.json())
}

/// An entry in the ordered set, compared by key.
#[derive(Clone)]
pub struct Item(pub Arc<Entry>, Tag);

/// A digest of what lists select by, kept beside the pointer: a scan of thousands of objects for one node's or one label's reads these
/// words in sequence and follows the pointers of likely matches only.
///
/// The upper half is a hash of the resource's indexed field (`spec.nodeName`), the lower half a Bloom filter of the labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag(u64);

impl Tag {
    /// What the tag of an object with this label has at least.
    pub fn of_label(key: &str, value: &str) -> Self {
        Self(1 << (hash(&[key.as_bytes(), b"=", value.as_bytes()]) % 32))
    }

    /// The part of the tag of an object whose indexed field has this value.
    pub fn of_field(value: &str) -> Self {
        Self(hash(&[value.as_bytes()]) & 0xffff_ffff_0000_0000)
    }

    /// Both.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether an object with this tag can have the labels in `wanted` and, where given, the indexed field `field`.
    pub fn can_match(self, wanted: Self, field: Option<Self>) -> bool {
        self.0 & wanted.0 == wanted.0 && field.is_none_or(|field| self.0 & 0xffff_ffff_0000_0000 == field.0)
    }
}

/// FNV-1a, finished so that all bits count.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Item {
    /// The entry with its tag; `indexed` is the number of the field that lists are indexed by.
    pub fn new(entry: Arc<Entry>, indexed: Option<usize>) -> Self {
        let labels = entry.facts.labels().fold(Tag::default(), |tag, (key, value)| tag.with(Tag::of_label(key, value)));
        let tag = indexed.map_or(labels, |index| labels.with(Tag::of_field(entry.field(index))));
        Self(entry, tag)
    }

    /// The digest.
    pub fn tag(&self) -> Tag {
        self.1
    }
}

impl Borrow<str> for Item {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(document: &str, revision: u64) -> Entry {
        Entry::new("ns/a", true, document.as_bytes(), revision, &Extract::none()).unwrap()
    }

    #[test]
    fn the_version_is_spliced_into_metadata() {
        let made = entry(r#"{"data":{"metadata":{"x":1}},"metadata":{"name":"a","labels":{"b":"c"}}}"#, 17);
        let text = String::from_utf8(made.json().to_vec()).unwrap();
        assert_eq!(text, r#"{"data":{"metadata":{"x":1}},"metadata":{"resourceVersion":"17","name":"a","labels":{"b":"c"}}}"#);
        assert_eq!((made.namespace(), made.name(), made.label("b")), ("ns", "a", Some("c")));
        let later = String::from_utf8(made.at(1234).json().to_vec()).unwrap();
        assert_eq!(later, text.replace("\"17\"", "\"1234\""));
    }

    #[test]
    fn odd_metadata_is_put_right() {
        for (document, want) in [
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"5"}}"#),
            (r#"{"kind":"A"}"#, r#"{"kind":"A","metadata":{"resourceVersion":"5"}}"#),
            (r#"{"metadata":{"resourceVersion":"9","name":"a"}}"#, r#"{"metadata":{"resourceVersion":"5","name":"a"}}"#),
        ] {
            let made = entry(document, 5);
            assert_eq!(made.json(), want.as_bytes());
            assert_eq!(made.at(77).json(), want.replace("\"5\"", "\"77\"").as_bytes());
        }
        for bad in ["", "[]", "{", r#"{"metadata":3}"#, "null"] {
            assert!(Entry::new("a", false, bad.as_bytes(), 1, &Extract::none()).is_err(), "{bad}");
        }
    }
}
