//! What a box may send by mistake or by malice, through a real broker to a real hub: each is set aside with its
//! reason, counted and listed, and holds up nothing behind it.

use std::time::Duration;

use camnet::limits::{BATCH_EVENTS_MAX, EVENT_BYTES_MAX, MQTT_PACKET_BYTES_MAX};
use camnet::model::BoxId;
use camnet::mqtt::{self, LinkConfig, LinkEvent, LinkSender, OutMessage};
use camnet::tls::{self, Identity};
use camnet::wire::{self, Receipt, Topic, TopicKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{HubWorld, camnet, run, wait_for};

const EPOCH: &str = "00000000000000ab";
const BOX: &str = "box-01";

/// The link of a box, with nothing of a box behind it.
struct Bare {
    sender: LinkSender,
    events: mpsc::Receiver<LinkEvent>,
    stop: CancellationToken,
}

impl Bare {
    fn start(world: &HubWorld) -> Self {
        let file = |name: &str| world.dir.join(name);
        let identity = Identity {
            ca: file("ca.pem"),
            certificate: file(&format!("{BOX}.pem")),
            key: file(&format!("{BOX}.key")),
        };
        let config = LinkConfig {
            address: format!("127.0.0.1:{}", world.mqtt),
            client_id: BOX.to_owned(),
            tls: Some(tls::client_config(&identity).unwrap()),
            subscriptions: vec![topic(TopicKind::Receipt)],
            will: None,
            inflight_max: 100,
            session_keep: None,
            login: None,
        };
        let stop = CancellationToken::new();
        let (sender, events, _) = mqtt::start(config, stop.clone());
        Self { sender, events, stop }
    }

    async fn up(&mut self) {
        self.until("the link to be up", |event| matches!(event, LinkEvent::Up { .. }).then_some(())).await;
    }

    /// Publishes on the box's topic; `place` is the range of sequences that the message says it carries.
    async fn publish(&self, body: Vec<u8>, place: Option<(u64, u64)>) {
        let properties = place.map(|(first, last)| {
            vec![
                (wire::PROPERTY_EPOCH.to_owned(), EPOCH.to_owned()),
                (wire::PROPERTY_SEQUENCES.to_owned(), format!("{first}-{last}")),
            ]
        });
        let message = OutMessage {
            topic: topic(TopicKind::Event),
            payload: body,
            content_type: Some(wire::CONTENT_TYPE_EVENT),
            user_properties: properties.unwrap_or_default(),
            retain: false,
            token: 0,
            correlation: None,
        };
        self.sender.publish(message).await.unwrap();
    }

    async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&LinkEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the link lives");
                if let LinkEvent::Message(message) = &event {
                    assert!(message.topic.ends_with("/receipt"), "{}", message.topic);
                }
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("no {what}"))
    }

    /// Waits for a receipt that covers every sequence up to `last`.
    async fn receipt(&mut self, last: u64) -> Receipt {
        self.until(&format!("receipt up to {last}"), |event| {
            let LinkEvent::Message(message) = event else { return None };
            let receipt = Receipt::from_json(&message.payload).expect("a hub's receipt can be read");
            (1..=last).all(|sequence| receipt.covers(sequence)).then_some(receipt)
        })
        .await
    }

    /// As [`Bare::receipt`], but sends the last event again whenever the link came up anew, as a box would.
    async fn receipt_in_the_end(&mut self, last: u64, body: &[u8]) {
        for _ in 0..3 {
            let is_covered = self
                .until("the last receipt or a new link", |event| match event {
                    LinkEvent::Up { .. } => Some(false),
                    LinkEvent::Message(message) => {
                        let receipt = Receipt::from_json(&message.payload).expect("it can be read");
                        (1..=last).all(|sequence| receipt.covers(sequence)).then_some(true)
                    }
                    _ => None,
                })
                .await;
            if is_covered {
                return;
            }
            self.publish(body.to_vec(), Some((last, last))).await;
        }
        panic!("the link was lost again and again");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn topic(kind: TopicKind) -> String {
    Topic::new(&BoxId::new(BOX).unwrap(), kind).to_string()
}

/// A good event of the box itself, with some attributes replaced.
fn event(sequence: u64, changes: Value) -> Vec<u8> {
    let mut event = json!({
        "specversion": "1.0", "id": Uuid::now_v7(), "source": format!("/{BOX}"), "type": "camnet.status.v1",
        "time": jiff::Timestamp::now().to_string(), "sequence": format!("{sequence:020}"), "epoch": EPOCH,
        "data": { "working": true },
    });
    for (key, value) in changes.as_object().unwrap() {
        event[key] = value.clone();
    }
    serde_json::to_vec(&event).unwrap()
}

/// What a message shall become.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// An event of this type.
    Event(&'static str),
    /// A second event under a place that is taken.
    Conflict,
    /// Set aside for this reason.
    Refused(&'static str),
}

/// Every kind of message, each with a sequence of its own but where the sequence is what is wrong.
fn table() -> Vec<(u64, Vec<u8>, Fate)> {
    let mut rows: Vec<(u64, Vec<u8>, Fate)> = Vec::new();
    let mut add = |make: &dyn Fn(u64) -> Vec<u8>, fate: Fate| {
        let sequence = rows.len() as u64 + 1;
        rows.push((sequence, make(sequence), fate));
    };
    let with = |changes: Value| move |sequence: u64| event(sequence, changes.clone());
    let replaced = |from: &'static str, to: Vec<u8>| {
        move |sequence: u64| {
            let body = event(sequence, json!({ "data": { "working": true, "detail": "HERE" } }));
            let at = body.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
            [&body[..at], &to[..], &body[at + from.len()..]].concat()
        }
    };
    let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
    add(&with(json!({})), Fate::Event("camnet.status.v1"));
    add(&|_| b"hello".to_vec(), Fate::Refused("not_json"));
    add(&|_| Vec::new(), Fate::Refused("not_json"));
    add(&|_| b"[]".to_vec(), Fate::Refused("not_cloudevent"));
    add(&|sequence| event(sequence, json!({}))[..60].to_vec(), Fate::Refused("not_json"));
    add(&replaced("HERE", vec![0xff, 0xfe, 0x00]), Fate::Refused("not_json"));
    add(&replaced(r#""HERE""#, deep), Fate::Refused("too_deep"));
    add(&with(json!({ "specversion": "2.0" })), Fate::Refused("newer_version"));
    add(&with(json!({ "type": "camnet.motion.v2" })), Fate::Refused("newer_version"));
    add(
        &with(json!({ "type": "camnet.tamper.v1", "data": { "angle": 7 } })),
        Fate::Event("camnet.tamper.v1"),
    );
    add(&with(json!({ "source": "/box-02" })), Fate::Refused("wrong_box"));
    add(&with(json!({ "source": format!("/{BOX}/no-such-camera") })), Fate::Refused("not_allowed"));
    add(&with(json!({ "time": "a quarter past nine" })), Fate::Refused("bad_time"));
    add(&with(json!({ "time": "2026-11-20T15:15:00" })), Fate::Refused("bad_time"));
    add(&with(json!({ "time": "1970-01-01T00:00:00Z" })), Fate::Event("camnet.status.v1"));
    add(&with(json!({ "time": "9999-12-30T22:00:00.999999999Z" })), Fate::Event("camnet.status.v1"));
    add(&with(json!({ "time": "-009999-01-02T01:59:59Z" })), Fate::Event("camnet.status.v1"));
    add(&with(json!({ "sequence": "7" })), Fate::Refused("bad_sequence"));
    add(&with(json!({ "sequence": format!("{:020}", u64::MAX) })), Fate::Refused("bad_sequence"));
    add(&with(json!({ "id": "not-a-uuid" })), Fate::Refused("not_cloudevent"));
    add(&with(json!({ "data": { "working": [1, 2] } })), Fate::Refused("bad_data"));
    let large = "x".repeat(EVENT_BYTES_MAX);
    add(&with(json!({ "data": { "working": true, "detail": large } })), Fate::Refused("too_large"));
    let huge = vec![b'x'; MQTT_PACKET_BYTES_MAX as usize - 1000];
    add(&|_| huge.clone(), Fate::Refused("too_large"));
    // Times and numbers at the end of what can be said must not break the index's arithmetic.
    let (first, last) = ("-009999-01-02T01:59:59Z", "9999-12-30T22:00:00.999999999Z");
    let span =
        json!({ "span": Uuid::now_v7(), "state": "recorded", "start": first, "upto": last, "open": true });
    let of_camera = format!("/{BOX}/cam-01");
    let coverage = json!({ "type": "camnet.coverage.v1", "source": of_camera, "data": span });
    add(&with(coverage), Fate::Event("camnet.coverage.v1"));
    let clock = json!({ "from": first, "upto": last, "correction_ms": i64::MIN, "uncertainty_ms": u64::MAX });
    add(&with(json!({ "type": "camnet.clock.v1", "data": clock })), Fate::Event("camnet.clock.v1"));
    let motion =
        json!({ "motion": Uuid::now_v7(), "phase": "end", "start": last, "end": first, "peak_score": 1e308 });
    let motion = json!({ "type": "camnet.motion.v1", "source": of_camera, "time": last, "data": motion });
    add(&with(motion), Fate::Event("camnet.motion.v1"));
    let boot = json!({ "software": "x", "previous": { "epoch": EPOCH, "last_sequence": u64::MAX } });
    add(&with(json!({ "type": "camnet.boot.v1", "data": boot })), Fate::Refused("bad_sequence"));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_bad_message_is_set_aside_and_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &[BOX]);
    let hub = world.start().await;
    let mut bare = Bare::start(&world);
    bare.up().await;

    let mut rows = table();
    for (sequence, body, _) in &rows {
        bare.publish(body.clone(), Some((*sequence, *sequence))).await;
    }
    let mut last = rows.len() as u64;
    bare.receipt(last).await;

    // The sequence goes back: places that are taken come again with other ids. Where an event stands it is a
    // conflict; where something was set aside this is the event.
    bare.publish(event(1, json!({})), Some((1, 1))).await;
    rows.push((1, Vec::new(), Fate::Conflict));
    let again = event(2, json!({ "type": "camnet.second.v1" }));
    bare.publish(again.clone(), Some((2, 2))).await;
    bare.publish(again, Some((2, 2))).await;
    rows.push((2, Vec::new(), Fate::Event("camnet.second.v1")));

    // A batch with bad ones among the good: each bad one costs only itself.
    let good = |sequence| event(sequence, json!({ "type": "camnet.batch.v1" }));
    let (a, b) = (good(last + 1), good(last + 3));
    bare.publish(wire::encode_batch([&a[..], b"{\"id\":\xff}", &b]), Some((last + 1, last + 3))).await;
    rows.push((last + 1, Vec::new(), Fate::Event("camnet.batch.v1")));
    rows.push((last + 2, Vec::new(), Fate::Refused("not_json")));
    rows.push((last + 3, Vec::new(), Fate::Event("camnet.batch.v1")));
    last += 3;
    // A batch that nobody can take apart: all its places are handed over.
    bare.publish(b"[{\"id\": \"7}, {}]".to_vec(), Some((last + 1, last + 3))).await;
    rows.extend((1..=3).map(|n| (last + n, Vec::new(), Fate::Refused("not_json"))));
    last += 3;
    let many = vec![b"{}".as_slice(); BATCH_EVENTS_MAX + 1];
    bare.publish(wire::encode_batch(many), Some((last + 1, last + 1))).await;
    rows.push((last + 1, Vec::new(), Fate::Refused("too_many")));
    last += 1;
    // Without a place anywhere it is kept all the same, and no receipt speaks of it.
    bare.publish(b"nobody knows".to_vec(), None).await;
    bare.publish(event(last + 1, json!({ "type": "camnet.late.v1" })), Some((last + 1, last + 1))).await;
    rows.push((last + 1, Vec::new(), Fate::Event("camnet.late.v1")));
    last += 1;
    bare.receipt(last).await;
    // A packet larger than any party takes ends the connection, and nothing else.
    bare.publish(vec![b'x'; MQTT_PACKET_BYTES_MAX as usize + 1000], Some((last + 1, last + 1))).await;
    let behind = event(last + 1, json!({ "type": "camnet.last.v1" }));
    bare.publish(behind.clone(), Some((last + 1, last + 1))).await;
    bare.receipt_in_the_end(last + 1, &behind).await;
    rows.push((last + 1, Vec::new(), Fate::Event("camnet.last.v1")));

    check_events(&world, &rows).await;
    check_refused(&world, &rows).await;
    drop(bare);
    hub.stop();
}

async fn check_events(world: &HubWorld, rows: &[(u64, Vec<u8>, Fate)]) {
    let mut expected: Vec<(u64, String, bool)> = Vec::new();
    for (sequence, _, fate) in rows {
        match fate {
            Fate::Event(kind) => expected.push((*sequence, (*kind).to_owned(), false)),
            Fate::Conflict => expected.push((*sequence, "camnet.status.v1".into(), true)),
            Fate::Refused(_) => {}
        }
    }
    expected.sort();
    let from = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2);
    let path = format!("/api/v1/events?box={BOX}&from={from}&limit=100");
    let found = wait_for("every good event in the index", Duration::from_secs(60), || async {
        let events = world.all(&path, "events").await;
        let mut found: Vec<(u64, String, bool)> = events
            .iter()
            .map(|e| {
                let kind = e["type"].as_str().unwrap().to_owned();
                (e["sequence"].as_u64().unwrap(), kind, e["conflict"] == true)
            })
            .collect();
        found.sort();
        (found.len() >= expected.len()).then_some(found)
    })
    .await;
    assert_eq!(found, expected);
}

async fn check_refused(world: &HubWorld, rows: &[(u64, Vec<u8>, Fate)]) {
    let mut expected: Vec<(Option<u64>, String)> = rows
        .iter()
        .filter_map(|(sequence, _, fate)| match fate {
            Fate::Refused(reason) => Some((Some(*sequence), (*reason).to_owned())),
            _ => None,
        })
        .collect();
    expected.push((None, "not_json".into()));
    expected.sort();
    let place = |row: &Value| (row["sequence"].as_u64(), row["reason"].as_str().unwrap().to_owned());
    let listed = world.all(&format!("/api/v1/refused?box={BOX}&limit=7"), "refused").await;
    let mut found: Vec<_> = listed.iter().map(place).collect();
    found.sort();
    assert_eq!(found, expected, "page by page");
    assert!(listed.iter().all(|row| !row["reason"].as_str().unwrap().is_empty()));

    let metrics = String::from_utf8(world.bytes("/metrics/devices").await).unwrap();
    let counts = world.get("/api/v1/refused?limit=1").await["counts"].as_array().unwrap().clone();
    let mut reasons: Vec<&str> = expected.iter().map(|(_, reason)| reason.as_str()).collect();
    reasons.dedup();
    for reason in reasons {
        let count = expected.iter().filter(|(_, r)| r == reason).count();
        let told = counts.iter().find(|c| c["box"] == BOX && c["reason"] == reason).unwrap();
        assert_eq!(told["count"], count, "{reason}");
        let line = format!(r#"camnet_hub_ingest_box_refused_total{{box="{BOX}",reason="{reason}"}} {count}"#);
        assert!(metrics.contains(&line), "{line}\n{metrics}");
        let one = world.all(&format!("/api/v1/refused?reason={reason}&limit=100"), "refused").await;
        assert_eq!(one.len(), count, "{reason}");
    }
    let future = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    assert_eq!(world.all(&format!("/api/v1/refused?from={future}&limit=9"), "refused").await.len(), 0);
    let bytes = listed.iter().find(|row| row["body_as"] == "hex").expect("bytes are shown in hex");
    assert!(bytes["body"].as_str().unwrap().contains("ff"), "{bytes}");
    let text = listed.iter().find(|row| row["body"] == "hello").expect("text is shown as text");
    assert_eq!((&text["body_as"], &text["body_bytes"]), (&json!("text"), &json!(5)));
}

/// `camnet journal replay` on the world's hub; what it printed.
fn replay(world: &HubWorld, args: &[&str]) -> String {
    let config = world.dir.join("hub.toml");
    run(camnet().args(["journal", "replay", "--config"]).arg(config).args(args)).trim().to_owned()
}

fn add_camera(world: &HubWorld, id: &str) {
    let path = world.dir.join("ward.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += &format!(
        "\n[[device]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"camera\"\nsite = \"hoa-phuong-14\"\nbox = \"{BOX}\"\n"
    );
    std::fs::write(path, text).unwrap();
}

/// How often events of these types stand in the index, by sequence.
async fn indexed(world: &HubWorld) -> Vec<u64> {
    let from = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(2);
    let events =
        world.all(&format!("/api/v1/events?box={BOX}&from={from}&order=oldest&limit=100"), "events").await;
    events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_is_replayed_once_the_registry_knows_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &[BOX]);
    let hub = world.start().await;
    let mut bare = Bare::start(&world);
    bare.up().await;
    for sequence in 1..=6 {
        let device = ["cam-98", "cam-99"][sequence as usize % 2];
        let time = if sequence == 6 { json!("soon") } else { json!(jiff::Timestamp::now().to_string()) };
        let body = event(sequence, json!({ "source": format!("/{BOX}/{device}"), "time": time }));
        bare.publish(body, Some((sequence, sequence))).await;
    }
    let receipt = bare.receipt(6).await;
    assert_eq!(receipt.refused.len(), 6, "{receipt:?}");
    drop(bare);
    assert_eq!(
        replay(&world, &["--box", BOX]),
        "replayed 0, known before 0, conflicts 0, still refused 6: bad_time 1, not_allowed 5"
    );
    hub.stop();

    // The registry learns of one device; the hub runs.
    add_camera(&world, "cam-99");
    let hub = world.start().await;
    let told = replay(&world, &["--reason", "not_allowed", "--purpose", "cam-99 was missing"]);
    assert_eq!(told, "replayed 3, known before 0, conflicts 0, still refused 2: not_allowed 2");
    let told = replay(&world, &["--reason", "not_allowed"]);
    assert_eq!(told, "replayed 0, known before 3, conflicts 0, still refused 2: not_allowed 2");
    wait_for("the replayed events in the index", Duration::from_secs(60), || async {
        (indexed(&world).await == [1, 3, 5]).then_some(())
    })
    .await;
    let looks = world.get("/api/v1/access?limit=50").await;
    let replays: Vec<&Value> =
        looks["access"].as_array().unwrap().iter().filter(|look| look["action"] == "replay").collect();
    assert_eq!(replays.len(), 3, "each is recorded");
    assert_eq!(replays[1]["purpose"], "cam-99 was missing");
    let listed = world.all(&format!("/api/v1/refused?box={BOX}&limit=100"), "refused").await;
    assert_eq!(listed.len(), 6, "what was set aside stays on record");
    hub.stop();

    // It learns of the other one; the hub is stopped.
    add_camera(&world, "cam-98");
    let told = replay(&world, &[]);
    assert_eq!(told, "replayed 2, known before 3, conflicts 0, still refused 1: bad_time 1");
    let hub = world.start().await;
    wait_for("all of them in the index", Duration::from_secs(60), || async {
        (indexed(&world).await.len() == 5).then_some(())
    })
    .await;
    let mut found = indexed(&world).await;
    found.sort();
    assert_eq!(found, [1, 2, 3, 4, 5], "each once");
    let mut bare = Bare::start(&world);
    bare.up().await;
    bare.publish(event(7, json!({})), Some((7, 7))).await;
    let receipt = bare.receipt(7).await;
    assert_eq!(receipt.refused.iter().map(|r| r.0).collect::<Vec<_>>(), [6], "only this is set aside now");
    hub.stop();
}
