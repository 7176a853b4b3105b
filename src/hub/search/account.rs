//! The account of a window: every second of it told.
//!
//! Owns the filling of holes. Pure.

use crate::model::{CoverageSpan, GapCause, SpanState, Time};

/// Cuts `known` to the window and puts a gap into every hole. `known` is by time, without overlap.
pub fn fill(known: Vec<CoverageSpan>, from: Time, to: Time) -> Vec<CoverageSpan> {
    let hole = |start: Time, end: Time| CoverageSpan {
        span: None,
        state: SpanState::Gap { cause: GapCause::NotYetReported },
        start,
        end,
        open: end == to,
        merkle_root: None,
    };
    let mut filled = Vec::new();
    let mut at = from;
    for mut span in known {
        span.start = span.start.max(at);
        let is_cut = span.end > to;
        span.end = span.end.min(to);
        if span.start >= span.end {
            continue;
        }
        if at < span.start {
            filled.push(hole(at, span.start));
        }
        // A span that ends before the window's end and goes on is shown open; so is one that is cut.
        span.open |= is_cut;
        at = span.end;
        filled.push(span);
    }
    if at < to {
        filled.push(hole(at, to));
    }
    filled
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(second: i64) -> Time {
        Time::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn every_second_of_the_window_is_told() {
        let span = |start: i64, end: i64, open: bool| CoverageSpan {
            span: Some(Uuid::nil()),
            state: SpanState::Recorded,
            start: at(start),
            end: at(end),
            open,
            merkle_root: None,
        };
        type Told = &'static [(i64, i64, bool)];
        let table: [(Vec<CoverageSpan>, Told); 4] = [
            (vec![], &[(0, 100, false)]),
            (vec![span(-5, 120, false)], &[(0, 100, true)]),
            (
                vec![span(10, 20, false), span(30, 40, true)],
                &[(0, 10, false), (10, 20, true), (20, 30, false), (30, 40, true), (40, 100, false)],
            ),
            (vec![span(-9, -1, false), span(101, 120, false)], &[(0, 100, false)]),
        ];
        for (known, expected) in table {
            let told: Vec<_> = fill(known, at(0), at(100))
                .iter()
                .map(|s| (s.start, s.end, s.state == SpanState::Recorded))
                .collect();
            let expected: Vec<_> = expected.iter().map(|&(s, e, r)| (at(s), at(e), r)).collect();
            assert_eq!(told, expected);
        }
    }
}
