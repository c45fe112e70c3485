//! Which rule a path belongs to, and the path that the backend sees. Pure.
//!
//! Upstream: the Ingress API's path types; ingress-nginx for regular expressions and `rewrite-target`.

use regex::Regex;

/// How a rule's path is compared.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The whole path.
    Exact(String),
    /// Element by element, without the trailing slash: `/a` has `/a`, `/a/` and `/a/b`, not `/ab`.
    Prefix(String),
    /// From the start, without regard to case.
    Regex(Regex, String),
    /// Whatever no rule has: an Ingress's default backend.
    Any,
}

impl Pattern {
    /// From a rule. A missing path is `/`.
    ///
    /// # Errors
    /// The path is to be a regular expression and is none.
    pub fn new(path_type: &str, path: &str, regex: bool) -> Result<Self, String> {
        let path = if path.is_empty() { "/" } else { path };
        // As ingress-nginx: with regular expressions on, only Exact stays what it is.
        if regex && path_type != "Exact" {
            let made = regex::RegexBuilder::new(&format!("^{path}")).case_insensitive(true).size_limit(1 << 20).build();
            return made.map(|made| Self::Regex(made, path.to_owned())).map_err(|error| format!("path {path:?}: {error}"));
        }
        Ok(match path_type {
            "Exact" => Self::Exact(path.to_owned()),
            _ => Self::Prefix(path.trim_end_matches('/').to_owned()),
        })
    }

    /// Whether `path` belongs to it.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(whole) => whole == path,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex, _) => regex.is_match(path),
            Self::Any => true,
        }
    }

    /// The order in which rules are tried: exact paths, then the longest.
    pub fn rank(&self) -> (u8, std::cmp::Reverse<usize>) {
        match self {
            Self::Exact(path) => (0, std::cmp::Reverse(path.len())),
            Self::Regex(_, path) => (1, std::cmp::Reverse(path.len())),
            Self::Prefix(path) => (1, std::cmp::Reverse(path.len())),
            Self::Any => (2, std::cmp::Reverse(0)),
        }
    }

    /// The path for the backend, where a `rewrite-target` is given.
    pub fn rewrite(&self, path: &str, target: &str) -> String {
        let rewritten = match self {
            Self::Regex(regex, _) => match regex.captures(path) {
                // `$1x` is group 1 and an `x`, as in nginx: the crate would read a group named `1x`.
                Some(captures) => expand(target, |group| captures.get(group).map_or("", |found| found.as_str())),
                None => path.to_owned(),
            },
            // Nothing was matched that could be replaced.
            Self::Any => return path.to_owned(),
            _ => expand(target, |_| ""),
        };
        if rewritten.starts_with('/') { rewritten } else { format!("/{rewritten}") }
    }
}

/// Puts the groups in the places of `$1` … `$9`.
fn expand<'a>(target: &str, group: impl Fn(usize) -> &'a str) -> String {
    let mut out = String::with_capacity(target.len());
    let mut rest = target;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let digit = rest[at + 1..].chars().next().and_then(|c| c.to_digit(10));
        match digit {
            Some(number) => {
                out.push_str(group(number as usize));
                rest = &rest[at + 2..];
            }
            None => {
                out.push('$');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_as_the_api_says() {
        // The table of the Ingress documentation.
        for (kind, rule, path, want) in [
            ("Prefix", "/", "/any/path", true),
            ("Exact", "/foo", "/foo", true),
            ("Exact", "/foo", "/bar", false),
            ("Exact", "/foo", "/foo/", false),
            ("Exact", "/foo/", "/foo", false),
            ("Prefix", "/foo", "/foo", true),
            ("Prefix", "/foo", "/foo/", true),
            ("Prefix", "/foo/", "/foo", true),
            ("Prefix", "/foo/", "/foo/", true),
            ("Prefix", "/aaa/bb", "/aaa/bbb", false),
            ("Prefix", "/aaa/bbb", "/aaa/bbb", true),
            ("Prefix", "/aaa/bbb/", "/aaa/bbb", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbb/", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
            ("Prefix", "/aaa", "/aaa/ccc", true),
            ("ImplementationSpecific", "/a", "/a/b", true),
            ("Prefix", "", "/x", true),
        ] {
            assert_eq!(Pattern::new(kind, rule, false).unwrap().matches(path), want, "{kind} {rule} {path}");
        }
        assert!(Pattern::new("Prefix", "/(", true).is_err());
        assert!(Pattern::new("Prefix", "/(", false).is_ok());
    }

    #[test]
    fn rewrites_follow_nginx() {
        for (rule, target, path, want) in [
            ("/something(/|$)(.*)", "/$2", "/something", "/"),
            ("/something(/|$)(.*)", "/$2", "/something/", "/"),
            ("/something(/|$)(.*)", "/$2", "/something/new", "/new"),
            ("/wear", "/", "/wear/shoes", "/"),
            ("/pay", "/v1$1x$", "/pay", "/v1x$"),
            ("/a(.*)", "b$1", "/a/c", "/b/c"),
        ] {
            let pattern = Pattern::new("ImplementationSpecific", rule, true).unwrap();
            assert!(pattern.matches(path), "{rule} {path}");
            assert_eq!(pattern.rewrite(path, target), want, "{rule} {path}");
        }
    }
}
