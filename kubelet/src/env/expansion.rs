//! `$(NAME)` in commands, arguments and values; `$$` is a dollar. Upstream: third_party/forked/golang/expansion

use std::collections::BTreeMap;

/// Expands with the variables of `env`; unknown ones stay as they are.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    expand_with(text, |name| env.get(name).cloned())
}

/// Expands with a lookup function.
pub fn expand_with(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some((name, more)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = more;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_upstreams() {
        let env = BTreeMap::from([("A".to_owned(), "x".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        for (text, expected) in [
            ("$(A)", "x"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$$$(A)", "$x"),
            ("$()", "$()"),
            ("é$(A)é", "éxé"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }
}
