//! What is wrong with a device, from what was heard of it.
//!
//! Owns the rules. Pure: facts and the time in, troubles out; a trouble that is found here counts only after it lasted
//! (`standing.rs`), and why it is so is said elsewhere (`cause.rs`).

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::facts::{BoxFacts, DeviceFacts, Said, is_raised};
use crate::limits::{
    CLOCK_OFF_MS, COVERAGE_HEARTBEAT, FEW_PICTURES_SHARE, FLEET_HOT_C, FLEET_RESTARTS, FLEET_RESTARTS_WITHIN,
    PACKETS_LOST_PPM, RING_SHORT_SHARE, SELF_TEST_HOLDS, STATUS_HEARTBEAT,
};
use crate::model::{CameraHealth, Device, DeviceKind, SelfTestResult, SpanState, SyncState, Time, Trouble};

/// Troubles, and since when each is known.
pub type Troubles = BTreeMap<Trouble, Time>;

/// What is wrong with a box. The hub has listened since `listening`.
pub fn of_box(facts: &BoxFacts, has_camera: bool, listening: Time, now: Time) -> Troubles {
    let mut troubles = Troubles::new();
    let offline = facts.online.as_ref().filter(|said| !said.what).map(|said| said.at);
    if let Some(Said { at, what: disk }) = facts.disk.as_ref().filter(|_| offline.is_none()) {
        // It can say nothing else.
        let trouble = if disk.full { Trouble::DiskFull } else { Trouble::DiskFailed };
        return Troubles::from([(trouble, *at)]);
    }
    if let Some(since) = offline.or_else(|| facts.rhythm.silent_since(heartbeat(has_camera), listening, now))
    {
        // Of a box that is not heard nothing else is known.
        return Troubles::from([(Trouble::BoxSilent, since)]);
    }
    if let Some(Said { at, what: health }) = &facts.health {
        let mut found = |trouble, is_so: bool| {
            if is_so {
                troubles.insert(trouble, *at);
            }
        };
        let wears = health.disk_wear_percent.is_some_and(|percent| percent >= 90);
        found(Trouble::DiskWorn, health.disk_failing == Some(true) || wears);
        found(Trouble::Hot, health.temperature_c.is_some_and(|celsius| celsius >= FLEET_HOT_C));
        found(Trouble::UnderVoltage, health.under_voltage == Some(true));
    }
    let lately = now.checked_sub(FLEET_RESTARTS_WITHIN).unwrap_or(now);
    let starts: Vec<Time> = facts.starts.iter().copied().filter(|&start| start >= lately).collect();
    if starts.len() >= FLEET_RESTARTS {
        troubles.insert(Trouble::Restarts, starts[0]);
    }
    troubles
}

/// What is wrong with a device whose box is doing so.
pub fn of_device(
    device: &Device,
    facts: &DeviceFacts,
    of_box: &Troubles,
    listening: Time,
    now: Time,
) -> Troubles {
    if let Some(since) = of_box.get(&Trouble::BoxSilent) {
        return Troubles::from([(Trouble::BoxSilent, *since)]);
    }
    // A box that can write nothing records nothing, and what it says of others is not kept.
    let of_disk = |trouble: &Trouble| matches!(trouble, Trouble::DiskFull | Trouble::DiskFailed);
    if let Some((&trouble, &since)) = of_box.iter().find(|(trouble, _)| of_disk(trouble)) {
        return Troubles::from([(trouble, since)]);
    }
    let mut troubles = match device.kind {
        DeviceKind::Camera => of_camera(facts),
        DeviceKind::Lamp => of_lamp(facts),
        DeviceKind::Gate => of_gate(facts),
    };
    // Of any device that speaks through a gateway.
    if let Some(since) = is_raised(&facts.faults, "device_unreachable") {
        return Troubles::from([(Trouble::Silent, since)]);
    }
    if let Some(since) = is_raised(&facts.faults, "battery_low") {
        troubles.insert(Trouble::BatteryLow, since);
    }
    let is_camera = device.kind == DeviceKind::Camera;
    if let Some(since) = facts.rhythm.silent_since(heartbeat(is_camera), listening, now)
        && troubles.is_empty()
    {
        troubles.insert(Trouble::Silent, since);
    }
    troubles
}

/// How often something is heard at least of a camera, or of a box that has one, and of others.
pub fn heartbeat(of_camera: bool) -> SignedDuration {
    match of_camera {
        true => SignedDuration::try_from(COVERAGE_HEARTBEAT).unwrap_or(STATUS_HEARTBEAT),
        false => STATUS_HEARTBEAT,
    }
}

fn of_camera(facts: &DeviceFacts) -> Troubles {
    let mut troubles = Troubles::new();
    if let Some(span) = facts.span.filter(|span| span.open)
        && let SpanState::Gap { cause } = span.state
    {
        troubles.insert(Trouble::of_gap(cause), span.start);
    }
    if let Some(since) = is_raised(&facts.faults, "ring_unwritable") {
        troubles.entry(Trouble::DiskFailed).or_insert(since);
    }
    if let Some(since) = is_raised(&facts.faults, "motion_pipeline_stalled") {
        troubles.insert(Trouble::MotionBlind, since);
    }
    let Some(Said { at, what: health }) = &facts.health else { return troubles };
    for trouble in of_health(health, *at) {
        troubles.entry(trouble).or_insert(*at);
    }
    troubles
}

fn of_health(health: &CameraHealth, at: Time) -> Vec<Trouble> {
    // While nothing comes, figures say nothing.
    if !health.reachable {
        return vec![Trouble::CameraUnreachable];
    }
    let mut troubles: Vec<Trouble> =
        health.picture.iter().flatten().map(|&fault| Trouble::of_picture(fault)).collect();
    let mut found = |trouble, is_so: bool| troubles.extend(is_so.then_some(trouble));
    let expected = health.fps_expected.unwrap_or(0.0);
    found(Trouble::FewPictures, health.fps < expected * FEW_PICTURES_SHARE);
    found(Trouble::PacketsLost, health.lost_ppm > PACKETS_LOST_PPM);
    let off_ms = health.camera_clock_ms.or(health.clock.offset_ms);
    let is_off = off_ms.is_some_and(|ms| ms.saturating_abs() > CLOCK_OFF_MS);
    found(Trouble::ClockOff, is_off || health.clock.sync == SyncState::Unsynced);
    let is_short = |(has, promised): (f64, f64)| has < promised * RING_SHORT_SHARE;
    found(Trouble::RingShort, health.ring_days.zip(health.ring_days_due).is_some_and(is_short));
    let failed = health.self_test.as_ref().is_some_and(|test| {
        test.result == SelfTestResult::Broken && at.duration_since(test.at) < SELF_TEST_HOLDS
    });
    found(Trouble::SelfTestFailed, failed);
    troubles
}

fn of_gate(facts: &DeviceFacts) -> Troubles {
    let said = facts.gate.as_ref().filter(|said| said.what.forced || said.what.tampered);
    said.map(|said| (Trouble::Forced, said.at)).into_iter().collect()
}

/// A cabinet is as its worst circuit; one whose circuits all lost their supply has lost it itself.
fn of_lamp(facts: &DeviceFacts) -> Troubles {
    let mut troubles = Troubles::new();
    if let Some(since) = is_raised(&facts.faults, "lamp_cabinet_unreachable") {
        return Troubles::from([(Trouble::CabinetUnreachable, since)]);
    }
    if let Some(since) = is_raised(&facts.faults, "lamp_unit_failing") {
        troubles.insert(Trouble::CabinetFault, since);
    }
    let lost = facts.circuits.values().filter_map(|circuit| circuit.troubles.get(&Trouble::SupplyLoss));
    if facts.circuits.len() > 1 && lost.clone().count() == facts.circuits.len() {
        troubles.extend(lost.min().map(|&since| (Trouble::CabinetFault, since)));
        return troubles;
    }
    let told = facts.circuits.values().flat_map(|circuit| &circuit.troubles);
    for (&trouble, &at) in told.chain(&facts.left) {
        let since = troubles.entry(trouble).or_insert(at);
        *since = at.min(*since);
    }
    troubles
}
