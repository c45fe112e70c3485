//! The arena of types behind a [`super::Schema`], and its compilation from `data/schema.txt`.

use std::borrow::Cow;
use std::collections::HashMap;

/// A type: a scalar, or an index into the [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// Boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point.
    Double,
    /// `resource.Quantity`: text (or a number on input).
    Quantity,
    /// Integer or text.
    IntOrString,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// `metav1.Duration`: `1m30s`.
    Duration,
    /// Any object, kept as it is (`runtime.RawExtension`).
    Raw,
    /// The set of owned fields, kept as it is.
    FieldsV1,
    /// Any JSON, kept as it is.
    Any,
    /// One JSONSchemaProps or a list of them.
    SchemaOrArray,
    /// One JSONSchemaProps or a boolean.
    SchemaOrBool,
    /// One JSONSchemaProps or a list of texts.
    SchemaOrStrings,
    /// [`Table::structs`].
    Struct(u32),
    /// List of [`Table::elements`].
    List(u32),
    /// Map from text to [`Table::elements`].
    Map(u32),
}

/// How the elements of a list are told apart by server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// One value: replaced as a whole.
    #[default]
    Atomic,
    /// Elements are their own keys.
    Set,
    /// Elements are objects identified by [`Field::keys`].
    Map,
}

/// Facts about a field, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Dropped when empty (`omitempty`).
    pub const OMIT_EMPTY: Self = Self(1);
    /// Dropped when zero (`omitzero`).
    pub const OMIT_ZERO: Self = Self(2);
    /// A Go pointer: a zero value that was given is kept.
    pub const POINTER: Self = Self(4);
    /// Required in OpenAPI.
    pub const REQUIRED: Self = Self(8);
    /// List, map or struct that server-side apply treats as one value.
    pub const ATOMIC: Self = Self(16);
    /// Part of the type metadata (`apiVersion`, `kind`).
    pub const TYPE_META: Self = Self(32);
    /// A list that travels in a protobuf message of its own.
    pub const WRAPPED: Self = Self(128);
    /// Marked granular in OpenAPI.
    pub const GRANULAR: Self = Self(256);
    /// `null` is a value (custom resources).
    pub const NULLABLE: Self = Self(64);

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A named member of a [`Struct`].
#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name.
    pub name: Cow<'static, str>,
    /// Its type.
    pub kind: Type,
    /// Facts, one bit each.
    pub flags: Flags,
    /// How list elements are identified.
    pub list: ListKind,
    /// Field numbers from the enclosing message down to the field (more than one for Go-inlined structs); empty where it does not travel.
    pub proto: Box<[u16]>,
    /// The type as Go's errors print it.
    pub go_type: Cow<'static, str>,
    /// Go structs inlined around it, which Go's errors name: `VolumeSource`.
    pub inlined: &'static str,
    /// `x-kubernetes-list-map-keys`.
    pub keys: Box<[Cow<'static, str>]>,
    /// `x-kubernetes-patch-merge-key`, or empty.
    pub merge_key: Cow<'static, str>,
    /// `x-kubernetes-patch-strategy`, or empty: `merge`, `retainKeys`, `merge,retainKeys`, `replace`.
    pub patch_strategy: Cow<'static, str>,
    /// Default as declared on the type (JSON text), or empty.
    pub default: Cow<'static, str>,
}

impl Field {
    /// Whether strategic merge merges list elements (or retains keys) as `word` says.
    pub fn strategy(&self, word: &str) -> bool {
        self.patch_strategy.split(',').any(|strategy| strategy == word)
    }
}

/// An object with known fields.
#[derive(Clone, Debug, Default)]
pub struct Struct {
    /// OpenAPI definition name, empty for anonymous ones.
    pub name: Cow<'static, str>,
    /// Protobuf message, empty where it has none.
    pub message: &'static str,
    /// Name as Go's errors print it: `v1.PodSpec`.
    pub go_name: Cow<'static, str>,
    /// Fields sorted by name.
    pub fields: Box<[Field]>,
    /// Indexes of the fields that are printed even where they were not given.
    pub(super) always: Box<[u16]>,
    /// Indexes of the fields that travel in protobuf, in order of their numbers.
    pub(crate) wire: Box<[u16]>,
    /// Server-side apply treats it as one value.
    pub atomic: bool,
    /// Stands in OpenAPI documents.
    pub published: bool,
    /// `x-kubernetes-unions` (JSON text), or empty.
    pub unions: &'static str,
    /// Unknown fields are kept (custom resources).
    pub preserve_unknown: bool,
}

impl Struct {
    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()?;
        Some(&self.fields[index])
    }

    /// The Go name without its package.
    pub fn go_short(&self) -> &str {
        self.go_name.rsplit('.').next().unwrap_or_default()
    }
}

/// Types of one origin: all built-in kinds, or one custom resource version.
#[derive(Debug, Default)]
pub struct Table {
    /// All structs.
    pub structs: Vec<Struct>,
    /// Element types of lists and maps.
    pub elements: Vec<Type>,
    names: HashMap<Cow<'static, str>, u32>,
    kinds: Vec<(&'static str, &'static str, &'static str, u32)>,
    /// What OpenAPI says of definitions: struct, group, version, kind.
    pub(crate) gvks: Vec<(u32, &'static str, &'static str, &'static str)>,
}

/// The struct of JSONSchemaProps, to which three special types refer.
const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Kinds of option and meta types, which every group version has but OpenAPI lists under few.
const META_KINDS: [&str; 10] = [
    "CreateOptions",
    "UpdateOptions",
    "PatchOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "Status",
    "WatchEvent",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
];

impl Table {
    /// The struct behind an index.
    pub fn get(&self, id: u32) -> &Struct {
        &self.structs[id as usize]
    }

    /// The element type of a list or map.
    pub fn element(&self, id: u32) -> Type {
        self.elements[id as usize]
    }

    /// The struct of a definition.
    pub fn by_name(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// The struct of a kind.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<u32> {
        let found = self.kinds.binary_search_by(|row| (row.2, row.1, row.0).cmp(&(kind, version, group))).ok();
        if let Some(index) = found {
            return Some(self.kinds[index].3);
        }
        if META_KINDS.contains(&kind) {
            return self.by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
        }
        if group.is_empty() && version == "v1" {
            return self
                .by_name(&format!("io.k8s.api.core.v1.{kind}"))
                .or_else(|| self.by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")));
        }
        None
    }

    /// All kinds with their struct: group, version, kind, index.
    pub fn kinds(&self) -> &[(&'static str, &'static str, &'static str, u32)] {
        &self.kinds
    }

    /// JSONSchemaProps, where the table has it.
    pub fn json_schema_props(&self) -> Option<u32> {
        self.by_name(JSON_SCHEMA_PROPS)
    }

    /// Adds an element type and returns its index.
    pub fn add_element(&mut self, kind: Type) -> u32 {
        let index = self.elements.iter().position(|known| *known == kind).unwrap_or_else(|| {
            self.elements.push(kind);
            self.elements.len() - 1
        });
        u32::try_from(index).expect("element types are few")
    }

    /// Compiles the checked-in data.
    pub(super) fn builtin() -> Self {
        Self::parse(include_str!("../../data/schema.txt"))
    }

    fn parse(text: &'static str) -> Self {
        let mut table = Self::default();
        for (index, line) in text.lines().filter_map(|line| line.strip_prefix('=')).enumerate() {
            let name = line.split('\t').next().unwrap_or_default();
            table.names.insert(Cow::Borrowed(name), index as u32);
        }
        let mut fields: Vec<Field> = Vec::new();
        for line in text.lines() {
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or_default();
            if let Some(header) = line.strip_prefix('=') {
                table.finish(&mut fields);
                let mut columns = header.split('\t');
                let mut next = || columns.next().unwrap_or_default();
                let (name, message, go_name, flags) = (next(), next(), next(), next());
                table.structs.push(Struct {
                    name: name.into(),
                    message: if message == "-" { "" } else { message },
                    go_name: go_name.into(),
                    atomic: flags.contains('A'),
                    published: !flags.contains('E'),
                    ..Struct::default()
                });
            } else if let Some(rest) = line.strip_prefix("unions\t") {
                if let Some(last) = table.structs.last_mut() {
                    last.unions = rest;
                }
            } else if let Some(rest) = line.strip_prefix("gvk\t") {
                let mut columns = rest.split('\t');
                let mut next = || columns.next().unwrap_or_default();
                let (group, version, kind) = (next(), next(), next());
                let id = (table.structs.len() - 1) as u32;
                table.gvks.push((id, group, version, kind));
                // DeleteOptions and WatchEvent stand under every group: one row each is found through META_KINDS.
                if !META_KINDS.contains(&kind) {
                    table.kinds.push((group, version, kind, id));
                }
            } else if !line.is_empty() {
                let (name, kind, flags, proto, go_type, extras) = (next(), next(), next(), next(), next(), next());
                let kind = table.parse_type(kind);
                fields.push(parse_field(name, kind, flags, proto, go_type, extras));
            }
        }
        table.finish(&mut fields);
        table.kinds.sort_by_key(|row| (row.2, row.1, row.0));
        table
    }

    fn finish(&mut self, fields: &mut Vec<Field>) {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let fields = std::mem::take(fields).into_boxed_slice();
        if let Some(last) = self.structs.last_mut() {
            last.always = super::normalize::always(&fields);
            let mut wire: Vec<u16> =
                (0..fields.len() as u16).filter(|index| !fields[usize::from(*index)].proto.is_empty()).collect();
            wire.sort_by(|a, b| fields[usize::from(*a)].proto.cmp(&fields[usize::from(*b)].proto));
            last.wire = wire.into_boxed_slice();
            last.fields = fields;
        }
    }

    fn parse_type(&mut self, text: &str) -> Type {
        let rest = &text[1..];
        match text.as_bytes()[0] {
            b's' => Type::String,
            b'y' => Type::Bytes,
            b'b' => Type::Bool,
            b'i' => Type::Int32,
            b'l' => Type::Int64,
            b'd' => Type::Double,
            b'q' => Type::Quantity,
            b'x' => Type::IntOrString,
            b't' => Type::Time,
            b'm' => Type::MicroTime,
            b'u' => Type::Duration,
            b'r' => Type::Raw,
            b'f' => Type::FieldsV1,
            b'A' => Type::SchemaOrArray,
            b'B' => Type::SchemaOrBool,
            b'C' => Type::SchemaOrStrings,
            b'@' => self.names.get(rest).map_or(Type::Any, |id| Type::Struct(*id)),
            b'[' => {
                let element = self.parse_type(rest);
                Type::List(self.add_element(element))
            }
            b'{' => {
                let element = self.parse_type(rest);
                Type::Map(self.add_element(element))
            }
            _ => Type::Any,
        }
    }
}

fn parse_field(name: &'static str, kind: Type, flags: &str, proto: &str, go_type: &'static str, extras: &'static str) -> Field {
    let mut out = Field {
        name: name.into(),
        kind,
        flags: Flags::default(),
        list: ListKind::Atomic,
        proto: proto.split('.').filter_map(|number| number.parse().ok()).collect(),
        go_type: go_type.into(),
        inlined: "",
        keys: Box::default(),
        merge_key: "".into(),
        patch_strategy: "".into(),
        default: "".into(),
    };
    for flag in flags.chars() {
        match flag {
            'o' => out.flags = out.flags.with(Flags::OMIT_EMPTY),
            'z' => out.flags = out.flags.with(Flags::OMIT_ZERO),
            'p' => out.flags = out.flags.with(Flags::POINTER),
            'R' => out.flags = out.flags.with(Flags::REQUIRED),
            'A' => out.flags = out.flags.with(Flags::ATOMIC),
            'W' => out.flags = out.flags.with(Flags::WRAPPED),
            'G' => out.flags = out.flags.with(Flags::GRANULAR),
            'S' => out.list = ListKind::Set,
            'M' => out.list = ListKind::Map,
            _ => {}
        }
    }
    for extra in extras.split(' ') {
        match extra.split_once('=') {
            Some(("keys", keys)) => out.keys = keys.split(',').map(Cow::Borrowed).collect(),
            Some(("mk", key)) => out.merge_key = key.into(),
            Some(("ps", strategy)) => out.patch_strategy = strategy.into(),
            Some(("in", inlined)) => out.inlined = inlined,
            Some(("df", default)) => out.default = default.into(),
            _ if extra == "T" => out.flags = out.flags.with(Flags::TYPE_META),
            _ => {}
        }
    }
    out
}
