//! Content negotiation: which encoding and which shape a client wants, and what it sent.
//!
//! Upstream: apiserver/pkg/endpoints/handlers/negotiation

use api::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Encoding {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What becomes of an object before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Object,
    /// `as=Table`, of `meta.k8s.io/v1` or (true) `v1beta1`.
    Table(bool),
    /// `as=PartialObjectMetadata`, of `v1` or (true) `v1beta1`.
    Metadata(bool),
    /// `as=PartialObjectMetadataList`, of `v1` or (true) `v1beta1`.
    MetadataList(bool),
}

/// The form of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// How it is written.
    pub encoding: Encoding,
    /// What is written.
    pub shape: Shape,
    /// Indented JSON (`pretty=1`).
    pub pretty: bool,
}

impl Accept {
    /// Plain JSON.
    pub const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Object, pretty: false };

    /// A small number for the form, to remember encodings by.
    pub fn form(self) -> u32 {
        let encoding = self.encoding as u32;
        let shape = match self.shape {
            Shape::Object => 0,
            Shape::Table(beta) => 1 + u32::from(beta),
            Shape::Metadata(beta) | Shape::MetadataList(beta) => 3 + u32::from(beta),
        };
        encoding + shape * 4
    }
}

/// Which shapes an endpoint can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    /// Objects only, of `/api` and `/apis`.
    Groups,
    /// Objects only (discovery, reviews).
    Objects,
    /// Objects, Tables and PartialObjectMetadata.
    All,
    /// The same for lists and watches.
    Lists,
}

/// Chooses among what the client accepts.
///
/// # Errors
/// 406, naming the media types there are.
pub fn accept(headers: &HeaderMap, offers: Offers) -> Result<Accept, Status> {
    let values: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let joined = values.join(",");
    if joined.trim().is_empty() {
        return Ok(Accept::JSON);
    }
    let mut clauses: Vec<(f32, &str)> = joined
        .split(',')
        .map(|clause| {
            let quality = parameters(clause).find(|(key, _)| *key == "q").and_then(|(_, value)| value.parse().ok());
            (quality.unwrap_or(1.0), clause)
        })
        .collect();
    clauses.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    clauses.retain(|(quality, _)| *quality > 0.0);
    if let Some(accept) = clauses.iter().find_map(|(_, clause)| choose(clause, offers)) {
        return Ok(accept);
    }
    const TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    // Upstream's router refuses unknown types, its handlers unknown shapes; the words differ.
    let known = clauses.iter().any(|(_, clause)| encoding(clause).is_some());
    let message = match offers {
        Offers::Lists if !known => format!(
            "406: Not Acceptable\n\nAvailable representations: {TYPES}, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        ),
        Offers::All | Offers::Objects if !known => format!("406: Not Acceptable\n\nAvailable representations: {TYPES}"),
        _ => format!("only the following media types are accepted: {TYPES}"),
    };
    Err(Status::new(406, "NotAcceptable", message))
}

/// The encoding that a clause names.
fn encoding(clause: &str) -> Option<Encoding> {
    match clause.split(';').next().unwrap_or("").trim() {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Encoding::Protobuf),
        _ => None,
    }
}

fn parameters(clause: &str) -> impl Iterator<Item = (&str, &str)> {
    clause.split(';').skip(1).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key.trim(), value.trim().trim_matches('"'))
    })
}

fn choose(clause: &str, offers: Offers) -> Option<Accept> {
    let encoding = encoding(clause)?;
    let parameter = |name: &str| parameters(clause).find(|(key, _)| *key == name).map(|(_, value)| value);
    let shape = match parameter("as") {
        None | Some("") => Shape::Object,
        Some(kind) => {
            let beta = match (parameter("g"), parameter("v")) {
                (Some("meta.k8s.io"), Some("v1")) => false,
                (Some("meta.k8s.io"), Some("v1beta1")) => true,
                _ => return None,
            };
            match (kind, offers) {
                // Tables have no protobuf form: the client's next choice counts.
                ("Table", _) if encoding == Encoding::Protobuf => return None,
                ("Table", Offers::All | Offers::Lists) => Shape::Table(beta),
                ("PartialObjectMetadata", Offers::All | Offers::Lists) => Shape::Metadata(beta),
                ("PartialObjectMetadataList", Offers::All | Offers::Lists) => Shape::MetadataList(beta),
                _ => return None,
            }
        }
    };
    let pretty = matches!(parameter("pretty"), Some("1" | "true"));
    Some(Accept { encoding, shape, pretty })
}

/// The encoding of a request's body.
///
/// # Errors
/// 415, naming the media types there are.
pub fn content_type(headers: &HeaderMap) -> Result<Encoding, Status> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    match value.split(';').next().unwrap_or("").trim() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(unsupported(&["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])),
    }
}

/// 415.
pub fn unsupported(accepted: &[&str]) -> Status {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", "));
    Status::new(415, "UnsupportedMediaType", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, offers: Offers) -> Option<Accept> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().unwrap());
        accept(&headers, offers).ok()
    }

    #[test]
    fn the_best_clause_that_can_be_met_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(of(table, Offers::Lists).map(|accept| accept.shape), Some(Shape::Table(false)));
        assert_eq!(of(&format!("{table},application/json"), Offers::Objects).map(|accept| accept.shape), Some(Shape::Object));
        assert_eq!(
            of("text/html,application/yaml;q=0.5,application/vnd.kubernetes.protobuf;q=0.6", Offers::All)
                .map(|accept| accept.encoding),
            Some(Encoding::Protobuf)
        );
        assert_eq!(of("*/*", Offers::All), Some(Accept::JSON));
        assert_eq!(of("text/plain", Offers::All), None);
        assert_eq!(of("application/json;as=Table;v=v2;g=meta.k8s.io", Offers::All), None);
        let binary = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(of(binary, Offers::All), None);
        let both = of(&format!("{binary},{table}"), Offers::All);
        assert_eq!(both.map(|accept| (accept.encoding, accept.shape)), Some((Encoding::Json, Shape::Table(false))));
    }
}
