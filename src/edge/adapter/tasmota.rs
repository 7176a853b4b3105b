//! Tasmota: what its telemetry, its results and its last will say.
//!
//! Source: tasmota.github.io, "MQTT" (`tele/<topic>/STATE`, `tele/<topic>/SENSOR`, `tele/<topic>/LWT`,
//! `stat/<topic>/RESULT`, `stat/<topic>/POWER<x>`, `stat/<topic>/STATUS<x>`, `Switch<x>`) and "Energy monitoring" (`ENERGY` with `Power`, `Voltage`, `Current`,
//! `Factor`, `Total`; arrays where a device measures several channels). Its `Time` is local time without a zone: not read.

use serde_json::{Map, Value};

use super::{AdapterError, Fields, Heard, LampHeard, beginning, read, truth_of};

/// Channels of one device that are looked for.
const CHANNELS: u16 = 8;

/// The topics under which a device speaks, as filters.
pub fn topics(name: &str) -> [String; 2] {
    [format!("tele/{name}/+"), format!("stat/{name}/+")]
}

/// What a message says; None for an empty one, and for what is about the device's own settings.
pub fn hear(topic: &str, payload: &[u8]) -> Result<Option<Heard>, AdapterError> {
    let Some(value) = read(payload)? else { return Ok(None) };
    let kind = topic.rsplit('/').next().unwrap_or_default();
    if kind == "LWT" {
        let online = value.as_str().and_then(truth_of);
        let online = online.ok_or_else(|| AdapterError::Nothing(beginning(&value)))?;
        return Ok(Some(Heard { online: Some(online), ..Heard::default() }));
    }
    if let Some(channel) = kind.strip_prefix("POWER") {
        let on = match &value {
            Value::String(word) => truth_of(word),
            _ => None,
        };
        let on = on.ok_or_else(|| AdapterError::Nothing(beginning(&value)))?;
        let lamp = LampHeard { circuit: channel.parse().unwrap_or(1), on: Some(on), ..LampHeard::default() };
        return Ok(Some(Heard { lamps: vec![lamp], ..Heard::default() }));
    }
    let Value::Object(map) = &value else { return Err(AdapterError::Nothing(beginning(&value))) };
    // What is asked for comes wrapped: `STATUS8` {"StatusSNS": {…}}, `STATUS10` the same, `STATUS11` {"StatusSTS": {…}}.
    let map = ["StatusSNS", "StatusSTS"].iter().find_map(|key| map.get(*key)?.as_object()).unwrap_or(map);
    let heard = of_object(map);
    // Telemetry without a lamp, and the answer to a setting.
    let is_known = matches!(kind, "STATE" | "SENSOR" | "RESULT")
        || kind.starts_with("STATUS")
        || kind.starts_with("INFO");
    match (heard == Heard::default(), is_known) {
        (true, false) => Err(AdapterError::Nothing(beginning(&value))),
        (true, true) => Ok(None),
        (false, _) => Ok(Some(heard)),
    }
}

fn of_object(map: &Map<String, Value>) -> Heard {
    let fields = Fields::new(map);
    let mut heard = Heard::default();
    for circuit in 1..=CHANNELS {
        let mut lamp =
            LampHeard { circuit, on: fields.truth(&format!("POWER{circuit}")), ..LampHeard::default() };
        if circuit == 1 {
            lamp.on = lamp.on.or(fields.truth("POWER"));
            lamp.dim_percent = fields.number("Dimmer");
        }
        if let Some(Value::Object(energy)) = map.get("ENERGY") {
            let channel = |key: &str| of_channel(&fields, key, energy.get(key), circuit);
            lamp.power_w = channel("Power");
            lamp.voltage_v = channel("Voltage");
            lamp.current_a = channel("Current");
            lamp.power_factor = channel("Factor");
            lamp.energy_kwh = channel("Total");
        }
        if lamp != (LampHeard { circuit, ..LampHeard::default() }) {
            heard.lamps.push(lamp);
        }
    }
    for input in 1..=CHANNELS {
        let name = format!("Switch{input}");
        let truth = match map.get(&name) {
            // From version 9 on with its state in an object.
            Some(Value::Object(of)) => of.get("Action").and_then(Value::as_str).and_then(truth_of),
            _ => fields.truth(&name),
        };
        heard.inputs.extend(truth.map(|truth| (input, truth)));
    }
    if let Some(Value::Object(wifi)) = map.get("Wifi") {
        heard.link_percent = wifi.get("RSSI").and_then(|value| fields.number_of("RSSI", value));
    }
    heard.odd = fields.odd.take();
    heard
}

/// A measurement of a channel: one number for all is the first channel's.
fn of_channel(fields: &Fields, key: &str, value: Option<&Value>, circuit: u16) -> Option<f64> {
    match value? {
        Value::Array(all) => fields.number_of(key, all.get(usize::from(circuit) - 1)?),
        value if circuit == 1 => fields.number_of(key, value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lamp(circuit: u16) -> LampHeard {
        LampHeard { circuit, ..LampHeard::default() }
    }

    #[test]
    fn documented_payloads_are_understood() {
        let check = |topic: &str, payload: &str, expected: Heard| {
            assert_eq!(hear(topic, payload.as_bytes()), Ok(Some(expected)), "{topic} {payload}");
        };
        let of = |lamp: LampHeard| Heard { lamps: vec![lamp], ..Heard::default() };
        check(
            "tele/den-07/STATE",
            r#"{"Time":"2026-11-22T20:15:30","Uptime":"0T00:10:00","Heap":27,"POWER":"ON","Dimmer":80,"Wifi":{"AP":1,"RSSI":100,"Signal":-50}}"#,
            Heard {
                link_percent: Some(100.0),
                ..of(LampHeard { on: Some(true), dim_percent: Some(80.0), ..lamp(1) })
            },
        );
        check(
            "tele/den-07/SENSOR",
            r#"{"Time":"2026-11-22T20:15:30","ENERGY":{"TotalStartTime":"2026-01-01T00:00:00","Total":12.345,"Yesterday":0.5,"Today":0.2,"Period":0,"Power":45,"ApparentPower":50,"ReactivePower":21,"Factor":0.9,"Voltage":230,"Current":0.217}}"#,
            of(LampHeard {
                power_w: Some(45.0),
                voltage_v: Some(230.0),
                current_a: Some(0.217),
                power_factor: Some(0.9),
                energy_kwh: Some(12.345),
                ..lamp(1)
            }),
        );
        check(
            "tele/tu-07/SENSOR",
            r#"{"ENERGY":{"Total":5,"Power":[45,90],"Voltage":230,"Current":[0.2,0.4]}}"#,
            Heard {
                lamps: vec![
                    LampHeard {
                        power_w: Some(45.0),
                        voltage_v: Some(230.0),
                        current_a: Some(0.2),
                        energy_kwh: Some(5.0),
                        ..lamp(1)
                    },
                    LampHeard { power_w: Some(90.0), current_a: Some(0.4), ..lamp(2) },
                ],
                ..Heard::default()
            },
        );
        check("stat/den-07/RESULT", r#"{"POWER":"OFF"}"#, of(LampHeard { on: Some(false), ..lamp(1) }));
        check("stat/tu-07/RESULT", r#"{"POWER2":"ON"}"#, of(LampHeard { on: Some(true), ..lamp(2) }));
        check("stat/den-07/POWER", "ON", of(LampHeard { on: Some(true), ..lamp(1) }));
        check("stat/tu-07/POWER2", "OFF", of(LampHeard { on: Some(false), ..lamp(2) }));
        let online = |online| Heard { online: Some(online), ..Heard::default() };
        let input = |input, on| Heard { inputs: vec![(input, on)], ..Heard::default() };
        check("tele/cong/SENSOR", r#"{"Time":"2026-11-22T20:15:30","Switch1":"ON"}"#, input(1, true));
        check("stat/cong/RESULT", r#"{"Switch2":{"Action":"OFF"}}"#, input(2, false));
        check(
            "stat/den-07/STATUS10",
            r#"{"StatusSNS":{"Time":"2026-11-22T20:15:30","ENERGY":{"Power":45}}}"#,
            of(LampHeard { power_w: Some(45.0), ..lamp(1) }),
        );
        check(
            "stat/den-07/STATUS11",
            r#"{"StatusSTS":{"POWER":"ON"}}"#,
            of(LampHeard { on: Some(true), ..lamp(1) }),
        );
        check("tele/den-07/LWT", "Online", online(true));
        check("tele/den-07/LWT", "Offline", online(false));
    }

    #[test]
    fn odd_payloads_lose_nothing_and_what_has_no_meaning_says_so() {
        let odd = hear("tele/den-07/SENSOR", br#"{"ENERGY":{"Power":"45","Voltage":null}}"#);
        assert_eq!(
            odd,
            Ok(Some(Heard { lamps: vec![LampHeard { power_w: Some(45.0), ..lamp(1) }], ..Heard::default() }))
        );
        let odd =
            hear("tele/den-07/SENSOR", br#"{"ENERGY":{"Power":"nan","Voltage":230}}"#).unwrap().unwrap();
        assert_eq!((odd.lamps[0].voltage_v, odd.odd.len()), (Some(230.0), 1));
        assert!(odd.odd[0].to_string().contains("a number is expected"), "{odd:?}");
        assert_eq!(hear("tele/den-07/LWT", b""), Ok(None), "a retained message taken back");
        assert_eq!(hear("tele/den-07/STATE", br#"{"Time":"2026-11-22T20:15:30"}"#), Ok(None));
        assert_eq!(hear("stat/den-07/RESULT", br#"{"TelePeriod":300}"#), Ok(None), "the answer to a setting");
        for (topic, payload, why) in [
            ("tele/den-07/LWT", &b"Tot"[..], "nothing in it is known"),
            ("stat/den-07/POWER", b"DIMMED", "nothing in it is known"),
            ("tele/den-07/MARGINS", br#"{"x":1}"#, "nothing in it is known"),
            ("tele/den-07/STATE", b"\xff", "neither text nor JSON"),
        ] {
            let error = hear(topic, payload).unwrap_err().to_string();
            assert!(error.contains(why), "{topic}: {error}");
        }
    }
}
