//! How a device is doing (tình trạng): what its box measured and tried, and what is wrong.
//!
//! A word here is a finding of the box, with nothing inferred; what a finding means for the ward, the hub says.

use serde::{Deserialize, Serialize};

use super::{ClockQuality, Time};

/// What is wrong with a camera's pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureFault {
    /// Too little light to see anything.
    Dark,
    /// Nothing to be seen though there is light: covered, sprayed, or blind.
    Covered,
    Blurred,
    /// The same picture again and again.
    Frozen,
    /// Another view than before: the camera was turned or shifted.
    Moved,
}

impl PictureFault {
    pub const ALL: [Self; 5] = [Self::Dark, Self::Covered, Self::Blurred, Self::Frozen, Self::Moved];
}

/// One camera as its box finds it; figures are of the time since the last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CameraHealth {
    /// The camera sends pictures.
    pub reachable: bool,
    /// They are written to the ring.
    pub recording: bool,
    /// Pictures per second, as they come and as the stream announces them.
    pub fps: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps_expected: Option<f64>,
    pub kbit_per_s: f64,
    /// RTP packets lost of a million.
    pub lost_ppm: u64,
    /// Between key frames, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_interval_s: Option<f64>,
    /// The clock that its pictures are stamped with.
    pub clock: ClockQuality,
    /// The camera's clock minus the box's by its newest sender report, milliseconds; also where it is too far off to be
    /// used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera_clock_ms: Option<i64>,
    /// Footage that the ring holds, and should hold by now by its promise, days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_days: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_days_due: Option<f64>,
    /// What is wrong with its pictures; absent if nobody looks at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<Vec<PictureFault>>,
    /// The last time that footage was read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_test: Option<SelfTest>,
}

/// Footage of the ring was read back and, where the box can, decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// When it was tried.
    pub at: Time,
    /// The moment whose footage was asked for.
    pub of: Time,
    pub result: SelfTestResult,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfTestResult {
    /// Read with the right hash, and decoded to pictures.
    Played,
    /// Read with the right hash; this box has no decoder.
    Read,
    /// The camera did not record then: the account says so.
    NotRecorded,
    /// The account says that it was recorded, and it can't be read or decoded.
    Broken,
}

/// Why a box's program started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxStart {
    /// It was stopped before, or started for the first time.
    Ordered,
    /// It ended by itself, while the machine went on.
    Crash,
    /// The machine went down under it: its power was cut, or it hung.
    Machine,
}

/// A box as it finds itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BoxHealth {
    pub software: String,
    /// Since the machine's start, seconds.
    pub uptime_s: u64,
    /// How it came that the box's program started; absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<BoxStart>,
    pub disk_free_bytes: u64,
    pub disk_bytes: u64,
    /// How much of what the disk can be written to in its life is used up, percent (SMART, or eMMC's own estimate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_wear_percent: Option<u8>,
    /// The disk itself expects to fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_failing: Option<bool>,
    /// The hottest part, degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// The supply's voltage is, or was since the last report, too low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_voltage: Option<bool>,
    pub memory_free_bytes: u64,
    /// Events without a receipt.
    pub owed: u64,
    /// Times the link to the hub was lost since the last report.
    pub link_losses: u64,
    /// How well its radio hears the network, where the box hangs on one (Wi-Fi), dBm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub radio_dbm: Option<i16>,
    /// From sending an event to its receipt, of the newest one, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_ms: Option<u64>,
}
