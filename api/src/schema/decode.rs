//! Decoding as Go's decoder followed by its encoder would: one pass over the input, guided by the schema.
//!
//! Upstream: sigs.k8s.io/json (strict errors, case-sensitive names), encoding/json (wording of type errors).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::normalize::{emit, zero};
use super::table::{Field, Struct, Table, Type};
use super::text::{self, nearest};
use super::{FieldValidation, Schema};

/// A decoded object and what was dropped on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The canonical tree.
    pub object: Value,
    /// Unknown and duplicate fields in the order of the document, each once, at most 100.
    pub problems: Vec<Problem>,
    /// Where empty lists and maps were given, which the canonical tree may leave out; at most 100. See [`restore_empties`].
    pub empties: Vec<String>,
}

/// Puts empty lists and maps back where they were given, for errors that show values: Go tells them from absent ones.
/// Places that are no longer there are passed by.
pub fn restore_empties(object: &mut Value, empties: &[String]) {
    for place in empties {
        let (path, empty) = match place.strip_suffix("{}") {
            Some(path) => (path, Value::Object(Map::new())),
            None => (place.as_str(), Value::Array(Vec::new())),
        };
        let mut steps: Vec<&str> = path.split(['.', '[']).collect();
        let Some(last) = steps.pop() else { continue };
        let parent = steps.into_iter().try_fold(&mut *object, |value, step| match step.strip_suffix(']') {
            Some(index) => value.get_mut(index.parse::<usize>().ok()?),
            None => value.get_mut(step),
        });
        if let Some(Value::Object(parent)) = parent {
            let value = parent.entry(last).or_insert(Value::Null);
            if value.is_null() {
                *value = empty;
            }
        }
    }
}

/// An unknown or duplicate field. Displays as upstream's text: `unknown field "spec.foo"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A field stands twice (else it is unknown).
    pub duplicate: bool,
    /// `spec.containers[0].foo`.
    pub path: String,
    /// A known name nearby, with its path.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} field {:?}", if self.duplicate { "duplicate" } else { "unknown" }, self.path)
    }
}

impl Problem {
    /// The text of a Warning header: upstream's, and a hint behind it.
    pub fn warning(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self} (did you mean {hint:?}?)"),
            None => self.to_string(),
        }
    }
}

impl Decoded {
    /// What Strict answers where anything was dropped: `strict decoding error: unknown field "a", duplicate field "b"`, hints at the end.
    pub fn strict_error(&self) -> Option<String> {
        if self.problems.is_empty() {
            return None;
        }
        let all: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
        let hints: Vec<_> =
            self.problems.iter().filter_map(|problem| problem.hint.as_ref()).map(|hint| format!("{hint:?}")).collect();
        let hints = if hints.is_empty() { String::new() } else { format!(" (did you mean {}?)", hints.join(", ")) };
        Some(format!("strict decoding error: {}{hints}", all.join(", ")))
    }
}

/// Why a document is no object of the kind. The text is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or nested too deeply.
    #[error("{0}")]
    Syntax(String),
    /// A value of a wrong type, or malformed text in a typed field (quantity, time, base64).
    #[error("{0}")]
    Type(String),
}

/// Upstream keeps no more of these.
const MAX_PROBLEMS: usize = 100;

pub(super) fn from_slice(schema: &Schema, body: &[u8], validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(&schema.table, validation);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { context: &mut context, kind: schema.root, go_type: "", owner: None };
    let object = seed
        .deserialize(&mut deserializer)
        .and_then(|object| deserializer.end().map(|()| object))
        .map_err(|error| DecodeError::Syntax(text::syntax_error(body, &error)))?;
    context.finish(object)
}

pub(super) fn from_value(schema: &Schema, value: Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(&schema.table, validation);
    let seed = Seed { context: &mut context, kind: schema.root, go_type: "", owner: None };
    let object = seed.deserialize(value).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    context.finish(object)
}

pub(super) fn from_generic(schema: &Schema, value: Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(&schema.table, validation);
    context.generic = true;
    let seed = Seed { context: &mut context, kind: schema.root, go_type: "", owner: None };
    let object = seed.deserialize(value).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    context.finish(object)
}

pub(super) fn from_ref(schema: &Schema, value: &Value, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(&schema.table, validation);
    let seed = Seed { context: &mut context, kind: schema.root, go_type: "", owner: None };
    let object = seed.deserialize(value).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    context.finish(object)
}

/// Parses any JSON document, with duplicate fields told.
pub(crate) fn decode_any(body: &[u8], validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let table = Table::default();
    let mut context = Context::new(&table, validation);
    context.untyped = true;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { context: &mut context, kind: Type::Any, go_type: "", owner: None };
    let object = seed
        .deserialize(&mut deserializer)
        .and_then(|object| deserializer.end().map(|()| object))
        .map_err(|error| DecodeError::Syntax(text::syntax_error(body, &error)))?;
    context.finish(object)
}

struct Context<'a> {
    table: &'a Table,
    strict: bool,
    /// The whole document is untyped: strict checks hold within [`Type::Any`] too.
    untyped: bool,
    /// The words of upstream's converter from generic maps: no map keys in paths, its own text for wrong types.
    generic: bool,
    /// `spec.containers[0].name`, for unknown and duplicate fields.
    path: String,
    /// `spec.containers.name`: Go's errors leave indexes and map keys out.
    go_path: String,
    problems: Vec<Problem>,
    empties: Vec<String>,
    error: Option<String>,
}

impl<'a> Context<'a> {
    fn new(table: &'a Table, validation: FieldValidation) -> Self {
        let strict = validation != FieldValidation::Ignore;
        Self {
            table,
            strict,
            untyped: false,
            generic: false,
            path: String::new(),
            go_path: String::new(),
            problems: Vec::new(),
            empties: Vec::new(),
            error: None,
        }
    }

    fn finish(self, object: Value) -> Result<Decoded, DecodeError> {
        match self.error {
            Some(error) => Err(DecodeError::Type(error)),
            None => Ok(Decoded { object, problems: self.problems, empties: self.empties }),
        }
    }

    fn fail(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    fn mismatch(&mut self, what: &str, kind: Type, go_type: &str, owner: Option<&Struct>) {
        if self.error.is_some() {
            return;
        }
        let go_type = go_type.trim_start_matches('*');
        let composite = match kind {
            Type::Struct(_) => "struct",
            Type::List(_) => "slice",
            Type::Map(_) => "map",
            _ => "",
        };
        if self.generic && !composite.is_empty() {
            let what = match what {
                "array" => "slice",
                "object" => "map",
                what if what.starts_with("number") => "int64",
                what => what,
            };
            self.error = Some(format!("cannot restore {composite} from: {what}"));
            return;
        }
        self.error = Some(match owner {
            Some(owner) => {
                format!(
                    "json: cannot unmarshal {what} into Go struct field {}.{} of type {go_type}",
                    owner.go_short(),
                    self.go_path
                )
            }
            None => {
                let name = if let Type::Struct(id) = kind { self.table.get(id).go_name.as_ref() } else { go_type };
                format!("json: cannot unmarshal {what} into Go value of type {name}")
            }
        });
    }

    fn problem(&mut self, duplicate: bool, name: &str, hint: Option<&str>) {
        if !self.strict || self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let at = |name: &str| if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let problem = Problem { duplicate, path: at(name), hint: hint.map(at) };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn empty(&mut self, mark: &str) {
        if self.empties.len() < MAX_PROBLEMS {
            self.empties.push(format!("{}{mark}", self.path));
        }
    }

    fn enter(&mut self, name: &str, inlined: Option<&str>) -> (usize, usize) {
        let mark = (self.path.len(), self.go_path.len());
        push(&mut self.path, name);
        if let Some(inlined) = inlined {
            if !inlined.is_empty() {
                push(&mut self.go_path, inlined);
            }
            push(&mut self.go_path, name);
        }
        mark
    }

    fn enter_index(&mut self, index: usize) -> (usize, usize) {
        use std::fmt::Write;
        let mark = (self.path.len(), self.go_path.len());
        // Writing to a String cannot fail.
        let _ = write!(self.path, "[{index}]");
        mark
    }

    fn leave(&mut self, mark: (usize, usize)) {
        self.path.truncate(mark.0);
        self.go_path.truncate(mark.1);
    }
}

fn push(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Decodes one value of a known type. `Null` stands for Go's nil or zero; the caller turns it into what is printed.
struct Seed<'s, 'a> {
    context: &'s mut Context<'a>,
    kind: Type,
    go_type: &'a str,
    owner: Option<&'a Struct>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_, '_> {
    fn wrong(self, what: &str) -> Value {
        self.context.mismatch(what, self.kind, self.go_type, self.owner);
        Value::Null
    }

    /// For types whose own decoder in Go reads a simple type.
    fn wrong_as(self, what: &str, go_type: &str) -> Value {
        self.context.mismatch(what, self.kind, go_type, self.owner);
        Value::Null
    }

    fn integer(self, number: Number, text: impl fmt::Display) -> Value {
        let value = number.as_i64();
        match self.kind {
            Type::Int64 if value.is_some() => Value::Number(number),
            Type::Int32 if value.is_some_and(|value| i32::try_from(value).is_ok()) => Value::Number(number),
            Type::Int32 | Type::Int64 => {
                let what = format!("number {text}");
                self.wrong(&what)
            }
            Type::IntOrString if value.is_some_and(|value| i32::try_from(value).is_ok()) => Value::Number(number),
            Type::IntOrString => {
                let what = format!("number {text}");
                self.wrong_as(&what, "int32")
            }
            Type::Double | Type::Any | Type::Raw | Type::FieldsV1 => Value::Number(number),
            Type::Quantity => self.quantity(&text.to_string()),
            Type::Time | Type::MicroTime | Type::Duration => self.wrong_as("number", "string"),
            _ => self.wrong("number"),
        }
    }

    fn quantity(self, text: &str) -> Value {
        match crate::quantity::Quantity::parse(text) {
            Ok(quantity) => Value::String(quantity.to_string()),
            Err(error) => {
                self.context.fail(error.to_string());
                Value::Null
            }
        }
    }

    fn text(self, given: String) -> Value {
        let checked = match self.kind {
            Type::String | Type::IntOrString | Type::Any | Type::Raw | Type::FieldsV1 => Ok(given),
            Type::Quantity => return self.quantity(&given),
            Type::Bytes => text::canonical_base64(given),
            Type::Time => text::canonical_time(given),
            Type::MicroTime => text::canonical_micro_time(given),
            Type::Duration => text::canonical_duration(given),
            _ => return self.wrong("string"),
        };
        match checked {
            Ok(text) => Value::String(text),
            Err(message) => {
                self.context.fail(message);
                Value::Null
            }
        }
    }
}

impl<'de, 's, 'a> Visitor<'de> for Seed<'s, 'a> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(match self.kind {
            Type::Bool | Type::Any | Type::Raw | Type::FieldsV1 | Type::SchemaOrBool => Value::Bool(value),
            Type::Quantity => self.quantity("true"),
            Type::Time | Type::MicroTime | Type::Duration => self.wrong_as("bool", "string"),
            Type::IntOrString => self.wrong_as("bool", "int32"),
            _ => self.wrong("bool"),
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.integer(value.into(), value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.integer(value.into(), value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        let Some(number) = Number::from_f64(value) else { return Ok(self.wrong("number")) };
        Ok(match self.kind {
            // Go prints whole numbers without a fraction.
            Type::Double if value.fract() == 0.0 && value.abs() < 1e15 => Value::from(value as i64),
            _ => {
                let text = number.to_string();
                self.integer(number, text)
            }
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(self.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Seed { context, kind, go_type, owner } = self;
        let (element, element_type) = match kind {
            Type::List(id) => (context.table.element(id), element_go_type(go_type, "[]")),
            Type::SchemaOrArray | Type::SchemaOrStrings => {
                let id = context.table.json_schema_props();
                let of_strings = kind == Type::SchemaOrStrings;
                (if of_strings { Type::String } else { id.map_or(Type::Any, Type::Struct) }, "v1.JSONSchemaProps")
            }
            Type::Any | Type::Raw | Type::FieldsV1 => (Type::Any, ""),
            _ => {
                while access.next_element::<IgnoredAny>()?.is_some() {}
                match kind {
                    Type::Quantity => context.fail(crate::quantity::ParseError::Format.to_string()),
                    Type::Time | Type::MicroTime | Type::Duration => context.mismatch("array", kind, "string", owner),
                    Type::IntOrString => context.mismatch("array", kind, "int32", owner),
                    _ => context.mismatch("array", kind, go_type, owner),
                }
                return Ok(Value::Null);
            }
        };
        let quiet = Quiet::begin(context, kind);
        let mut out = Vec::new();
        loop {
            let mark = context.enter_index(out.len());
            let seed = Seed { context: &mut *context, kind: element, go_type: element_type, owner };
            let next = access.next_element_seed(seed);
            context.leave(mark);
            match next? {
                Some(Value::Null) if element != Type::Any => out.push(zero(context.table, element)),
                Some(value) => out.push(value),
                None => break,
            }
        }
        quiet.end(context);
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Seed { context, kind, go_type, owner } = self;
        match kind {
            Type::Struct(id) => decode_struct(context, context.table.get(id), access),
            Type::Map(id) => {
                let element = context.table.element(id);
                decode_map(context, element, element_go_type(go_type, "map["), owner, access)
            }
            Type::Any | Type::Raw | Type::FieldsV1 => decode_map(context, Type::Any, "", owner, access),
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings if context.table.json_schema_props().is_some() => {
                let id = context.table.json_schema_props().unwrap_or_default();
                let quiet = Quiet::begin(context, kind);
                let value = decode_struct(context, context.table.get(id), access);
                quiet.end(context);
                value
            }
            _ => {
                while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                match kind {
                    Type::Quantity => context.fail(crate::quantity::ParseError::Format.to_string()),
                    Type::Time | Type::MicroTime | Type::Duration => context.mismatch("object", kind, "string", owner),
                    Type::IntOrString => context.mismatch("object", kind, "int32", owner),
                    _ => context.mismatch("object", kind, go_type, owner),
                }
                Ok(Value::Null)
            }
        }
    }
}

/// Types with decoders of their own in Go hide what is below them from strict checks.
struct Quiet(bool);

impl Quiet {
    fn begin(context: &mut Context<'_>, kind: Type) -> Self {
        let own = matches!(
            kind,
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings | Type::Any | Type::Raw | Type::FieldsV1
        );
        let before = context.strict;
        context.strict &= !own || context.untyped;
        Self(before)
    }

    fn end(self, context: &mut Context<'_>) {
        context.strict = self.0;
    }
}

/// `[]v1.Container` → `v1.Container`; `map[string][]uint8` → `[]uint8`.
fn element_go_type<'a>(go_type: &'a str, prefix: &str) -> &'a str {
    match go_type.trim_start_matches('*').strip_prefix(prefix) {
        Some(rest) if prefix == "[]" => rest,
        Some(rest) => rest.split_once(']').map_or("", |(_, rest)| rest),
        None => go_type,
    }
}

enum Key<'a> {
    Known(usize, &'a Field),
    Unknown(String),
}

struct KeySeed<'a>(&'a Struct);

impl<'de, 'a> DeserializeSeed<'de> for KeySeed<'a> {
    type Value = Key<'a>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<'a>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for KeySeed<'a> {
    type Value = Key<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key<'a>, E> {
        Ok(match self.0.fields.binary_search_by(|field| field.name.as_ref().cmp(name)) {
            Ok(index) => Key::Known(index, &self.0.fields[index]),
            Err(_) => Key::Unknown(name.to_owned()),
        })
    }
}

fn decode_struct<'de, 'a, A: MapAccess<'de>>(
    context: &mut Context<'a>,
    shape: &'a Struct,
    mut access: A,
) -> Result<Value, A::Error> {
    let mut out = Map::new();
    let mut seen = 0u128;
    while let Some(key) = access.next_key_seed(KeySeed(shape))? {
        match key {
            Key::Known(index, field) => {
                if seen & (1 << (index % 128)) != 0 {
                    context.problem(true, &field.name, None);
                }
                seen |= 1 << (index % 128);
                let mark = context.enter(&field.name, Some(field.inlined));
                let seed = Seed { context: &mut *context, kind: field.kind, go_type: &field.go_type, owner: Some(shape) };
                let value = access.next_value_seed(seed);
                match &value {
                    Ok(Value::Array(list)) if list.is_empty() => context.empty(""),
                    Ok(Value::Object(map)) if map.is_empty() && matches!(field.kind, Type::Map(_)) => context.empty("{}"),
                    _ => {}
                }
                context.leave(mark);
                if let Some(value) = emit(context.table, field, value?) {
                    out.insert(field.name.clone().into_owned(), value);
                } else {
                    out.remove(field.name.as_ref());
                }
            }
            Key::Unknown(name) if shape.preserve_unknown => {
                let value = access.next_value::<Value>()?;
                out.insert(name, value);
            }
            Key::Unknown(name) => {
                access.next_value::<IgnoredAny>()?;
                if context.strict {
                    let hint = nearest(&name, shape.fields.iter().map(|field| field.name.as_ref()));
                    context.problem(false, &name, hint);
                }
            }
        }
    }
    super::normalize::add_always(context.table, shape, &mut out);
    Ok(Value::Object(out))
}

fn decode_map<'de, 'a, A: MapAccess<'de>>(
    context: &mut Context<'a>,
    element: Type,
    go_type: &'a str,
    owner: Option<&'a Struct>,
    mut access: A,
) -> Result<Value, A::Error> {
    let mut out = Map::new();
    let keep_null = element == Type::Any;
    let quiet = Quiet::begin(context, if keep_null { Type::Any } else { Type::String });
    while let Some(key) = access.next_key::<String>()? {
        if out.contains_key(&key) {
            context.problem(true, &key, None);
        }
        let mark = if context.generic { (context.path.len(), context.go_path.len()) } else { context.enter(&key, None) };
        let seed = Seed { context: &mut *context, kind: element, go_type, owner };
        let value = access.next_value_seed(seed);
        context.leave(mark);
        let value = match value? {
            Value::Null if !keep_null => zero(context.table, element),
            value => value,
        };
        out.insert(key, value);
    }
    quiet.end(context);
    Ok(Value::Object(out))
}
