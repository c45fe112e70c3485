//! `AuthorizationConfiguration` (`--authorization-config`): the authorizers in order.
//!
//! Upstream: apiserver/pkg/apis/apiserver/{types,validation}

use serde::Deserialize;

use super::Mode;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(rename = "webhook")]
    _webhook: Option<serde::de::IgnoredAny>,
}

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it, or the name of what is not yet supported.
pub fn parse(text: &str) -> Result<Vec<Mode>, String> {
    let file: File = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let version = file.api_version.strip_prefix("apiserver.config.k8s.io/").unwrap_or("");
    if file.kind != "AuthorizationConfiguration" || !matches!(version, "v1" | "v1beta1" | "v1alpha1") {
        return Err(format!("no kind {:?} is registered for version {:?}", file.kind, file.api_version));
    }
    if file.authorizers.is_empty() {
        return Err("authorizers: Required value: at least one authorization mode must be defined".to_owned());
    }
    let mut modes: Vec<Mode> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (at, row) in file.authorizers.iter().enumerate() {
        if row.name.is_empty() {
            return Err(format!("authorizers[{at}].name: Required value"));
        }
        if names.contains(&row.name.as_str()) {
            return Err(format!("authorizers[{at}].name: Duplicate value: {:?}", row.name));
        }
        names.push(&row.name);
        let mode: Mode = row.kind.parse().map_err(|why| format!("authorizers[{at}].type: {why}"))?;
        if modes.contains(&mode) {
            return Err(format!("authorizers[{at}].type: Duplicate value: {:?}", row.kind));
        }
        modes.push(mode);
    }
    Ok(modes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_file() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
        let read = |rows: &str| parse(&format!("{head}authorizers: [{rows}]\n"));
        assert_eq!(read("{type: Node, name: n}, {type: RBAC, name: r}").unwrap(), [Mode::Node, Mode::Rbac]);
        for (rows, wanted) in [
            ("", "at least one"),
            ("{type: RBAC}", "name"),
            ("{type: RBAC, name: a}, {type: RBAC, name: b}", "Duplicate"),
            ("{type: Webhook, name: a, webhook: {timeout: 3s}}", "not yet supported"),
            ("{type: Own, name: a}", "not a valid mode"),
        ] {
            assert!(read(rows).unwrap_err().contains(wanted), "{rows}");
        }
    }
}
