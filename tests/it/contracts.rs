//! Compares the committed contracts with what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use camnet::model::*;
use camnet::wire::{self, Topic, TopicKind};
use serde_json::Value;
use uuid::Uuid;

fn asyncapi() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/asyncapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// One event of each type with every field set.
fn samples() -> Vec<EventData> {
    let time: Time = "2026-11-20T15:15:00Z".parse().unwrap();
    let hash = Sha256Hash::of(b"sample");
    let id = Uuid::nil();
    let recorded = Coverage {
        span: id,
        state: SpanState::Recorded,
        start: time,
        upto: time,
        open: true,
        run: Some(RunCommitment { fragments: 1, merkle_root: hash }),
        ring_from: Some(time),
        detail: Some("x".into()),
    };
    let gap = Coverage { state: SpanState::Gap { cause: GapCause::BoxOff }, run: None, ..recorded.clone() };
    vec![
        EventData::Boot(Boot {
            previous: Some(Previous { epoch: Epoch(1), last_sequence: 2 }),
            software: "camnet".into(),
        }),
        EventData::Motion(Motion {
            motion: id,
            phase: MotionPhase::End,
            start: time,
            end: Some(time),
            peak_score: 0.1,
        }),
        EventData::Clip(ClipCut {
            clip: id,
            motion: Some(id),
            start: time,
            end: time,
            motion_start: Some(time),
            motion_end: Some(time),
            peak_score: 0.1,
            bytes: 1,
            sha256: hash,
            video: Video { codec: "avc1.4d401e".into(), width: 768, height: 432 },
            audio_codec: Some("mp4a.40.2".into()),
            thumbnail: Some(Still { sha256: hash, bytes: 1, time }),
            run: id,
            first_fragment: 0,
            fragments: vec![hash],
        }),
        EventData::Coverage(recorded),
        EventData::Coverage(gap),
        EventData::Lamp(Lamp {
            circuit: 1,
            reason: LampReason::Change,
            on: true,
            current_a: 1.0,
            power_w: 230.0,
            fault: Some("lamp_failure".into()),
        }),
        EventData::Status(Status { working: true, detail: Some("x".into()) }),
        EventData::Fault(Fault { fault: "x".into(), phase: FaultPhase::Raised, detail: "x".into() }),
        EventData::Clock(ClockCorrection { from: time, upto: time, correction_ms: 1, uncertainty_ms: 1 }),
    ]
}

fn encoded(data: EventData) -> Value {
    let box_id = BoxId::new("box-01").unwrap();
    let event = Event {
        id: Uuid::now_v7(),
        source: Source::of_device(&box_id, &DeviceId::new("cam-01").unwrap()),
        epoch: Epoch(7),
        sequence: 9,
        time: "2026-11-20T15:15:00Z".parse().unwrap(),
        clock: ClockQuality {
            source: ClockSource::Camera,
            sync: SyncState::Synced,
            offset_ms: Some(-12),
            uncertainty_ms: Some(40),
        },
        data,
    };
    let json = wire::encode(&event);
    match wire::decode(&box_id, &json).as_slice() {
        [wire::Decoded::Event { event: read, .. }] => assert_eq!(**read, event, "it reads back as it was"),
        other => panic!("{other:?}"),
    }
    serde_json::from_slice(&json).unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Every key of `value` stands in the schema, and every required key of the schema in `value`.
fn check(name: &str, value: &Value, schema: &Value) {
    let known = keys(&schema["properties"]);
    let unknown: Vec<_> = keys(value).difference(&known).copied().collect();
    assert!(unknown.is_empty(), "{name}: config/asyncapi.json does not know {unknown:?}");
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for key in required {
        assert!(value.get(key.as_str().unwrap()).is_some(), "{name}: {key} is required but not written");
    }
}

#[test]
fn asyncapi_says_what_boxes_write() {
    let contract = asyncapi();
    let schemas = &contract["components"]["schemas"];
    let mut written = BTreeSet::new();
    for data in samples() {
        let event = encoded(data);
        let kind = event["type"].as_str().unwrap().to_owned();
        check(&kind, &event, &schemas["event"]);
        check(&kind, &event["data"], &schemas[kind.as_str()]);
        assert_eq!(event["sequence"], "00000000000000000009");
        assert_eq!(event["epoch"], "0000000000000007");
        written.insert(kind);
    }
    let types: BTreeSet<String> = wire::event_types().map(str::to_owned).into();
    assert_eq!(written, types, "a sample of each type");
    let in_contract: BTreeSet<String> =
        keys(schemas).into_iter().filter(|name| name.starts_with("camnet.")).map(str::to_owned).collect();
    assert_eq!(in_contract, types, "config/asyncapi.json has each type and no other");
}

#[test]
fn asyncapi_has_every_topic() {
    let contract = asyncapi();
    let addresses: BTreeSet<&str> = contract["channels"]
        .as_object()
        .unwrap()
        .values()
        .map(|channel| channel["address"].as_str().unwrap())
        .collect();
    let box_id = BoxId::new("box-01").unwrap();
    let topics: BTreeSet<String> = TopicKind::ALL
        .into_iter()
        .map(|kind| Topic::new(&box_id, kind).to_string().replace("box-01", "{box}"))
        .collect();
    assert_eq!(addresses, topics.iter().map(String::as_str).collect());
}
