//! Telling API errors apart.

use kube::Error;

fn status(error: &Error) -> Option<&kube::core::Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}

fn reason_is(error: &Error, code: u16, reason: &str) -> bool {
    status(error).is_some_and(|status| status.reason == reason || (status.reason.is_empty() && status.code == code))
}

pub fn is_not_found(error: &Error) -> bool {
    reason_is(error, 404, "NotFound")
}

/// The object changed since it was read, or a precondition failed.
pub fn is_conflict(error: &Error) -> bool {
    reason_is(error, 409, "Conflict")
}

pub fn is_already_exists(error: &Error) -> bool {
    status(error).is_some_and(|status| status.reason == "AlreadyExists")
}

pub fn is_invalid(error: &Error) -> bool {
    status(error).is_some_and(|status| status.reason == "Invalid")
}

pub fn is_forbidden(error: &Error) -> bool {
    status(error).is_some_and(|status| status.reason == "Forbidden")
}

pub fn is_method_not_supported(error: &Error) -> bool {
    reason_is(error, 405, "MethodNotAllowed")
}

/// The write was refused because its namespace is going away: nothing to retry.
pub fn is_namespace_terminating(error: &Error) -> bool {
    let causes =
        status(error).and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice()).unwrap_or_default();
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Nobody knows whether the write took effect: the answer was lost, or the server itself waited in vain for one.
pub fn is_uncertain(error: &Error) -> bool {
    match error {
        Error::Api(status) => {
            status.code == 504
                || matches!(status.reason.as_str(), "Timeout" | "ServerTimeout")
                || status.message.contains("etcdserver: request timed out")
        }
        Error::Service(_) | Error::HyperError(_) | Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// What the user is told: the server's own sentence where there is one.
pub fn message(error: &Error) -> String {
    match status(error) {
        Some(status) if !status.message.is_empty() => status.message.clone(),
        _ => error.to_string(),
    }
}

/// `Ok` where the object was gone already.
pub fn ignore_not_found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
