//! The syntax of a Corefile: server blocks with directives, which may have arguments and a block of their own.

use std::collections::HashMap;

/// A line of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub args: Vec<String>,
    pub block: Vec<Directive>,
    /// Where it is, for messages; counted from 1.
    pub line: usize,
}

/// `keys { directives }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub keys: Vec<String>,
    pub directives: Vec<Directive>,
    pub line: usize,
}

/// What is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Corefile:{line}: {message}")]
pub struct SyntaxError {
    pub line: usize,
    pub message: String,
}

pub(crate) fn error<T>(line: usize, message: impl Into<String>) -> Result<T, SyntaxError> {
    Err(SyntaxError { line, message: message.into() })
}

/// Blocks within blocks deeper than this are a mistake, or an attempt to exhaust the stack.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
    quoted: bool,
}

fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.peek().copied() {
        match c {
            '\n' => {
                line += 1;
                chars.next();
            }
            c if c.is_whitespace() => {
                chars.next();
            }
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let (start, mut word) = (line, String::new());
                chars.next();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') if chars.peek() == Some(&'"') => word.extend(chars.next()),
                        Some(c) => {
                            line += usize::from(c == '\n');
                            word.push(c);
                        }
                        None => return error(start, "a quoted string does not end"),
                    }
                }
                out.push(Token { text: word, line: start, quoted: true });
            }
            _ => {
                let mut word = String::new();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    word.push(c);
                }
                out.push(Token { text: word, line, quoted: false });
            }
        }
    }
    Ok(out)
}

/// Replaces `{$NAME}` and `{%NAME%}` by environment variables.
fn expand(text: &str, get: &impl Fn(&str) -> Option<String>) -> String {
    let mut out = text.to_owned();
    for (open, close) in [("{$", "}"), ("{%", "%}")] {
        while let Some(start) = out.find(open) {
            let Some(length) = out[start..].find(close) else { break };
            let value = get(&out[start + 2..start + length]).unwrap_or_default();
            out.replace_range(start..start + length + close.len(), &value);
        }
    }
    out
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn is(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| !token.quoted && token.text == text)
    }

    fn block(&mut self, opened: usize, depth: usize) -> Result<Vec<Directive>, SyntaxError> {
        if depth > MAX_DEPTH {
            return error(opened, "blocks are nested too deeply");
        }
        let mut directives = Vec::new();
        loop {
            if self.is("}") {
                self.next();
                return Ok(directives);
            }
            let Some(name) = self.next() else { return error(opened, "a block that opens here is not closed") };
            let (line, mut args) = (name.line, Vec::new());
            let mut block = Vec::new();
            while let Some(token) = self.peek().filter(|token| token.line == line).cloned() {
                if token.quoted || !matches!(token.text.as_str(), "{" | "}") {
                    args.push(token.text);
                    self.next();
                } else if token.text == "{" {
                    self.next();
                    block = self.block(line, depth + 1)?;
                    break;
                } else {
                    break;
                }
            }
            directives.push(Directive { name: name.text, args, block, line });
        }
    }
}

/// Parses a Corefile; snippets (`(name) { … }`) are put in where they are imported.
pub fn parse(text: &str) -> Result<Vec<Block>, SyntaxError> {
    parse_with(text, |name| std::env::var(name).ok())
}

fn parse_with(text: &str, get: impl Fn(&str) -> Option<String>) -> Result<Vec<Block>, SyntaxError> {
    let mut tokens = tokens(text)?;
    for token in &mut tokens {
        token.text = expand(&token.text, &get);
    }
    let mut parser = Parser { tokens, at: 0 };
    let mut snippets: HashMap<String, Vec<Directive>> = HashMap::new();
    let mut blocks = Vec::new();
    while let Some(first) = parser.peek().cloned() {
        let mut keys = Vec::new();
        while let Some(token) = parser.next() {
            if !token.quoted && token.text == "{" {
                break;
            }
            if parser.peek().is_none() {
                return error(token.line, format!("expected a block after {:?}", token.text));
            }
            keys.extend(token.text.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned));
        }
        let directives = import(parser.block(first.line, 0)?, &snippets)?;
        match keys.first().and_then(|key| key.strip_prefix('(')?.strip_suffix(')')) {
            Some(name) => {
                snippets.insert(name.to_owned(), directives);
            }
            None if keys.is_empty() => return error(first.line, "a server block needs a zone, for instance \".:53\""),
            None => blocks.push(Block { keys, directives, line: first.line }),
        }
    }
    Ok(blocks)
}

fn import(directives: Vec<Directive>, snippets: &HashMap<String, Vec<Directive>>) -> Result<Vec<Directive>, SyntaxError> {
    let mut out = Vec::new();
    for directive in directives {
        if directive.name != "import" {
            out.push(directive);
            continue;
        }
        let name = directive.args.first().map(String::as_str).unwrap_or_default();
        match snippets.get(name) {
            Some(snippet) => out.extend(snippet.iter().cloned()),
            None => return error(directive.line, format!("there is no snippet {name:?} to import")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_arguments_comments_and_quotes() {
        let text = "# a comment\n.:53 example.org {\n errors # here too\n hosts {\n  10.0.0.1 \"a b\"\n }\n}\n";
        let blocks = parse(text).unwrap();
        assert_eq!(blocks[0].keys, [".:53", "example.org"]);
        assert_eq!(blocks[0].directives[0].name, "errors");
        assert!(blocks[0].directives[0].args.is_empty());
        assert_eq!(blocks[0].directives[1].block[0].args, ["a b"]);
        assert_eq!(blocks[0].directives[1].line, 4);
    }

    #[test]
    fn snippets_and_variables_are_put_in() {
        let get = |name: &str| (name == "PORT").then(|| "1053".to_owned());
        let blocks = parse_with("(common) {\n errors\n}\n.:{$PORT} {\n import common\n ready\n}\n", get).unwrap();
        assert_eq!(blocks[0].keys, [".:1053"]);
        assert_eq!(blocks[0].directives.len(), 2);
    }

    #[test]
    fn mistakes_are_located() {
        for (text, line) in
            [(".:53 {\n errors\n", 1), (".:53", 1), (".:53 {\n a \"x\n", 2), (".:53 {\n import nothing\n}", 2), ("{\n}\n", 1)]
        {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
        assert!(parse(&".:53 {\n".repeat(50)).is_err());
    }
}
