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

use crate::limits::{
    BATCH_EVENTS_MAX, EVENT_BYTES_MAX, EVENT_TYPE_BYTES_MAX, JSON_NESTING_MAX, REFUSAL_DETAIL_CHARS_MAX,
    REFUSED_BODY_BYTES_MAX, SEQUENCE_MAX,
};
use crate::model::{
    Boot, BoxId, ClockQuality, ClockSource, DeviceId, Epoch, Event, EventData, Source, SyncState, Time,
};

pub const CONTENT_TYPE_EVENT: &str = "application/cloudevents+json";
pub const CONTENT_TYPE_BATCH: &str = "application/cloudevents-batch+json";

/// Every event type that this version writes.
pub fn event_types() -> [&'static str; 9] {
    [
        "camnet.boot.v1",
        "camnet.motion.v1",
        "camnet.clip.v1",
        "camnet.coverage.v1",
        "camnet.lamp.v1",
        "camnet.gate.v1",
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
        EventData::Gate(_) => "camnet.gate.v1",
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
    pub id: Option<Uuid>,
    /// The event's bytes, at most [`REFUSED_BODY_BYTES_MAX`] of them.
    pub body: Vec<u8>,
}

impl Refusal {
    /// Keeps of detail and body what the limits allow.
    pub fn new(
        (reason, detail): (RefusalReason, String),
        epoch: Option<Epoch>,
        sequence: Option<u64>,
        id: Option<Uuid>,
        body: &[u8],
    ) -> Self {
        let detail = detail.chars().take(REFUSAL_DETAIL_CHARS_MAX).collect();
        let body = body[..body.len().min(REFUSED_BODY_BYTES_MAX)].to_vec();
        Self { reason, detail, epoch, sequence, id, body }
    }
}

/// The reasons for setting an event aside; `as_str` is the metric's label and the receipt's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalReason {
    NotJson,
    /// Nested deeper than any event that makes sense.
    TooDeep,
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
    /// It came under the name of a box whose certificates are revoked.
    Revoked,
}

impl RefusalReason {
    pub const ALL: [Self; 11] = [
        Self::NotJson,
        Self::TooDeep,
        Self::TooLarge,
        Self::TooMany,
        Self::NotCloudEvent,
        Self::WrongBox,
        Self::BadSequence,
        Self::BadTime,
        Self::NewerVersion,
        Self::BadData,
        Self::NotAllowed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::NotCloudEvent => "not_cloudevent",
            Self::WrongBox => "wrong_box",
            Self::BadSequence => "bad_sequence",
            Self::BadTime => "bad_time",
            Self::NewerVersion => "newer_version",
            Self::BadData => "bad_data",
            Self::NotAllowed => "not_allowed",
            Self::Revoked => "revoked",
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
    #[serde(default)]
    id: Value,
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

/// Every event of a body that came from `sender`, each taken or refused on its own; never empty.
///
/// The body decides whether it is a batch (it begins with `[`); the content type is a courtesy.
pub fn decode(sender: &BoxId, body: &[u8]) -> Vec<Decoded> {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return vec![decode_one(sender, body)];
    }
    let refuse_all =
        |reason, detail| vec![Decoded::Refused(Refusal::new((reason, detail), None, None, None, body))];
    let items: Vec<&[u8]> = match serde_json::from_slice::<Vec<&RawValue>>(body) {
        Ok(items) => items.iter().map(|item| item.get().as_bytes()).collect(),
        // One event with a broken byte must not cost the others of its batch.
        Err(error) => match split_batch(body) {
            Some(items) => items,
            None => return refuse_all(RefusalReason::NotJson, error.to_string()),
        },
    };
    if items.is_empty() {
        return refuse_all(RefusalReason::NotCloudEvent, "a batch without events".into());
    }
    if items.len() > BATCH_EVENTS_MAX {
        let detail = format!("{} events in one batch, at most {BATCH_EVENTS_MAX} are taken", items.len());
        return refuse_all(RefusalReason::TooMany, detail);
    }
    items.into_iter().map(|item| decode_one(sender, item)).collect()
}

/// The items of an array of which one is not JSON, told apart by brackets and quotes alone; None if these do not
/// match either.
fn split_batch(body: &[u8]) -> Option<Vec<&[u8]>> {
    let inner = body.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0usize);
    let (mut is_text, mut is_escaped) = (false, false);
    for (at, &byte) in inner.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                items.push(inner[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(inner[start..].trim_ascii());
    (depth == 0 && !is_text).then_some(items)
}

fn decode_one(sender: &BoxId, json: &[u8]) -> Decoded {
    match read_event(sender, json) {
        Ok(event) => Decoded::Event { event: Box::new(event), json: json.to_vec() },
        Err(why) => {
            let place: Place = serde_json::from_slice(json).unwrap_or_default();
            let epoch = place.epoch.as_str().and_then(|e| e.parse().ok());
            let sequence = place.sequence.as_str().and_then(|s| parse_sequence(s).ok());
            let id = place.id.as_str().and_then(|id| Uuid::parse_str(id).ok());
            Decoded::Refused(Refusal::new(why, epoch, sequence, id, json))
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
        let reason = if error.is_data() { RefusalReason::NotCloudEvent } else { syntax_reason(json) };
        (reason, error.to_string())
    })?;
    let not_cloudevent =
        |what: &str, text: &str| (RefusalReason::NotCloudEvent, format!("{what} {:?}", clip_text(text)));
    check_version(&envelope.specversion)?;
    if !(1..=EVENT_TYPE_BYTES_MAX).contains(&envelope.kind.len()) {
        return Err(not_cloudevent("type is empty or too long:", &envelope.kind));
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

/// Why a body that is no JSON to serde_json is none: it also gives up on what is nested too deep.
fn syntax_reason(json: &[u8]) -> RefusalReason {
    let (mut depth, mut is_text, mut is_escaped) = (0usize, false, false);
    for &byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => depth += 1,
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth >= JSON_NESTING_MAX {
            return RefusalReason::TooDeep;
        }
    }
    RefusalReason::NotJson
}

fn check_version(specversion: &str) -> Result<(), Refuse> {
    let major: Option<u32> = specversion.split('.').next().and_then(|major| major.parse().ok());
    let detail = format!("specversion {:?}: this hub knows 1.0", clip_text(specversion));
    match major {
        Some(1) => Ok(()),
        Some(major) if major > 1 => Err((RefusalReason::NewerVersion, detail)),
        _ => Err((RefusalReason::NotCloudEvent, detail)),
    }
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
        EventData::Gate(d) => json!(d),
        EventData::Status(d) => json!(d),
        EventData::Fault(d) => json!(d),
        EventData::Clock(d) => json!(d),
        EventData::Unknown { data, .. } => data.clone(),
    }
}

fn join_data(kind: &str, data: Value) -> Result<EventData, Refuse> {
    Ok(match kind {
        "camnet.boot.v1" => EventData::Boot(check_boot(typed(kind, data)?)?),
        "camnet.motion.v1" => EventData::Motion(typed(kind, data)?),
        "camnet.clip.v1" => EventData::Clip(typed(kind, data)?),
        "camnet.coverage.v1" => EventData::Coverage(typed(kind, data)?),
        "camnet.lamp.v1" => EventData::Lamp(typed(kind, data)?),
        "camnet.gate.v1" => EventData::Gate(typed(kind, data)?),
        "camnet.status.v1" => EventData::Status(typed(kind, data)?),
        "camnet.fault.v1" => EventData::Fault(typed(kind, data)?),
        "camnet.clock.v1" => EventData::Clock(typed(kind, data)?),
        _ if is_newer_version(kind) => {
            let detail = format!("{:?}: this hub knows version 1; update the hub", clip_text(kind));
            return Err((RefusalReason::NewerVersion, detail));
        }
        _ => EventData::Unknown { kind: kind.to_owned(), data },
    })
}

/// The hub believes what a box says of its previous epoch, and asks for all of it.
fn check_boot(boot: Boot) -> Result<Boot, Refuse> {
    match boot.previous {
        Some(previous) if previous.last_sequence > SEQUENCE_MAX => {
            let detail = format!("previous.last_sequence {} is above 2^48", previous.last_sequence);
            Err((RefusalReason::BadSequence, detail))
        }
        _ => Ok(boot),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sender() -> BoxId {
        BoxId::new("box-01").expect("a good id")
    }

    /// A good event with some of its attributes replaced; `null` takes one away.
    fn event(changes: Value) -> Vec<u8> {
        let mut event = json!({
            "specversion": "1.0", "id": Uuid::from_u128(7), "source": "/box-01", "type": "camnet.status.v1",
            "time": "2026-11-20T15:15:00Z", "sequence": "00000000000000000003",
            "epoch": "00000000000000ab", "data": { "working": true },
        });
        for (key, value) in changes.as_object().expect("an object") {
            match value {
                Value::Null => drop(event.as_object_mut().expect("an object").remove(key)),
                value => event[key] = value.clone(),
            }
        }
        serde_json::to_vec(&event).expect("it is JSON")
    }

    fn told(decoded: &[Decoded]) -> Vec<&'static str> {
        let word = |decoded: &Decoded| match decoded {
            Decoded::Event { .. } => "event",
            Decoded::Refused(refusal) => refusal.reason.as_str(),
        };
        decoded.iter().map(word).collect()
    }

    #[test]
    fn each_bad_event_is_refused_with_its_reason_and_its_place() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        let deep = |levels: usize| {
            let text = String::from_utf8(event(json!({}))).expect("UTF-8");
            let nested = String::from_utf8(nested(levels)).expect("UTF-8");
            text.replace(r#"{"working":true}"#, &nested).into_bytes()
        };
        let torn = |body: Vec<u8>| body[..body.len() - 9].to_vec();
        let with_byte = |byte: u8| {
            let mut body = event(json!({ "data": { "working": true, "detail": "#" } }));
            let at = body.iter().position(|&b| b == b'#').expect("it is there");
            body[at] = byte;
            body
        };
        let boot = |last: u64| {
            json!({ "type": "camnet.boot.v1",
            "data": { "software": "x", "previous": { "epoch": "00000000000000aa", "last_sequence": last } } })
        };
        let table: Vec<(Vec<u8>, &str, Option<u64>)> = vec![
            (event(json!({})), "event", Some(3)),
            (event(json!({ "type": "camnet.tamper.v9" })), "event", Some(3)),
            (event(json!({ "type": "org.example.door" })), "event", Some(3)),
            (deep(50), "bad_data", Some(3)),
            (b"".to_vec(), "not_json", None),
            (b"hello".to_vec(), "not_json", None),
            (torn(event(json!({}))), "not_json", None),
            (with_byte(0xff), "not_json", Some(3)),
            (with_byte(0x00), "not_json", None),
            (deep(10_000), "too_deep", Some(3)),
            (b"7".to_vec(), "not_cloudevent", None),
            (event(json!({ "id": null })), "not_cloudevent", Some(3)),
            (event(json!({ "id": "seven" })), "not_cloudevent", Some(3)),
            (event(json!({ "source": "box-01" })), "not_cloudevent", Some(3)),
            (event(json!({ "type": "" })), "not_cloudevent", Some(3)),
            (event(json!({ "type": "x".repeat(10_000) })), "not_cloudevent", Some(3)),
            (event(json!({ "epoch": "ab" })), "not_cloudevent", None),
            (event(json!({ "specversion": "0.3" })), "not_cloudevent", Some(3)),
            (event(json!({ "specversion": "1x" })), "not_cloudevent", Some(3)),
            (event(json!({ "specversion": "2.0" })), "newer_version", Some(3)),
            (event(json!({ "type": "camnet.motion.v2" })), "newer_version", Some(3)),
            (event(json!({ "source": "/box-02" })), "wrong_box", Some(3)),
            (event(json!({ "sequence": "3" })), "bad_sequence", None),
            (event(json!({ "sequence": "00000000000000000000" })), "bad_sequence", None),
            (event(json!({ "sequence": "-0000000000000000003" })), "bad_sequence", None),
            (event(json!({ "sequence": "99999999999999999999" })), "bad_sequence", None),
            (event(boot(1 << 48)), "event", Some(3)),
            (event(boot(u64::MAX)), "bad_sequence", Some(3)),
            (event(json!({ "time": "yesterday" })), "bad_time", Some(3)),
            (event(json!({ "time": "2026-11-20T15:15:00" })), "bad_time", Some(3)),
            (event(json!({ "time": "2026-13-40T15:15:00Z" })), "bad_time", Some(3)),
            (event(json!({ "data": { "working": "maybe" } })), "bad_data", Some(3)),
            (event(json!({ "data": { "x": "y".repeat(EVENT_BYTES_MAX) } })), "too_large", Some(3)),
            (b"[]".to_vec(), "not_cloudevent", None),
            (b"[".to_vec(), "not_json", None),
            (encode_batch(vec![b"{}".as_slice(); BATCH_EVENTS_MAX + 1]), "too_many", None),
        ];
        for (body, expected, sequence) in table {
            let decoded = decode(&sender(), &body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            assert_eq!(told(&decoded), [expected], "{shown}");
            let place = match &decoded[0] {
                Decoded::Event { event, .. } => Some(event.sequence),
                Decoded::Refused(refusal) => {
                    assert!(refusal.detail.chars().count() <= REFUSAL_DETAIL_CHARS_MAX, "{shown}");
                    assert!(refusal.body.len() <= REFUSED_BODY_BYTES_MAX, "{shown}");
                    refusal.epoch.and(refusal.sequence)
                }
            };
            assert_eq!(place, sequence, "{shown}");
        }
    }

    #[test]
    fn one_bad_event_of_a_batch_costs_only_itself() {
        let good = event(json!({}));
        let tricky = event(json!({ "data": { "working": true, "detail": "],[\"}{\\" } }));
        let bad_byte = good.iter().map(|&b| if b == b'-' { 0xff } else { b }).collect::<Vec<u8>>();
        let table: [(&[&[u8]], &[&str]); 5] = [
            (&[&good, b"hello", &good], &["event", "not_json", "event"]),
            (&[&tricky, &bad_byte, &tricky], &["event", "not_json", "event"]),
            (&[&good, b"{\"id\":}", &good], &["event", "not_json", "event"]),
            (&[&good, b"", &good], &["event", "not_json", "event"]),
            // A quote that never closes: nobody can tell where the next event begins.
            (&[&good, b"{\"id: 7}", &good], &["not_json"]),
        ];
        for (items, expected) in table {
            let body = encode_batch(items.iter().copied());
            assert_eq!(told(&decode(&sender(), &body)), expected, "{}", String::from_utf8_lossy(&body));
        }
    }
}
