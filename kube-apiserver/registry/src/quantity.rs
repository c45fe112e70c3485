//! Amounts of resources as exact integers, as far as defaulting and validation compare and add them.

use serde_json::Value;

/// A billionth of the unit; exact for all amounts that Kubernetes accepts.
pub type Nano = i128;

const UNIT: Nano = 1_000_000_000;
const MILLI: Nano = 1_000_000;

/// The amount, or `None` where it is absent or malformed.
pub fn parse(value: &Value) -> Option<Nano> {
    match value {
        Value::String(text) => parse_text(text),
        Value::Number(number) => parse_text(&number.to_string()),
        _ => None,
    }
}

fn parse_text(text: &str) -> Option<Nano> {
    let text = text.trim();
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    if digits.is_empty() || digits == "." || digits.matches('.').count() > 1 {
        return None;
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = scale(suffix)?;
    let whole: Nano = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = match scale {
        Scale::Nano(factor) => whole.checked_mul(factor)?,
        Scale::Exponent(power) => shift(whole, power + 9)?,
    };
    if !fraction.is_empty() {
        let fraction = &fraction[..fraction.len().min(18)];
        let value: Nano = fraction.parse().ok()?;
        let below = i32::try_from(fraction.len()).ok()?;
        let factor = match scale {
            Scale::Nano(factor) => factor,
            Scale::Exponent(power) => shift(1, power + 9)?,
        };
        let numerator = value.checked_mul(factor)?;
        let denominator = 10_i128.checked_pow(u32::try_from(below).ok()?)?;
        total = total.checked_add((numerator + denominator - 1) / denominator)?;
    }
    Some(if negative { -total } else { total })
}

#[derive(Clone, Copy)]
enum Scale {
    Nano(Nano),
    Exponent(i32),
}

fn shift(value: Nano, power: i32) -> Option<Nano> {
    if power >= 0 {
        value.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)
    } else {
        let divisor = 10_i128.checked_pow(power.unsigned_abs())?;
        Some((value + divisor - 1) / divisor)
    }
}

fn scale(suffix: &str) -> Option<Scale> {
    Some(Scale::Nano(match suffix {
        "" => UNIT,
        "n" => 1,
        "u" => 1_000,
        "m" => MILLI,
        "k" => UNIT * 1_000,
        "M" => UNIT * 1_000_000,
        "G" => UNIT * 1_000_000_000,
        "T" => UNIT * 1_000_000_000_000,
        "P" => UNIT * 1_000_000_000_000_000,
        "E" => UNIT * 1_000_000_000_000_000_000,
        "Ki" => UNIT << 10,
        "Mi" => UNIT << 20,
        "Gi" => UNIT << 30,
        "Ti" => UNIT << 40,
        "Pi" => UNIT << 50,
        "Ei" => UNIT << 60,
        _ => {
            let power = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|power| power.abs() <= 18)?;
            return Some(Scale::Exponent(power));
        }
    }))
}

/// Canonical text of a sum: CPU in decimal, the rest in binary units.
pub fn format(amount: Nano, resource: &str) -> String {
    if resource != "cpu" && amount % UNIT == 0 {
        let whole = amount / UNIT;
        for (suffix, shift) in [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
            if whole != 0 && whole % (1_i128 << shift) == 0 {
                return format!("{}{suffix}", whole >> shift);
            }
        }
        return whole.to_string();
    }
    decimal(amount)
}

/// Canonical decimal text: the largest unit that leaves no fraction.
pub fn decimal(amount: Nano) -> String {
    if amount == 0 {
        return "0".to_owned();
    }
    for (suffix, power) in [("E", 27), ("P", 24), ("T", 21), ("G", 18), ("M", 15), ("k", 12), ("", 9), ("m", 6), ("u", 3)] {
        let factor = 10_i128.pow(power);
        if amount % factor == 0 {
            return format!("{}{suffix}", amount / factor);
        }
    }
    format!("{amount}n")
}

/// The amount rounded up to thousandths, where it is finer than that.
pub fn round_up_to_milli(value: &Value) -> Option<Value> {
    let amount = parse(value)?;
    if amount % MILLI == 0 {
        return None;
    }
    let rounded = amount.div_euclid(MILLI) * MILLI + MILLI;
    Some(decimal(rounded).into())
}

/// Whether the amount is a whole number of units.
pub fn is_whole(amount: Nano) -> bool {
    amount % UNIT == 0
}

/// Whole units, rounded up.
pub fn units(amount: Nano) -> i128 {
    amount.div_euclid(UNIT) + i128::from(amount.rem_euclid(UNIT) != 0)
}

/// Thousandths, rounded up.
pub fn millis(amount: Nano) -> i128 {
    amount.div_euclid(MILLI) + i128::from(amount.rem_euclid(MILLI) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, nano) in [
            ("1", UNIT),
            ("0.5", UNIT / 2),
            ("100m", 100 * MILLI),
            ("1Ki", 1024 * UNIT),
            ("1.5Gi", 3 * (UNIT << 29)),
            ("1e3", 1000 * UNIT),
            ("-2", -2 * UNIT),
            ("1n", 1),
        ] {
            assert_eq!(parse_text(text), Some(nano), "{text}");
        }
        for bad in ["", "x", "1.2.3", "1Q", ".", "1e99"] {
            assert_eq!(parse_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn finer_than_milli_is_rounded_up() {
        assert_eq!(round_up_to_milli(&"1u".into()), Some("1m".into()));
        assert_eq!(round_up_to_milli(&"1500m".into()), None);
    }
}
