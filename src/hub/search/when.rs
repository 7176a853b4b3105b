//! Time as people type it, in Vietnamese or English, understood as windows; and windows said in words.
//!
//! Owns the grammar. One zone for everybody, Asia/Ho_Chi_Minh; the present is an argument. The console understands the
//! same texts by a parser of its own: both are held to `tests/data/time-expressions.json`. Marks and accents do not
//! count. Rules where people differ:
//!
//! - A single moment means ten minutes on both sides, unless "± …" says how many.
//! - Without a day, a time that is still to come today is yesterday's.
//! - A night belongs to the day on which it begins: "đêm qua 1h" is this morning.
//! - "2 giờ trước" and "last 2 hours" are the two hours before now.
//! - Weeks begin on Monday; "thứ 2 tuần trước" is the Monday of the week before this one, "thứ 2" the last Monday.
//! - "mỗi đêm", "each day": every day of the period that is named, else the seven days before today.
//!
//! May not know what is searched.

mod repeat;
mod text;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jiff::civil::{Date, Time as Clock, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, ToSpan, Zoned};
use serde::Serialize;
use utoipa::ToSchema;

pub use repeat::repeated;
use text::{Text, Token};

use crate::hub::catalog::TimeRange;
use crate::model::Time;

/// The zone in which people of the wards read a clock.
pub const ZONE: &str = "Asia/Ho_Chi_Minh";

/// The zone, also where the machine has no table of zones: since 1975 it is UTC+7 all year.
pub fn zone() -> TimeZone {
    static CACHED: LazyLock<TimeZone> =
        LazyLock::new(|| TimeZone::get(ZONE).unwrap_or_else(|_| TimeZone::fixed(Offset::constant(7))));
    CACHED.clone()
}

/// A sentence in both languages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Words {
    pub vi: String,
    pub en: String,
}

/// Why a text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    #[error("say a time, for instance \"tối qua 21-23h\" or \"22:15 ± 20p\"")]
    Empty,
    #[error(
        "not understood as a time; write for instance \"20/11/2026 21:00 - 23:00\", \"tối qua 21-23h\", \
         \"22:15 ± 20p\", \"2 giờ trước\" or \"mỗi đêm 22-04h tuần trước\""
    )]
    NotUnderstood,
    #[error("it ends before it begins; exchange the two times")]
    Backwards,
    #[error("it lies in the future; nothing is recorded yet")]
    Future,
}

impl WhenError {
    /// As in the table that hub and console share.
    pub fn code(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotUnderstood => "not_understood",
            Self::Backwards => "backwards",
            Self::Future => "future",
        }
    }
}

/// Seconds from a midnight, which may lie beyond the next one.
type Seconds = i64;

const MINUTE: Seconds = 60;
const HOUR: Seconds = 3600;
const DAY: Seconds = 86_400;
/// On both sides of a single moment.
const AROUND: Seconds = 10 * MINUTE;

/// A part of the day that people name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Dawn,
    Morning,
    Noon,
    Afternoon,
    Evening,
    Night,
}

impl Part {
    fn hours(self) -> (Seconds, Seconds) {
        let (from, to) = match self {
            Self::Dawn => (0, 6),
            Self::Morning => (5, 11),
            Self::Noon => (11, 14),
            Self::Afternoon => (13, 18),
            Self::Evening => (18, 23),
            Self::Night => (22, 29),
        };
        (from * HOUR, to * HOUR)
    }
}

/// A time of day as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    seconds: Seconds,
    /// With am or pm, 13 or more, or 0: no part of the day may move it.
    is_sure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Day {
    date: Date,
    part: Option<Part>,
    /// Somebody named it; else today was assumed.
    is_named: bool,
}

/// The windows that the text means at `now`: by time, without overlap, at least one.
pub fn understand(text: &str, now: Time) -> Result<Vec<TimeRange>, WhenError> {
    let text = Text::of(text);
    if text.is_empty() {
        return Err(WhenError::Empty);
    }
    let now = now.to_zoned(zone());
    if let Some(windows) = repeat::each(&text, &now) {
        return windows;
    }
    if let Some(range) = last(&text, &now) {
        return Ok(vec![range]);
    }
    if let Some(period) = repeat::period_alone(&text, &now) {
        return Ok(vec![period]);
    }
    Ok(vec![span(&text, &now)?])
}

/// Seconds of a unit's name.
fn unit(word: &str) -> Option<Seconds> {
    match word {
        "s" | "giay" | "sec" | "secs" | "second" | "seconds" => Some(1),
        "p" | "ph" | "phut" | "m" | "min" | "mins" | "minute" | "minutes" => Some(MINUTE),
        "h" | "g" | "gio" | "tieng" | "hour" | "hours" | "hr" | "hrs" => Some(HOUR),
        "d" | "ngay" | "day" | "days" => Some(DAY),
        "tuan" | "week" | "weeks" => Some(7 * DAY),
        _ => None,
    }
}

/// "15 phút qua", "1h30 qua", "nửa giờ qua", "2 giờ trước", "last 15 min", "last hour".
fn last(text: &Text, now: &Zoned) -> Option<TimeRange> {
    let mut body = text.clone();
    let tails: [&[&str]; 6] =
        [&["vua", "qua"], &["vua", "roi"], &["gan", "day"], &["qua"], &["truoc"], &["ago"]];
    let heads: [&[&str]; 6] =
        [&["in", "the", "last"], &["the", "last"], &["trong", "vong"], &["trong"], &["last"], &["past"]];
    let had_tail = tails.iter().any(|tail| body.strip_end(tail));
    let had_head = heads.iter().any(|head| body.strip_start(head));
    if !had_tail && !had_head {
        return None;
    }
    use Token::{Number, Word};
    let seconds = match body.tokens() {
        [Word(half), Word(u)] if half == "nua" || half == "half" => unit(u)? / 2,
        [Word(u)] if unit(u).is_some_and(|s| (MINUTE..=DAY).contains(&s)) && had_head => unit(u)?,
        [Number(n), Word(u)] => n.value * unit(u)?,
        [Number(n), Token::Symbol(',' | '.'), Number(tenths), Word(u)] if tenths.digits == 1 => {
            n.value * unit(u)? + tenths.value * unit(u)? / 10
        }
        [Number(h), Word(u), Word(half)] if half == "ruoi" => h.value * unit(u)? + unit(u)? / 2,
        [Number(h), Word(u), Number(m)] | [Number(h), Word(u), Number(m), Word(_)]
            if unit(u) == Some(HOUR) =>
        {
            h.value * HOUR + m.value * MINUTE
        }
        _ => return None,
    };
    if seconds <= 0 {
        return None;
    }
    let to = now.timestamp();
    let from = to.checked_sub(SignedDuration::from_secs(seconds)).ok()?;
    Some(TimeRange { from, to })
}

/// A day, a part of a day, clock times, or a mixture.
fn span(text: &Text, now: &Zoned) -> Result<TimeRange, WhenError> {
    if let Some((moment, around)) = text.split_around() {
        return moment_around(&moment, around, now);
    }
    let Some((left, right)) = text.split_range() else {
        return moment_around(text, AROUND, now);
    };
    let not_understood = WhenError::NotUnderstood;
    let (mut first, left) = day_of(left, now).ok_or(not_understood)?;
    let (second, right) = day_of(right, now).ok_or(not_understood)?;
    if first.part.is_none() {
        first.part = second.part;
    }
    let part_of_second = second.part.or(first.part);
    let a = clock_of(&left, first.part).or_else(|| bare_hour(&left));
    let b = clock_of(&right, part_of_second).or_else(|| bare_hour(&right));
    if let (Some(a), true) = (a, right.is_now()) {
        return until_now(first, shift(a, first.part), now);
    }
    let midnight = |seconds| Some(At { seconds, is_sure: true });
    let mut a = a.or_else(|| if left.is_empty() && first.is_named { midnight(0) } else { None });
    let b = b.or_else(|| if right.is_empty() && second.is_named { midnight(DAY) } else { None });
    // "9-11 pm": said once, at the end.
    if let (Some(from), Some(to)) = (&mut a, b)
        && right.ends_with("pm")
        && !left.ends_with("pm")
        && !left.ends_with("am")
        && from.seconds < 12 * HOUR
        && from.seconds + 12 * HOUR < to.seconds
    {
        *from = At { seconds: from.seconds + 12 * HOUR, is_sure: true };
    }
    let (Some(a), Some(b)) = (a, b) else { return Err(not_understood) };
    let mut day = first;
    if second.is_named && !first.is_named {
        (day.date, day.is_named) = (second.date, true);
    }
    let from = shift(a, day.part);
    let are_both_named = first.is_named && second.is_named;
    let to = if are_both_named {
        let days = Seconds::from((second.date - first.date).get_days());
        days * DAY + shift(b, second.part)
    } else {
        let to = shift(b, day.part);
        if to <= from { to + DAY } else { to }
    };
    finish(day, from, to, now, are_both_named)
}

/// "từ 23h đến nay": at most a day.
fn until_now(mut day: Day, from: Seconds, now: &Zoned) -> Result<TimeRange, WhenError> {
    if !day.is_named && moment(day.date, from) > now.timestamp() {
        day.date -= 1.day();
    }
    day.is_named = true;
    let since_midnight = now.timestamp().duration_since(moment(day.date, 0)).as_secs();
    finish(day, from, since_midnight.min(from + DAY), now, true)
}

/// A single moment with some time on both sides, or a whole day or part of one.
fn moment_around(text: &Text, around: Seconds, now: &Zoned) -> Result<TimeRange, WhenError> {
    let not_understood = WhenError::NotUnderstood;
    let mut text = text.clone();
    let is_open = ["tu", "from", "since", "sau"].iter().any(|word| text.strip_start(&[word]));
    let (day, rest) = day_of(text, now).ok_or(not_understood)?;
    if rest.is_empty() {
        if !day.is_named {
            return Err(not_understood);
        }
        let (from, to) = day.part.map_or((0, DAY), Part::hours);
        return finish(day, from, to, now, true);
    }
    let at = shift(clock_of(&rest, day.part).ok_or(not_understood)?, day.part);
    if is_open {
        return until_now(day, at, now);
    }
    finish(day, at - around, at + around, now, false)
}

/// Turns a day and offsets into a range. Without a named day, a time still to come means yesterday's.
fn finish(
    mut day: Day,
    from: Seconds,
    to: Seconds,
    now: &Zoned,
    is_exact: bool,
) -> Result<TimeRange, WhenError> {
    if !day.is_named && !is_exact && moment(day.date, from) > now.timestamp() {
        day.date -= 1.day();
    }
    if to <= from {
        return Err(WhenError::Backwards);
    }
    let range = TimeRange { from: moment(day.date, from), to: moment(day.date, to) };
    if range.from > now.timestamp() {
        return Err(WhenError::Future);
    }
    Ok(range)
}

/// So many seconds from a day's midnight.
fn moment(date: Date, seconds: Seconds) -> Time {
    let midnight = date.to_zoned(zone()).map_or(Time::MAX, |z| z.timestamp());
    midnight.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Time::MAX)
}

/// Moves a bare hour into the named part of the day: "tối 9h" is 21:00, "đêm 1h" the morning after.
fn shift(at: At, part: Option<Part>) -> Seconds {
    let seconds = at.seconds;
    if part == Some(Part::Night) && seconds < 6 * HOUR {
        return seconds + DAY;
    }
    if at.is_sure {
        return seconds;
    }
    let is_in = |from: Seconds, to: Seconds| (from * HOUR..to * HOUR).contains(&seconds);
    match part {
        Some(Part::Evening | Part::Night) if is_in(5, 13) => seconds + 12 * HOUR,
        Some(Part::Afternoon) if is_in(1, 8) => seconds + 12 * HOUR,
        Some(Part::Noon) if is_in(1, 4) => seconds + 12 * HOUR,
        _ => seconds,
    }
}

/// "8h", "8h30", "8 giờ rưỡi", "8:30:15", "9pm", "9h tối". A bare number is a clock only with a part of the day.
fn clock_of(text: &Text, part: Option<Part>) -> Option<At> {
    use Token::{Number, Symbol, Word};
    let mut tokens = text.tokens();
    let mut half = None;
    if let [rest @ .., Word(word)] = tokens
        && (word == "am" || word == "pm")
    {
        (tokens, half) = (rest, Some(word.as_str()));
    }
    let is_hour = |word: &str| matches!(word, "h" | "g" | "gio");
    let is_minute = |word: &str| matches!(word, "p" | "ph" | "phut");
    let (hour, minute, second) = match tokens {
        [Number(h)] if half.is_some() || part.is_some() => (h, 0, 0),
        [Number(h), Word(w)] if is_hour(w) => (h, 0, 0),
        [Number(h), Word(w), Word(ruoi)] if is_hour(w) && ruoi == "ruoi" => (h, 30, 0),
        [Number(h), Word(w), Number(m)] if is_hour(w) => (h, m.value, 0),
        [Number(h), Word(w), Number(m), Word(p)] if is_hour(w) && is_minute(p) => (h, m.value, 0),
        [Number(h), Word(w), Word(kem), Number(m)] if is_hour(w) && kem == "kem" && m.value < 60 => {
            (h, -m.value, 0)
        }
        [Number(h), Symbol(':' | '.'), Number(m)] => (h, m.value, 0),
        [Number(h), Symbol(':' | '.'), Number(m), Symbol(':' | '.'), Number(s)] => (h, m.value, s.value),
        _ => return None,
    };
    if hour.digits > 2 || hour.value > 24 || minute > 59 || second > 59 {
        return None;
    }
    let hours = match (half, hour.value) {
        (Some("pm"), h) if h < 12 => h + 12,
        (Some("am"), 12) => 0,
        (_, h) => h,
    };
    let seconds = hours * HOUR + minute * MINUTE + second;
    (0..=DAY)
        .contains(&seconds)
        .then_some(At { seconds, is_sure: half.is_some() || hours >= 13 || hours == 0 })
}

/// "21-23h": the unit is written once, at the end.
fn bare_hour(text: &Text) -> Option<At> {
    match text.tokens() {
        [Token::Number(h)] if h.digits <= 2 && h.value <= 24 => {
            Some(At { seconds: h.value * HOUR, is_sure: h.value >= 13 || h.value == 0 })
        }
        _ => None,
    }
}

const PARTS: &[(&[&str], Part)] = &[
    (&["rang", "sang"], Part::Dawn),
    (&["early", "morning"], Part::Dawn),
    (&["dawn"], Part::Dawn),
    (&["buoi", "sang"], Part::Morning),
    (&["sang"], Part::Morning),
    (&["morning"], Part::Morning),
    (&["buoi", "trua"], Part::Noon),
    (&["trua"], Part::Noon),
    (&["noon"], Part::Noon),
    (&["buoi", "chieu"], Part::Afternoon),
    (&["chieu"], Part::Afternoon),
    (&["afternoon"], Part::Afternoon),
    (&["buoi", "toi"], Part::Evening),
    (&["toi"], Part::Evening),
    (&["evening"], Part::Evening),
    (&["tonight"], Part::Evening),
    (&["ban", "dem"], Part::Night),
    (&["dem"], Part::Night),
    (&["night"], Part::Night),
];

const WEEKDAYS: &[(&[&str], Weekday)] = &[
    (&["chu", "nhat"], Weekday::Sunday),
    (&["cn"], Weekday::Sunday),
    (&["sunday"], Weekday::Sunday),
    (&["thu", "hai"], Weekday::Monday),
    (&["thu", "2"], Weekday::Monday),
    (&["monday"], Weekday::Monday),
    (&["thu", "ba"], Weekday::Tuesday),
    (&["thu", "3"], Weekday::Tuesday),
    (&["tuesday"], Weekday::Tuesday),
    (&["thu", "tu"], Weekday::Wednesday),
    (&["thu", "4"], Weekday::Wednesday),
    (&["wednesday"], Weekday::Wednesday),
    (&["thu", "nam"], Weekday::Thursday),
    (&["thu", "5"], Weekday::Thursday),
    (&["thursday"], Weekday::Thursday),
    (&["thu", "sau"], Weekday::Friday),
    (&["thu", "6"], Weekday::Friday),
    (&["friday"], Weekday::Friday),
    (&["thu", "bay"], Weekday::Saturday),
    (&["thu", "7"], Weekday::Saturday),
    (&["saturday"], Weekday::Saturday),
];

const LAST_WEEK: &[&[&str]] =
    &[&["tuan", "truoc"], &["tuan", "vua", "qua"], &["tuan", "qua"], &["last", "week"]];
const FILLERS: &[&str] = &[
    "luc", "vao", "vao luc", "ngay", "at", "from", "tu", "between", "in", "the", "on", "of", "khoang",
    "around", "about", "qua",
];

/// Takes the words that name a day out of the text; what is left should be a clock time. None: no such date.
fn day_of(mut text: Text, now: &Zoned) -> Option<(Day, Text)> {
    let today = now.date();
    let mut day = Day { date: today, part: None, is_named: false };
    // "đến nay": the word alone is the present, not today.
    let (is_tonight, is_now) = (text.has(&["tonight"]), text.is_now());
    match text.take_date(today) {
        Some(Ok(date)) => (day.date, day.is_named) = (date, true),
        Some(Err(())) => return None,
        None if text.take(&["hom", "kia"]) || text.take(&["day", "before", "yesterday"]) => {
            (day.date, day.is_named) = (today - 2.days(), true);
        }
        None => {}
    }
    // "thứ tư" and "thứ bảy" before parts: no word of them is one.
    let weekday =
        if day.is_named { None } else { WEEKDAYS.iter().find(|(w, _)| text.take(w)).map(|(_, d)| *d) };
    day.part = PARTS.iter().find(|(words, _)| text.take(words)).map(|(_, part)| *part);
    if let Some(weekday) = weekday {
        let monday = today - i64::from(today.weekday().to_monday_zero_offset()).days();
        let of_week = i64::from(weekday.to_monday_zero_offset()).days();
        let was_last_week = LAST_WEEK.iter().any(|words| text.take(words));
        let is_this_week = text.take(&["tuan", "nay"]) || text.take(&["this", "week"]);
        text.take(&["truoc"]);
        text.take(&["last"]);
        let this = monday + of_week;
        let this = if this > today && !is_this_week { this - 7.days() } else { this };
        (day.date, day.is_named) = (if was_last_week { monday - 7.days() + of_week } else { this }, true);
    } else if !day.is_named {
        let yesterday: [&[&str]; 4] = [&["hom", "qua"], &["yesterday"], &["qua"], &["last"]];
        let present: [&[&str]; 4] = [&["hom", "nay"], &["today"], &["nay"], &["this"]];
        if !is_now {
            if yesterday.iter().any(|words| text.take(words)) {
                (day.date, day.is_named) = (today - 1.day(), true);
            } else if present.iter().any(|words| text.take(words)) || is_tonight {
                day.is_named = true;
            }
        }
    }
    // "đêm nay" said at 02:00 means the night one is in.
    let is_small_hours = now.time() < Clock::constant(6, 0, 0, 0);
    if day.part == Some(Part::Night) && day.is_named && day.date == today && is_small_hours {
        day.date = today - 1.day();
    }
    text.drop_words(FILLERS);
    if day.part.is_some() && !day.is_named {
        day.is_named = text.is_empty();
    }
    Some((day, text))
}

/// "22:00-04:00": from and to as seconds of a day; past midnight where the second is not later.
pub fn hours(text: &str) -> Result<(Seconds, Seconds), String> {
    let wrong = || format!("{text:?}: write for instance \"22:00-04:00\"");
    let read = |text: &str| -> Option<Seconds> {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
        let is_time = (0..=24).contains(&hour) && (0..60).contains(&minute) && hour * 60 + minute <= 1440;
        is_time.then_some(hour * HOUR + minute * MINUTE)
    };
    let text_ = text.replace(['–', '—', '−'], "-");
    let (from, to) = text_.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (read(from).ok_or_else(wrong)?, read(to).ok_or_else(wrong)?);
    if from == to {
        return Err(format!("{text:?}: the two times are the same; for whole days leave it away"));
    }
    Ok((from, if to > from { to } else { to + DAY }))
}

/// "mon", "tue" …
pub fn weekdays(names: &[String]) -> Result<BTreeSet<i8>, String> {
    let mut days = BTreeSet::new();
    for name in names {
        let day = match name.trim().to_lowercase().as_str() {
            "mon" => Weekday::Monday,
            "tue" => Weekday::Tuesday,
            "wed" => Weekday::Wednesday,
            "thu" => Weekday::Thursday,
            "fri" => Weekday::Friday,
            "sat" => Weekday::Saturday,
            "sun" => Weekday::Sunday,
            _ => return Err(format!("{name:?}: write mon, tue, wed, thu, fri, sat or sun")),
        };
        days.insert(day.to_monday_zero_offset());
    }
    if days.is_empty() {
        return Err("name at least one day".into());
    }
    Ok(days)
}

/// What of the windows lies in `range`.
pub fn cut(windows: &[TimeRange], range: TimeRange) -> Vec<TimeRange> {
    let cut = |w: &TimeRange| TimeRange { from: w.from.max(range.from), to: w.to.min(range.to) };
    windows.iter().map(cut).filter(|w| w.from < w.to).collect()
}

/// The windows as somebody would say them, in the zone's civil time.
pub fn words(windows: &[TimeRange]) -> Words {
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Words::default() };
    let local = |t: Time| t.to_zoned(zone());
    let date = |t: Time| local(t).strftime("%d/%m/%Y").to_string();
    let clock = |t: Time| {
        let form = if local(t).second() == 0 { "%H:%M" } else { "%H:%M:%S" };
        local(t).strftime(form).to_string()
    };
    let hours = |w: &TimeRange| (clock(w.from), clock(w.to));
    let is_day = |w: &TimeRange| local(w.from).date().tomorrow().is_ok_and(|d| moment(d, 0) == w.to);
    if windows.len() > 1 {
        let (count, (from, to)) = (windows.len(), hours(first));
        let (begin, end) = (date(first.from), date(last.from));
        if windows.iter().all(|w| hours(w) == hours(first) && !is_day(w)) {
            return Words {
                vi: format!("{from}–{to}, {count} lần, từ ngày {begin} đến ngày {end}"),
                en: format!("{from}–{to}, {count} times, from {begin} to {end}"),
            };
        }
        return Words {
            vi: format!("{count} khoảng thời gian, từ ngày {begin} đến ngày {end}"),
            en: format!("{count} windows of time, from {begin} to {end}"),
        };
    }
    let (from, to) = hours(first);
    let (begin, end) = (date(first.from), date(first.to));
    if is_day(first) && from == "00:00" {
        return Words { vi: format!("cả ngày {begin}"), en: format!("all of {begin}") };
    }
    if begin == end {
        return Words {
            vi: format!("từ {from} đến {to} ngày {begin}"),
            en: format!("{begin}, {from} to {to}"),
        };
    }
    Words {
        vi: format!("từ {from} ngày {begin} đến {to} ngày {end}"),
        en: format!("{begin} {from} to {end} {to}"),
    }
}

/// The zone's offset from UTC at that time, for instance "+07:00".
pub fn offset_at(time: Time) -> String {
    time.to_zoned(zone()).strftime("%:z").to_string()
}

#[cfg(test)]
mod tests;
