//! Compares the committed contracts with what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use camnet::model::*;
use camnet::wire::{
    self, Command, CommandOutcome, CommandResult, LampCommand, StillCommand, Topic, TopicKind,
};
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
            seen_by: Some(SeenBy::Camera),
            peak: Some(time),
            peak_score: 0.1,
            region: Some([0.1, 0.2, 0.3, 0.4]),
            zone: Some("cổng".into()),
            continues: Some(id),
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
            voltage_v: Some(231.5),
            power_factor: Some(0.97),
            energy_kwh: Some(1.5),
            energy_total_kwh: Some(3.5),
            dim_percent: Some(40.0),
            fault: Some("lamp_failure".into()),
            command: Some(LampCommanded {
                correlation: "x".into(),
                act: LampAct::Switch { on: true },
                actor: "demo".into(),
                purpose: Some("x".into()),
                done: true,
            }),
            ..Lamp::new(1, LampReason::Command, true, 1.0, 230.0)
        }),
        EventData::Gate(Gate {
            reason: GateReason::Change,
            open: true,
            forced: true,
            tampered: false,
            battery_percent: Some(97.0),
            link_percent: Some(40.0),
        }),
        EventData::Status(Status::new(true, Some("x".into()))),
        EventData::Status(Status {
            camera: Some(camera_health(time)),
            of_box: Some(box_health()),
            ..Status::new(true, None)
        }),
        EventData::Fault(Fault { fault: "x".into(), phase: FaultPhase::Raised, detail: "x".into() }),
        EventData::Clock(ClockCorrection {
            from: time,
            upto: time,
            correction_ms: 1,
            uncertainty_ms: 1,
            spans: Some(vec![Uuid::now_v7()]),
        }),
    ]
}

fn camera_health(time: Time) -> CameraHealth {
    CameraHealth {
        reachable: true,
        recording: true,
        fps: 24.9,
        fps_expected: Some(25.0),
        kbit_per_s: 1900.0,
        lost_ppm: 3,
        key_interval_s: Some(2.0),
        clock: ClockQuality {
            source: ClockSource::Camera,
            sync: SyncState::Synced,
            offset_ms: Some(-12),
            uncertainty_ms: Some(40),
        },
        camera_clock_ms: Some(-12),
        ring_days: Some(6.5),
        ring_days_due: Some(7.0),
        picture: Some(vec![PictureFault::Covered]),
        self_test: Some(SelfTest {
            at: time,
            of: time,
            result: SelfTestResult::Broken,
            detail: Some("x".into()),
        }),
    }
}

fn box_health() -> BoxHealth {
    BoxHealth {
        started: Some(BoxStart::Machine),
        disk_wear_percent: Some(10),
        disk_failing: Some(false),
        temperature_c: Some(61.5),
        under_voltage: Some(true),
        radio_dbm: Some(-56),
        receipt_ms: Some(12),
        ..BoxHealth::default()
    }
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
        if kind == "camnet.lamp.v1" {
            let command = &schemas[kind.as_str()]["properties"]["command"];
            check("command of a lamp", &event["data"]["command"], command);
        }
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
fn asyncapi_says_what_commands_and_results_are() {
    let contract = asyncapi();
    let schemas = &contract["components"]["schemas"];
    let (command, result, lamp) =
        (&schemas["command"], &schemas["result"], &schemas["camnet.lamp.v1"]["properties"]["command"]);
    let words = |schema: &Value, key: &str| -> BTreeSet<String> {
        let words = schema["properties"][key]["enum"].as_array().unwrap().iter();
        words.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let text = |body: &[u8]| -> Value { serde_json::from_slice(body).unwrap() };
    let time: Time = "2026-11-20T15:15:00Z".parse().unwrap();
    let order = |act| {
        Command::Lamp(LampCommand {
            correlation: "x".into(),
            device: DeviceId::new("lamp-01").unwrap(),
            circuit: 1,
            act,
            actor: "demo".into(),
            purpose: Some("x".into()),
            issued: time,
            valid_until: time,
        })
    };
    let new_epoch = Command::NewEpoch { correlation: "x".into(), epoch: Epoch(1), reason: "x".into() };
    let acts = [LampAct::Switch { on: true }, LampAct::Dim { percent: 40 }];
    let (mut commands, mut told) = (BTreeSet::new(), BTreeSet::new());
    let configure = Command::Configure { correlation: "x".into(), version: 2 };
    let of_camera = StillCommand {
        correlation: "x".into(),
        device: DeviceId::new("cam-01").unwrap(),
        actor: "demo".into(),
        purpose: Some("x".into()),
        issued: time,
        valid_until: time,
    };
    let (still, view) = (Command::Still(of_camera.clone()), Command::View(of_camera));
    for sent in [new_epoch, configure, still, view].into_iter().chain(acts.map(order)) {
        let json = text(&sent.to_json());
        check("command", &json, command);
        assert_eq!(Command::from_json(&sent.to_json()).unwrap(), sent, "it reads back as it was");
        commands.insert(json["command"].as_str().unwrap().to_owned());
        told.extend(json["act"].as_str().map(str::to_owned));
    }
    assert_eq!((words(command, "command"), words(command, "act")), (commands, told.clone()));
    assert_eq!(words(lamp, "act"), told);
    let mut outcomes = BTreeSet::new();
    for outcome in [CommandOutcome::Ok, CommandOutcome::Refused, CommandOutcome::Failed] {
        let (on, dim_percent) = (Some(true), Some(40.0));
        let clip = Some(uuid::Uuid::from_u128(7));
        let sent = CommandResult { outcome, on, dim_percent, clip, ..CommandResult::failed("x", "why") };
        let json = text(&sent.to_json());
        check("result", &json, result);
        assert_eq!(CommandResult::from_json(&sent.to_json()).unwrap(), sent);
        outcomes.insert(json["outcome"].as_str().unwrap().to_owned());
    }
    assert_eq!(words(result, "outcome"), outcomes);
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
