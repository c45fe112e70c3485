//! Versions `v1.36.0`, and how far components may be apart.

/// major, minor, patch, and what follows a dash (empty in releases).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
    pub pre: String,
}

/// `v1.36.0`, `1.36.0` or `1.36.0-rc.1`.
pub fn parse(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, pre) = text.split_once(['-', '+']).unwrap_or((text, ""));
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let version = Version { major: parts.next()??, minor: parts.next()??, patch: parts.next()??, pre: pre.to_string() };
    parts.next().is_none().then_some(version)
}

impl Version {
    /// For comparing; a pre-release comes before its release.
    pub fn order(&self) -> (u32, u32, u32, bool, &str) {
        (self.major, self.minor, self.patch, self.pre.is_empty(), &self.pre)
    }

    /// Whether this is at least `major.minor.patch`.
    pub fn at_least(&self, major: u32, minor: u32, patch: u32) -> bool {
        (self.major, self.minor, self.patch) >= (major, minor, patch)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.pre.is_empty() { Ok(()) } else { write!(f, "-{}", self.pre) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_and_order() {
        assert_eq!(parse("v1.36.0").unwrap().to_string(), "v1.36.0");
        assert_eq!(parse("3.4.23-0").unwrap().pre, "0");
        assert!(parse("1.36").is_none() && parse("latest").is_none() && parse("1.2.3.4").is_none());
        let order = |a: &str, b: &str| parse(a).unwrap().order().cmp(&parse(b).unwrap().order());
        assert_eq!(order("v1.36.0-rc.1", "v1.36.0"), std::cmp::Ordering::Less);
        assert_eq!(order("v1.36.10", "v1.36.9"), std::cmp::Ordering::Greater);
    }
}
