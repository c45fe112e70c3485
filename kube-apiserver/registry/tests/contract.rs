//! What holds for every resource of the table: upstream's discovery is covered, and the rules of each kind keep the contract of
//! `Strategy` whatever an object looks like: nothing panics, defaults are settled after one round, a write of the object leaves its
//! status alone and a write of the status leaves the rest alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use api::schema::{FieldValidation, Schema, Table, Type};
use registry::resource::{Context, Resource};
use serde_json::{Map, Value, json};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/discovery-aggregated-v2.json");

#[test]
fn everything_in_upstreams_discovery_is_in_the_table() {
    if !Path::new(REFERENCE).exists() {
        assert!(std::env::var_os("CI").is_none(), "no reference data at {REFERENCE}");
        eprintln!("SKIPPED: no reference data at {REFERENCE}");
        return;
    }
    let discovery: Value = serde_json::from_slice(&std::fs::read(REFERENCE).unwrap()).unwrap();
    let table = registry::everything();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut wrong = Vec::new();
    for group in discovery["items"].as_array().unwrap() {
        let group_name = group["metadata"]["name"].as_str().unwrap_or("");
        for version in group["versions"].as_array().unwrap() {
            let version_name = version["version"].as_str().unwrap();
            for wanted in version["resources"].as_array().unwrap() {
                let plural = wanted["resource"].as_str().unwrap();
                let at = format!("{group_name}/{version_name} {plural}");
                let Some(have) = table
                    .iter()
                    .map(|resource| &resource.names)
                    .find(|names| names.group == group_name && names.version == version_name && names.plural == plural)
                else {
                    wrong.push(format!("{at} is missing"));
                    continue;
                };
                let same = |what: &str, wanted: &dyn std::fmt::Debug, have: &dyn std::fmt::Debug, wrong: &mut Vec<String>| {
                    let (wanted, have) = (format!("{wanted:?}"), format!("{have:?}"));
                    if wanted != have {
                        wrong.push(format!("{at}: {what} {have}, not {wanted}"));
                    }
                };
                same("kind", &wanted["responseKind"]["kind"].as_str().unwrap(), &have.kind.as_str(), &mut wrong);
                same("scope", &(wanted["scope"] == "Namespaced"), &have.namespaced, &mut wrong);
                same("singular", &wanted["singularResource"].as_str().unwrap_or(""), &have.singular.as_str(), &mut wrong);
                same("verbs", &words(&wanted["verbs"]), &have.verbs, &mut wrong);
                same("short names", &words(&wanted["shortNames"]), &have.short_names, &mut wrong);
                same("categories", &words(&wanted["categories"]), &have.categories, &mut wrong);
                for sub in wanted["subresources"].as_array().into_iter().flatten() {
                    let name = sub["subresource"].as_str().unwrap();
                    match have.subresources.iter().find(|have| have.name == name) {
                        None => wrong.push(format!("{at}/{name} is missing")),
                        Some(have) => {
                            same(name, &sub["responseKind"]["kind"].as_str().unwrap(), &have.kind.as_str(), &mut wrong);
                            same(name, &words(&sub["verbs"]), &have.verbs, &mut wrong);
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

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
        self.pick(&[
            "",
            "a",
            "b-c",
            "default",
            "Bad Value!",
            "é☃",
            "10.0.0.1",
            "10.0.0.0/24",
            "fd00::/64",
            "::1",
            "example.com/x",
            "http://h/p",
            "/a/../b",
            "*",
            "*/5 * * * *",
            "Always",
            "RollingUpdate",
            "ClusterIP",
            "NodePort",
            "None",
            "In",
            "Indexed",
            "50%",
            "101%",
            "-",
            ".",
            "\u{0}",
            "2026-01-02",
            "a=b",
            "kubernetes.io/x",
            "x.y.z/w/v",
            "99999999999999999999",
            "LS0t",
            "true",
            "null",
        ])
    }

    /// A value of the type; often nothing.
    fn value(&mut self, table: &Table, kind: Type, depth: usize) -> Value {
        match kind {
            Type::String => self.text().into(),
            Type::Bytes => self.pick(&["", "AQID", "LS0tLS1CRUdJTg=="]).into(),
            Type::Bool => (self.below(2) == 0).into(),
            Type::Int32 => [-1, 0, 1, 80, 65_536, i64::from(i32::MAX), i64::from(i32::MIN)][self.below(7)].into(),
            Type::Int64 => [-1, 0, 1, 30, i64::MAX, i64::MIN][self.below(6)].into(),
            Type::Double => json!([0.0, -1.5, 1e300][self.below(3)]),
            Type::Quantity => self.pick(&["0", "1", "-1", "100m", "1Ki", "999999999999E", "0.000000001", "1e3"]).into(),
            Type::IntOrString => match self.below(3) {
                0 => [-1, 0, 1, 70_000][self.below(4)].into(),
                _ => self.text().into(),
            },
            Type::Time => self.pick(&["2026-01-02T03:04:05Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]).into(),
            Type::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
            Type::Duration => self.pick(&["1s", "0s", "-2h0m0s"]).into(),
            Type::Raw | Type::Any | Type::FieldsV1 => json!({"a": 1}),
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => json!({"type": "string"}),
            Type::Struct(id) => {
                let mut out = Map::new();
                for field in &table.get(id).fields {
                    // Deep down only little, so that objects stay small.
                    if depth < 9 && self.below(depth / 2 + 2) == 0 {
                        out.insert(field.name.clone().into_owned(), self.value(table, field.kind, depth + 1));
                    }
                }
                Value::Object(out)
            }
            Type::List(id) => (0..self.below(3)).map(|_| self.value(table, table.element(id), depth + 1)).collect(),
            Type::Map(id) => {
                let entries =
                    (0..self.below(3)).map(|_| (self.text().to_owned(), self.value(table, table.element(id), depth + 1)));
                Value::Object(entries.collect())
            }
        }
    }
}

fn context(subresource: &str) -> Context {
    Context {
        now: "2026-01-02T03:04:05Z".into(),
        user: "jane".into(),
        user_uid: String::new(),
        user_groups: vec!["system:authenticated".into()],
        user_extra: Vec::new(),
        subresource: subresource.into(),
    }
}

/// An object of the kind, canonical, with a name.
fn made_up(random: &mut Random, resource: &Resource, schema: &Schema) -> Value {
    let value = random.value(schema.table(), schema.root(), 0);
    let mut object = schema.decode_value(value, FieldValidation::Ignore).unwrap().object;
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.names.kind.clone().into();
    object["metadata"]["name"] = "x".into();
    object
}

fn check(random: &mut Random, resource: &Resource, schema: &Schema) -> Result<(), String> {
    let strategy = &resource.strategy;
    let settle = |object: &mut Value| {
        strategy.default(object);
        schema.normalize(object);
    };
    let mut object = made_up(random, resource, schema);
    settle(&mut object);
    let once = object.clone();
    settle(&mut object);
    if object != once {
        return Err(format!("defaults are not settled:\n{once}\n{object}"));
    }
    let mut created = object.clone();
    strategy.prepare_for_create(&context(""), &mut created);
    schema.normalize(&mut created);
    let _ = resource.errors_on_create(&context(""), &created).message();
    let _ = strategy.warnings(&context(""), &created, None);
    for column in &resource.columns {
        let _ = (column.cell)(&created, 1_800_000_000);
        let _ = (column.cell)(&object, 0);
    }
    for (_, field) in &resource.selectable {
        let _ = field(&object);
    }
    let _ = strategy.graceful_delete(&object, Some(-5));
    // A change of the object.
    let mut old = made_up(random, resource, schema);
    settle(&mut old);
    old["metadata"]["generation"] = 3.into();
    let mut new = object.clone();
    strategy.prepare_for_update(&context(""), &mut new, &old);
    schema.normalize(&mut new);
    if resource.has_subresource("status") {
        let mut before = old.clone();
        schema.normalize(&mut before);
        // Allocated fields and the like may be filled in; what is there stays.
        let (before, after) = (&before["status"], &new["status"]);
        let kept = before.as_object().is_none_or(|before| {
            before.iter().all(|(key, value)| after.get(key) == Some(value) || key == "storedVersions" || value.is_null())
        });
        if !kept {
            return Err(format!("a write of the object changes its status:\n{before}\n{after}"));
        }
    }
    let _ = resource.errors_on_update(&context(""), &new, &old).message();
    let _ = strategy.warnings(&context(""), &new, Some(&old));
    // A write of each part.
    for sub in &resource.names.subresources {
        let mut new = object.clone();
        let context = context(&sub.name);
        strategy.prepare_for_subresource(&context, &mut new, &old);
        schema.normalize(&mut new);
        let _ = resource.errors_on_update(&context, &new, &old).message();
        if sub.name == "status" {
            let mut before = old.clone();
            schema.normalize(&mut before);
            for (key, value) in before.as_object().into_iter().flatten() {
                if !matches!(key.as_str(), "status" | "metadata") && new.get(key) != Some(value) {
                    return Err(format!("a write of the status changes {key}:\n{value}\n{}", new[key]));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_kind_keeps_the_contract_whatever_an_object_looks_like() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    // `CONTRACT_ROUNDS=2000` looks harder.
    let rounds = std::env::var("CONTRACT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(40);
    let mut wrong = Vec::new();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for resource in registry::everything() {
        let names = &resource.names;
        let schema = Schema::builtin(&names.group, &names.version, &names.kind).unwrap();
        for round in 0..rounds {
            let seed = random.0;
            let at = format!("{} {} round {round}", resource.api_version(), names.plural);
            match catch_unwind(AssertUnwindSafe(|| check(&mut random, &resource, &schema))) {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => wrong.push(format!("{at}: {why}")),
                Err(panic) => {
                    let why = panic.downcast_ref::<String>().cloned();
                    let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    wrong.push(format!("{at}, seed {seed:#x}: panicked: {}", why.unwrap_or_default()));
                }
            }
            break;
        }
    }
    std::panic::set_hook(hook);
    assert!(wrong.is_empty(), "{} kinds:\n{}", wrong.len(), wrong.join("\n"));
}
