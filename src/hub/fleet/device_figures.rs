//! Figures of each device and each box for Prometheus, at an address of their own: a large fleet has many.
//!
//! Owns what is told of a device, prefixes `camnet_device_` and `camnet_box_`, and when. Series are made anew for each
//! scrape from what the fleet knows, so a device that left the registry leaves none behind.

use prometheus::{Error, GaugeVec, IntGaugeVec, Registry as Metrics};
use serde::{Deserialize, Serialize};

use super::facts::{BoxFacts, Said};
use super::keeper::{Inner, kind_name, state_name};
use super::roster::Member;
use crate::hub::metrics::render;
use crate::limits::DEVICE_SERIES_DEVICES_MAX;
use crate::metrics::Part;
use crate::model::{BoxHealth, CameraHealth, DeviceId, DeviceState};

/// Whether there are series for each device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceSeries {
    /// Up to a number of devices that costs Prometheus little.
    #[default]
    Auto,
    On,
    Off,
}

impl DeviceSeries {
    /// Whether a fleet of so many devices has them, or what to do to have them.
    pub fn check(self, devices: usize) -> Result<(), String> {
        let turn_on = "[metrics] devices = \"on\" in hub.toml turns them on";
        match self {
            Self::On => Ok(()),
            Self::Auto if devices <= DEVICE_SERIES_DEVICES_MAX => Ok(()),
            Self::Auto => Err(format!(
                "{devices} devices are more than the {DEVICE_SERIES_DEVICES_MAX} up to which each has figures of its own \
                 by itself; {turn_on}"
            )),
            Self::Off => Err(format!("figures of each device are off; {turn_on}")),
        }
    }
}

/// The figures of everybody, in Prometheus's text format.
pub fn text(inner: &Inner) -> Result<Vec<u8>, Error> {
    let metrics = Metrics::new();
    let (devices, cameras, boxes) =
        (Devices::register(&metrics)?, Cameras::register(&metrics)?, Boxes::register(&metrics)?);
    for (id, member) in &inner.roster.devices {
        devices.tell(inner, id, member);
        let said = inner.fleet.facts.devices.get(id).and_then(|facts| facts.health.as_ref());
        if let Some(Said { what, .. }) = said {
            cameras.tell(id, what);
        }
        let box_id = &member.device.box_id;
        if let Some(facts) = inner.fleet.facts.boxes.get(box_id) {
            boxes.tell(box_id.as_str(), facts);
        }
    }
    Ok(render(&metrics))
}

struct Devices {
    state: IntGaugeVec,
    since: IntGaugeVec,
    last_heard: IntGaugeVec,
}

impl Devices {
    fn register(metrics: &Metrics) -> Result<Self, Error> {
        let part = Part::new(metrics, "camnet_device_");
        let of_state = ["device", "kind", "site", "state"];
        Ok(Self {
            state: part.gauges("state", "1 for the state that the device is in", &of_state)?,
            since: part.gauges(
                "state_since_timestamp_seconds",
                "Since when the device is in its state",
                &["device"],
            )?,
            last_heard: part.gauges(
                "last_heard_timestamp_seconds",
                "When something was last heard of the device; absent if never",
                &["device"],
            )?,
        })
    }

    fn tell(&self, inner: &Inner, id: &DeviceId, member: &Member) {
        let standing = inner.fleet.device(id);
        let state = standing.map_or(DeviceState::Unreachable, |standing| standing.state);
        let since = standing.map_or(member.from, |standing| standing.since);
        let (kind, site) = (kind_name(member.device.kind), member.device.site.as_str());
        self.state.with_label_values(&[id.as_str(), kind, site, state_name(state)]).set(1);
        self.since.with_label_values(&[id.as_str()]).set(since.as_second());
        let heard = inner.fleet.facts.devices.get(id).and_then(|facts| facts.rhythm.last());
        if let Some(heard) = heard {
            self.last_heard.with_label_values(&[id.as_str()]).set(heard.as_second());
        }
    }
}

/// What a box last said of a camera.
struct Cameras {
    frames: GaugeVec,
    bytes: GaugeVec,
    lost: GaugeVec,
    ring: GaugeVec,
    ring_due: GaugeVec,
}

impl Cameras {
    fn register(metrics: &Metrics) -> Result<Self, Error> {
        let part = Part::new(metrics, "camnet_device_");
        let gauges = |name, help| part.fractions(name, help, &["device"]);
        Ok(Self {
            frames: gauges("frames_per_second", "Pictures that come from the camera in a second")?,
            bytes: gauges("video_bytes_per_second", "Bytes of video that come from the camera in a second")?,
            lost: gauges("packets_lost_ratio", "Share of the camera's RTP packets that were lost")?,
            ring: gauges("ring_seconds", "Footage that the ring holds of the camera")?,
            ring_due: gauges("ring_due_seconds", "Footage that the ring should hold of the camera by now")?,
        })
    }

    fn tell(&self, id: &DeviceId, health: &CameraHealth) {
        const DAY_S: f64 = 24.0 * 3600.0;
        let labels = [id.as_str()];
        self.frames.with_label_values(&labels).set(health.fps);
        self.bytes.with_label_values(&labels).set(health.kbit_per_s * 1000.0 / 8.0);
        self.lost.with_label_values(&labels).set(health.lost_ppm as f64 / 1e6);
        for (gauge, days) in [(&self.ring, health.ring_days), (&self.ring_due, health.ring_days_due)] {
            if let Some(days) = days {
                gauge.with_label_values(&labels).set(days * DAY_S);
            }
        }
    }
}

/// What a box last said of itself.
struct Boxes {
    last_heard: IntGaugeVec,
    disk_free: IntGaugeVec,
    disk: IntGaugeVec,
    owed: IntGaugeVec,
    receipt: GaugeVec,
    temperature: GaugeVec,
}

impl Boxes {
    fn register(metrics: &Metrics) -> Result<Self, Error> {
        let part = Part::new(metrics, "camnet_box_");
        let gauges = |name, help| part.gauges(name, help, &["box"]);
        Ok(Self {
            last_heard: gauges("last_heard_timestamp_seconds", "When something was last heard of the box")?,
            disk_free: gauges("disk_free_bytes", "Room on the box's disk")?,
            disk: gauges("disk_size_bytes", "Size of the box's disk")?,
            owed: gauges("events_owed", "Events that the box holds without a receipt")?,
            receipt: part.fractions("receipt_seconds", "From sending an event to its receipt", &["box"])?,
            temperature: part.fractions("temperature_celsius", "The box's hottest part", &["box"])?,
        })
    }

    fn tell(&self, id: &str, facts: &BoxFacts) {
        if let Some(heard) = facts.rhythm.last() {
            self.last_heard.with_label_values(&[id]).set(heard.as_second());
        }
        let Some(Said { what: health, .. }) = &facts.health else { return };
        let BoxHealth { disk_free_bytes, disk_bytes, owed, receipt_ms, temperature_c, .. } = health;
        self.disk_free.with_label_values(&[id]).set(*disk_free_bytes as i64);
        self.disk.with_label_values(&[id]).set(*disk_bytes as i64);
        self.owed.with_label_values(&[id]).set(*owed as i64);
        if let Some(receipt_ms) = receipt_ms {
            self.receipt.with_label_values(&[id]).set(*receipt_ms as f64 / 1000.0);
        }
        if let Some(celsius) = temperature_c {
            self.temperature.with_label_values(&[id]).set(*celsius);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_must_ask_for_figures_of_each_device() {
        let many = DEVICE_SERIES_DEVICES_MAX + 1;
        for (setting, devices, is_on) in [
            (DeviceSeries::Auto, DEVICE_SERIES_DEVICES_MAX, true),
            (DeviceSeries::Auto, many, false),
            (DeviceSeries::On, many, true),
            (DeviceSeries::Off, 1, false),
        ] {
            let said = setting.check(devices);
            assert_eq!(said.is_ok(), is_on, "{setting:?} {devices}: {said:?}");
            assert!(is_on || said.unwrap_err().contains("[metrics] devices = \"on\""));
        }
    }
}
