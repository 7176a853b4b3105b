//! Hours of every day: "each night 22-04 last week", `hours` and `weekdays`; and weeks and months as periods.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::{ToSpan, Zoned};

use super::text::Text;
use super::{DAY, LAST_WEEK, Part, Seconds, WhenError, bare_hour, clock_of, moment, shift, zone};
use crate::hub::catalog::TimeRange;
use crate::limits::SEARCH_WINDOWS_MAX;

/// First and last day.
type Days = (Date, Date);

const EACH: &[(&[&str], Option<Part>)] = &[
    (&["dem"], Some(Part::Night)),
    (&["night"], Some(Part::Night)),
    (&["toi"], Some(Part::Evening)),
    (&["evening"], Some(Part::Evening)),
    (&["buoi", "sang"], Some(Part::Morning)),
    (&["sang"], Some(Part::Morning)),
    (&["morning"], Some(Part::Morning)),
    (&["trua"], Some(Part::Noon)),
    (&["noon"], Some(Part::Noon)),
    (&["chieu"], Some(Part::Afternoon)),
    (&["afternoon"], Some(Part::Afternoon)),
    (&["ngay"], None),
    (&["day"], None),
];

/// "mỗi đêm 22–04h tuần trước". None: nothing is said of every day.
pub fn each(text: &Text, now: &Zoned) -> Option<Result<Vec<TimeRange>, WhenError>> {
    let mut rest = text.clone();
    let part = take_each(&mut rest)?;
    Some(each_of(rest, part, now))
}

fn take_each(text: &mut Text) -> Option<Option<Part>> {
    for (words, part) in EACH {
        for each in ["moi", "hang", "tung", "each", "every"] {
            let phrase: Vec<&str> = std::iter::once(each).chain(words.iter().copied()).collect();
            if text.take(&phrase) {
                return Some(*part);
            }
        }
    }
    if text.take(&["nightly"]) {
        return Some(Some(Part::Night));
    }
    text.take(&["daily"]).then_some(None)
}

fn each_of(mut rest: Text, part: Option<Part>, now: &Zoned) -> Result<Vec<TimeRange>, WhenError> {
    let today = now.date();
    let (first, last) = match period(&mut rest, now) {
        Some(days) => days,
        None => (today - 7.days(), today - 1.day()),
    };
    rest.drop_words(&[
        "tu", "from", "luc", "at", "trong", "in", "during", "between", "khoang", "cua", "the", "of",
    ]);
    let (from, to) = if rest.is_empty() {
        part.map_or((0, DAY), Part::hours)
    } else {
        let (left, right) = rest.split_range().ok_or(WhenError::NotUnderstood)?;
        let read = |text: &Text| clock_of(text, part).or_else(|| bare_hour(text)).map(|at| shift(at, part));
        let (Some(from), Some(to)) = (read(&left), read(&right)) else {
            return Err(WhenError::NotUnderstood);
        };
        (from, if to > from { to } else { to + DAY })
    };
    if first > last {
        return Err(WhenError::Backwards);
    }
    let mut windows = Vec::new();
    let mut date = first;
    // One more than may be: the caller says that it is too many.
    while date <= last && windows.len() <= SEARCH_WINDOWS_MAX {
        let window = TimeRange { from: moment(date, from), to: moment(date, to) };
        if window.from <= now.timestamp() {
            windows.push(window);
        }
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    if windows.is_empty() {
        return Err(WhenError::Future);
    }
    Ok(joined(windows))
}

/// Takes a period out of the text: a week, a month, "3 ngày qua", "10/11 - 15/11".
fn period(text: &mut Text, now: &Zoned) -> Option<Days> {
    let today = now.date();
    let monday = today - i64::from(today.weekday().to_monday_zero_offset()).days();
    if LAST_WEEK.iter().any(|words| text.take(words)) {
        return Some((monday - 7.days(), monday - 1.day()));
    }
    if text.take(&["tuan", "nay"]) || text.take(&["this", "week"]) {
        return Some((monday, today));
    }
    if text.take(&["thang", "truoc"]) || text.take(&["thang", "qua"]) || text.take(&["last", "month"]) {
        let last = today.first_of_month() - 1.day();
        return Some((last.first_of_month(), last));
    }
    if text.take(&["thang", "nay"]) || text.take(&["this", "month"]) {
        return Some((today.first_of_month(), today));
    }
    if let Some(days) = text.take_dates(today) {
        return Some(days);
    }
    // No longer than a search may be, and then the limit says so.
    for count in 1..=(SEARCH_WINDOWS_MAX as i64) {
        let number = count.to_string();
        let n = number.as_str();
        let phrases: [&[&str]; 10] = [
            &[n, "ngay", "qua"],
            &[n, "ngay", "truoc"],
            &[n, "ngay", "gan", "day"],
            &[n, "dem", "qua"],
            &[n, "dem", "truoc"],
            &["last", n, "days"],
            &["last", n, "nights"],
            &["past", n, "days"],
            &["past", n, "nights"],
            &[n, "toi", "qua"],
        ];
        if phrases.iter().any(|words| text.take(words)) {
            return Some((today - count.days(), today - 1.day()));
        }
    }
    None
}

/// "tuần trước", "last month", "10/11 - 15/11": a whole period, up to now.
pub fn period_alone(text: &Text, now: &Zoned) -> Option<TimeRange> {
    let mut rest = text.clone();
    rest.drop_words(&["tu", "from", "trong", "in", "ngay"]);
    let (first, last) = period(&mut rest, now)?;
    if !rest.is_empty() || first > last || moment(first, 0) > now.timestamp() {
        return None;
    }
    Some(TimeRange { from: moment(first, 0), to: moment(last, DAY).min(now.timestamp()) })
}

/// What of `windows` lies in the hours of those days; a window that goes past midnight belongs to the day on which it
/// begins. At most one more than [`SEARCH_WINDOWS_MAX`].
pub fn repeated(
    windows: &[TimeRange],
    hours: Option<(Seconds, Seconds)>,
    weekdays: Option<&BTreeSet<i8>>,
) -> Vec<TimeRange> {
    let (from, to) = hours.unwrap_or((0, DAY));
    let mut all = Vec::new();
    for window in windows {
        // The hours of the day before may reach into the window.
        let mut date = window.from.to_zoned(zone()).date() - 1.day();
        while moment(date, from) < window.to && all.len() <= SEARCH_WINDOWS_MAX {
            let day = date.weekday().to_monday_zero_offset();
            let (start, end) = (moment(date, from).max(window.from), moment(date, to).min(window.to));
            if start < end && weekdays.is_none_or(|days| days.contains(&day)) {
                all.push(TimeRange { from: start, to: end });
            }
            let Ok(next) = date.tomorrow() else { break };
            date = next;
        }
    }
    joined(all)
}

/// Joins windows that touch or overlap.
fn joined(mut windows: Vec<TimeRange>) -> Vec<TimeRange> {
    windows.sort_by_key(|w| (w.from, w.to));
    let mut joined: Vec<TimeRange> = Vec::with_capacity(windows.len());
    for window in windows {
        match joined.last_mut() {
            Some(last) if window.from <= last.to => last.to = last.to.max(window.to),
            _ => joined.push(window),
        }
    }
    joined
}
