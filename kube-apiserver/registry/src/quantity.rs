//! Amounts of resources in trees, as defaulting and validation compare and add them: [`api::quantity`] in exact billionths.

use api::quantity::{Format, Quantity};
use serde_json::Value;

/// A billionth of the unit; exact for all amounts that Kubernetes accepts.
pub type Nano = i128;

const UNIT: Nano = 1_000_000_000;
const MILLI: Nano = 1_000_000;

/// The amount, or `None` where it is absent or malformed.
pub fn parse(value: &Value) -> Option<Nano> {
    let quantity = match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => return None,
    };
    quantity.ok().map(|quantity| quantity.nanos())
}

/// Canonical text of a sum: CPU in decimal, the rest in binary units.
pub fn format(amount: Nano, resource: &str) -> String {
    let format = if resource == "cpu" { Format::DecimalSi } else { Format::BinarySi };
    Quantity::from_nanos(amount, format).to_string()
}

/// The amount rounded up to thousandths, where it is finer than that.
pub fn round_up_to_milli(value: &Value) -> Option<Value> {
    let amount = parse(value)?;
    if amount % MILLI == 0 {
        return None;
    }
    let rounded = amount.div_euclid(MILLI).checked_mul(MILLI)?.checked_add(MILLI)?;
    Some(Quantity::from_nanos(rounded, Format::DecimalSi).to_string().into())
}

/// Whether the amount is a whole number of units.
pub fn is_whole(amount: Nano) -> bool {
    amount % UNIT == 0
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
            assert_eq!(parse(&text.into()), Some(nano), "{text}");
        }
        for bad in ["", "x", "1.2.3", "1Q"] {
            assert_eq!(parse(&bad.into()), None, "{bad}");
        }
        assert_eq!(parse(&"1e99".into()), Some(Nano::MAX), "beyond all bounds, and no overflow");
    }

    #[test]
    fn sums_print_in_canonical_form() {
        for (amount, resource, text) in [
            (1024 * UNIT, "memory", "1Ki"),
            (1000 * UNIT, "memory", "1k"),
            (3 * UNIT / 2, "cpu", "1500m"),
            (2000 * UNIT, "cpu", "2k"),
            (0, "cpu", "0"),
            (UNIT / 2, "memory", "500m"),
        ] {
            assert_eq!(format(amount, resource), text);
        }
    }

    #[test]
    fn finer_than_milli_is_rounded_up() {
        assert_eq!(round_up_to_milli(&"1u".into()), Some("1m".into()));
        assert_eq!(round_up_to_milli(&"1500m".into()), None);
        assert_eq!(round_up_to_milli(&"1e99".into()), None);
    }
}
