//! Whether the street near a camera was lit.
//!
//! Owns the rule that turns a cabinet's words into spans. A circuit counts for a camera when its route comes within
//! 60 m of it. What a `camnet.lamp.v1` event says of a circuit holds until the next one that says another thing, at
//! most two heartbeats (30 minutes), then nobody knows. Of one word:
//!
//! - off, dimmed to nothing, or `supply_loss` (told on, but no power is drawn): dark;
//! - on, also with `lamp_failure` (some lamps of the circuit are out), or `on_when_off` (power is drawn): lit;
//! - `cabinet_fault` and faults of other names: unknown;
//! - the box lost the cabinet (`lamp_cabinet_unreachable`): unknown for all circuits until the next word.
//!
//! May not know clips.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cameras::Found;
use super::geometry::{Bounds, Line, distance_to_line_m, line_from};
use super::{Search, SearchError, round};
use crate::hub::catalog::{EventQuery, EventRow, Order, TimeRange};
use crate::hub::registry::History;
use crate::limits::{
    LAMP_NEAR_M, LAMP_WORD_HOLDS, PAGE_EVENTS_MAX, SEARCH_LAMP_EVENTS_MAX, SEARCH_LAMP_SPANS_MAX,
    SEARCH_LAMPS_MAX,
};
use crate::model::{DeviceId, DeviceKind, Point, Time};

/// The light near a camera: one circuit of a lighting cabinet.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LampView {
    pub device: String,
    pub circuit: u16,
    pub name: String,
    /// From the camera to the nearest part of the circuit's route.
    pub distance_m: f64,
    /// By time, all of the windows as far as they are past.
    pub spans: Vec<LampSpanView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LampSpanView {
    pub state: LampState,
    #[schema(value_type = String, format = DateTime)]
    pub start: Time,
    #[schema(value_type = String, format = DateTime)]
    pub end: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LampState {
    Lit,
    Dark,
    Unknown,
}

/// A circuit as the registry had it for some time.
#[derive(Debug)]
struct Circuit {
    device: DeviceId,
    from: Time,
    until: Option<Time>,
    number: u16,
    name: String,
    route: Line,
    /// Around all that it may light.
    bounds: Option<Bounds>,
}

/// Every lamp circuit of a history.
#[derive(Debug, Default)]
pub struct Lamps {
    circuits: Vec<Circuit>,
}

impl Lamps {
    pub fn of(history: &History) -> Self {
        let mut circuits = Vec::new();
        for (id, versions) in history.devices() {
            for version in versions.iter().filter(|v| v.value.kind == DeviceKind::Lamp) {
                for c in &version.value.circuits {
                    let route = line_from(&c.route);
                    circuits.push(Circuit {
                        device: id.clone(),
                        from: version.from,
                        until: version.until,
                        number: c.circuit,
                        name: c.name.clone(),
                        bounds: Bounds::of(&route).map(|b| b.widened(LAMP_NEAR_M)),
                        route,
                    });
                }
            }
        }
        Self { circuits }
    }

    /// The circuits that light the point at some moment of the range, nearest first, each once.
    fn near(&self, point: Point, range: TimeRange) -> Vec<(&Circuit, f64)> {
        let is_there = |c: &&Circuit| c.from <= range.to && c.until.is_none_or(|until| until > range.from);
        let mut near: Vec<(&Circuit, f64)> = self
            .circuits
            .iter()
            .filter(is_there)
            .filter(|c| c.bounds.is_some_and(|b| b.has(point)))
            .map(|c| (c, distance_to_line_m(point, &c.route)))
            .filter(|(_, metres)| *metres <= LAMP_NEAR_M)
            .collect();
        near.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut seen = BTreeSet::new();
        near.retain(|(c, _)| seen.insert((c.device.clone(), c.number)));
        near.truncate(SEARCH_LAMPS_MAX);
        near
    }
}

/// What was said of the circuits of some cabinets, by time.
#[derive(Debug, Default)]
pub struct LampWords {
    words: BTreeMap<(DeviceId, u16), Vec<(Time, LampState)>>,
    /// When the box lost the cabinet.
    lost: BTreeMap<DeviceId, Vec<Time>>,
    /// Not all could be read: behind this time nothing is known.
    read_to: Option<Time>,
}

impl Search {
    /// Reads what the cabinets near the cameras said, from two heartbeats before the windows on.
    pub(super) fn lamp_words(
        &self,
        found: &[Found],
        lamps: &Lamps,
        range: TimeRange,
    ) -> Result<LampWords, SearchError> {
        let mut devices = BTreeSet::new();
        for f in found {
            let near = lamps.near(f.stand.placement.site.point, range);
            devices.extend(near.into_iter().map(|(circuit, _)| circuit.device.clone()));
        }
        let mut words = LampWords::default();
        let mut left = SEARCH_LAMP_EVENTS_MAX;
        for device in devices {
            let mut query = EventQuery {
                kind: None,
                device: Some(device.clone()),
                box_id: None,
                range: TimeRange { from: before(range.from), to: range.to },
                order: Order::Oldest,
                after: None,
                limit: PAGE_EVENTS_MAX,
            };
            loop {
                let page = self.catalog.events(&query)?;
                left = left.saturating_sub(page.events.len());
                for row in &page.events {
                    words.take(&device, row);
                }
                if page.next.is_none() {
                    break;
                }
                if left == 0 {
                    let last = page.events.last().map_or(range.from, time_of);
                    words.read_to = Some(words.read_to.map_or(last, |to| to.min(last)));
                    break;
                }
                query.after = page.next;
            }
        }
        Ok(words)
    }
}

/// Where an event stands in the order of events.
fn time_of(row: &EventRow) -> Time {
    Time::from_microsecond(row.key.time_us).unwrap_or(row.received)
}

fn before(time: Time) -> Time {
    time.checked_sub(holds()).unwrap_or(Time::MIN)
}

fn holds() -> SignedDuration {
    SignedDuration::try_from(LAMP_WORD_HOLDS).expect("minutes fit")
}

/// As much of a lamp's or a fault's event as the rule needs.
#[derive(Deserialize)]
struct Said {
    data: SaidOf,
}

#[derive(Deserialize)]
struct SaidOf {
    circuit: Option<u16>,
    on: Option<bool>,
    dim_percent: Option<f64>,
    fault: Option<String>,
    phase: Option<String>,
}

impl LampWords {
    fn take(&mut self, device: &DeviceId, row: &EventRow) {
        let Ok(Said { data }) = serde_json::from_slice::<Said>(&row.json) else { return };
        match (row.kind.as_str(), data.circuit, data.on) {
            ("camnet.lamp.v1", Some(circuit), Some(on)) => {
                let state = state_of(on, data.dim_percent, data.fault.as_deref());
                self.words.entry((device.clone(), circuit)).or_default().push((time_of(row), state));
            }
            ("camnet.fault.v1", _, _) => {
                let is_lost = data.fault.as_deref() == Some("lamp_cabinet_unreachable");
                if is_lost && data.phase.as_deref() == Some("raised") {
                    self.lost.entry(device.clone()).or_default().push(time_of(row));
                }
            }
            _ => {}
        }
    }

    /// The light near a camera in the windows.
    pub fn near(&self, point: Point, lamps: &Lamps, windows: &[TimeRange]) -> Vec<LampView> {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Vec::new() };
        let near = lamps.near(point, TimeRange { from: first.from, to: last.to });
        let view = |(circuit, metres): (&Circuit, f64)| LampView {
            device: circuit.device.to_string(),
            circuit: circuit.number,
            name: circuit.name.clone(),
            distance_m: round(metres, 1),
            spans: self.spans(circuit, windows),
        };
        near.into_iter().map(view).collect()
    }

    fn spans(&self, circuit: &Circuit, windows: &[TimeRange]) -> Vec<LampSpanView> {
        let none = Vec::new();
        let mut words =
            self.words.get(&(circuit.device.clone(), circuit.number)).cloned().unwrap_or_default();
        for lost in self.lost.get(&circuit.device).unwrap_or(&none) {
            words.push((*lost, LampState::Unknown));
        }
        words.sort_by_key(|(time, _)| *time);
        let mut spans = Vec::new();
        for window in windows {
            spans.extend(fill(&words, *window, self.read_to));
        }
        spans.truncate(SEARCH_LAMP_SPANS_MAX);
        spans
    }
}

/// What one word says of a circuit.
fn state_of(on: bool, dim_percent: Option<f64>, fault: Option<&str>) -> LampState {
    let name = fault.map(|f| f.split(':').next().unwrap_or(f));
    match (name, on) {
        (Some("supply_loss"), _) => LampState::Dark,
        (Some("on_when_off"), _) => LampState::Lit,
        (None | Some("lamp_failure"), false) => LampState::Dark,
        (None | Some("lamp_failure"), true) if dim_percent == Some(0.0) => LampState::Dark,
        (None | Some("lamp_failure"), true) => LampState::Lit,
        _ => LampState::Unknown,
    }
}

/// Every moment of the window with its state; `words` are by time, and some may lie before the window.
fn fill(words: &[(Time, LampState)], window: TimeRange, read_to: Option<Time>) -> Vec<LampSpanView> {
    let mut spans: Vec<LampSpanView> = Vec::new();
    let mut put = |state, start: Time, end: Time| {
        let (start, end) = (start.max(window.from), end.min(window.to));
        if start >= end {
            return;
        }
        match spans.last_mut() {
            Some(last) if last.state == state && last.end == start => last.end = end,
            _ => spans.push(LampSpanView { state, start, end }),
        }
    };
    let mut at = window.from;
    for (n, (time, state)) in words.iter().enumerate() {
        let next = words.get(n + 1).map_or(Time::MAX, |(next, _)| *next);
        let until =
            time.checked_add(holds()).unwrap_or(Time::MAX).min(next).min(read_to.unwrap_or(Time::MAX));
        if until <= at {
            continue;
        }
        put(LampState::Unknown, at, *time);
        put(*state, (*time).max(at), until);
        at = until.max(at);
    }
    put(LampState::Unknown, at, window.to);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Time {
        Time::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    #[test]
    fn a_word_holds_until_the_next_or_for_two_heartbeats() {
        use LampState::{Dark, Lit, Unknown};
        type Told = &'static [(LampState, i64, i64)];
        let table: [(&[(i64, LampState)], Told); 6] = [
            (&[], &[(Unknown, 0, 100)]),
            (&[(-10, Lit)], &[(Lit, 0, 20), (Unknown, 20, 100)]),
            (&[(-40, Lit)], &[(Unknown, 0, 100)]),
            (
                &[(10, Lit), (25, Lit), (40, Dark)],
                &[(Unknown, 0, 10), (Lit, 10, 40), (Dark, 40, 70), (Unknown, 70, 100)],
            ),
            (&[(0, Lit), (15, Unknown), (90, Dark)], &[(Lit, 0, 15), (Unknown, 15, 90), (Dark, 90, 100)]),
            (&[(150, Lit)], &[(Unknown, 0, 100)]),
        ];
        for (words, expected) in table {
            let words: Vec<_> = words.iter().map(|&(minute, state)| (at(minute), state)).collect();
            let told: Vec<_> = fill(&words, TimeRange { from: at(0), to: at(100) }, None)
                .iter()
                .map(|s| (s.state, s.start, s.end))
                .collect();
            let expected: Vec<_> = expected.iter().map(|&(state, a, b)| (state, at(a), at(b))).collect();
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn what_a_cabinet_says_is_lit_dark_or_unknown() {
        use LampState::{Dark, Lit, Unknown};
        let table = [
            (true, None, None, Lit),
            (false, None, None, Dark),
            (true, Some(0.0), None, Dark),
            (true, Some(40.0), None, Lit),
            (true, None, Some("lamp_failure: 2 of 40 lamps"), Lit),
            (true, None, Some("supply_loss"), Dark),
            (false, None, Some("on_when_off"), Lit),
            (true, None, Some("cabinet_fault"), Unknown),
            (true, None, Some("something_new"), Unknown),
        ];
        for (on, dim, fault, expected) in table {
            assert_eq!(state_of(on, dim, fault), expected, "{on} {dim:?} {fault:?}");
        }
    }
}
