//! Made-up input: objects of every kind with random fields, quantities, selectors, patches and applies from seeded generators. What one
//! form says the others must say too, and nothing may panic, overflow or grow without bound.

use api::apply::Writer;
use api::patch::{Patch, PatchType, merge};
use api::quantity::Quantity;
use api::schema::{FieldValidation, Flags, Schema, Table, Type};
use api::selector::LabelSelector;
use serde_json::{Map, Value, json};

/// A small generator of pseudo-random numbers (xorshift), so that failures repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn text(&mut self) -> &'static str {
        self.pick(&["a", "b-c", "é☃\u{1f600}", "x: y # z", "- a", "0x1f", "1e3", "~", "\u{0}\u{7f}\t", " lead", "<&>", "\"'\\"])
    }

    /// A value of the type as Go would print it: no empty lists or maps, which protobuf cannot say.
    fn value(&mut self, table: &Table, kind: Type, depth: usize) -> Value {
        match kind {
            Type::String => self.text().into(),
            Type::Bytes => self.pick(&["AA==", "AQID", "/+8="]).into(),
            Type::Bool => (self.below(2) == 0).into(),
            Type::Int32 => [-1, 0, 1, i64::from(i32::MAX), i64::from(i32::MIN)][self.below(5)].into(),
            Type::Int64 => [-1, 0, 1, i64::MAX, i64::MIN][self.below(5)].into(),
            Type::Double => json!([0.5, -1.5, 1e300][self.below(3)]),
            Type::Quantity => self.pick(&["0", "1", "-1", "100m", "1Ki", "3E", "1n"]).into(),
            Type::IntOrString => {
                if self.below(2) == 0 {
                    7.into()
                } else {
                    self.text().into()
                }
            }
            Type::Time => "2026-01-02T03:04:05Z".into(),
            Type::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
            Type::Duration => self.pick(&["1s", "-2h0m0s"]).into(),
            Type::Raw | Type::Any | Type::FieldsV1 => json!({"a": [1, "b", null]}),
            Type::SchemaOrArray | Type::SchemaOrBool => json!({"type": "string"}),
            Type::SchemaOrStrings => json!(["a"]),
            Type::Struct(id) => {
                let mut out = Map::new();
                for field in &table.get(id).fields {
                    // The type of an object within an object does not travel in protobuf.
                    let travels = !field.flags.has(Flags::TYPE_META);
                    if travels && depth < 9 && self.below(depth / 2 + 2) == 0 {
                        out.insert(field.name.clone().into_owned(), self.value(table, field.kind, depth + 1));
                    }
                }
                Value::Object(out)
            }
            Type::List(id) => (0..=self.below(2)).map(|_| self.value(table, table.element(id), depth + 1)).collect(),
            Type::Map(id) => {
                let entries =
                    (0..=self.below(2)).map(|_| (self.text().to_owned(), self.value(table, table.element(id), depth + 1)));
                Value::Object(entries.collect())
            }
        }
    }
}

#[test]
fn every_kind_says_the_same_in_json_yaml_and_protobuf() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for kind in api::kind::all() {
        let schema = Schema::builtin(kind.group, kind.version, kind.kind).unwrap();
        for _ in 0..6 {
            let given = random.value(schema.table(), schema.root(), 0);
            let mut object = schema.decode_ref(&given, FieldValidation::Strict).unwrap().object;
            object["apiVersion"] = api::kind::api_version(kind.group, kind.version).into();
            object["kind"] = kind.kind.into();
            let json = serde_json::to_vec(&object).unwrap();
            assert_eq!(schema.decode(&json, FieldValidation::Strict).unwrap().object, object, "{} as JSON", kind.kind);
            let yaml = serde_yaml::to_string(&object).unwrap();
            let document = api::yaml::decode(yaml.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{yaml}"));
            assert_eq!(schema.decode_value(document.value, FieldValidation::Strict).unwrap().object, object, "{}", kind.kind);
            let bytes = api::proto::encode(&object).unwrap_or_else(|error| panic!("{} does not encode: {error}", kind.kind));
            let back = api::proto::decode(&bytes).unwrap_or_else(|error| panic!("{} does not decode: {error}", kind.kind));
            assert_eq!(back, object, "{} as protobuf", kind.kind);
        }
    }
}

#[test]
fn quantities_are_what_they_print() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "E-9", "e18"];
    let mut before: Option<Quantity> = None;
    for _ in 0..20_000 {
        // Sums are exact to 37 digits: enough for these.
        let size = random.below(25);
        let digits = random.below(1 << size);
        let fraction = if random.below(2) == 0 { String::new() } else { format!(".{}", random.below(1000)) };
        let text = format!("{}{digits}{fraction}{}", random.pick(&["", "-", "+"]), random.pick(&suffixes));
        let quantity = Quantity::parse(&text).unwrap();
        // Upstream has no suffix for more than 999E and prints none.
        if quantity.nanos().unsigned_abs() >= 10_u128.pow(30) {
            continue;
        }
        let printed = quantity.to_string();
        let again = Quantity::parse(&printed).unwrap();
        assert_eq!(again, quantity, "{text} prints as {printed}");
        assert_eq!(again.to_string(), printed, "{text}");
        if let Some(before) = &before {
            let sum = quantity.add(before);
            assert_eq!(sum.sub(before), quantity, "{text} and {before}");
            assert_eq!(quantity.cmp(before), before.cmp(&quantity).reverse());
        }
        before = Some(quantity);
    }
    for _ in 0..20_000 {
        let text: String =
            (0..random.below(12)).map(|_| random.pick(&["1", "0", ".", "-", "+", "e", "E", "K", "i", "m", " ", "é"])).collect();
        if let Ok(quantity) = Quantity::parse(&text) {
            let _ = (quantity.value(), quantity.milli_value(), quantity.nanos(), quantity.neg().to_string());
        }
    }
}

#[test]
fn selectors_select_what_they_say() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let labels = json!({"a": "1", "b": "2", "x.y/z": ""});
    for _ in 0..5_000 {
        let (key, value) = (random.pick(&["a", "b", "c", "x.y/z"]), random.pick(&["1", "2", "3"]));
        let own = labels[key].as_str();
        let (text, wanted) = match random.below(6) {
            0 => (format!("{key}={value}"), own == Some(value)),
            1 => (format!("{key} != {value}"), own != Some(value)),
            2 => (format!("{key} in ({value},9)"), own == Some(value)),
            3 => (format!("{key} notin (9, {value})"), own != Some(value)),
            4 => (key.to_owned(), own.is_some()),
            _ => (format!("!{key}"), own.is_none()),
        };
        let selector = LabelSelector::parse(&text).unwrap();
        assert_eq!(selector.matches(&labels), wanted, "{text}");
    }
    for _ in 0..50_000 {
        let pieces = ["a", "b", "=", "==", "!=", "!", " in ", " notin ", "(", ")", ",", ">", "<", "1", " ", "/", ".", "é"];
        let text: String = (0..random.below(10)).map(|_| random.pick(&pieces)).collect();
        if let Ok(selector) = LabelSelector::parse(&text) {
            let _ = selector.matches(&labels);
        }
        let _ = api::selector::FieldSelector::parse(&text);
    }
}

/// A random document without nulls, which merge patches cannot say.
fn document(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth > 3 { 3 } else { 5 }) {
        0 => random.text().into(),
        1 => random.below(3).into(),
        2 => true.into(),
        3 => (0..random.below(4)).map(|_| document(random, depth + 1)).collect(),
        _ => {
            let entries =
                (0..random.below(4)).map(|_| (random.pick(&["a", "b", "c/d", "e~f"]).to_owned(), document(random, depth + 1)));
            Value::Object(entries.collect())
        }
    }
}

/// The merge patch from one document to another. Upstream's clients make them so.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut out = Map::new();
    for (key, value) in from {
        match to.get(key) {
            None => drop(out.insert(key.clone(), Value::Null)),
            Some(wanted) if wanted == value => {}
            Some(wanted) => drop(out.insert(key.clone(), difference(value, wanted))),
        }
    }
    out.extend(to.iter().filter(|(key, _)| !from.contains_key(*key)).map(|(key, value)| (key.clone(), value.clone())));
    Value::Object(out)
}

#[test]
fn merge_patches_lead_from_any_document_to_any_other() {
    let mut random = Random(0xdead_beef_cafe_f00d);
    for _ in 0..5_000 {
        let (from, to) = (document(&mut random, 0), document(&mut random, 0));
        let mut patched = from.clone();
        merge(&mut patched, &difference(&from, &to));
        assert_eq!(patched, to, "from {from}");
    }
}

#[test]
fn json_and_strategic_patches_never_panic() {
    let mut random = Random(0x0bad_5eed_0bad_5eed);
    let schema = Schema::builtin("", "v1", "Pod").unwrap();
    let places = [
        "",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/containers/-",
        "/spec/containers/01",
        "/metadata/labels",
        "/x/y",
    ];
    for _ in 0..3_000 {
        let pod = schema.decode_value(random.value(schema.table(), schema.root(), 0), FieldValidation::Ignore).unwrap().object;
        let operations: Vec<Value> = (0..=random.below(4))
            .map(|_| {
                let op = random.pick(&["add", "remove", "replace", "move", "copy", "test", "frobnicate"]);
                json!({"op": op, "path": random.pick(&places), "from": random.pick(&places), "value": document(&mut random, 0)})
            })
            .collect();
        let body = serde_json::to_vec(&operations).unwrap();
        if let Ok(patch) = Patch::parse(PatchType::Json, &body, FieldValidation::Warn) {
            let _ = patch.apply(&schema, pod.clone(), FieldValidation::Warn);
        }
        let mut change = random.value(schema.table(), schema.root(), 0);
        for directive in ["$patch", "$retainKeys", "$deleteFromPrimitiveList/finalizers", "$setElementOrder/containers"] {
            if random.below(3) == 0 {
                change["spec"][directive] =
                    [json!("replace"), json!("delete"), json!(["a"]), json!([{"name": "a"}]), json!(7)][random.below(5)].clone();
            }
        }
        let body = serde_json::to_vec(&change).unwrap();
        for kind in [PatchType::Strategic, PatchType::Merge] {
            if let Ok(patch) = Patch::parse(kind, &body, FieldValidation::Warn) {
                let _ = patch.apply(&schema, pod.clone(), FieldValidation::Warn);
            }
        }
    }
}

#[test]
fn applying_twice_changes_nothing_more() {
    let mut random = Random(0x5151_5151_1515_1515);
    let mut applied = 0;
    for kind in api::kind::all().iter().filter(|kind| api::kind::is_stable(kind.version) && kind.has_verb("patch")) {
        let schema = Schema::builtin(kind.group, kind.version, kind.kind).unwrap();
        for _ in 0..4 {
            let mut wanted =
                schema.decode_value(random.value(schema.table(), schema.root(), 0), FieldValidation::Ignore).unwrap().object;
            wanted["apiVersion"] = api::kind::api_version(kind.group, kind.version).into();
            wanted["kind"] = kind.kind.into();
            wanted["metadata"] = json!({"name": "x", "labels": {"a": "b"}});
            let writer = |manager| Writer { manager, subresource: "", now: "2026-01-02T03:04:05Z" };
            // Lists with doubled keys are refused; that is fine.
            let Ok(first) = api::apply::apply(&schema, None, &wanted, writer("one"), false) else { continue };
            let second = api::apply::apply(&schema, Some(&first), &wanted, writer("one"), false).unwrap();
            assert_eq!(second, first, "{} applied again", kind.kind);
            // Another manager with the same wishes shares them and takes nothing away by leaving.
            let shared = api::apply::apply(&schema, Some(&first), &wanted, writer("two"), false).unwrap();
            let bare = json!({"apiVersion": wanted["apiVersion"], "kind": kind.kind, "metadata": {"name": "x"}});
            let left = api::apply::apply(&schema, Some(&shared), &bare, writer("two"), false).unwrap();
            for (key, value) in first.as_object().unwrap() {
                if key != "metadata" {
                    assert_eq!(left.get(key), Some(value), "{} after the second manager left", kind.kind);
                }
            }
            applied += 1;
        }
    }
    assert!(applied > 50, "only {applied} objects could be applied");
}

#[test]
fn bombs_do_not_go_off() {
    let schema = Schema::builtin("", "v1", "ConfigMap").unwrap();
    let deep = 200_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let body = format!("{}1{}", open.repeat(deep), close.repeat(deep));
        // What nobody knows is skipped, however deep it is.
        let decoded = schema.decode(body.as_bytes(), FieldValidation::Strict);
        assert!(decoded.is_err() || decoded.is_ok_and(|decoded| !decoded.problems.is_empty()));
        assert!(api::yaml::decode(body.as_bytes()).is_err());
        assert!(Patch::parse(PatchType::Merge, body.as_bytes(), FieldValidation::Strict).is_err());
    }
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..30 {
        let before = format!("*a{},", level - 1).repeat(10);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(',')));
    }
    assert!(api::yaml::decode(laughs.as_bytes()).is_err());
    // A message within a message within a message, and lengths that lie.
    let mut message = Vec::new();
    for _ in 0..2_000 {
        let mut outer = vec![0x0a];
        let mut length = message.len();
        while length > 0x7f {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&message);
        message = outer;
    }
    let mut body = b"k8s\0".to_vec();
    body.extend_from_slice(&message);
    let _ = api::proto::decode(&body);
    assert!(api::proto::decode(b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f").is_err());
}
