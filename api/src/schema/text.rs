//! Text forms of scalars as Go reads and prints them, and the wording of its errors.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Go's StdEncoding: padding needed, stray bits in the last digit allowed.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Base64 as Go prints what it read: line breaks dropped.
pub(crate) fn canonical_base64(given: String) -> Result<String, String> {
    if let Some(at) = illegal_byte(given.as_bytes()) {
        return Err(format!("illegal base64 data at input byte {at}"));
    }
    let given = if given.contains(['\n', '\r']) { given.replace(['\n', '\r'], "") } else { given };
    // Only the last digit can differ: printed again where stray bits may have been.
    if !given.ends_with('=') {
        return Ok(given);
    }
    match BASE64.decode(&given) {
        Ok(bytes) => Ok(BASE64.encode(bytes)),
        Err(_) => Err(format!("illegal base64 data at input byte {}", given.len())),
    }
}

/// Where Go's decoder sees the first error.
fn illegal_byte(text: &[u8]) -> Option<usize> {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let mut at = 0;
    let skip = |at: &mut usize| {
        while matches!(text.get(*at), Some(b'\n' | b'\r')) {
            *at += 1;
        }
    };
    loop {
        // A group of four.
        for index in 0..4 {
            skip(&mut at);
            let Some(byte) = text.get(at).copied() else {
                return match index {
                    0 => None,
                    index => Some(at - index),
                };
            };
            at += 1;
            if digit(byte) {
                continue;
            }
            if byte != b'=' || index < 2 {
                return Some(at - 1);
            }
            skip(&mut at);
            if index == 2 {
                match text.get(at) {
                    None => return Some(text.len()),
                    Some(b'=') => at += 1,
                    Some(_) => return Some(at - 1),
                }
                skip(&mut at);
            }
            return (at < text.len()).then_some(at);
        }
    }
}

const TIME_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// RFC 3339 in UTC and whole seconds.
pub(crate) fn canonical_time(given: String) -> Result<String, String> {
    if is_plain_time(given.as_bytes()) && valid_ranges(given.as_bytes()) {
        return Ok(given);
    }
    let (seconds, _) = parse_time(&given, false).map_err(|rest| time_error(&given, TIME_LAYOUT, rest))?;
    Ok(format_time(seconds))
}

/// RFC 3339 in UTC and microseconds; six digits of fraction are needed.
pub(crate) fn canonical_micro_time(given: String) -> Result<String, String> {
    let (seconds, nanos) = parse_time(&given, true).map_err(|rest| time_error(&given, MICRO_LAYOUT, rest))?;
    Ok(format_micro_time(seconds, nanos))
}

/// `2026-01-02T03:04:05Z`, the form in which nearly all times come.
fn is_plain_time(text: &[u8]) -> bool {
    text.len() == 20
        && text
            .iter()
            .zip(b"0000-00-00T00:00:00Z")
            .all(|(byte, want)| if *want == b'0' { byte.is_ascii_digit() } else { byte == want })
}

fn number(text: &[u8]) -> i64 {
    text.iter().fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'))
}

fn valid_ranges(text: &[u8]) -> bool {
    let (year, month, day) = (number(&text[..4]), number(&text[5..7]), number(&text[8..10]));
    let (hour, minute, second) = (number(&text[11..13]), number(&text[14..16]), number(&text[17..19]));
    (1..=12).contains(&month) && day >= 1 && day <= days_in(year, month) && hour < 24 && minute < 60 && second < 60
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Howard Hinnant's algorithm.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Seconds since 1970 and nanoseconds; on error the layout piece and what stands in its place.
pub(crate) fn parse_time(text: &str, micro: bool) -> Result<(i64, u32), (&'static str, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut piece = |layout: &'static str, digits: usize| {
        let end = at + digits;
        if digits > 0 && bytes.len() >= end && bytes[at..end].iter().all(u8::is_ascii_digit) {
            let value = number(&bytes[at..end]);
            at = end;
            Ok(value)
        } else if digits == 0 && bytes.len() > at && bytes[at] == layout.as_bytes()[0] {
            at += 1;
            Ok(0)
        } else {
            Err((layout, at))
        }
    };
    let year = piece("2006", 4)?;
    literal_at(&mut piece, "-")?;
    let month = piece("01", 2)?;
    literal_at(&mut piece, "-")?;
    let day = piece("02", 2)?;
    literal_at(&mut piece, "T")?;
    let hour = piece("15", 2)?;
    literal_at(&mut piece, ":")?;
    let minute = piece("04", 2)?;
    literal_at(&mut piece, ":")?;
    let second = piece("05", 2)?;
    let mut nanos = 0u32;
    let fraction = bytes[at..].first().filter(|byte| **byte == b'.' || **byte == b',');
    if fraction.is_some() {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || (micro && digits != 6) {
            return Err((if micro { ".000000" } else { "Z07:00" }, at));
        }
        for index in 0..9 {
            nanos = nanos * 10 + if index < digits { u32::from(bytes[at + 1 + index] - b'0') } else { 0 };
        }
        at += 1 + digits;
    } else if micro {
        return Err((".000000", at));
    }
    let rest = &bytes[at..];
    let offset = match rest {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()) => {
            let seconds = number(&[*h1, *h2]) * 3600 + number(&[*m1, *m2]) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return Err(("Z07:00", at)),
    };
    if !(1..=12).contains(&month) {
        return Err(("month", 0));
    }
    if day < 1 || day > days_in(year, month) {
        return Err(("day", 0));
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err((
            if hour > 23 {
                "hour"
            } else if minute > 59 {
                "minute"
            } else {
                "second"
            },
            0,
        ));
    }
    Ok((days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

fn literal_at(
    piece: &mut impl FnMut(&'static str, usize) -> Result<i64, (&'static str, usize)>,
    layout: &'static str,
) -> Result<(), (&'static str, usize)> {
    piece(layout, 0).map(|_| ())
}

fn time_error(given: &str, layout: &str, (piece, at): (&'static str, usize)) -> String {
    match piece {
        "month" | "day" | "hour" | "minute" | "second" => format!("parsing time {given:?}: {piece} out of range"),
        _ => format!("parsing time {given:?} as {layout:?}: cannot parse {:?} as {piece:?}", given.get(at..).unwrap_or_default()),
    }
}

/// Year, month and day of a count of days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z - era * 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2026-01-02T03:04:05Z`.
pub(crate) fn format_time(seconds: i64) -> String {
    let ((year, month, day), of_day) = (civil(seconds.div_euclid(86_400)), seconds.rem_euclid(86_400));
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// `2026-01-02T03:04:05.000006Z`.
pub(crate) fn format_micro_time(seconds: i64, nanos: u32) -> String {
    let mut out = format_time(seconds);
    out.pop();
    out.push_str(&format!(".{:06}Z", nanos / 1000));
    out
}

/// `metav1.Duration` is kept as it came where it looks like one.
pub(crate) fn canonical_duration(given: String) -> Result<String, String> {
    let body = given.strip_prefix(['-', '+']).unwrap_or(&given);
    let plausible =
        body == "0" || (body.ends_with(['s', 'm', 'h']) && body.starts_with(|c: char| c.is_ascii_digit() || c == '.'));
    if plausible { Ok(given) } else { Err(format!("time: invalid duration {given:?}")) }
}

/// The known name nearest to `name`: at most a third of its letters (and at least one) changed, added, dropped or swapped.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Directives of strategic merge are no typing errors.
    if name.len() > 64 || name.starts_with('$') {
        return None;
    }
    let limit = (name.chars().count() / 3).clamp(1, 4);
    known
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (with swaps of neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let cost = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

/// Go's words for malformed JSON. What Go would take and we do not is nested too deeply.
pub(crate) fn syntax_error(body: &[u8], error: &serde_json::Error) -> String {
    match crate::json::syntax_error(body) {
        Some(message) => message,
        None if error.to_string().starts_with("recursion limit") => "invalid character '{' exceeded max depth".to_owned(),
        None => error.to_string(),
    }
}
