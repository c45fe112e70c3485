//! Reads from a document only what the cache selects by: its metadata, and the parts that selectable fields need.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// How a resource computes a selectable field from an object.
pub type FieldOf = fn(&Value) -> String;

/// The metadata as it stands in a document, and the values of the selectable fields.
pub(super) type Parts<'a> = (Option<&'a RawValue>, Vec<String>);

/// What one resource's entries need from a document.
pub struct Extract {
    fields: Vec<FieldOf>,
    keep: Node,
}

#[derive(Default)]
struct Node {
    /// Keep everything below.
    all: bool,
    children: Vec<(&'static str, Node)>,
}

impl Node {
    fn add(&mut self, path: &[&'static str]) {
        let Some((first, rest)) = path.split_first() else {
            self.all = true;
            return;
        };
        let index = match self.children.iter().position(|(name, _)| name == first) {
            Some(index) => index,
            None => {
                self.children.push((first, Node::default()));
                self.children.len() - 1
            }
        };
        self.children[index].1.add(rest);
    }
}

/// Further fields that the function of a selectable field looks at beside the one it is named after.
const ALSO: &[(&str, &[&str])] = &[
    ("status.podIP", &["status.podIPs"]),
    ("source", &["source", "reportingComponent", "reportingController", "deprecatedSource"]),
    ("reportingComponent", &["source", "reportingComponent", "reportingController", "deprecatedSource"]),
    ("involvedObject", &["involvedObject", "regarding"]),
    ("regarding", &["involvedObject", "regarding"]),
    ("status.successful", &["status.succeeded"]),
    ("spec.hostNetwork", &["spec.securityContext"]),
    ("spec.unschedulable", &["spec.unschedulable"]),
];

impl Extract {
    /// For the selectable fields of a resource, by key and function.
    pub fn new(selectable: &[(&'static str, FieldOf)]) -> Self {
        let mut keep = Node::default();
        for (key, _) in selectable {
            keep.add(&key.split('.').collect::<Vec<_>>());
            for (prefix, also) in ALSO {
                if key == prefix || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')) {
                    for path in *also {
                        keep.add(&path.split('.').collect::<Vec<_>>());
                    }
                }
            }
        }
        Self { fields: selectable.iter().map(|(_, field)| *field).collect(), keep }
    }

    /// Nothing beyond metadata.
    pub fn none() -> Self {
        Self { fields: Vec::new(), keep: Node::default() }
    }

    /// The metadata as it stands in `document`, and the selectable fields' values.
    pub(super) fn read<'a>(&self, document: &'a [u8]) -> Result<Parts<'a>, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(document);
        let (metadata, kept) = Top { keep: &self.keep }.deserialize(&mut reader)?;
        reader.end()?;
        let metadata = metadata.filter(|raw| raw.get() != "null");
        let fields = self.fields.iter().map(|field| field(&kept)).collect();
        Ok((metadata, fields))
    }
}

struct Top<'n> {
    keep: &'n Node,
}

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = (Option<&'de RawValue>, Value);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = (Option<&'de RawValue>, Value);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let (mut metadata, mut kept) = (None, Map::new());
        while let Some(key) = access.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == "metadata" {
                metadata = Some(access.next_value::<&'de RawValue>()?);
                continue;
            }
            match self.keep.children.iter().find(|(name, _)| *name == key) {
                Some((name, node)) => {
                    let value = access.next_value_seed(Keep { node })?;
                    kept.insert((*name).to_owned(), value);
                }
                None => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((metadata, Value::Object(kept)))
    }
}

struct Keep<'n> {
    node: &'n Node,
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.node.all { Value::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = access.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.node.children.iter().find(|(name, _)| *name == key) {
                Some((name, node)) => {
                    let value = access.next_value_seed(Keep { node })?;
                    kept.insert((*name).to_owned(), value);
                }
                None => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_selected_by_is_read() {
        fn node(object: &Value) -> String {
            object["spec"]["nodeName"].as_str().unwrap_or("").to_owned()
        }
        fn whole(object: &Value) -> String {
            object.to_string()
        }
        let extract = Extract::new(&[("spec.nodeName", node), ("type", whole)]);
        let document =
            br#"{"metadata":{"name":"x"},"spec":{"nodeName":"n","containers":[1,{"a":2}]},"type":"Warning","status":7}"#;
        let (metadata, fields) = extract.read(document).unwrap();
        assert_eq!(metadata.unwrap().get(), r#"{"name":"x"}"#);
        assert_eq!(&*fields[0], "n");
        assert_eq!(&*fields[1], r#"{"spec":{"nodeName":"n"},"type":"Warning"}"#);
    }
}
