//! Acting as somebody else: the `Impersonate-*` headers.
//!
//! Upstream: apiserver/pkg/endpoints/filters/impersonation

use std::collections::BTreeMap;

use api::status::Status;
use http::HeaderMap;

use crate::authn::request_header::unescape;
use crate::authz::{Attributes, Authorizers};
use crate::object::quoted;
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User, service_account_groups, split_service_account};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user to act as; `None` where no header asks for it. The headers are to be removed afterwards: see [`strip`].
///
/// # Errors
/// 403 where the requestor may not, 400 for groups and such without a user.
pub fn impersonate(authorizers: &Authorizers, requestor: &User, headers: &HeaderMap) -> Result<Option<User>, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes =
            Attributes::resource(requestor, "impersonate", group, resource, namespace, name).subresource(subresource);
        let decision = authorizers.authorize(&attributes);
        if decision.allowed() { Ok(()) } else { Err(Authorizers::forbidden(&attributes, &decision)) }
    };
    let account = split_service_account(&wanted.name);
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        may("", "groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !wanted.uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    Ok(Some(complete(wanted)))
}

/// Removes the headers, so that a proxied server does not see them again.
pub fn strip(headers: &mut HeaderMap) {
    for header in [USER, GROUP, UID] {
        headers.remove(header);
    }
    let extra: Vec<_> = headers.keys().filter(|key| key.as_str().starts_with(EXTRA)).cloned().collect();
    for key in extra {
        headers.remove(key);
    }
}

fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let one = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let groups: Vec<String> = headers.get_all(GROUP).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in headers {
        let (Some(key), Ok(value)) = (key.as_str().strip_prefix(EXTRA), value.to_str()) else { continue };
        extra.entry(unescape(key)).or_default().push(value.to_owned());
    }
    let user = User { name: one(USER), uid: one(UID), groups, extra };
    if user == User::default() {
        return Ok(None);
    }
    if user.name.is_empty() {
        return Err(Status::bad_request(format!("requested {} without impersonating a user name", go_syntax(&user))));
    }
    Ok(Some(user))
}

/// The groups that everybody of that kind has.
fn complete(mut user: User) -> User {
    if let (true, Some((namespace, _))) = (user.groups.is_empty(), split_service_account(&user.name)) {
        user.groups = service_account_groups(namespace);
    }
    if user.name == ANONYMOUS {
        if !user.in_group(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.to_owned());
        }
        return user;
    }
    let only_virtual = user.groups.iter().all(|group| group == UNAUTHENTICATED || group == AUTHENTICATED);
    if (user.groups.is_empty() || !only_virtual) && !user.in_group(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// A user as Go prints it with `%#v`: clients have seen that text for years.
fn go_syntax(user: &User) -> String {
    let texts = |list: &[String]| {
        if list.is_empty() { "[]string(nil)".to_owned() } else { format!("[]string{{{}}}", inner(list)) }
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> =
            user.extra.iter().map(|(key, values)| format!("{key:?}:[]string{{{}}}", inner(values))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{}, Extra:{extra}}}", user.name, user.uid, texts(&user.groups))
}

fn inner(list: &[String]) -> String {
    let text = quoted(list);
    text[1..text.len() - 1].replace("\" \"", "\", \"")
}
