//! Zigbee2MQTT: what a device's topic and its availability say.
//!
//! Source: zigbee2mqtt.io, "MQTT topics and messages" (state under `zigbee2mqtt/<name>`, availability under
//! `zigbee2mqtt/<name>/availability` as `{"state": "online"}` or, before 1.37, as the word alone) and the exposed features of
//! its devices (`state`, `brightness` of 254, `power`, `current`, `voltage`, `energy`, `occupancy`, `presence`, `contact`,
//! `tamper`, `battery`, `battery_low`, `linkquality`). Multi-gang devices say `state_l1`, `state_l2`, or `state_left`,
//! `state_right`.

use serde_json::Value;

use super::{AdapterError, Fields, Heard, LampHeard, beginning, read, truth_of};

const BRIGHTNESS_MAX: f64 = 254.0;
/// Endpoints of a device with several switches, in the order of circuits.
const GANGS: [&[&str]; 4] =
    [&["", "_l1", "_left", "_1"], &["_l2", "_center", "_2"], &["_l3", "_right", "_3"], &["_l4", "_4"]];

/// The topic that a device's words come under, and its availability.
pub fn topics(base: &str, name: &str) -> [String; 2] {
    [format!("{base}/{name}"), format!("{base}/{name}/availability")]
}

/// What a message of such a topic says; None for an empty one.
pub fn hear(topic: &str, payload: &[u8]) -> Result<Option<Heard>, AdapterError> {
    let Some(value) = read(payload)? else { return Ok(None) };
    if topic.ends_with("/availability") {
        return available(&value).map(Some);
    }
    let Value::Object(map) = &value else { return Err(AdapterError::Nothing(beginning(&value))) };
    let fields = Fields::new(map);
    let mut heard = Heard {
        // Of those that see heat and those that see by radar.
        motion: fields.truth("occupancy").or(fields.truth("presence")),
        // True: the magnet is near, the gate is closed.
        open: fields.truth("contact").map(|is_near| !is_near),
        tampered: fields.truth("tamper"),
        battery_percent: fields.number("battery"),
        battery_low: fields.truth("battery_low"),
        link_percent: fields.number("linkquality").map(|quality| quality / 255.0 * 100.0),
        ..Heard::default()
    };
    // Of what runs on a battery, the voltage is the battery's, in millivolts.
    let has_battery = map.contains_key("battery") || map.contains_key("battery_low");
    for (gang, names) in (1..).zip(GANGS) {
        let lamp = lamp(&fields, gang, names, has_battery);
        if lamp != (LampHeard { circuit: gang, ..LampHeard::default() }) {
            heard.lamps.push(lamp);
        }
    }
    heard.odd = fields.odd.take();
    // Only how well it is heard is also something: it is there.
    if heard == Heard::default() { Err(AdapterError::Nothing(beginning(&value))) } else { Ok(Some(heard)) }
}

fn lamp(fields: &Fields, circuit: u16, names: &[&str], has_battery: bool) -> LampHeard {
    let number = |key: &str| names.iter().find_map(|name| fields.number(&format!("{key}{name}")));
    LampHeard {
        circuit,
        on: names.iter().find_map(|name| fields.truth(&format!("state{name}"))),
        dim_percent: number("brightness")
            .map(|brightness| (brightness / BRIGHTNESS_MAX * 100.0).clamp(0.0, 100.0)),
        power_w: number("power"),
        current_a: number("current"),
        voltage_v: if has_battery { None } else { number("voltage") },
        power_factor: number("power_factor"),
        energy_kwh: number("energy"),
    }
}

fn available(value: &Value) -> Result<Heard, AdapterError> {
    let word = match value {
        Value::String(word) => Some(word.as_str()),
        Value::Object(map) => map.get("state").and_then(Value::as_str),
        _ => None,
    };
    let online = word.and_then(truth_of).ok_or_else(|| AdapterError::Nothing(beginning(value)))?;
    Ok(Heard { online: Some(online), ..Heard::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lamp() -> LampHeard {
        LampHeard { circuit: 1, ..LampHeard::default() }
    }

    #[test]
    fn documented_payloads_are_understood() {
        let check = |topic: &str, payload: &str, expected: Heard| {
            assert_eq!(hear(topic, payload.as_bytes()), Ok(Some(expected)), "{payload}");
        };
        let of = |lamp: LampHeard| Heard { lamps: vec![lamp], ..Heard::default() };
        let quality = |heard: Heard| Heard { link_percent: Some(40.0), ..heard };
        check(
            "zigbee2mqtt/den-01",
            r#"{"brightness":127,"color_mode":"color_temp","linkquality":102,"state":"ON","update":{"state":"idle"}}"#,
            quality(of(LampHeard { on: Some(true), dim_percent: Some(50.0), ..lamp() })),
        );
        check(
            "zigbee2mqtt/den-02",
            r#"{"current":0.21,"energy":12.34,"linkquality":102,"power":45.6,"power_factor":0.94,"state":"OFF","voltage":229}"#,
            quality(of(LampHeard {
                on: Some(false),
                power_w: Some(45.6),
                current_a: Some(0.21),
                voltage_v: Some(229.0),
                power_factor: Some(0.94),
                energy_kwh: Some(12.34),
                ..lamp()
            })),
        );
        check(
            "zigbee2mqtt/tu-den",
            r#"{"state_l1":"ON","state_l2":"OFF","power":90}"#,
            Heard {
                lamps: vec![
                    LampHeard { on: Some(true), power_w: Some(90.0), ..lamp() },
                    LampHeard { circuit: 2, on: Some(false), ..LampHeard::default() },
                ],
                ..Heard::default()
            },
        );
        check(
            "zigbee2mqtt/cong-rao",
            r#"{"battery":97,"battery_low":false,"contact":true,"linkquality":102,"tamper":false,"voltage":3025}"#,
            quality(Heard {
                open: Some(false),
                tampered: Some(false),
                battery_percent: Some(97.0),
                battery_low: Some(false),
                ..Heard::default()
            }),
        );
        check("zigbee2mqtt/pir", r#"{"occupancy":true}"#, Heard { motion: Some(true), ..Heard::default() });
        check(
            "zigbee2mqtt/radar",
            r#"{"presence":false}"#,
            Heard { motion: Some(false), ..Heard::default() },
        );
        let online = |online| Heard { online: Some(online), ..Heard::default() };
        check("zigbee2mqtt/den-01/availability", r#"{"state":"online"}"#, online(true));
        check("zigbee2mqtt/den-01/availability", "offline", online(false));
    }

    #[test]
    fn odd_payloads_lose_nothing_and_what_has_no_meaning_says_so() {
        let odd = hear(
            "z/den",
            br#"{"state":"on","power":"45.6","current":null,"voltage":"","last_seen":"2026-11-22T20:15:30"}"#,
        );
        let expected = LampHeard { on: Some(true), power_w: Some(45.6), ..lamp() };
        assert_eq!(odd, Ok(Some(Heard { lamps: vec![expected], ..Heard::default() })));
        assert_eq!(hear("z/den", b""), Ok(None), "a retained message taken back");
        assert_eq!(hear("z/den", b" \n"), Ok(None));
        for (payload, why) in [
            (&br#"{"state":"DIM"}"#[..], r#"state = "DIM": on, off, true or false is expected"#),
            (br#"{"power":"viel"}"#, r#"power = "viel": a number is expected"#),
            (br#"{"power":[]}"#, "power"),
        ] {
            let heard = hear("z/den", payload).unwrap().unwrap();
            assert!(heard.odd[0].to_string().contains(why), "{heard:?}");
        }
        let one_odd = hear("z/den", br#"{"state":"ON","power":"viel","linkquality":255}"#).unwrap().unwrap();
        assert_eq!(
            (one_odd.lamps[0].on, one_odd.link_percent, one_odd.odd.len()),
            (Some(true), Some(100.0), 1)
        );
        for (payload, why) in [
            (&b"\xff\xfe"[..], "neither text nor JSON"),
            (br#"{"power":1e999}"#, "nothing in it is known"),
            (br#"{"action":"single"}"#, "nothing in it is known"),
            (b"[1,2]", "nothing in it is known"),
            (b"hello", "nothing in it is known"),
        ] {
            let error = hear("z/den", payload).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let long = vec![b' '; crate::limits::ADAPTER_PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(hear("z/den", &long), Err(AdapterError::TooLarge { .. })));
    }
}
