//! What is wrong with a JSON text, in the words of Go's scanner, which clients and tests know.
//!
//! Upstream: encoding/json scanner.go

/// Nesting that Go's scanner takes.
const MAX_DEPTH: usize = 10_000;

/// The message for malformed JSON, or `None` where the text is one well-formed value.
pub fn syntax_error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0, open: Vec::new() };
    scanner.document().err()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Closing bytes of the objects and arrays around.
    open: Vec<u8>,
}

type Outcome = Result<(), String>;

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The error at this byte, or at the end of the text.
    fn fail(&self, context: &str) -> String {
        match self.peek() {
            None => "unexpected end of JSON input".to_owned(),
            Some(byte) => format!("invalid character {} {context}", quote(byte)),
        }
    }

    fn document(&mut self) -> Outcome {
        loop {
            self.space();
            // Before a value.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if self.open.len() >= MAX_DEPTH {
                        return Err(self.fail("exceeded max depth"));
                    }
                    self.at += 1;
                    let close = if open == b'{' { b'}' } else { b']' };
                    self.open.push(close);
                    self.space();
                    if self.peek() == Some(close) {
                        self.at += 1;
                        self.open.pop();
                    } else {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // After a value.
            loop {
                self.space();
                let Some(close) = self.open.last().copied() else {
                    return if self.peek().is_none() { Ok(()) } else { Err(self.fail("after top-level value")) };
                };
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if close == b'}' {
                            self.space();
                            self.key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        self.at += 1;
                        self.open.pop();
                    }
                    _ => {
                        return Err(self.fail(if close == b'}' { "after object key:value pair" } else { "after array element" }));
                    }
                }
            }
        }
    }

    fn key(&mut self) -> Outcome {
        if self.peek() != Some(b'"') {
            return Err(self.fail("looking for beginning of object key string"));
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.fail("after object key"));
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Outcome {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.fail("looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str) -> Outcome {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.fail(&format!("in literal {word} (expecting '{}')", char::from(expected))));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Outcome {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                                    return Err(self.fail("in \\u hexadecimal character escape"));
                                }
                                self.at += 1;
                            }
                        }
                        _ => return Err(self.fail("in string escape code")),
                    }
                }
                Some(byte) if byte >= 0x20 => self.at += 1,
                _ => return Err(self.fail("in string literal")),
            }
        }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Outcome {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.fail("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(self.fail("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(self.fail("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }
}

fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        // Go takes the byte for a character.
        0x80..0xa1 | 0xad => format!("'\\u{:04x}'", byte),
        byte => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_gos() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{}z", "invalid character 'z' after top-level value"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("tru", "unexpected end of JSON input"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("\"\\u12x\"", "invalid character 'x' in \\u hexadecimal character escape"),
            ("01", "invalid character '1' after top-level value"),
            ("'", r"invalid character '\'' looking for beginning of value"),
        ] {
            assert_eq!(syntax_error(text.as_bytes()).as_deref(), Some(want), "{text}");
        }
        assert_eq!(
            syntax_error("{\"a\":{\"a\":".repeat(10_000).as_bytes()).as_deref(),
            Some("invalid character '{' exceeded max depth")
        );
        for text in ["{}", " [1, -2.5e+3, \"\\u00e9é\", null, true, {\"a\": []}] ", "0"] {
            assert_eq!(syntax_error(text.as_bytes()), None, "{text}");
        }
    }
}
