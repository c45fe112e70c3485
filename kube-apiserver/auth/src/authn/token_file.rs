//! Static tokens: lines of `token,user,uid,"group1,group2"`.
//!
//! Upstream: apiserver/pkg/authentication/token/tokenfile

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::authn::Identity;
use crate::user::User;

/// The tokens of one file. Read once: upstream needs a restart for changes as well.
#[derive(Debug, Default)]
pub struct TokenFile {
    tokens: HashMap<String, Arc<User>>,
}

impl TokenFile {
    /// Reads a file.
    ///
    /// # Errors
    /// An unreadable file, or a line with fewer than three columns.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("failed to read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// A line with fewer than three columns, or unbalanced quotes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let columns = csv_line(line).ok_or_else(|| format!("line {}: quotes do not match", number + 1))?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(format!(
                    "token file must have at least 3 columns (token, user name, user uid), found {} in line {}",
                    columns.len(),
                    number + 1
                ));
            };
            if token.is_empty() {
                tracing::warn!(line = number + 1, "Empty token has been found in token file");
                continue;
            }
            let groups = rest.first().map_or("", String::as_str).split(',').map(str::trim).filter(|group| !group.is_empty());
            let user =
                User { name: name.clone(), uid: uid.clone(), groups: groups.map(str::to_owned).collect(), ..User::default() };
            if tokens.insert(token.clone(), Arc::new(user)).is_some() {
                tracing::warn!(line = number + 1, "Duplicate token has been found in token file");
            }
        }
        Ok(Self { tokens })
    }

    /// The user of a token.
    pub fn authenticate(&self, token: &str) -> Option<Identity> {
        let user = self.tokens.get(token)?;
        Some(Identity { user: user.clone(), audiences: Vec::new() })
    }
}

/// The columns of one line; a quoted column may hold commas, and doubled quotes for one.
fn csv_line(line: &str) -> Option<Vec<String>> {
    let mut columns = Vec::new();
    let mut chars = line.trim_end().chars().peekable();
    loop {
        let mut column = String::new();
        while chars.next_if(|char| *char == ' ').is_some() {}
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_some() => column.push('"'),
                    '"' => break,
                    other => column.push(other),
                }
            }
            while chars.next_if(|char| *char != ',').is_some() {}
        } else {
            while let Some(char) = chars.next_if(|char| *char != ',') {
                column.push(char);
            }
        }
        columns.push(column);
        if chars.next().is_none() {
            return Some(columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_user_uid_and_groups() {
        let file = TokenFile::parse("t0ken,jane,7,\"dev, ops\"\n\nother,joe,8\n").unwrap();
        let jane = file.authenticate("t0ken").unwrap().user;
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "7"));
        assert_eq!(jane.groups, ["dev", "ops"]);
        assert!(file.authenticate("other").unwrap().user.groups.is_empty());
        assert!(file.authenticate("t0ke").is_none());
    }

    #[test]
    fn too_few_columns_are_refused() {
        assert!(TokenFile::parse("a,b").unwrap_err().contains("at least 3 columns"));
        assert!(TokenFile::parse("a,b,\"c").is_err());
    }
}
