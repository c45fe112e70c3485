//! The options of requests: parsed from the query, checked as upstream does.
//!
//! Upstream: apimachinery/pkg/apis/meta/v1/validation, internalversion/validation

use api::field::{Errors, Path};
use api::schema::FieldValidation;
use api::selector::{FieldSelector, LabelSelector};
use api::status::Status;

use crate::call::Call;
use crate::request_info::Query;

/// `ListOptions`.
pub struct ListOptions {
    /// Parsed label selector; `None` for all.
    pub labels: Option<LabelSelector>,
    /// Parsed field selector.
    pub fields: FieldSelector,
    /// As given, for watches' errors.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub resource_version_match: String,
    /// 0: none.
    pub limit: usize,
    /// The continue token, or empty.
    pub continue_token: String,
    /// Seconds a watch may last.
    pub timeout_seconds: Option<u64>,
    /// Whether bookmarks are wanted.
    pub bookmarks: bool,
    /// Whether a watch begins with all objects.
    pub send_initial_events: Option<bool>,
}

fn integer(query: &Query, key: &str) -> Result<Option<i64>, Status> {
    let text = query.get(key);
    if !query.has(key) || text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
}

impl ListOptions {
    /// Reads and checks the parameters of a list (or, with `watch`, of a watch).
    ///
    /// # Errors
    /// 400 for what does not parse, 422 for what does not fit together.
    pub fn of(query: &Query, watch: bool) -> Result<Self, Status> {
        let limit = integer(query, "limit")?;
        let timeout = integer(query, "timeoutSeconds")?;
        let labels = query.get("labelSelector");
        let labels = LabelSelector::parse(labels).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?;
        let options = Self {
            labels: (!labels.is_everything()).then_some(labels),
            fields,
            resource_version: query.get("resourceVersion").to_owned(),
            resource_version_match: query.get("resourceVersionMatch").to_owned(),
            limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
            continue_token: query.get("continue").to_owned(),
            timeout_seconds: timeout.and_then(|timeout| u64::try_from(timeout).ok()).filter(|seconds| *seconds > 0),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
        };
        let errors = if watch { options.watch_errors() } else { options.list_errors() };
        if errors.is_empty() { Ok(options) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
    }

    fn list_errors(&self) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("resourceVersionMatch");
        if self.send_initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        let wanted = self.resource_version_match.as_str();
        if !wanted.is_empty() {
            if self.resource_version.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(wanted, "Exact" | "NotOlderThan") {
                let detail = "supported values: \"Exact\", \"NotOlderThan\", \"\"";
                errors.add(api::field::ErrorType::NotSupported, &path, wanted, detail);
            }
            if wanted == "Exact" && self.resource_version == "0" {
                errors.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        errors
    }

    fn watch_errors(&self) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("resourceVersionMatch");
        let wanted = self.resource_version_match.as_str();
        if self.send_initial_events.is_some() && wanted.is_empty() {
            errors.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !wanted.is_empty() {
            if self.send_initial_events.is_none() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            if wanted != "NotOlderThan" {
                errors.add(api::field::ErrorType::NotSupported, &path, wanted, "supported values: \"NotOlderThan\"");
            }
        }
        if !self.continue_token.is_empty() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
        errors
    }
}

/// A resource version that a client sent.
///
/// # Errors
/// Go's words for what is no number.
pub fn revision(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        let why = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            "value out of range"
        } else {
            "invalid syntax"
        };
        format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}")
    })
}

/// What all writes share.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Under which name fields are owned; from `fieldManager` or the user agent.
    pub manager: String,
    /// Whether `fieldManager` was given.
    pub manager_given: bool,
    /// What becomes of unknown fields.
    pub validation: FieldValidation,
    /// `force`, of apply patches.
    pub force: Option<bool>,
    /// An apply patch: what is owned was settled by the merge.
    pub applied: bool,
}

/// Longest field manager, bytes. Upstream: FieldManagerMaxLength.
const MANAGER_LENGTH: usize = 128;

impl WriteOptions {
    /// Reads and checks the parameters of a write. `kind`: `CreateOptions`, `UpdateOptions`, `PatchOptions`. `apply` for apply patches.
    ///
    /// # Errors
    /// 422 for wrong values.
    pub fn of(call: &Call, kind: &str, apply: bool) -> Result<Self, Status> {
        let query = &call.query;
        let mut errors = Errors::new();
        let force = query.has("force").then(|| query.flag("force"));
        let given = query.get("fieldManager");
        if kind == "PatchOptions" {
            if apply {
                if given.is_empty() {
                    errors.required(&Path::new("fieldManager"), "is required for apply patch");
                }
            } else if force.is_some() {
                errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
            }
        }
        check_manager(given, &mut errors);
        check_dry_run(&query.all("dryRun"), &mut errors);
        let validation = query.get("fieldValidation");
        let parsed = FieldValidation::parse(validation);
        if parsed.is_none() {
            let detail = "supported values: \"Ignore\", \"Warn\", \"Strict\"";
            errors.add(api::field::ErrorType::NotSupported, &Path::new("fieldValidation"), validation, detail);
        }
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
        }
        let manager = if given.is_empty() { user_agent_manager(call) } else { given.to_owned() };
        Ok(Self {
            dry_run: query.has("dryRun"),
            manager,
            manager_given: !given.is_empty(),
            validation: parsed.unwrap_or_default(),
            force,
            applied: apply,
        })
    }
}

fn check_manager(given: &str, errors: &mut Errors) {
    let path = Path::new("fieldManager");
    if given.len() > MANAGER_LENGTH {
        errors.too_long(&path, MANAGER_LENGTH);
    }
    if let Some((_, odd)) = given.char_indices().find(|(_, c)| c.is_control()) {
        errors.invalid(&path, given, format!("invalid character U+{:04X} (only printable characters are allowed)", odd as u32));
    }
}

/// Checks the values of `dryRun`.
pub fn check_dry_run(values: &[&str], errors: &mut Errors) {
    if values.iter().any(|value| *value != "All") {
        let shown: Vec<serde_json::Value> = values.iter().map(|value| (*value).into()).collect();
        errors.add(api::field::ErrorType::NotSupported, &Path::new("dryRun"), shown, "supported values: \"All\"");
    }
}

/// The part of the user agent before the first slash, printable and short. Upstream: managerOrUserAgent
fn user_agent_manager(call: &Call) -> String {
    let agent = call.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    api::apply::manager_from_user_agent(agent)
}
