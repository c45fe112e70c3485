//! Numbers that users give as a count or as a percentage (`maxSurge`, `maxUnavailable`, `minAvailable`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The value scaled against `total`; percentages round up or down. `None` for text that is no percentage.
/// Upstream: intstr.GetScaledValueFromIntOrPercent.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent.checked_mul(total.into())?;
            let rounded = if round_up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).ok()
        }
    }
}

/// (maxSurge, maxUnavailable) of a rolling update of `desired` pods; both zero would never progress, so one may then be unavailable.
/// Upstream: deploymentutil.ResolveFenceposts.
pub fn fenceposts(max_surge: Option<&IntOrString>, max_unavailable: Option<&IntOrString>, desired: i32) -> (i32, i32) {
    let surge = max_surge.and_then(|value| scaled(value, desired, true)).unwrap_or(0);
    let unavailable = max_unavailable.and_then(|value| scaled(value, desired, false)).unwrap_or(0);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let p = |s: &str| IntOrString::String(s.into());
        assert_eq!(scaled(&p("25%"), 10, true), Some(3));
        assert_eq!(scaled(&p("25%"), 10, false), Some(2));
        assert_eq!(scaled(&p("abc"), 10, false), None);
        assert_eq!(fenceposts(Some(&p("0%")), Some(&p("10%")), 5), (0, 1));
        assert_eq!(fenceposts(Some(&IntOrString::Int(2)), Some(&IntOrString::Int(0)), 5), (2, 0));
    }
}
