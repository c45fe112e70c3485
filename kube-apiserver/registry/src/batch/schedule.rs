//! Cron schedules, as far as they are checked when written.
//!
//! Upstream: github.com/robfig/cron (standard parser with descriptors)

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
    first_name: u32,
}

const FIELDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[], first_name: 0 },
    Bounds { low: 0, high: 23, names: &[], first_name: 0 },
    Bounds { low: 1, high: 31, names: &[], first_name: 0 },
    Bounds { low: 1, high: 12, names: MONTHS, first_name: 1 },
    Bounds { low: 0, high: 6, names: DAYS, first_name: 0 },
];

/// Whether the schedule can be read.
///
/// # Errors
/// Why not, in the parser's words.
pub fn check(schedule: &str) -> Result<(), String> {
    let mut schedule = schedule;
    for prefix in ["TZ=", "CRON_TZ="] {
        if schedule.starts_with(prefix) {
            let Some((zone, rest)) = schedule[prefix.len()..].split_once(' ') else {
                return Err(format!("provided bad location {}", &schedule[prefix.len()..]));
            };
            if jiff::tz::TimeZone::get(zone).is_err() {
                return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
            }
            schedule = rest.trim();
        }
    }
    if let Some(descriptor) = schedule.strip_prefix('@') {
        return describe(schedule, descriptor);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for part in field.split(',') {
            range(part, bounds)?;
        }
    }
    Ok(())
}

fn describe(whole: &str, descriptor: &str) -> Result<(), String> {
    match descriptor {
        "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
        _ => match descriptor.strip_prefix("every ") {
            Some(duration) if duration.ends_with(['s', 'm', 'h']) && duration.bytes().any(|byte| byte.is_ascii_digit()) => Ok(()),
            Some(duration) => Err(format!("failed to parse duration {whole}: time: invalid duration {duration:?}")),
            None => Err(format!("unrecognized descriptor: {whole}")),
        },
    }
}

fn range(part: &str, bounds: &Bounds) -> Result<(), String> {
    let (span, step) = match part.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {part}")),
        Some((span, step)) => (span, Some(step)),
        None => (part, None),
    };
    let (start, end) = if span == "*" || span == "?" {
        (bounds.low, bounds.high)
    } else {
        let mut ends = span.split('-');
        let start = number(ends.next().unwrap_or(""), bounds)?;
        let end = match ends.next() {
            Some(end) => number(end, bounds)?,
            None if step.is_some() => bounds.high,
            None => start,
        };
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {part}"));
        }
        (start, end)
    };
    if let Some(step) = step {
        let step: u32 = step
            .parse()
            .map_err(|_| format!("failed to parse int from {step}: strconv.Atoi: parsing {step:?}: invalid syntax"))?;
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
    }
    if start < bounds.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {part}", bounds.low));
    }
    if end > bounds.high {
        return Err(format!("end of range ({end}) above maximum ({}): {part}", bounds.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    Ok(())
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    if let Some(at) = bounds.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(bounds.first_name + u32::try_from(at).unwrap_or(0));
    }
    let number: i64 =
        text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for good in ["*/5 * * * *", "0 0 1 jan sun", "@daily", "@every 1h30m", "0-10/2 1,2 * * MON-FRI", "TZ=UTC 0 0 * * *"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("Bad Value!").unwrap_err(), "expected exactly 5 fields, found 2: [Bad Value!]");
        assert_eq!(check("60 * * * *").unwrap_err(), "end of range (60) above maximum (59): 60");
        assert_eq!(check("* * 0 * *").unwrap_err(), "beginning of range (0) below minimum (1): 0");
        assert!(check("a * * * *").unwrap_err().starts_with("failed to parse int from a"));
        assert!(check("@never").is_err());
    }
}
