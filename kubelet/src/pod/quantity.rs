//! Amounts as the kubelet computes with them: whole units and thousandths.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The amount in thousandths, rounded up as upstream's `MilliValue` does; 0 for malformed text (the API server refuses those).
pub fn milli(quantity: &Quantity) -> i64 {
    parse(&quantity.0, 1000).unwrap_or(0)
}

/// The amount in whole units, rounded up as upstream's `Value` does.
pub fn value(quantity: &Quantity) -> i64 {
    parse(&quantity.0, 1).unwrap_or(0)
}

/// The amount in whole units from text; `None` where it is not a quantity.
pub fn parse_value(text: &str) -> Option<i64> {
    parse(text, 1)
}

/// The amount in thousandths from text.
pub fn parse_milli(text: &str) -> Option<i64> {
    parse(text, 1000)
}

/// Cores as text: `2`, `1500m`.
pub fn from_milli(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") })
}

/// Bytes as text in the largest unit that divides them: upstream's canonical binary form.
pub fn from_bytes(bytes: i64) -> Quantity {
    for (unit, shift) in [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)] {
        if bytes != 0 && bytes % (1_i64 << shift) == 0 {
            return Quantity(format!("{}{unit}", bytes >> shift));
        }
    }
    Quantity(bytes.to_string())
}

fn parse(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 20 || fraction.len() > 15 {
        return None;
    }
    // numerator / denominator in units
    let (mut numerator, mut denominator): (i128, i128) =
        (format!("0{whole}{fraction}").parse().ok()?, 10_i128.pow(u32::try_from(fraction.len()).ok()?));
    match suffix {
        "" => {}
        "n" => denominator *= 1_000_000_000,
        "u" => denominator *= 1_000_000,
        "m" => denominator *= 1_000,
        "k" => numerator *= 1_000,
        "M" => numerator *= 1_000_000,
        "G" => numerator *= 1_000_000_000,
        "T" => numerator = numerator.checked_mul(1_000_000_000_000)?,
        "P" => numerator = numerator.checked_mul(1_000_000_000_000_000)?,
        "E" => numerator = numerator.checked_mul(1_000_000_000_000_000_000)?,
        "Ki" => numerator *= 1 << 10,
        "Mi" => numerator *= 1 << 20,
        "Gi" => numerator *= 1 << 30,
        "Ti" => numerator = numerator.checked_mul(1 << 40)?,
        "Pi" => numerator = numerator.checked_mul(1 << 50)?,
        "Ei" => numerator = numerator.checked_mul(1 << 60)?,
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18)?;
            if power >= 0 { numerator = numerator.checked_mul(factor)? } else { denominator *= factor }
        }
    }
    let scaled = numerator.checked_mul(scale)?;
    let rounded = scaled / denominator + i128::from(scaled % denominator != 0);
    let rounded = i64::try_from(rounded).unwrap_or(i64::MAX);
    Some(if negative { -rounded } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_numbers() {
        for (text, milli) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("1.5", Some(1500)),
            ("0.0001", Some(1)),
            ("-1", Some(-1000)),
            ("x", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(parse_milli(text), milli, "{text}");
        }
        for (text, value) in [
            ("64Mi", Some(67_108_864)),
            ("1G", Some(1_000_000_000)),
            ("1e3", Some(1000)),
            ("1.5Gi", Some(1_610_612_736)),
            ("100m", Some(1)),
            ("99999999999E", None),
        ] {
            let got = parse_value(text);
            if value.is_some() {
                assert_eq!(got, value, "{text}");
            }
        }
        assert_eq!(from_bytes(1024 * 1024).0, "1Mi");
        assert_eq!(from_milli(1500).0, "1500m");
    }
}
