//! What a device says happened, and how sure its clock was.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{BoxHealth, BoxId, CameraHealth, DeviceId, Epoch, GapCause, Sha256Hash, SpanState, Time};

/// One event (sự kiện). The box that speaks gives it `epoch` and a gap-free `sequence`.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Uuid,
    pub source: Source,
    pub epoch: Epoch,
    /// Counts from 1 within the epoch, without gaps.
    pub sequence: u64,
    pub time: Time,
    pub clock: ClockQuality,
    pub data: EventData,
}

/// Who speaks, about what: `/<box>` or `/<box>/<device>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    pub box_id: BoxId,
    /// None for what concerns the box itself.
    pub device: Option<DeviceId>,
}

/// How far a time can be trusted. Travels with every event and clip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClockQuality {
    pub source: ClockSource,
    pub sync: SyncState,
    /// The source's clock minus the box's, where the box could compare them, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<i64>,
    /// The true time lies within ± this many milliseconds, as far as the box knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_ms: Option<u64>,
}

/// Whose clock a time was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// The camera's, by its RTCP sender reports (RFC 3550, 6.4.1).
    Camera,
    /// The box's, at arrival.
    Box,
}

/// Whether that clock was held by something better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncState {
    Synced,
    Unsynced,
    Unknown,
}

/// What happened. The variant decides the CloudEvents `type`; see [`crate::wire`].
#[derive(Debug, Clone, PartialEq)]
pub enum EventData {
    Boot(Boot),
    Motion(Motion),
    Clip(ClipCut),
    Coverage(Coverage),
    Lamp(Lamp),
    Gate(Gate),
    Status(Status),
    Fault(Fault),
    Clock(ClockCorrection),
    /// A type that this version does not know: kept and shown as it came.
    Unknown {
        kind: String,
        data: Value,
    },
}

/// The first event of an epoch: names the one before, so that a gap shows across restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    pub software: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    pub epoch: Epoch,
    pub last_sequence: u64,
}

/// Something moved in a camera's view. Start and end share `motion`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Motion {
    pub motion: Uuid,
    pub phase: MotionPhase,
    pub start: Time,
    /// When it ended; with the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// Who saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_by: Option<SeenBy>,
    /// When most moved, so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<Time>,
    /// Share of the picture that moved then, 0 to 1.
    pub peak_score: f64,
    /// Around what moved then: left, top, width, height as shares of the picture's width and height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<[f64; 4]>,
    /// The zone it was in then, as the box's configuration calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The motion that was closed because it was long; this one goes on where that one ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Uuid>,
}

/// Who looks for motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenBy {
    /// The box, in the pictures.
    Pixels,
    /// The camera, which told it in its metadata stream.
    Camera,
    /// A sensor of its own: heat (PIR) or radar, on a lamp or a wall.
    Sensor,
}

impl Motion {
    /// One of which nothing more is known.
    pub fn new(motion: Uuid, phase: MotionPhase, start: Time, peak_score: f64) -> Self {
        let (end, seen_by, peak, region, zone, continues) = (None, None, None, None, None, None);
        Self { motion, phase, start, end, seen_by, peak, peak_score, region, zone, continues }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MotionPhase {
    Start,
    End,
}

/// A clip (đoạn hình) was cut from the ring: an init segment and whole fragments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipCut {
    pub clip: Uuid,
    /// The motion it was cut for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<Uuid>,
    /// Time of the first and the end of the last picture in the clip.
    pub start: Time,
    pub end: Time,
    /// The span in which something moved, without pre- and post-roll.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion_start: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion_end: Option<Time>,
    #[serde(default)]
    pub peak_score: f64,
    pub bytes: u64,
    pub sha256: Sha256Hash,
    pub video: Video,
    /// Its audio as in RFC 6381, for instance `mp4a.40.2` or `alaw`; none without audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_codec: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<Still>,
    /// The recorded span that the fragments belong to, the first one's number in it (from 0) and
    /// their hashes: leaves of the Merkle tree whose root the coverage events commit.
    pub run: Uuid,
    pub first_fragment: u64,
    pub fragments: Vec<Sha256Hash>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// As in RFC 6381, for instance `avc1.4d401e` or `hvc1.1.6.L93.B0`.
    pub codec: String,
    pub width: u32,
    pub height: u32,
}

/// A still picture that belongs to a clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Still {
    pub sha256: Sha256Hash,
    pub bytes: u64,
    pub time: Time,
}

/// A span of a camera's account: reported when it opens, at a slow heartbeat, and when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Names the span; all its reports carry it, later ones replace earlier ones.
    pub span: Uuid,
    #[serde(flatten)]
    pub state: SpanState,
    pub start: Time,
    /// The span is known to reach to here.
    pub upto: Time,
    /// False with the report that ends the span.
    pub open: bool,
    /// Commits the fragments recorded so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunCommitment>,
    /// Oldest moment that the ring still holds of this camera; older footage is overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_from: Option<Time>,
    /// What the box knows beyond the cause, for the technician.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Root of the Merkle tree (RFC 6962) over the SHA-256 of the first `fragments` fragments of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RunCommitment {
    pub fragments: u64,
    pub merkle_root: Sha256Hash,
}

/// One circuit of a lighting cabinet, or a lamp that speaks for itself: on change, and at a slow heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lamp {
    pub circuit: u16,
    pub reason: LampReason,
    pub on: bool,
    /// What follows is there as far as it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_a: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voltage_v: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_factor: Option<f64>,
    /// Import of the circuit, kilowatt-hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_kwh: Option<f64>,
    /// Import of all circuits of its meter, kilowatt-hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_total_kwh: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// With reason `command`: what the box was told, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<LampCommanded>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LampReason {
    Change,
    Heartbeat,
    /// First reading after the box wrote to the cabinet because it was told to.
    Command,
}

/// What a lamp circuit can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum LampAct {
    Switch { on: bool },
    Dim { percent: u8 },
}

/// A command that the box carried out, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LampCommanded {
    /// The command's correlation id.
    pub correlation: String,
    #[serde(flatten)]
    pub act: LampAct,
    /// Who asked, and why.
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The cabinet shows what it was told.
    pub done: bool,
}

/// A gate's (cổng rào) contact: on change, and at a slow heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub reason: GateReason,
    pub open: bool,
    /// It was opened, or found open at the box's start, in hours in which it is to be closed, and is open since.
    pub forced: bool,
    /// Somebody opened or tore off the sensor.
    pub tampered: bool,
    /// What is left in the sensor's battery, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery_percent: Option<f64>,
    /// How well its radio is heard, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_percent: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateReason {
    Change,
    Heartbeat,
}

/// How a device is doing, by exception and at a slow heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub working: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of a camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<CameraHealth>,
    /// Of the box itself.
    #[serde(default, rename = "box", skip_serializing_if = "Option::is_none")]
    pub of_box: Option<BoxHealth>,
}

/// Something is broken on the box or a device, or works again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// A short fixed name, for instance `motion_pipeline_stalled`.
    pub fault: String,
    pub phase: FaultPhase,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultPhase {
    Raised,
    Cleared,
}

/// The clock that events were stamped with was found to be off. Recorded times stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClockCorrection {
    /// Times in this span of the device's (or box's) clock are meant.
    pub from: Time,
    pub upto: Time,
    /// Add this to get true time, milliseconds.
    pub correction_ms: i64,
    pub uncertainty_ms: u64,
    /// The device's spans of coverage (a recorded one is a run) whose times are meant. Two starts of a box without a
    /// clock show the same times; so a box names what it means. Absent: whatever was recorded from `from` to `upto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spans: Option<Vec<Uuid>>,
}

impl Source {
    pub fn of_box(box_id: &BoxId) -> Self {
        Self { box_id: box_id.clone(), device: None }
    }

    pub fn of_device(box_id: &BoxId, device: &DeviceId) -> Self {
        Self { box_id: box_id.clone(), device: Some(device.clone()) }
    }
}

impl Lamp {
    /// What every cabinet says; the rest is absent.
    pub fn new(circuit: u16, reason: LampReason, on: bool, current_a: f64, power_w: f64) -> Self {
        let (current_a, power_w) = (Some(current_a), Some(power_w));
        Self {
            circuit,
            reason,
            on,
            current_a,
            power_w,
            voltage_v: None,
            power_factor: None,
            energy_kwh: None,
            energy_total_kwh: None,
            dim_percent: None,
            fault: None,
            command: None,
        }
    }
}

impl Status {
    /// One that says no more than that.
    pub fn new(working: bool, detail: Option<String>) -> Self {
        Self { working, detail, camera: None, of_box: None }
    }
}

impl Coverage {
    /// The cause, if the span is a gap.
    pub fn cause(&self) -> Option<GapCause> {
        match self.state {
            SpanState::Recorded => None,
            SpanState::Gap { cause } => Some(cause),
        }
    }
}
