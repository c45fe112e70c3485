//! One request to a resource, with all that handlers need.

use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use auth::user::User;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use registry::resource::Context;

use crate::audit::Record;
use crate::cache::resource::ResourceCache;
use crate::negotiate::{self, Accept, Offers};
use crate::request_info::{Query, RequestInfo};
use crate::server::Server;
use crate::table::Served;

/// A response on its way out.
pub type Response = http::Response<crate::body::Body>;

/// Largest request body, bytes. Upstream: MaxRequestBodyBytes, 3 MiB: JSON may be twice the size of what etcd stores (1.5 MiB).
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// A request that was authenticated and authorized.
pub struct Call {
    /// The server.
    pub server: Arc<Server>,
    /// The resource it is for.
    pub served: Arc<Served>,
    /// What it asks.
    pub info: RequestInfo,
    /// Its parameters.
    pub query: Query,
    /// Its method.
    pub method: Method,
    /// Its headers, without credentials.
    pub headers: HeaderMap,
    /// Who asks.
    pub user: Arc<User>,
    /// Its body, until read.
    pub body: Option<Incoming>,
    /// The connection's side of an upgrade, until taken.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// The request's audit.
    pub audit: Option<Arc<Record>>,
    /// Texts for Warning headers.
    pub warnings: Vec<String>,
    /// Where the body has empty lists and maps, for errors that show them. See [`api::schema::restore_empties`].
    pub empties: Vec<String>,
    /// When it came.
    pub now: Timestamp,
}

impl Call {
    /// The form in which the answer goes out.
    ///
    /// # Errors
    /// 406.
    pub fn accept(&self, offers: Offers) -> Result<Accept, Status> {
        let mut accept = negotiate::accept(&self.headers, offers)?;
        if self.query.has("pretty") {
            accept.pretty = self.query.flag("pretty");
        }
        Ok(accept)
    }

    /// The cache of the resource.
    ///
    /// # Errors
    /// 405 for resources that store nothing.
    pub fn cache(&self) -> Result<Arc<ResourceCache>, Status> {
        self.served.cache.clone().ok_or_else(not_allowed)
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 where it is larger than [`MAX_BODY`], 400 where it breaks off.
    pub async fn read_body(&mut self) -> Result<Bytes, Status> {
        let Some(body) = self.body.take() else { return Ok(Bytes::new()) };
        let bytes = read_body(body).await?;
        if let Some(audit) = &self.audit {
            // Patches are JSON or YAML whatever their type is called.
            audit.request(&bytes, negotiate::content_type(&self.headers).unwrap_or(negotiate::Encoding::Yaml));
        }
        Ok(bytes)
    }

    /// What strategies want to know.
    pub fn context(&self) -> Context {
        Context {
            now: timestamp(self.now),
            user: self.user.name.clone(),
            user_uid: self.user.uid.clone(),
            user_groups: self.user.groups.clone(),
            user_extra: self.user.extra.iter().map(|(key, values)| (key.clone(), values.clone())).collect(),
            subresource: self.info.subresource.clone(),
        }
    }

    /// 404 for the object named in the path.
    pub fn not_found(&self) -> Status {
        Status::not_found(self.served.group(), self.served.plural(), &self.info.name)
    }

    /// Unix seconds.
    pub fn unix(&self) -> i64 {
        self.now.as_second()
    }
}

/// Collects a body.
///
/// # Errors
/// 413 where it is larger than [`MAX_BODY`], 400 where it breaks off.
pub async fn read_body(mut body: Incoming) -> Result<Bytes, Status> {
    // A whole body in one frame, the common case, is not copied.
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("failed to read the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() + all.len() + first.as_ref().map_or(0, Bytes::len) > MAX_BODY {
            return Err(Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {MAX_BODY}")));
        }
        match first.take() {
            None if all.is_empty() => first = Some(data),
            held => {
                if let Some(held) = held {
                    all.extend_from_slice(&held);
                }
                all.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// 405 in upstream's words.
pub fn not_allowed() -> Status {
    Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

/// 404 for a path that names no resource.
pub fn no_such_resource() -> Status {
    Status::new(404, "NotFound", "the server could not find the requested resource")
}

/// RFC 3339 in seconds.
pub fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 in microseconds (MicroTime).
pub fn micro_timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// `timeoutSeconds`, at least one second.
pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
