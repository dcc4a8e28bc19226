//! When a rule holds: days of the week and hours of the day, at a fixed distance from UTC. No time zones by name: their rules change, and
//! a rule that holds an hour longer twice a year is not what somebody wrote down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A time window. The end is not in it; where it is not after the start it is on the next day, which counts as the day it began on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Seconds of the day.
    start: i64,
    end: i64,
    /// From Monday.
    days: [bool; 7],
    /// Seconds to the east of UTC.
    offset: i64,
}

// === impl Window ===

impl Window {
    /// From what the file says; absent hours are the whole day, absent days are all, an absent offset is UTC.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(super) fn parse(
        hours: Option<&str>,
        days: Option<&[String]>,
        offset: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let (start, end) = match hours {
            None => (0, DAY),
            Some(text) => parse_hours(text).ok_or_else(|| {
                let wanted = "it must be like \"08:00-18:00\"; the end is not in it, and is not the start";
                ("hours", format!("{text:?} is no window: {wanted}"))
            })?,
        };
        let days = match days {
            None => [true; 7],
            Some([]) => return Err(("days", "no day is named, so that the rule never holds".to_owned())),
            Some(days) => {
                let mut named = [false; 7];
                for text in days {
                    let wanted = || format!("{text:?} is no day: write mon, tue, wed, thu, fri, sat, sun, or mon-fri");
                    name_days(text, &mut named).ok_or_else(|| ("days", wanted()))?;
                }
                named
            }
        };
        let offset = match offset {
            None => 0,
            Some(text) => parse_offset(text).ok_or_else(|| {
                ("utc_offset", format!("{text:?} is no distance from UTC: it must be like \"+02:00\""))
            })?,
        };
        Ok(Self { start, end, days, offset })
    }

    /// Whether that time is in it.
    pub(super) fn holds(&self, now: SystemTime) -> bool {
        self.holds_at(seconds(now).saturating_add(self.offset))
    }

    /// How long it still holds from a moment on at which it does; `None`: for ever.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        let from = seconds(now).saturating_add(self.offset);
        let midnight = from - from.rem_euclid(DAY);
        // it changes at these moments only, and within a week if ever
        let mut changes: Vec<i64> = (0..=8)
            .flat_map(|day| [0, self.start, self.end].map(|second| midnight + day * DAY + second))
            .filter(|moment| *moment > from)
            .collect();
        changes.sort_unstable();
        let end = changes.into_iter().find(|moment| !self.holds_at(*moment))?;
        Some(Duration::from_secs(u64::try_from(end - from).unwrap_or(0)))
    }

    /// By the clock of its own place.
    fn holds_at(&self, local: i64) -> bool {
        let (day, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        // the first of January 1970 was a Thursday
        let named = |day: i64| self.days[(day + 3).rem_euclid(7) as usize];
        if self.start < self.end {
            named(day) && (self.start..self.end).contains(&second)
        } else {
            (named(day) && second >= self.start) || (named(day - 1) && second < self.end)
        }
    }
}

/// Whole seconds since 1970.
fn seconds(now: SystemTime) -> i64 {
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX - 16 * DAY),
        // before 1970, whole seconds down; a clock that far off is none anyway
        Err(e) => -i64::try_from(e.duration().as_secs()).unwrap_or(i64::MAX - 16 * DAY) - 1,
    }
}

fn parse_hours(text: &str) -> Option<(i64, i64)> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (clock(start)?, clock(end)?);
    (start != end && start < DAY).then_some((start, end))
}

/// `HH:MM`, to 24:00.
fn clock(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let two =
        |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<i64>().ok())?;
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let seconds = hours * 60 * MINUTE + minutes * MINUTE;
    (minutes < 60 && seconds <= DAY).then_some(seconds)
}

fn name_days(text: &str, named: &mut [bool; 7]) -> Option<()> {
    let find = |name: &str| DAYS.iter().position(|day| *day == name);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (find(first)?, find(last)?),
        None => (find(text)?, find(text)?),
    };
    let mut day = first;
    loop {
        named[day] = true;
        if day == last {
            return Some(());
        }
        day = (day + 1) % 7;
    }
}

fn parse_offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "UTC") {
        return Some(0);
    }
    let (sign, rest) = if let Some(rest) = text.strip_prefix('+') { (1, rest) } else { (-1, text.strip_prefix('-')?) };
    // no place is further away
    clock(rest).filter(|seconds| *seconds <= 14 * 60 * MINUTE).map(|seconds| sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday, 5 January 2026, 00:00 UTC.
    const MONDAY: u64 = 1_767_571_200;

    fn at(day: u64, hour: u64, minute: u64, second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(MONDAY + day * 86_400 + hour * 3600 + minute * 60 + second)
    }
    fn window(hours: &str, days: &[&str], offset: &str) -> Window {
        let days: Vec<String> = days.iter().map(|d| (*d).to_owned()).collect();
        Window::parse(Some(hours), Some(&days), Some(offset)).unwrap()
    }

    #[test]
    fn how_long_a_window_still_holds() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let of_days = window("08:00-18:00", &["mon-fri"], "+00:00");
        assert_eq!(of_days.left(at(0, 8, 0, 0)), hours(10));
        assert_eq!(of_days.left(at(4, 17, 59, 59)), Some(Duration::from_secs(1)));
        // over midnight, and over days that follow each other
        assert_eq!(window("22:00-06:00", &["mon"], "+00:00").left(at(0, 23, 0, 0)), hours(7));
        assert_eq!(window("22:00-06:00", &["mon"], "+02:00").left(at(0, 20, 0, 0)), hours(8));
        let whole = |days: &[&str]| {
            let days: Vec<String> = days.iter().map(|d| (*d).to_owned()).collect();
            Window::parse(None, Some(&days), None).unwrap()
        };
        assert_eq!(whole(&["fri", "sat"]).left(at(4, 1, 0, 0)), hours(47));
        assert_eq!(whole(&["mon-sun"]).left(at(4, 1, 0, 0)), None);
        assert_eq!(window("00:00-24:00", &["sun", "mon"], "+00:00").left(at(6, 0, 0, 0)), hours(48));
    }

    #[test]
    fn both_sides_of_a_window() {
        let it = window("08:00-18:00", &["mon-fri"], "+00:00");
        for (day, hour, minute, second, expected) in [
            (0, 7, 59, 59, false),
            (0, 8, 0, 0, true),
            (4, 17, 59, 59, true),
            (4, 18, 0, 0, false),
            (5, 12, 0, 0, false),
            (6, 12, 0, 0, false),
            (7, 12, 0, 0, true),
        ] {
            assert_eq!(it.holds(at(day, hour, minute, second)), expected, "{day} {hour}:{minute}:{second}");
        }
    }

    #[test]
    fn across_midnight_it_is_the_day_it_began_on() {
        let it = window("22:00-06:00", &["fri"], "UTC");
        for (day, hour, expected) in
            [(4, 21, false), (4, 22, true), (5, 5, true), (5, 6, false), (5, 22, false), (4, 5, false)]
        {
            assert_eq!(it.holds(at(day, hour, 0, 0)), expected, "{day} {hour}");
        }
        let it = window("22:00-00:00", &["fri"], "UTC");
        assert!(it.holds(at(4, 23, 59, 59)) && !it.holds(at(5, 0, 0, 0)));
        let it = window("22:00-24:00", &["fri"], "UTC");
        assert!(it.holds(at(4, 23, 59, 59)) && !it.holds(at(5, 0, 0, 0)));
    }

    #[test]
    fn the_offset_moves_the_day_too() {
        let it = window("00:00-02:00", &["tue"], "+02:00");
        assert!(it.holds(at(0, 22, 0, 0)) && it.holds(at(0, 23, 59, 59)));
        assert!(!it.holds(at(0, 21, 59, 59)) && !it.holds(at(1, 0, 0, 0)));
        let it = window("23:00-24:00", &["sun"], "-05:30");
        assert!(it.holds(at(0, 4, 30, 0)) && !it.holds(at(0, 5, 30, 0)));
    }

    #[test]
    fn days_go_around_the_week() {
        let it = Window::parse(None, Some(&["sat-mon".to_owned()]), None).unwrap();
        let held: Vec<bool> = (0..7).map(|day| it.holds(at(day, 12, 0, 0))).collect();
        assert_eq!(held, [true, false, false, false, false, true, true]);
    }

    #[test]
    fn times_before_1970_do_not_panic() {
        let it = window("00:00-24:00", &["wed"], "UTC");
        assert!(it.holds(UNIX_EPOCH - Duration::from_secs(60)));
        assert!(!it.holds(UNIX_EPOCH));
    }

    #[test]
    fn what_is_no_window() {
        for bad in [
            "",
            "8:00-18:00",
            "08:00",
            "08:00-08:00",
            "08:60-09:00",
            "25:00-26:00",
            "24:00-08:00",
            "00:00-00:00",
            "a-b",
            "08:00-18:00 ",
        ] {
            assert!(Window::parse(Some(bad), None, None).is_err(), "{bad}");
        }
        for bad in ["", "monday", "Mon", "mon-", "mon-fri-sat"] {
            assert!(Window::parse(None, Some(&[bad.to_owned()]), None).is_err(), "{bad}");
        }
        assert!(Window::parse(None, Some(&[]), None).is_err());
        for bad in ["", "02:00", "+2", "+15:00", "Europe/Berlin"] {
            assert!(Window::parse(None, None, Some(bad)).is_err(), "{bad}");
        }
    }
}
