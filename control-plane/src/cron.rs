//! Times that a line in the manner of cron names: `MINUTE HOUR DAY MONTH WEEKDAY`, by a fixed distance from UTC. No time zones by name: where
//! clocks are turned a time comes twice, or not at all, and nobody means that.
//!
//! As cron(5) has it: lists, ranges, steps, the names of months and days, 7 for Sunday; where both day and weekday are named, either of them
//! is enough. A line that no day ever fits is refused.

use std::fmt;
use std::str::FromStr;
use time::{Date, Month};

/// The longest line, bytes.
const LINE_MAX: usize = 256;
/// Days that are looked through: between two 29ths of February there are eight years where the century has none.
const DAYS_MAX: i32 = 8 * 366 + 31;
/// The furthest from UTC that a place is, minutes.
const OFFSET_MAX: i32 = 14 * 60;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// A line that names at least one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    written: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the field of days, or of weekdays, leaves something out: cron looks at how it is written.
    days_named: bool,
    weekdays_named: bool,
}

/// A fixed distance from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offset {
    minutes: i32,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day", least: 1, most: 31, names: &[] },
    Field { name: "month", least: 1, most: 12, names: &MONTHS },
    Field { name: "weekday", least: 0, most: 7, names: &DAYS },
];

// === impl Cron ===

impl Cron {
    /// The first time after that moment, Unix milliseconds; `None` only where the calendar ends.
    pub fn after(&self, moment_ms: i64, offset: Offset) -> Option<i64> {
        let offset_ms = i64::from(offset.minutes) * MINUTE_MS;
        // the minute after the one that the moment is in, by the clock of that place
        let local = (moment_ms.checked_add(offset_ms)?.div_euclid(MINUTE_MS) + 1) * MINUTE_MS;
        let (day, minute) = (local.div_euclid(DAY_MS), local.rem_euclid(DAY_MS) / MINUTE_MS);
        let first = Date::from_julian_day(i32::try_from(day).ok()?.checked_add(EPOCH)?).ok()?;
        let mut from = u32::try_from(minute).ok()?;
        let mut date = first;
        for _ in 0..DAYS_MAX {
            if self.has_day(date)
                && let Some(minute) = self.minute_from(from)
            {
                let days = i64::from(date.to_julian_day() - EPOCH);
                return Some(days * DAY_MS + i64::from(minute) * MINUTE_MS - offset_ms);
            }
            from = 0;
            date = date.next_day()?;
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day().into());
        let weekday = has(self.weekdays, date.weekday().number_days_from_sunday().into());
        let fits = if self.days_named && self.weekdays_named { day || weekday } else { day && weekday };
        fits && has(self.months, u8::from(date.month()).into())
    }

    /// The first minute of the day from that one on.
    fn minute_from(&self, from: u32) -> Option<u32> {
        (from..24 * 60).find(|minute| has(self.hours, minute / 60) && has(self.minutes, minute % 60))
    }
}

/// The Julian day of the first of January 1970.
const EPOCH: i32 = match Date::from_calendar_date(1970, Month::January, 1) {
    Ok(date) => date.to_julian_day(),
    Err(_) => 0,
};

impl FromStr for Cron {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        if line.len() > LINE_MAX {
            return Err(format!("it is {} bytes long, the limit is {LINE_MAX}", line.len()));
        }
        let written = match line.trim().to_ascii_lowercase().as_str() {
            "@hourly" => "0 * * * *".to_owned(),
            "@daily" | "@midnight" => "0 0 * * *".to_owned(),
            "@weekly" => "0 0 * * 0".to_owned(),
            "@monthly" => "0 0 1 * *".to_owned(),
            "@yearly" | "@annually" => "0 0 1 1 *".to_owned(),
            other if other.starts_with('@') => {
                return Err(format!(
                    "{other:?} is no word for times: there are @hourly, @daily (@midnight), @weekly, @monthly and @yearly (@annually)"
                ));
            }
            other => other.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
        };
        let texts: Vec<_> = written.split(' ').collect();
        let [minute, hour, day, month, weekday] = texts[..] else {
            return Err(format!("{written:?} has not five fields: MINUTE HOUR DAY MONTH WEEKDAY"));
        };
        let read = |n: usize, text: &str| FIELDS[n].read(text);
        // Sunday has two numbers
        let weekdays = read(4, weekday)?;
        let cron = Self {
            minutes: read(0, minute)?,
            hours: read(1, hour)?,
            days: read(2, day)?,
            months: read(3, month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            days_named: !day.starts_with('*'),
            weekdays_named: !weekday.starts_with('*'),
            written,
        };
        match cron.after(0, Offset::default()) {
            Some(_) => Ok(cron),
            None => Err(format!("{:?} names a day that no year has", cron.written)),
        }
    }
}
impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

// === impl Field ===

impl Field {
    /// The numbers that a field names, each a bit.
    fn read(&self, text: &str) -> Result<u64, String> {
        let mut all = 0;
        for part in text.split(',') {
            all |= self.part(part).ok_or_else(|| {
                format!("{part:?} is no {}: it has {} to {}, *, ranges and steps", self.name, self.least, self.most)
            })?;
        }
        Ok(all)
    }

    fn part(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => (range, Some(number(step).filter(|step| (1..=self.most).contains(step))?)),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.number(first)?, self.number(last)?),
            // `5/10` goes on to the end
            None if step.is_some() => (self.number(range)?, self.most),
            None => (self.number(range)?, self.number(range)?),
        };
        if first > last {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        Some((first..=last).step_by(step).fold(0, |all, n| all | 1 << n))
    }

    fn number(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| *name == text).and_then(|n| u32::try_from(n).ok());
        let number = named.map(|n| n + self.least).or_else(|| number(text))?;
        (self.least..=self.most).contains(&number).then_some(number)
    }
}

/// One or two digits, and no sign.
fn number(text: &str) -> Option<u32> {
    ((1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn has(all: u64, n: u32) -> bool {
    all >> n & 1 == 1
}

// === impl Offset ===

impl FromStr for Offset {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no distance from UTC: it must be like \"+02:00\"");
        if matches!(text, "Z" | "UTC") {
            return Ok(Self::default());
        }
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(wrong()),
        };
        let (hours, minutes) = rest.split_once(':').filter(|_| rest.len() == 5).ok_or_else(wrong)?;
        let (hours, minutes) = (number(hours).ok_or_else(wrong)?, number(minutes).ok_or_else(wrong)?);
        let all = i32::try_from(hours * 60 + minutes).map_err(|_| wrong())?;
        if minutes > 59 || all > OFFSET_MAX {
            return Err(wrong());
        }
        Ok(Self { minutes: sign * all })
    }
}
impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minutes < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", self.minutes.abs() / 60, self.minutes.abs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    fn ms(text: &str) -> i64 {
        OffsetDateTime::parse(text, &Rfc3339).expect(text).unix_timestamp() * 1000
    }
    fn shown(ms: i64) -> String {
        let moment = OffsetDateTime::from_unix_timestamp(ms / 1000).expect("a moment");
        moment.format(&Rfc3339).expect("formats")
    }

    #[test]
    fn the_next_time() {
        for (line, offset, from, expected) in [
            ("* * * * *", "UTC", "2026-01-05T12:00:00Z", "2026-01-05T12:01:00Z"),
            ("* * * * *", "UTC", "2026-01-05T12:00:59Z", "2026-01-05T12:01:00Z"),
            ("0 * * * *", "UTC", "2026-01-05T12:00:00Z", "2026-01-05T13:00:00Z"),
            ("0 6 * * *", "UTC", "2026-01-05T05:59:59Z", "2026-01-05T06:00:00Z"),
            ("0 6 * * *", "UTC", "2026-01-05T06:00:00Z", "2026-01-06T06:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-01-05T12:44:00Z", "2026-01-05T12:45:00Z"),
            ("*/15 * * * *", "UTC", "2026-01-05T12:46:00Z", "2026-01-05T13:00:00Z"),
            ("*/7 * * * *", "UTC", "2026-01-05T12:56:00Z", "2026-01-05T13:00:00Z"),
            ("10-20/5 * * * *", "UTC", "2026-01-05T12:16:00Z", "2026-01-05T12:20:00Z"),
            ("10-20/5 * * * *", "UTC", "2026-01-05T12:20:00Z", "2026-01-05T13:10:00Z"),
            ("50/5 * * * *", "UTC", "2026-01-05T12:50:00Z", "2026-01-05T12:55:00Z"),
            ("1,2,59 23 * * *", "UTC", "2026-01-05T23:02:00Z", "2026-01-05T23:59:00Z"),
            ("0 0 * * mon", "UTC", "2026-01-05T00:00:00Z", "2026-01-12T00:00:00Z"),
            ("0 0 * * 1-5", "UTC", "2026-01-09T00:00:00Z", "2026-01-12T00:00:00Z"),
            ("0 0 * * sat,sun", "UTC", "2026-01-09T00:00:00Z", "2026-01-10T00:00:00Z"),
            ("0 0 * * 0", "UTC", "2026-01-09T00:00:00Z", "2026-01-11T00:00:00Z"),
            ("0 0 * * 7", "UTC", "2026-01-09T00:00:00Z", "2026-01-11T00:00:00Z"),
            ("0 0 * * fri-7", "UTC", "2026-01-10T00:00:00Z", "2026-01-11T00:00:00Z"),
            ("0 0 1 * *", "UTC", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 30 * *", "UTC", "2026-01-30T00:00:00Z", "2026-03-30T00:00:00Z"),
            ("0 0 1 jan *", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 1 DEC *", "UTC", "2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("59 23 31 12 *", "UTC", "2026-12-31T23:58:00Z", "2026-12-31T23:59:00Z"),
            ("59 23 31 12 *", "UTC", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"),
            ("0 0 1 1-12/6 *", "UTC", "2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z"),
            // leap days, also where the century has none
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 29 2 *", "UTC", "2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"),
            ("0 0 29 feb *", "UTC", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 0 29 2 *", "UTC", "2099-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 12 28 2 *", "UTC", "2028-02-28T12:00:00Z", "2029-02-28T12:00:00Z"),
            ("0 0 * 2 *", "UTC", "2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 * 2 *", "UTC", "2027-02-28T00:00:00Z", "2028-02-01T00:00:00Z"),
            // either of the two where both are named
            ("0 0 13 * fri", "UTC", "2026-01-05T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * fri", "UTC", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 */2 * mon", "UTC", "2026-01-05T00:00:00Z", "2026-01-19T00:00:00Z"),
            ("0 0 29 2 mon", "UTC", "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"),
            // another place
            ("0 6 * * *", "+02:00", "2026-01-05T03:59:00Z", "2026-01-05T04:00:00Z"),
            ("0 6 * * *", "-05:30", "2026-01-05T11:29:00Z", "2026-01-05T11:30:00Z"),
            ("0 0 * * mon", "+14:00", "2026-01-03T00:00:00Z", "2026-01-04T10:00:00Z"),
            ("0 23 29 2 *", "-10:00", "2028-02-29T00:00:00Z", "2028-03-01T09:00:00Z"),
            ("30 0 1 1 *", "+01:00", "2026-12-31T23:29:00Z", "2026-12-31T23:30:00Z"),
            // words
            ("@hourly", "UTC", "2026-01-05T12:00:00Z", "2026-01-05T13:00:00Z"),
            ("@daily", "UTC", "2026-01-05T12:00:00Z", "2026-01-06T00:00:00Z"),
            ("@weekly", "UTC", "2026-01-05T12:00:00Z", "2026-01-11T00:00:00Z"),
            ("@monthly", "UTC", "2026-01-05T12:00:00Z", "2026-02-01T00:00:00Z"),
            ("@midnight", "UTC", "2026-01-05T12:00:00Z", "2026-01-06T00:00:00Z"),
            ("@Yearly", "UTC", "2026-01-05T12:00:00Z", "2027-01-01T00:00:00Z"),
            ("@annually", "UTC", "2026-01-05T12:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let cron: Cron = line.parse().expect(line);
            let offset: Offset = offset.parse().expect(offset);
            assert_eq!(cron.after(ms(from), offset).map(shown).as_deref(), Some(expected), "{line} {offset} {from}");
        }
    }

    #[test]
    fn before_1970_and_at_the_end_of_the_calendar_nothing_panics() {
        let cron: Cron = "0 0 1 1 *".parse().expect("a line");
        assert_eq!(cron.after(-1, Offset::default()), Some(0));
        for moment in [i64::MIN, i64::MAX, 253_402_300_799_000] {
            let _ = cron.after(moment, Offset { minutes: OFFSET_MAX });
        }
    }

    #[test]
    fn what_names_no_time() {
        for bad in [
            "",
            "*",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 0 *",
            "* * * 13 *",
            "* * * * 8",
            "-1 * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "*/60 * * * *",
            "a * * * *",
            "* * * mon *",
            "* * * * jan",
            "1, * * * *",
            ",1 * * * *",
            "1-2-3 * * * *",
            "1//2 * * * *",
            "+1 * * * *",
            "001 * * * *",
            "0 0 30 2 *",
            "0 0 31 4,6,9,11 *",
            "@reboot",
            "@every 5m",
            "* * L * *",
            "* * * * 1#2",
            "ä * * * *",
        ] {
            assert!(bad.parse::<Cron>().is_err(), "{bad:?}");
        }
        assert!(format!("{} * * * *", "1,".repeat(LINE_MAX)).parse::<Cron>().is_err());
        assert_eq!(" 0  6 *\t* MON ".parse::<Cron>().map(|c| c.to_string()).as_deref(), Ok("0 6 * * mon"));
    }

    #[test]
    fn distances_from_utc() {
        for (text, expected) in
            [("UTC", "+00:00"), ("Z", "+00:00"), ("+02:00", "+02:00"), ("-05:30", "-05:30"), ("+14:00", "+14:00")]
        {
            assert_eq!(text.parse::<Offset>().map(|o| o.to_string()).as_deref(), Ok(expected));
        }
        for bad in ["", "+", "02:00", "+2:00", "+02", "+02:60", "+14:01", "+15:00", "Europe/Berlin", "+0a:00", "é02:00"]
        {
            assert!(bad.parse::<Offset>().is_err(), "{bad:?}");
        }
    }
}
