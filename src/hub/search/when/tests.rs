//! The table that hub and console share, and what only the hub knows: hours, weekdays, words.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    text: String,
    now: Time,
    windows: Option<Vec<Window>>,
    error: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Window {
    from: Time,
    to: Time,
}

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

fn range(from: &str, to: &str) -> TimeRange {
    TimeRange { from: time(from), to: time(to) }
}

#[test]
fn texts_mean_what_the_shared_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/time-expressions.json");
    let table: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(table.len() >= 60, "{} cases", table.len());
    let mut wrong = Vec::new();
    for Case { text, now, windows, error } in table {
        let expected = windows.ok_or_else(|| error.unwrap());
        let understood = understand(&text, now).map_err(|e| e.code().to_owned());
        let view = |w: &TimeRange| Window { from: w.from, to: w.to };
        let understood = understood.map(|windows| windows.iter().map(view).collect::<Vec<_>>());
        if understood != expected {
            wrong.push(format!("{text:?}:\n     is {understood:?}\n    not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn hours_and_weekdays_repeat_within_the_windows() {
    // Monday 9/11 00:00 to Wednesday 11/11 03:00 in Vietnam.
    let all = [range("2026-11-08T17:00:00Z", "2026-11-10T20:00:00Z")];
    type Expected = &'static [(&'static str, &'static str)];
    let table: [(&str, &[&str], Expected); 5] = [
        (
            "22:00-04:00",
            &[],
            &[
                // Sunday's night reaches into the window.
                ("2026-11-08T17:00:00Z", "2026-11-08T21:00:00Z"),
                ("2026-11-09T15:00:00Z", "2026-11-09T21:00:00Z"),
                ("2026-11-10T15:00:00Z", "2026-11-10T20:00:00Z"),
            ],
        ),
        ("22:00-04:00", &["mon"], &[("2026-11-09T15:00:00Z", "2026-11-09T21:00:00Z")]),
        ("", &["tue", "wed"], &[("2026-11-09T17:00:00Z", "2026-11-10T20:00:00Z")]),
        ("00:00-24:00", &["mon"], &[("2026-11-08T17:00:00Z", "2026-11-09T17:00:00Z")]),
        ("08:30–09:00", &["sat"], &[]),
    ];
    for (text, days, expected) in table {
        let of_day = (!text.is_empty()).then(|| hours(text).unwrap());
        let days: Vec<String> = days.iter().map(|d| (*d).to_owned()).collect();
        let days = (!days.is_empty()).then(|| weekdays(&days).unwrap());
        let expected: Vec<TimeRange> = expected.iter().map(|(from, to)| range(from, to)).collect();
        assert_eq!(repeated(&all, of_day, days.as_ref()), expected, "{text} {days:?}");
    }
    for wrong in ["", "22", "22-04", "25:00-26:00", "22:00-22:00", "a:b-c:d", "24:30-01:00", "-1:00-02:00"] {
        assert!(hours(wrong).is_err(), "{wrong}");
    }
    assert!(weekdays(&["thứ hai".to_owned()]).unwrap_err().contains("mon, tue"));
}

#[test]
fn windows_are_said_in_words() {
    let now = time("2026-11-20T19:10:00Z");
    let table = [
        ("tối qua 21-23h", "từ 21:00 đến 23:00 ngày 20/11/2026", "20/11/2026, 21:00 to 23:00"),
        (
            "đêm qua",
            "từ 22:00 ngày 20/11/2026 đến 05:00 ngày 21/11/2026",
            "20/11/2026 22:00 to 21/11/2026 05:00",
        ),
        ("hôm qua", "cả ngày 20/11/2026", "all of 20/11/2026"),
        (
            "mỗi đêm 22-04h tuần trước",
            "22:00–04:00, 7 lần, từ ngày 09/11/2026 đến ngày 15/11/2026",
            "22:00–04:00, 7 times, from 09/11/2026 to 15/11/2026",
        ),
    ];
    for (text, vi, en) in table {
        let said = words(&understand(text, now).unwrap());
        assert_eq!((said.vi.as_str(), said.en.as_str()), (vi, en), "{text}");
    }
    assert_eq!(offset_at(now), "+07:00");
}

proptest! {
    /// Whatever is typed: no panic, and windows that are by time, apart and not empty.
    #[test]
    fn no_text_breaks_it(text in "[0-9a-zđổ/:±. -]{0,24}|((mỗi|đêm|qua|tối|đến|-|22h|04|tuần|trước|last|night|±|20p|20/11|thứ|2|sáng|kém|rưỡi) ){0,7}") {
        let now = time("2026-11-20T19:10:00Z");
        if let Ok(windows) = understand(&text, now) {
            prop_assert!(!windows.is_empty());
            prop_assert!(windows.iter().all(|w| w.from < w.to && w.from <= now));
            prop_assert!(windows.windows(2).all(|pair| pair[0].to < pair[1].from));
        }
    }
}
