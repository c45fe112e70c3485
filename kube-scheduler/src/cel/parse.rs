//! From text to a tree.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;

use crate::cel::value::Value;

/// How deep an expression may nest: deeper ones could exhaust the stack.
const MAX_DEPTH: usize = 64;

/// How many operators, fields, keys and calls an expression may have: each may be one more level of the tree.
const MAX_NODES: usize = 1000;

/// An expression.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Literal(Value),
    Ident(String),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    /// Operand, field, and whether it is optional (`a.?b`).
    Field(Box<Expr>, String, bool),
    /// Operand, key, and whether it is optional (`a[?b]`).
    Index(Box<Expr>, Box<Expr>, bool),
    /// Receiver, where there is one, function, arguments.
    Call(Option<Box<Expr>>, String, Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    Choice(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// An operator between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

impl Op {
    fn strength(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Eq | Self::Ne | Self::Lt | Self::Le | Self::Gt | Self::Ge | Self::In => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Rem => 5,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Value(Value),
    Ident(String),
    Sign(&'static str),
}

/// Parses a whole expression.
pub(crate) fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser { tokens: tokens(text)?.into_iter().peekable(), depth: 0, nodes: 0 };
    let out = parser.expression()?;
    match parser.tokens.next() {
        None => Ok(out),
        Some(token) => Err(format!("Syntax error: unexpected {token:?}")),
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    depth: usize,
    nodes: usize,
}

impl Parser {
    /// Notes one more level of the tree.
    fn grow(&mut self) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(format!("expression has more than {MAX_NODES} operators")) } else { Ok(()) }
    }

    fn take(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Sign(own) if *own == sign)).is_some()
    }

    fn want(&mut self, sign: &str) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(format!("Syntax error: expected {sign:?} at {:?}", self.tokens.peek())) }
    }

    fn expression(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("expression nests deeper than {MAX_DEPTH}"));
        }
        let condition = self.binary(1)?;
        let out = if self.take("?") {
            let yes = self.binary(1)?;
            self.want(":")?;
            Expr::Choice(Box::new(condition), Box::new(yes), Box::new(self.expression()?))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(out)
    }

    fn operator(&mut self) -> Option<Op> {
        Some(match self.tokens.peek()? {
            Token::Ident(word) if word == "in" => Op::In,
            Token::Sign("||") => Op::Or,
            Token::Sign("&&") => Op::And,
            Token::Sign("==") => Op::Eq,
            Token::Sign("!=") => Op::Ne,
            Token::Sign("<") => Op::Lt,
            Token::Sign("<=") => Op::Le,
            Token::Sign(">") => Op::Gt,
            Token::Sign(">=") => Op::Ge,
            Token::Sign("+") => Op::Add,
            Token::Sign("-") => Op::Sub,
            Token::Sign("*") => Op::Mul,
            Token::Sign("/") => Op::Div,
            Token::Sign("%") => Op::Rem,
            _ => return None,
        })
    }

    fn binary(&mut self, least: u8) -> Result<Expr, String> {
        let mut left = self.unary()?;
        while let Some(op) = self.operator().filter(|op| op.strength() >= least) {
            self.tokens.next();
            self.grow()?;
            let right = self.binary(op.strength() + 1)?;
            left = Expr::Binary(op, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, String> {
        let mut signs = Vec::new();
        while let Some(Token::Sign(sign)) = self.tokens.next_if(|token| matches!(token, Token::Sign("!" | "-"))) {
            signs.push(sign);
            self.grow()?;
        }
        let mut out = self.member()?;
        for sign in signs.into_iter().rev() {
            out = match (sign, out) {
                ("!", out) => Expr::Not(Box::new(out)),
                (_, Expr::Literal(Value::Int(number))) => Expr::Literal(Value::Int(number.wrapping_neg())),
                (_, Expr::Literal(Value::Double(number))) => Expr::Literal(Value::Double(-number)),
                (_, out) => Expr::Negative(Box::new(out)),
            };
        }
        Ok(out)
    }

    fn member(&mut self) -> Result<Expr, String> {
        let mut out = self.primary()?;
        loop {
            self.grow()?;
            if self.take(".") {
                let optional = self.take("?");
                let Some(Token::Ident(name)) = self.tokens.next() else {
                    return Err("Syntax error: expected a field".to_owned());
                };
                out = if !optional && self.take("(") {
                    Expr::Call(Some(Box::new(out)), name, self.list(")")?)
                } else {
                    Expr::Field(Box::new(out), name, optional)
                };
            } else if self.take("[") {
                let optional = self.take("?");
                let key = self.expression()?;
                self.want("]")?;
                out = Expr::Index(Box::new(out), Box::new(key), optional);
            } else {
                return Ok(out);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, String> {
        match self.tokens.next() {
            Some(Token::Value(value)) => Ok(Expr::Literal(value)),
            Some(Token::Ident(name)) if self.take("(") => Ok(Expr::Call(None, name, self.list(")")?)),
            Some(Token::Ident(name)) => Ok(match name.as_str() {
                "true" => Expr::Literal(Value::Bool(true)),
                "false" => Expr::Literal(Value::Bool(false)),
                "null" => Expr::Literal(Value::Null),
                _ => Expr::Ident(name),
            }),
            Some(Token::Sign("(")) => {
                let out = self.expression()?;
                self.want(")")?;
                Ok(out)
            }
            Some(Token::Sign("[")) => Ok(Expr::List(self.list("]")?)),
            Some(Token::Sign("{")) => {
                let mut entries = Vec::new();
                while !self.take("}") {
                    let key = self.expression()?;
                    self.want(":")?;
                    entries.push((key, self.expression()?));
                    if !self.take(",") {
                        self.want("}")?;
                        break;
                    }
                }
                Ok(Expr::Map(entries))
            }
            Some(token) => Err(format!("Syntax error: unexpected {token:?}")),
            None => Err("Syntax error: mismatched input '<EOF>'".to_owned()),
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Expr>, String> {
        let mut out = Vec::new();
        while !self.take(end) {
            out.push(self.expression()?);
            if !self.take(",") {
                self.want(end)?;
                break;
            }
        }
        Ok(out)
    }
}

const SIGNS: [&str; 26] = [
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}",
    "=", ";",
];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        let Some(first) = rest.chars().next() else { return Ok(out) };
        let raw = rest.strip_prefix(['r', 'R']).filter(|after| after.starts_with(['"', '\'']));
        if first == '"' || first == '\'' || raw.is_some() {
            let (value, after) = string(raw.unwrap_or(rest), raw.is_some())?;
            out.push(Token::Value(Value::Str(Arc::from(value))));
            rest = after;
        } else if first.is_ascii_digit() {
            let (value, after) = number(rest)?;
            out.push(Token::Value(value));
            rest = after;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            out.push(Token::Ident(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| format!("Syntax error: token recognition error at: '{first}'"))?;
            out.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        }
    }
}

fn number(text: &str) -> Result<(Value, &str), String> {
    let bad = |digits: &str| format!("Syntax error: invalid number {digits:?}");
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let value = i64::from_str_radix(&hex[..end], 16).map_err(|_| bad(&hex[..end]))?;
        return Ok((Value::Int(value), &hex[end..]));
    }
    let mut end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut float = false;
    let bytes = text.as_bytes();
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        float = true;
        end += 1;
        end += text[end..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - end);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            float = true;
            end += 1 + sign;
            end += text[end..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - end);
        }
    }
    let (digits, rest) = text.split_at(end);
    if float {
        return Ok((Value::Double(digits.parse().map_err(|_| bad(digits))?), rest));
    }
    if let Some(rest) = rest.strip_prefix(['u', 'U']) {
        return Ok((Value::Uint(digits.parse().map_err(|_| bad(digits))?), rest));
    }
    Ok((Value::Int(digits.parse().map_err(|_| bad(digits))?), rest))
}

fn string(text: &str, raw: bool) -> Result<(String, &str), String> {
    let quote = if text.starts_with("\"\"\"") || text.starts_with("'''") { &text[..3] } else { &text[..1] };
    let mut rest = &text[quote.len()..];
    let mut out = String::new();
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            return Ok((out, after));
        }
        let open = || "Syntax error: unterminated string".to_owned();
        let first = rest.chars().next().ok_or_else(open)?;
        rest = &rest[first.len_utf8()..];
        if first != '\\' || raw {
            out.push(first);
            continue;
        }
        let escaped = rest.chars().next().ok_or_else(open)?;
        rest = &rest[escaped.len_utf8()..];
        let digits = match escaped {
            'x' | 'X' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        out.push(match escaped {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '"' | '\'' | '`' | '?' => escaped,
            _ if digits > 0 => {
                let code = rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
                rest = rest.get(digits..).unwrap_or("");
                code.ok_or_else(|| format!("Syntax error: invalid escape \\{escaped}"))?
            }
            _ => return Err(format!("Syntax error: invalid escape \\{escaped}")),
        });
    }
}
