//! The syntax of CEL expressions: what does not parse is refused when it is written, as upstream does. Types and names are not looked at.
//!
//! Upstream: github.com/google/cel-go/parser/gen/CEL.g4; messages are those of its ANTLR parser.

use api::field::{Errors, Path};

/// Nested expressions at most. Upstream: MaxRecursionDepth
const MOST_LEVELS: usize = 250;
/// What may start an expression, as messages list it.
const STARTS: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Adds an error where the expression does not parse.
pub fn check(expression: &str, path: &Path, errors: &mut Errors) {
    if let Err(why) = parse(expression) {
        errors.invalid(path, expression, format!("compilation failed: {why}"));
    }
}

/// Whether it parses; else upstream's message with the place.
fn parse(expression: &str) -> Result<(), String> {
    let shown = |at: usize, why: &str| {
        let before = &expression[..at];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = expression[start..].lines().next().unwrap_or("").replace('\t', " ");
        let column = expression[start..at].chars().count();
        let row = before.matches('\n').count() + 1;
        let dots = ".".repeat(column);
        format!("ERROR: <input>:{row}:{}: Syntax error: {why}\n | {line}\n | {dots}^", column + 1)
    };
    let tokens = tokens(expression).map_err(|(at, why)| shown(at, &why))?;
    let mut parser = Parser { tokens: &tokens, next: 0, level: 0 };
    let outcome = parser.expression().and_then(|()| match parser.left() {
        0 => Ok(()),
        // One token too many is passed over, and what follows would have been right.
        1 => Err(format!("extraneous input '{}' expecting <EOF>", parser.text())),
        _ => Err(format!("mismatched input '{}' expecting <EOF>", parser.text())),
    });
    outcome.map_err(|why| shown(parser.at(expression.len()), &why))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Identifier,
    Escaped,
    Literal,
    Operator,
}

struct Token<'a> {
    kind: Kind,
    text: &'a str,
    at: usize,
}

const OPERATORS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, (usize, String)> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let byte = bytes[at];
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c) {
            at += 1;
            continue;
        }
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (kind, length) = if let Some(length) = string(rest) {
            let length =
                length.map_err(|()| (at, format!("token recognition error at: '{}'", rest.lines().next().unwrap_or(""))))?;
            (Kind::Literal, length)
        } else if byte.is_ascii_alphabetic() || byte == b'_' {
            let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            let literal = matches!(&rest[..length], "true" | "false" | "null");
            let operator = &rest[..length] == "in";
            let kind = if literal {
                Kind::Literal
            } else if operator {
                Kind::Operator
            } else {
                Kind::Identifier
            };
            (kind, length)
        } else if byte == b'`' {
            let length = rest[1..].find('`').ok_or_else(|| (at, format!("token recognition error at: '{rest}'")))? + 2;
            (Kind::Escaped, length)
        } else if byte.is_ascii_digit() || (byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)) {
            (Kind::Literal, number(rest))
        } else if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
            (Kind::Operator, operator.len())
        } else {
            let wrong: String = rest.chars().take(1).collect();
            return Err((at, format!("token recognition error at: '{wrong}'")));
        };
        out.push(Token { kind, text: &rest[..length], at });
        at += length;
    }
    Ok(out)
}

/// The length of a number at the start: hexadecimal, whole (perhaps unsigned), or with a fraction or exponent.
fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if text.starts_with("0x") {
        let hex = bytes[2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if hex > 0 {
            let end = 2 + hex;
            return end + usize::from(matches!(bytes.get(end), Some(b'u' | b'U')));
        }
    }
    let mut end = digits(0);
    let mut whole = true;
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
        whole = false;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let power = bytes.get(end + 1 + sign..).map_or(0, |_| digits(end + 1 + sign));
        if power > 0 {
            end += 1 + sign + power;
            whole = false;
        }
    }
    end + usize::from(whole && matches!(bytes.get(end), Some(b'u' | b'U')))
}

/// The length of a string or bytes literal at the start, `None` where none starts, an error where it does not end.
fn string(text: &str) -> Option<Result<usize, ()>> {
    let prefix = text.bytes().take(2).take_while(|byte| matches!(byte, b'r' | b'R' | b'b' | b'B')).count();
    let rest = &text[prefix..];
    let raw = text[..prefix].contains(['r', 'R']);
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote))?;
    let bytes = rest.as_bytes();
    let mut at = quote.len();
    while at < bytes.len() {
        if rest[at..].starts_with(quote) {
            return Some(Ok(prefix + at + quote.len()));
        }
        if quote.len() == 1 && matches!(bytes[at], b'\n' | b'\r') {
            return Some(Err(()));
        }
        let step = if bytes[at] == b'\\' && !raw { 2 } else { 1 };
        at += step;
        while at < bytes.len() && !rest.is_char_boundary(at) {
            at += 1;
        }
    }
    Some(Err(()))
}

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    next: usize,
    level: usize,
}

impl Parser<'_> {
    fn left(&self) -> usize {
        self.tokens.len() - self.next
    }

    /// Where the next token is; the end of the text where there is none.
    fn at(&self, end: usize) -> usize {
        self.tokens.get(self.next).map_or(end, |token| token.at)
    }

    fn text(&self) -> &str {
        self.tokens.get(self.next).map_or("<EOF>", |token| token.text)
    }

    fn is(&self, operator: &str) -> bool {
        self.tokens.get(self.next).is_some_and(|token| token.kind == Kind::Operator && token.text == operator)
    }

    fn kind(&self) -> Option<Kind> {
        self.tokens.get(self.next).map(|token| token.kind)
    }

    fn take(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        self.next += usize::from(found);
        found
    }

    fn need(&mut self, operator: &str) -> Result<(), String> {
        if self.take(operator) {
            return Ok(());
        }
        Err(match self.kind() {
            None => format!("missing '{operator}' at '<EOF>'"),
            Some(_) => format!("mismatched input '{}' expecting '{operator}'", self.text()),
        })
    }

    fn expression(&mut self) -> Result<(), String> {
        self.level += 1;
        if self.level > MOST_LEVELS {
            return Err(format!("expression recursion limit exceeded: {MOST_LEVELS}"));
        }
        self.binary()?;
        if self.take("?") {
            self.binary()?;
            self.need(":")?;
            self.expression()?;
        }
        self.level -= 1;
        Ok(())
    }

    /// Operators of all ranks: for the syntax their precedence does not matter.
    fn binary(&mut self) -> Result<(), String> {
        const BINARY: &[&str] = &["||", "&&", "==", "!=", "<=", ">=", "<", ">", "in", "+", "-", "*", "/", "%"];
        self.unary()?;
        while BINARY.iter().any(|operator| self.is(operator)) {
            self.next += 1;
            self.unary()?;
        }
        Ok(())
    }

    fn unary(&mut self) -> Result<(), String> {
        if self.take("!") {
            while self.take("!") {}
        } else if self.take("-") {
            while self.take("-") {}
        }
        self.primary()?;
        loop {
            if self.take(".") {
                self.take("?");
                match self.kind() {
                    Some(Kind::Identifier | Kind::Escaped) => self.next += 1,
                    None => return Err("no viable alternative at input '.'".to_owned()),
                    Some(_) => return Err(format!("no viable alternative at input '.{}'", self.text())),
                }
                if self.take("(") {
                    self.list(")")?;
                }
            } else if self.take("[") {
                self.take("?");
                self.expression()?;
                self.need("]")?;
            } else if self.is("{") && self.names_a_type() {
                self.next += 1;
                self.fields()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Whether what stands before may be the name of a message: a literal may not.
    fn names_a_type(&self) -> bool {
        self.next.checked_sub(1).and_then(|last| self.tokens.get(last)).is_some_and(|token| token.kind == Kind::Identifier)
    }

    fn primary(&mut self) -> Result<(), String> {
        match self.kind() {
            Some(Kind::Literal) => self.next += 1,
            _ if self.take("(") => {
                self.expression()?;
                self.need(")")?;
            }
            _ if self.take("[") => self.list("]")?,
            _ if self.take("{") => self.entries()?,
            _ => {
                self.take(".");
                if self.kind() != Some(Kind::Identifier) {
                    return Err(format!("mismatched input '{}' expecting {STARTS}", self.text()));
                }
                self.next += 1;
                if self.take("(") {
                    self.list(")")?;
                }
            }
        }
        Ok(())
    }

    /// Expressions between commas up to the closing bracket; a last comma may stand in lists.
    fn list(&mut self, close: &str) -> Result<(), String> {
        while !self.is(close) {
            self.take("?");
            self.expression()?;
            if !self.take(",") {
                break;
            }
        }
        self.need(close)
    }

    fn entries(&mut self) -> Result<(), String> {
        while !self.is("}") {
            self.take("?");
            self.expression()?;
            self.need(":")?;
            self.expression()?;
            if !self.take(",") {
                break;
            }
        }
        self.need("}")
    }

    fn fields(&mut self) -> Result<(), String> {
        while !self.is("}") {
            self.take("?");
            match self.kind() {
                Some(Kind::Identifier | Kind::Escaped) => self.next += 1,
                _ => return Err(format!("mismatched input '{}' expecting IDENTIFIER", self.text())),
            }
            self.need(":")?;
            self.expression()?;
            if !self.take(",") {
                break;
            }
        }
        self.need("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_all_sorts_parse() {
        for expression in [
            "object.spec.replicas <= 5",
            "!has(object.metadata.labels) || object.metadata.labels.all(k, v, k != 'a' && v.startsWith(\"b\"))",
            "oldObject == null ? true : object.spec.x in [1, 2u, 0x1F, -3, 1.5e-3, .5]",
            "variables.a[0].?b.orValue('x').matches(r'^\\d+$')",
            "Object{spec: Object.spec{replicas: 1, ?x: optional.none()}}",
            "[JSONPatch{op: \"add\", path: \"/metadata/labels/\" + jsonpatch.escapeKey('a/b'), value: \"c\"}]",
            "{'a': 1, ?'b': x}.size() > 0 // a comment",
            "device.attributes['example.com'].model == \"\"\"a\nb\"\"\"",
            "(a + b) * -c % 2 == 0 && !!d",
            "a.b.`c-d`.e() && ''' ' '''.size() == 3",
            "quantity('1Gi').compareTo(quantity(self.x)) <= 0",
            "'é☃\\'' + b'x' + rb\"\\\"",
            "a ? b : c ? d : e",
            "f(a, b,)",
            "[]",
            "{}",
        ] {
            assert_eq!(parse(expression), Ok(()), "{expression}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (expression, why) in [
            (
                "object.spec.replicas <= 5z",
                "ERROR: <input>:1:26: Syntax error: extraneous input 'z' expecting <EOF>\n | object.spec.replicas <= 5z\n | .........................^",
            ),
            ("Bad Value!", "ERROR: <input>:1:5: Syntax error: mismatched input 'Value' expecting <EOF>\n | Bad Value!\n | ....^"),
            ("(a", "ERROR: <input>:1:3: Syntax error: missing ')' at '<EOF>'\n | (a\n | ..^"),
            ("a\n  # b", "ERROR: <input>:2:3: Syntax error: token recognition error at: '#'\n |   # b\n | ..^"),
        ] {
            assert_eq!(parse(expression), Err(why.to_owned()));
        }
        for broken in ["a &&", "a b", "1 +", "a.", "a[", "{'a'}", "'a", "f(", "== 1", "a ? b", "]", "`", "\"\\"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
        assert!(parse(&format!("{}a{}", "(".repeat(1_000), ")".repeat(1_000))).is_err());
    }
}
