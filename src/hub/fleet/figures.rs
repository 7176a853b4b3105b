//! The fleet's figures for Prometheus, prefix `camnet_fleet_`: of the ward as a whole, and of the causes that go on.
//!
//! Owns what is counted, and the bound of it. Everything is counted while Prometheus asks, in one look at the fleet, so
//! that no scrape sees half of a count. May not have a series for each device: see `device_figures.rs`.
//!
//! An incident has a series of its own while it goes on, because an alert's labels can only come from a metric's: its
//! cause, the id of it, its trouble. Bounded: one cause is one incident however many suffer from it, and of incidents
//! the [`INCIDENT_SERIES_MAX`] worst are shown (severity, then devices, then age) and the rest counted as unlisted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Error, Gauge, IntGauge, IntGaugeVec, Registry as Metrics};

use super::cause::{CauseKind, Incident};
use super::keeper::{Inner, Keeper, kind_name, state_name};
use super::severity::Severity;
use super::words::trouble_name;
use super::work::{Order, Stage};
use crate::limits::INCIDENT_SERIES_MAX;
use crate::metrics::Part;
use crate::model::{BoxId, DeviceKind, DeviceState, Time, Trouble};

const STATES: [DeviceState; 5] = [
    DeviceState::Working,
    DeviceState::Degraded,
    DeviceState::NotRecording,
    DeviceState::Unreachable,
    DeviceState::Maintenance,
];

/// Counts the fleet when it is asked.
pub struct Figures {
    keeper: Keeper,
    /// Held while one scrape counts.
    turn: Mutex<()>,
    own: Metrics,
    devices: IntGaugeVec,
    boxes: IntGaugeVec,
    troubled: IntGaugeVec,
    incidents: IntGaugeVec,
    unlisted: IntGauge,
    incident_devices: IntGaugeVec,
    incident_since: IntGaugeVec,
    orders: IntGaugeVec,
    oldest_order: IntGaugeVec,
    owed: IntGauge,
    slowest_receipt: Gauge,
    judged: IntGauge,
}

impl Figures {
    /// Registers them with `metrics`, which may not be the keeper's own.
    pub fn register(keeper: Keeper, metrics: &Metrics) -> Result<(), Error> {
        metrics.register(Box::new(Self::new(keeper)?))
    }

    fn new(keeper: Keeper) -> Result<Self, Error> {
        let own = Metrics::new();
        let part = Part::new(&own, "camnet_fleet_");
        let of_incident = ["cause", "id", "trouble", "severity"];
        Ok(Self {
            devices: part.gauges("devices", "Devices in each state", &["kind", "state"])?,
            boxes: part.gauges("boxes", "Boxes in each state", &["state"])?,
            troubled: part.gauges("troubled_devices", "Devices with each trouble", &["trouble"])?,
            incidents: part.gauges("incidents", "Causes that devices suffer from, by kind", &["cause"])?,
            unlisted: part.gauge(
                "incidents_unlisted",
                "Causes without a series in camnet_fleet_incident_devices: there are more and worse ones",
            )?,
            incident_devices: part.gauges(
                "incident_devices",
                "Devices that suffer from one cause, while it goes on",
                &of_incident,
            )?,
            incident_since: part.gauges(
                "incident_since_timestamp_seconds",
                "When one cause began, while it goes on",
                &of_incident,
            )?,
            orders: part.gauges("work_orders", "Work orders that are not closed", &["stage"])?,
            oldest_order: part.gauges(
                "work_order_oldest_timestamp_seconds",
                "Since when the oldest work order of a stage is in it; absent without one",
                &["stage"],
            )?,
            owed: part.gauge("events_owed", "Events that boxes hold without a receipt, as they last said")?,
            slowest_receipt: part.fraction(
                "receipt_slowest_seconds",
                "From sending an event to its receipt, of the box where it takes longest, as it last said",
            )?,
            judged: part.gauge("judged_timestamp_seconds", "When the hub last judged the fleet")?,
            keeper,
            turn: Mutex::default(),
            own,
        })
    }

    fn count(&self, inner: &Inner) {
        self.count_devices(inner);
        self.count_boxes(inner);
        self.count_incidents(inner);
        self.count_orders(inner);
        self.judged.set(inner.judged.as_second());
    }

    /// A state that nobody is in is told as 0, else a share of all would be no number.
    fn count_devices(&self, inner: &Inner) {
        self.devices.reset();
        self.troubled.reset();
        let kinds: Vec<DeviceKind> = inner.roster.devices.values().map(|member| member.device.kind).collect();
        for kind in [DeviceKind::Camera, DeviceKind::Lamp, DeviceKind::Gate] {
            if kinds.contains(&kind) {
                STATES.iter().for_each(|&state| drop(self.devices_in(kind, state)));
            }
        }
        for trouble in Trouble::ALL {
            self.troubled.with_label_values(&[trouble_name(trouble)]);
        }
        for (id, member) in &inner.roster.devices {
            let standing = inner.fleet.device(id);
            let state = standing.map_or(DeviceState::Unreachable, |standing| standing.state);
            self.devices_in(member.device.kind, state).inc();
            for (trouble, _) in standing.map(|standing| standing.troubles()).unwrap_or_default() {
                self.troubled.with_label_values(&[trouble_name(trouble)]).inc();
            }
        }
    }

    fn devices_in(&self, kind: DeviceKind, state: DeviceState) -> IntGauge {
        self.devices.with_label_values(&[kind_name(kind), state_name(state)])
    }

    fn count_boxes(&self, inner: &Inner) {
        self.boxes.reset();
        for state in [DeviceState::Working, DeviceState::Degraded, DeviceState::Unreachable] {
            self.boxes.with_label_values(&[state_name(state)]);
        }
        let boxes: BTreeSet<&BoxId> =
            inner.roster.devices.values().map(|member| &member.device.box_id).collect();
        let (mut owed, mut slowest) = (0, 0);
        for box_id in boxes {
            let state =
                inner.fleet.of_box(box_id).map_or(DeviceState::Unreachable, |standing| standing.state);
            self.boxes.with_label_values(&[state_name(state)]).inc();
            let said = inner.fleet.facts.boxes.get(box_id).and_then(|facts| facts.health.as_ref());
            if let Some(health) = said.map(|said| &said.what) {
                owed += health.owed;
                slowest = slowest.max(health.receipt_ms.unwrap_or(0));
            }
        }
        self.owed.set(owed as i64);
        self.slowest_receipt.set(slowest as f64 / 1000.0);
    }

    fn count_incidents(&self, inner: &Inner) {
        for figure in [&self.incidents, &self.incident_devices, &self.incident_since] {
            figure.reset();
        }
        for kind in CauseKind::ALL {
            self.incidents.with_label_values(&[kind.name()]);
        }
        let all: Vec<&Incident> = inner.fleet.incidents().collect();
        for incident in &all {
            self.incidents.with_label_values(&[incident.cause.kind().name()]).inc();
        }
        let (listed, unlisted) = worst(all);
        for incident in listed {
            let severity = Severity::of(&incident.cause, incident.trouble).name();
            let (kind, id) = (incident.cause.kind().name(), incident.cause.id());
            let labels = [kind, id, trouble_name(incident.trouble), severity];
            self.incident_devices.with_label_values(&labels).set(incident.devices.len() as i64);
            self.incident_since.with_label_values(&labels).set(incident.since.as_second());
        }
        self.unlisted.set(unlisted as i64);
    }

    fn count_orders(&self, inner: &Inner) {
        self.orders.reset();
        self.oldest_order.reset();
        let mut oldest: BTreeMap<&str, Time> = BTreeMap::new();
        for stage in [Stage::Open, Stage::Assigned, Stage::Unproved] {
            self.orders.with_label_values(&[stage_name(stage)]);
        }
        for order in inner.book.known.orders.all_open() {
            let stage = stage_name(order.stage);
            self.orders.with_label_values(&[stage]).inc();
            let since = oldest.entry(stage).or_insert(Time::MAX);
            *since = in_stage_since(order).min(*since);
        }
        for (stage, since) in oldest {
            self.oldest_order.with_label_values(&[stage]).set(since.as_second());
        }
    }

    fn parts(&self) -> [&dyn Collector; 12] {
        [
            &self.devices,
            &self.boxes,
            &self.troubled,
            &self.incidents,
            &self.unlisted,
            &self.incident_devices,
            &self.incident_since,
            &self.orders,
            &self.oldest_order,
            &self.owed,
            &self.slowest_receipt,
            &self.judged,
        ]
    }
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.keeper.look(|inner| self.count(inner));
        self.own.gather()
    }
}

/// The incidents that get a series, the worst first, and how many get none.
fn worst(mut incidents: Vec<&Incident>) -> (Vec<&Incident>, usize) {
    let severity = |incident: &Incident| Severity::of(&incident.cause, incident.trouble);
    incidents.sort_by_key(|incident| {
        (Reverse(severity(incident)), Reverse(incident.devices.len()), incident.since)
    });
    let unlisted = incidents.len().saturating_sub(INCIDENT_SERIES_MAX);
    incidents.truncate(INCIDENT_SERIES_MAX);
    (incidents, unlisted)
}

fn in_stage_since(order: &Order) -> Time {
    match order.stage {
        Stage::Unproved => order.mended.unwrap_or(order.opened),
        _ => order.opened,
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Open => "open",
        Stage::Assigned => "assigned",
        Stage::Unproved => "unproved",
        Stage::Closed => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::fleet::cause::Cause;
    use crate::model::DeviceId;

    fn incident(n: usize, trouble: Trouble, devices: usize) -> Incident {
        let device = |n: usize| DeviceId::new(format!("cam-{n:04}")).unwrap();
        Incident {
            cause: Cause::Device(device(n)),
            since: Time::from_second(1_800_000_000 - n as i64).unwrap(),
            trouble,
            devices: (0..devices).map(device).collect(),
        }
    }

    #[test]
    fn however_many_incidents_there_are_the_worst_are_shown_and_the_rest_counted() {
        let mut all: Vec<Incident> =
            (0..INCIDENT_SERIES_MAX + 30).map(|n| incident(n, Trouble::PictureBlurred, 1)).collect();
        all.push(incident(5000, Trouble::CameraUnreachable, 1));
        all.push(incident(5001, Trouble::CameraUnreachable, 3));
        let (listed, unlisted) = worst(all.iter().collect());
        assert_eq!((listed.len(), unlisted), (INCIDENT_SERIES_MAX, 32));
        let first: Vec<&str> = listed[..3].iter().map(|incident| incident.cause.id()).collect();
        let oldest = format!("cam-{:04}", INCIDENT_SERIES_MAX + 29);
        assert_eq!(first, ["cam-5001", "cam-5000", &oldest]);
    }
}
