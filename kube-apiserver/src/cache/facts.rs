//! What lists and watches select by, of one object, in one allocation for all its texts: there may be a hundred thousand.

/// The key, the values of the selectable fields and the labels of an object.
#[derive(Clone)]
pub(super) struct Facts {
    /// All texts, one after the other: the key, the fields, then each label's key and value.
    text: Box<str>,
    /// Where each ends.
    ends: Box<[u32]>,
    /// How many fields there are.
    fields: u8,
}

impl Facts {
    /// Packs them; `labels` keep their order.
    pub(super) fn new<'a>(key: &str, fields: &[String], labels: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        let parts = || {
            std::iter::once(key)
                .chain(fields.iter().map(String::as_str))
                .chain(labels.clone().flat_map(|(key, value)| [key, value]))
        };
        let mut text = String::with_capacity(parts().map(str::len).sum());
        let mut ends = Vec::with_capacity(parts().count());
        for part in parts() {
            text.push_str(part);
            // An object of etcd is smaller than 4 GiB.
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        Self { text: text.into(), ends: ends.into(), fields: u8::try_from(fields.len()).unwrap_or(u8::MAX) }
    }

    fn part(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map_or(0, |end| *end as usize);
        let start = if index == 0 { 0 } else { end(index - 1) };
        self.text.get(start..end(index)).unwrap_or("")
    }

    /// The object's key.
    pub(super) fn key(&self) -> &str {
        self.part(0)
    }

    /// The value of field number `index`; empty beyond the last.
    pub(super) fn field(&self, index: usize) -> &str {
        if index < usize::from(self.fields) { self.part(1 + index) } else { "" }
    }

    /// The labels, in the order given.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let first = 1 + usize::from(self.fields);
        (first..self.ends.len()).step_by(2).map(|index| (self.part(index), self.part(index + 1)))
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let labels = [("a", "b"), ("c", ""), ("é", "ü")];
        let facts = Facts::new("ns/name", &["x".into(), String::new(), "node".into()], labels.into_iter());
        assert_eq!(facts.key(), "ns/name");
        assert_eq!([0, 1, 2, 3].map(|index| facts.field(index)), ["x", "", "node", ""]);
        assert_eq!(facts.labels().collect::<Vec<_>>(), labels);
        let bare = Facts::new("k", &[], std::iter::empty());
        assert_eq!((bare.key(), bare.field(0), bare.labels().count()), ("k", "", 0));
    }
}
