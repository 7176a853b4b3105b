//! Events as CloudEvents 1.0 JSON (<https://github.com/cloudevents/spec>, 1.0.2, JSON event format):
//! one object, or an array of objects as batch.
//!
//! A body is decoded event by event, so that one bad event in a batch costs only itself.

use jiff::fmt::temporal::DateTimeParser;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::limits::{BATCH_EVENTS_MAX, EVENT_BYTES_MAX, SEQUENCE_MAX};
use crate::model::{
    BoxId, ClockQuality, ClockSource, DeviceId, Epoch, Event, EventData, Source, SyncState, Time,
};

pub const CONTENT_TYPE_EVENT: &str = "application/cloudevents+json";
pub const CONTENT_TYPE_BATCH: &str = "application/cloudevents-batch+json";

/// Every event type that this version writes.
pub fn event_types() -> [&'static str; 8] {
    [
        "camnet.boot.v1",
        "camnet.motion.v1",
        "camnet.clip.v1",
        "camnet.coverage.v1",
        "camnet.lamp.v1",
        "camnet.status.v1",
        "camnet.fault.v1",
        "camnet.clock.v1",
    ]
}

/// The CloudEvents `type` of an event.
pub fn event_type(data: &EventData) -> &str {
    match data {
        EventData::Boot(_) => "camnet.boot.v1",
        EventData::Motion(_) => "camnet.motion.v1",
        EventData::Clip(_) => "camnet.clip.v1",
        EventData::Coverage(_) => "camnet.coverage.v1",
        EventData::Lamp(_) => "camnet.lamp.v1",
        EventData::Status(_) => "camnet.status.v1",
        EventData::Fault(_) => "camnet.fault.v1",
        EventData::Clock(_) => "camnet.clock.v1",
        EventData::Unknown { kind, .. } => kind,
    }
}

/// One event of a body, or why it was set aside.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    Event {
        event: Box<Event>,
        /// The event's own JSON, as it came; this is what the journal keeps.
        json: Vec<u8>,
    },
    Refused(Refusal),
}

/// What could not be taken: its place in the epoch if that could still be read, and the bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub detail: String,
    pub epoch: Option<Epoch>,
    pub sequence: Option<u64>,
    /// The event's bytes, at most [`EVENT_BYTES_MAX`] of them.
    pub body: Vec<u8>,
}

/// The reasons for setting an event aside; `as_str` is the metric's label and the receipt's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalReason {
    NotJson,
    TooLarge,
    TooMany,
    NotCloudEvent,
    WrongBox,
    BadSequence,
    BadTime,
    NewerVersion,
    BadData,
    /// An event type or source that this box may not speak about.
    NotAllowed,
}

impl RefusalReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::NotCloudEvent => "not_cloudevent",
            Self::WrongBox => "wrong_box",
            Self::BadSequence => "bad_sequence",
            Self::BadTime => "bad_time",
            Self::NewerVersion => "newer_version",
            Self::BadData => "bad_data",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// The CloudEvents envelope; unknown attributes are ignored.
#[derive(Serialize, Deserialize)]
struct Envelope {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    sequence: String,
    epoch: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(default)]
    clock: Option<String>,
    #[serde(default)]
    data: Value,
}

/// What of an envelope may still be readable when the rest is not.
#[derive(Deserialize, Default)]
struct Place {
    #[serde(default)]
    sequence: Value,
    #[serde(default)]
    epoch: Value,
}

/// One event as JSON.
pub fn encode(event: &Event) -> Vec<u8> {
    let envelope = Envelope {
        specversion: "1.0".into(),
        id: event.id.to_string(),
        source: encode_source(&event.source),
        kind: event_type(&event.data).to_owned(),
        time: event.time.to_string(),
        sequence: format!("{:020}", event.sequence),
        epoch: event.epoch.to_string(),
        datacontenttype: Some("application/json".into()),
        clock: Some(encode_clock(&event.clock)),
        data: data_json(&event.data),
    };
    serde_json::to_vec(&envelope).expect("an envelope has only text keys")
}

/// Events that are already JSON, as one batch body.
pub fn encode_batch<'a>(events: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut body = vec![b'['];
    for (n, event) in events.into_iter().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event);
    }
    body.push(b']');
    body
}

/// Every event of a body that came from `sender`, each taken or refused on its own.
///
/// The body decides whether it is a batch (it begins with `[`); the content type is a courtesy.
pub fn decode(sender: &BoxId, body: &[u8]) -> Vec<Decoded> {
    let refuse_all = |reason, detail: String| {
        let body = body[..body.len().min(EVENT_BYTES_MAX)].to_vec();
        vec![Decoded::Refused(Refusal { reason, detail, epoch: None, sequence: None, body })]
    };
    if body.trim_ascii_start().first() != Some(&b'[') {
        return vec![decode_one(sender, body)];
    }
    let items: Vec<&RawValue> = match serde_json::from_slice(body) {
        Ok(items) => items,
        Err(error) => return refuse_all(RefusalReason::NotJson, error.to_string()),
    };
    if items.len() > BATCH_EVENTS_MAX {
        let detail = format!("{} events in one batch, at most {BATCH_EVENTS_MAX} are taken", items.len());
        return refuse_all(RefusalReason::TooMany, detail);
    }
    items.iter().map(|item| decode_one(sender, item.get().as_bytes())).collect()
}

fn decode_one(sender: &BoxId, json: &[u8]) -> Decoded {
    match read_event(sender, json) {
        Ok(event) => Decoded::Event { event: Box::new(event), json: json.to_vec() },
        Err((reason, detail)) => {
            let place: Place = serde_json::from_slice(json).unwrap_or_default();
            Decoded::Refused(Refusal {
                reason,
                detail,
                epoch: place.epoch.as_str().and_then(|e| e.parse().ok()),
                sequence: place.sequence.as_str().and_then(|s| parse_sequence(s).ok()),
                body: json[..json.len().min(EVENT_BYTES_MAX)].to_vec(),
            })
        }
    }
}

type Refuse = (RefusalReason, String);

fn read_event(sender: &BoxId, json: &[u8]) -> Result<Event, Refuse> {
    if json.len() > EVENT_BYTES_MAX {
        let detail = format!("{} bytes, at most {EVENT_BYTES_MAX} are taken", json.len());
        return Err((RefusalReason::TooLarge, detail));
    }
    let envelope: Envelope = serde_json::from_slice(json).map_err(|error| {
        let reason = if error.is_data() { RefusalReason::NotCloudEvent } else { RefusalReason::NotJson };
        (reason, error.to_string())
    })?;
    let not_cloudevent = |what: &str, text: &str| (RefusalReason::NotCloudEvent, format!("{what} {text:?}"));
    if !envelope.specversion.starts_with("1.") {
        return Err(not_cloudevent("specversion", &envelope.specversion));
    }
    let id = Uuid::parse_str(&envelope.id).map_err(|_| not_cloudevent("id is not a UUID:", &envelope.id))?;
    let epoch: Epoch = envelope.epoch.parse().map_err(|_| not_cloudevent("epoch", &envelope.epoch))?;
    let sequence = parse_sequence(&envelope.sequence)?;
    let source = decode_source(&envelope.source).ok_or_else(|| not_cloudevent("source", &envelope.source))?;
    if source.box_id != *sender {
        return Err((RefusalReason::WrongBox, format!("{sender} speaks as {}", source.box_id)));
    }
    let time = parse_time(&envelope.time)?;
    let data = join_data(&envelope.kind, envelope.data)?;
    let clock = envelope.clock.as_deref().map_or(UNKNOWN_CLOCK, decode_clock);
    Ok(Event { id, source, epoch, sequence, time, clock, data })
}

fn parse_sequence(text: &str) -> Result<u64, Refuse> {
    let bad = || {
        (
            RefusalReason::BadSequence,
            format!("sequence {:?} is not 20 digits from 1 to 2^48", clip_text(text)),
        )
    };
    if text.len() != 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let sequence: u64 = text.parse().map_err(|_| bad())?;
    if (1..=SEQUENCE_MAX).contains(&sequence) { Ok(sequence) } else { Err(bad()) }
}

/// RFC 3339. A time without an offset is refused: nobody knows which hour it means.
fn parse_time(text: &str) -> Result<Time, Refuse> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    PARSER
        .parse_timestamp(text)
        .map_err(|error| (RefusalReason::BadTime, format!("time {:?}: {error}", clip_text(text))))
}

fn clip_text(text: &str) -> String {
    text.chars().take(60).collect()
}

fn encode_source(source: &Source) -> String {
    match &source.device {
        Some(device) => format!("/{}/{device}", source.box_id),
        None => format!("/{}", source.box_id),
    }
}

fn decode_source(text: &str) -> Option<Source> {
    let mut parts = text.strip_prefix('/')?.split('/');
    let box_id = BoxId::new(parts.next()?).ok()?;
    let device = parts.next().map(DeviceId::new).transpose().ok()?;
    if parts.next().is_some() {
        return None;
    }
    Some(Source { box_id, device })
}

const UNKNOWN_CLOCK: ClockQuality = ClockQuality {
    source: ClockSource::Box,
    sync: SyncState::Unknown,
    offset_ms: None,
    uncertainty_ms: None,
};

/// The extension `clock` is a text, because CloudEvents extensions can't be objects:
/// `source=box;sync=synced;offset_ms=-12;uncertainty_ms=40`.
fn encode_clock(clock: &ClockQuality) -> String {
    let source = match clock.source {
        ClockSource::Camera => "camera",
        ClockSource::Box => "box",
    };
    let sync = match clock.sync {
        SyncState::Synced => "synced",
        SyncState::Unsynced => "unsynced",
        SyncState::Unknown => "unknown",
    };
    let mut text = format!("source={source};sync={sync}");
    if let Some(offset) = clock.offset_ms {
        text += &format!(";offset_ms={offset}");
    }
    if let Some(uncertainty) = clock.uncertainty_ms {
        text += &format!(";uncertainty_ms={uncertainty}");
    }
    text
}

/// Unknown words are ignored: a clock that can't be read is of unknown quality, not a reason to refuse.
fn decode_clock(text: &str) -> ClockQuality {
    let mut clock = UNKNOWN_CLOCK;
    for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
        match (key, value) {
            ("source", "camera") => clock.source = ClockSource::Camera,
            ("sync", "synced") => clock.sync = SyncState::Synced,
            ("sync", "unsynced") => clock.sync = SyncState::Unsynced,
            ("offset_ms", number) => clock.offset_ms = number.parse().ok(),
            ("uncertainty_ms", number) => clock.uncertainty_ms = number.parse().ok(),
            _ => {}
        }
    }
    clock
}

fn data_json(data: &EventData) -> Value {
    match data {
        EventData::Boot(d) => json!(d),
        EventData::Motion(d) => json!(d),
        EventData::Clip(d) => json!(d),
        EventData::Coverage(d) => json!(d),
        EventData::Lamp(d) => json!(d),
        EventData::Status(d) => json!(d),
        EventData::Fault(d) => json!(d),
        EventData::Clock(d) => json!(d),
        EventData::Unknown { data, .. } => data.clone(),
    }
}

fn join_data(kind: &str, data: Value) -> Result<EventData, Refuse> {
    Ok(match kind {
        "camnet.boot.v1" => EventData::Boot(typed(kind, data)?),
        "camnet.motion.v1" => EventData::Motion(typed(kind, data)?),
        "camnet.clip.v1" => EventData::Clip(typed(kind, data)?),
        "camnet.coverage.v1" => EventData::Coverage(typed(kind, data)?),
        "camnet.lamp.v1" => EventData::Lamp(typed(kind, data)?),
        "camnet.status.v1" => EventData::Status(typed(kind, data)?),
        "camnet.fault.v1" => EventData::Fault(typed(kind, data)?),
        "camnet.clock.v1" => EventData::Clock(typed(kind, data)?),
        _ if is_newer_version(kind) => {
            let detail = format!("{kind:?}: this hub knows version 1; update the hub");
            return Err((RefusalReason::NewerVersion, detail));
        }
        _ => EventData::Unknown { kind: kind.to_owned(), data },
    })
}

/// A type that we know, in a major version that we do not.
fn is_newer_version(kind: &str) -> bool {
    let Some((name, version)) = kind.rsplit_once(".v") else { return false };
    let is_ours = event_types().iter().any(|ours| ours.rsplit_once(".v").is_some_and(|(n, _)| n == name));
    is_ours && version != "1" && version.bytes().all(|b| b.is_ascii_digit())
}

fn typed<T: DeserializeOwned>(kind: &str, data: Value) -> Result<T, Refuse> {
    serde_json::from_value(data).map_err(|error| (RefusalReason::BadData, format!("{kind}: {error}")))
}
