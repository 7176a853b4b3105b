//! How the box itself is doing, said when it is due.
//!
//! Owns the task. What the machine tells is read by `machine.rs`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::due::Due;
use super::machine::Machine;
use crate::edge::clock;
use crate::edge::outbox::{NewEvent, Outbox};
use crate::edge::{room, uplink};
use crate::limits::{FLEET_HOT_C, HEALTH_LOOKS_EVERY};
use crate::model::{BoxHealth, BoxStart, EventData, Status, Time};

/// What the task needs.
pub struct BoxWatch {
    pub machine: Machine,
    pub data_dir: PathBuf,
    pub outbox: Outbox,
    pub uplink: uplink::Metrics,
}

#[derive(Debug, PartialEq)]
struct Judged {
    disk_failing: Option<bool>,
    under_voltage: Option<bool>,
    hot: bool,
}

/// Looks until `stop`.
pub async fn run(watch: BoxWatch, stop: CancellationToken) {
    let spread = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
    let mut due = Due::at_once(spread);
    let mut every = tokio::time::interval(HEALTH_LOOKS_EVERY);
    // Too little voltage for a moment is said with the next report.
    let mut was_low = false;
    let mut losses_told = 0;
    let running = Running::begin(&watch.data_dir);
    loop {
        tokio::select! {
            () = stop.cancelled() => return running.end(),
            _ = every.tick() => {}
        }
        let (machine, data_dir) = (watch.machine.clone(), watch.data_dir.clone());
        let read = tokio::task::spawn_blocking(move || (machine.read(), room::ask_disk(&data_dir)));
        let (mut health, disk) = read.await.expect("reading the machine's files does not panic");
        if let Ok(disk) = disk {
            (health.disk_free_bytes, health.disk_bytes) = (disk.free_bytes, disk.all_bytes);
        }
        health.software = env!("CARGO_PKG_VERSION").to_owned();
        health.started = running.started;
        let losses = watch.uplink.link_losses();
        (health.owed, health.receipt_ms) = (watch.uplink.owed(), watch.uplink.receipt_ms());
        health.link_losses = losses.saturating_sub(losses_told);
        was_low |= health.under_voltage == Some(true);
        health.under_voltage = health.under_voltage.map(|is_low| is_low || was_low);
        if !due.is_due(judged(&health), Instant::now()) {
            continue;
        }
        let is_well = health.disk_failing != Some(true) && health.under_voltage != Some(true);
        let status = Status { working: is_well, detail: None, camera: None, of_box: Some(health) };
        let data = EventData::Status(status);
        let event = NewEvent { device: None, time: Time::now(), clock: clock::quality(), data };
        match watch.outbox.accept(event).await {
            Ok(()) => (was_low, losses_told) = (false, losses),
            Err(_) => due.not_said(),
        }
    }
}

/// The mark that the box's program runs: what is left of it tells how it ended.
struct Running {
    file: PathBuf,
    started: Option<BoxStart>,
}

impl Running {
    fn begin(data_dir: &Path) -> Self {
        // Linux, proc_sys_kernel(5): drawn at each start of the machine.
        let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::begin_on(data_dir, machine.trim())
    }

    fn begin_on(data_dir: &Path, machine: &str) -> Self {
        let file = data_dir.join("health").join("running");
        let started = match std::fs::read_to_string(&file) {
            Ok(left) if left.trim() == machine => Some(BoxStart::Crash),
            Ok(_) => Some(BoxStart::Machine),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(BoxStart::Ordered),
            Err(_) => None,
        };
        let folder = data_dir.join("health");
        if let Err(error) = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, machine)) {
            tracing::warn!(file = %file.display(), %error, "how the box will have ended can't be noted");
        }
        Self { file, started }
    }

    fn end(self) {
        if let Err(error) = std::fs::remove_file(&self.file) {
            tracing::warn!(file = %self.file.display(), %error, "that the box stopped can't be noted");
        }
    }
}

fn judged(health: &BoxHealth) -> Judged {
    Judged {
        disk_failing: health.disk_failing,
        under_voltage: health.under_voltage,
        hot: health.temperature_c.is_some_and(|celsius| celsius >= FLEET_HOT_C),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_knows_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |machine: &str| Running::begin_on(dir.path(), machine);
        let first = begin("one");
        assert_eq!(first.started, Some(BoxStart::Ordered));
        first.end();
        assert_eq!(begin("one").started, Some(BoxStart::Ordered), "stopped, and started again");
        assert_eq!(begin("one").started, Some(BoxStart::Crash), "it never said that it stops");
        assert_eq!(begin("two").started, Some(BoxStart::Machine));
    }
}
