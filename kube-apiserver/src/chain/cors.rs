//! Answers to browsers from other origins (`--cors-allowed-origins`).
//!
//! Upstream: apiserver/pkg/server/filters/cors.go

use bytes::Bytes;
use http::HeaderMap;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, HeaderValue, ORIGIN,
};
use regex::Regex;

use crate::call::Response;
use crate::reply;

/// The request's origin, where it may call.
pub(super) fn allowed(origins: &[Regex], headers: &HeaderMap) -> Option<HeaderValue> {
    if origins.is_empty() {
        return None;
    }
    let origin = headers.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    origins.iter().any(|pattern| pattern.is_match(text)).then(|| origin.clone())
}

/// The answer to a preflight request.
pub(super) fn preflight(origin: &HeaderValue) -> Response {
    let mut response = reply::raw(204, "text/plain", Bytes::new());
    response.headers_mut().remove(CONTENT_TYPE);
    mark(response.headers_mut(), origin);
    response
}

/// Says that this origin may read the answer.
pub(super) fn mark(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE, PATCH"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since",
        ),
        (ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
        (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
