//! Helpers that make clap behave as Go's pflag does at the points users notice.
//!
//! A boolean flag of upstream takes `--x`, `--x=true` and `--x=false`. Write it as
//! `#[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]`.
//! Durations: `#[arg(long, value_parser = component::duration::parse)]`. Lists: `#[arg(long, value_delimiter = ',')]`.
//! Underscores in flag names equal dashes: pass the arguments through [`normalize`].

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Arguments as pflag reads them: `--foo_bar` is `--foo-bar`, and `-foo` with one dash is left alone.
pub fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    args.into_iter()
        .map(|arg| match arg.to_str() {
            Some(text) if text.starts_with("--") => {
                let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
                let name = name.replace('_', "-");
                OsString::from(value.map_or(name.clone(), |value| format!("{name}={value}")))
            }
            _ => arg,
        })
        .collect()
}

/// `a=b,c=d` as a map (`--feature-gates`, `--node-labels`).
///
/// # Errors
/// A part has no `=`.
pub fn parse_map(text: &str) -> Result<BTreeMap<String, String>, String> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("malformed pair {part:?}, expect key=value"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_become_dashes_in_names_only() {
        let out = normalize(["--a_b=c_d", "x_y", "--no_eq"].map(OsString::from));
        assert_eq!(out, ["--a-b=c_d", "x_y", "--no-eq"].map(OsString::from));
    }

    #[test]
    fn maps_want_pairs() {
        assert_eq!(parse_map("a=b,c=").map(|map| map.len()), Ok(2));
        assert!(parse_map("a").is_err());
    }
}
