//! Quantities (`500m`, `1.5Gi`, `1e3`): exact arithmetic and the canonical form.
//!
//! Upstream: apimachinery/pkg/api/resource

use std::cmp::Ordering;
use std::fmt;

/// How a quantity is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1e6`.
    DecimalExponent,
    /// `12Ki`.
    BinarySi,
    /// `12M`, `500m`.
    DecimalSi,
}

/// An exact decimal number with the format that it came in.
///
/// Numbers are exact to 37 digits; what is smaller than one billionth is rounded up, as upstream does.
#[derive(Clone, Debug)]
pub struct Quantity {
    mantissa: i128,
    /// Power of ten.
    exponent: i32,
    format: Format,
    /// The text as given, where upstream prints that.
    text: Option<Box<str>>,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Digits that are none.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// An unknown suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Digits that a mantissa holds; more are rounded away (upward in magnitude).
const MAX_DIGITS: usize = 37;
/// Exponents are held within this; beyond it a number is as good as zero or infinite.
const MAX_EXPONENT: i64 = 4096;

impl Quantity {
    /// Parses a quantity; spaces around it are ignored.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ParseError::Format);
        }
        let parts = split(text)?;
        let (base, power, format) = suffix(parts.suffix).ok_or(ParseError::Suffix)?;
        if parts.numerator.len() + parts.denominator.len() > 4096 {
            return Err(ParseError::Numeric);
        }
        let scale = (i64::from(power) * i64::from(base == 10)).clamp(-MAX_EXPONENT, MAX_EXPONENT) as i32;
        let (mut mantissa, mut exponent) = digits(parts.numerator, parts.denominator);
        if base == 10 {
            exponent += scale;
        } else {
            // 37 digits times 2^60 may pass i128: shed digits first.
            let factor = 1i128 << power;
            while mantissa.checked_mul(factor).is_none() {
                mantissa = ceil_div(mantissa, 10);
                exponent += 1;
            }
            mantissa *= factor;
        }
        let mut out = Self { mantissa, exponent, format, text: None }.rounded();
        if format == Format::BinarySi {
            let max = Self::new(i128::from(i64::MAX), 0, format);
            if out > max {
                out = max;
            }
            if out.mantissa != 0 && out < Self::new(1, 0, format) {
                out.format = Format::DecimalSi;
            }
        }
        if !parts.positive {
            out.mantissa = -out.mantissa;
        }
        if reuses_text(&parts, base, power, format) {
            out.text = Some(text.into());
        }
        Ok(out)
    }

    fn new(mantissa: i128, exponent: i32, format: Format) -> Self {
        Self { mantissa, exponent, format, text: None }
    }

    /// A whole number.
    pub fn from_int(value: i64, format: Format) -> Self {
        Self::new(i128::from(value), 0, format)
    }

    /// Thousandths: `from_milli(1500, DecimalSi)` is `1500m`.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self::new(i128::from(value), -3, format)
    }

    /// Billionths: exact for all that a quantity can say.
    pub fn from_nanos(value: i128, format: Format) -> Self {
        Self::new(value, -9, format).trimmed()
    }

    /// Billionths; at the bounds where it is beyond them.
    pub fn nanos(&self) -> i128 {
        let bound = if self.mantissa < 0 { i128::MIN } else { i128::MAX };
        match u32::try_from(self.exponent + 9) {
            _ if self.mantissa == 0 => 0,
            Ok(power) => 10i128.checked_pow(power).and_then(|factor| self.mantissa.checked_mul(factor)).unwrap_or(bound),
            Err(_) => shrink(self.mantissa, (self.exponent + 9).unsigned_abs()),
        }
    }

    /// Without zeros at the end of the mantissa, which would hide that it is whole.
    fn trimmed(mut self) -> Self {
        while self.mantissa != 0 && self.exponent < 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.exponent += 1;
        }
        self
    }

    /// Zero.
    pub fn zero() -> Self {
        Self::from_int(0, Format::DecimalSi)
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// The number rounded up to an integer; at the bounds of `i64` where it is beyond them.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// Thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        self.scaled(3)
    }

    /// The nearest floating point number.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }

    /// The number times ten to `digits`, rounded away from zero.
    fn scaled(&self, digits: i32) -> i64 {
        let exponent = self.exponent + digits;
        let value = match u32::try_from(exponent) {
            Ok(power) => 10i128
                .checked_pow(power)
                .and_then(|factor| self.mantissa.checked_mul(factor))
                .unwrap_or(if self.mantissa < 0 { i128::MIN } else { i128::MAX }),
            Err(_) => shrink(self.mantissa, exponent.unsigned_abs()),
        };
        let value = if self.mantissa == 0 { 0 } else { value };
        value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The sum. The format is this one's, or the other's where this is zero.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let (a, b, exponent) = align(self, other);
        Self::new(a.saturating_add(b), exponent, format)
    }

    /// The difference, with the same rule for the format.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&other.neg())
    }

    /// The number with its sign turned.
    #[must_use]
    pub fn neg(&self) -> Self {
        Self::new(self.mantissa.saturating_neg(), self.exponent, self.format)
    }

    /// Rounded up to billionths.
    fn rounded(mut self) -> Self {
        if self.mantissa != 0 && self.exponent < -9 {
            self.mantissa = shrink(self.mantissa, (-9 - self.exponent).unsigned_abs());
            self.exponent = -9;
        }
        if self.mantissa == 0 {
            self.exponent = 0;
        }
        self
    }
}

/// Divides by ten to `power`, away from zero.
fn shrink(mantissa: i128, power: u32) -> i128 {
    match 10i128.checked_pow(power) {
        Some(factor) => ceil_div(mantissa, factor),
        None => mantissa.signum(),
    }
}

fn ceil_div(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b == 0 { quotient } else { quotient + a.signum() }
}

/// Both mantissas at the smaller exponent; the larger number saturates where it does not fit.
fn align(a: &Quantity, b: &Quantity) -> (i128, i128, i32) {
    if a.mantissa == 0 {
        return (0, b.mantissa, b.exponent);
    }
    if b.mantissa == 0 {
        return (a.mantissa, 0, a.exponent);
    }
    let exponent = a.exponent.min(b.exponent);
    let raise = |quantity: &Quantity| {
        let power = (quantity.exponent - exponent).unsigned_abs();
        let bound = if quantity.mantissa < 0 { i128::MIN } else { i128::MAX };
        10i128.checked_pow(power).and_then(|factor| quantity.mantissa.checked_mul(factor)).unwrap_or(bound)
    };
    (raise(a), raise(b), exponent)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b, _) = align(self, other);
        a.cmp(&b)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi && self.is_whole_and_large();
        if binary {
            let power = u32::try_from(self.exponent.max(0)).unwrap_or_default();
            let mut amount = match 10i128.checked_pow(power).and_then(|factor| self.mantissa.checked_mul(factor)) {
                Some(amount) if self.exponent >= 0 => amount,
                _ => shrink(self.mantissa, self.exponent.unsigned_abs()),
            };
            let mut index = 0;
            while amount % 1024 == 0 && index < 6 {
                amount /= 1024;
                index += 1;
            }
            return write!(f, "{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][index]);
        }
        let (mut amount, mut exponent) = (self.mantissa, self.exponent);
        while amount % 10 == 0 {
            amount /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            match amount.checked_mul(10) {
                Some(raised) => amount = raised,
                None => break,
            }
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{amount}") } else { write!(f, "{amount}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{amount}{suffix}")
    }
}

impl Quantity {
    /// Binary numbers within ±1024, and fractions, are printed in decimal.
    fn is_whole_and_large(&self) -> bool {
        let large = *self <= Self::new(-1024, 0, self.format) || *self >= Self::new(1024, 0, self.format);
        let whole = self.exponent >= 0
            || 10i128.checked_pow(self.exponent.unsigned_abs()).is_some_and(|factor| self.mantissa % factor == 0);
        large && whole
    }
}

struct Parts<'a> {
    positive: bool,
    /// Digits before the point without leading zeros (`0` where there are none).
    numerator: &'a str,
    denominator: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    let (positive, rest) = match text.as_bytes()[0] {
        b'-' => (false, &text[1..]),
        b'+' => (true, &text[1..]),
        _ => (true, text),
    };
    let rest = rest.trim_start_matches('0');
    if rest.is_empty() {
        return Ok(Parts { positive, numerator: "0", denominator: "", suffix: "" });
    }
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (numerator, rest) = rest.split_at(digits(rest));
    let (denominator, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let tail = rest.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !tail.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::Format);
    }
    Ok(Parts { positive, numerator: if numerator.is_empty() { "0" } else { numerator }, denominator, suffix: rest })
}

/// Base, power and format of a suffix.
fn suffix(text: &str) -> Option<(i32, i32, Format)> {
    let decimal = |power| Some((10, power, Format::DecimalSi));
    let binary = |power| Some((2, power, Format::BinarySi));
    match text {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power = text.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
            Some((10, power.clamp(-MAX_EXPONENT, MAX_EXPONENT) as i32, Format::DecimalExponent))
        }
    }
}

/// The number behind digits before and after a point, trailing zeros moved to the exponent.
fn digits(numerator: &str, denominator: &str) -> (i128, i32) {
    let all: Vec<u8> = numerator.bytes().chain(denominator.bytes()).skip_while(|byte| *byte == b'0').collect();
    let mut exponent = -(denominator.len() as i32);
    let kept = &all[..all.len().min(MAX_DIGITS)];
    let mut mantissa = kept.iter().fold(0i128, |sum, byte| sum * 10 + i128::from(byte - b'0'));
    if all.len() > MAX_DIGITS {
        exponent += (all.len() - MAX_DIGITS) as i32;
        if all[MAX_DIGITS..].iter().any(|byte| *byte != b'0') {
            mantissa += 1;
        }
    }
    (mantissa, exponent)
}

/// Whether upstream takes the text for canonical without looking closely, and prints it as it came.
fn reuses_text(parts: &Parts<'_>, base: i32, power: i32, format: Format) -> bool {
    let (num, denom) = (parts.numerator.len() as i32, parts.denominator.len() as i32);
    let shifted = || parts.numerator.bytes().chain(parts.denominator.bytes());
    let value = || shifted().try_fold(0i64, |sum, byte| sum.checked_mul(10)?.checked_add(i64::from(byte - b'0')));
    if base == 2 {
        let precision = 15 - num - power * 3 / 10 - 1;
        return format == Format::BinarySi && denom == 0 && precision >= 0 && value().is_some_and(|value| value & 7 != 0);
    }
    let scale = power - denom;
    let fast = 18 - num - denom >= 0 && scale >= -9 && value().is_some();
    let zeros = shifted().rev().take_while(|byte| *byte == b'0').count();
    fast && scale % 3 == 0 && zeros < 3 && parts.numerator.as_bytes()[0] != b'0'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        for (given, want) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("128Mi", "128Mi"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000000", "1M"),
            ("0.0000000001", "1n"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("-5", "-5"),
            ("1.500", "1.500"),
            ("10Ei", "9223372036854775807"),
            ("0.1Ki", "102400m"),
            ("  7 ", "7"),
            ("1T", "1T"),
            (".5", "500m"),
            ("1.", "1."),
        ] {
            assert_eq!(canonical(given), want, "{given}");
        }
    }

    #[test]
    fn bad_texts_are_refused_in_upstreams_words() {
        for text in ["", "seven", "1 Gi", "1.2.3", "0x10", "1Gi5x", "١"] {
            assert_eq!(Quantity::parse(text), Err(ParseError::Format), "{text}");
        }
        for text in ["1Zi", "1mm", "1KI"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert_eq!(Quantity::parse("1mm"), Err(ParseError::Suffix));
    }

    #[test]
    fn arithmetic_is_exact_and_keeps_the_format() {
        let sum = Quantity::parse("0.1").unwrap().add(&Quantity::parse("200m").unwrap());
        assert_eq!(sum.to_string(), "300m");
        assert_eq!(Quantity::parse("1Gi").unwrap().sub(&Quantity::parse("512Mi").unwrap()).to_string(), "512Mi");
        assert_eq!(Quantity::zero().add(&Quantity::parse("1Gi").unwrap()).to_string(), "1Gi");
        assert_eq!(Quantity::parse("1500m").unwrap().value(), 2);
        assert_eq!(Quantity::parse("1500m").unwrap().milli_value(), 1500);
        assert_eq!(Quantity::parse("1Ki").unwrap(), Quantity::parse("1024").unwrap());
        assert!(Quantity::parse("1G").unwrap() < Quantity::parse("1Gi").unwrap());
    }

    #[test]
    fn absurd_numbers_do_no_harm() {
        for text in ["1e999999999999999999", "1e-99999", &"9".repeat(4000), &format!("0.{}1", "0".repeat(4000)), "9e4096", "-9Ei"]
        {
            if let Ok(quantity) = Quantity::parse(text) {
                let _ = (quantity.to_string(), quantity.value(), quantity.milli_value(), quantity.add(&quantity).to_string());
                assert_eq!(quantity.cmp(&quantity), Ordering::Equal);
            }
        }
    }
}
