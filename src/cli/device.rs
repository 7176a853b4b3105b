//! `camnet device`: how devices are doing, in a terminal.
//!
//! Owns the arguments and the words. Asks the hub; knows nothing itself.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::boxes::{self, ConfigArgs, EnrolArgs, RevokeArgs};
use super::search::words::Lang;
use crate::hub::fleet::words::{self, Words};

/// Where people of the wards read a clock.
const ZONE: &str = "Asia/Ho_Chi_Minh";
const WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The hub's address.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8080")]
    hub: String,
    /// Print the hub's answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Language of what is printed; default by LANG, and Vietnamese where that says neither.
    #[arg(long, global = true, value_enum)]
    lang: Option<Lang>,
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Devices and their states; causes first.
    List {
        /// Id of an area: the devices in it.
        #[arg(long)]
        area: Option<String>,
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Only what does not work as it should.
        #[arg(long)]
        wrong: bool,
    },
    /// One device: its state, what its box last said of it, its history, its work orders.
    Show { device: String },
    /// Whether it does its job now: a camera is asked for a picture, through its box and back; of others, what was last
    /// heard. Exit code 1 where it does not.
    Probe {
        device: String,
        /// Why a camera is looked at; goes into the access log.
        #[arg(long)]
        purpose: Option<String>,
    },
    /// Make a certificate and a configuration for a box, as one file or as a QR code. On the hub's machine.
    Enroll(EnrolArgs),
    /// Revoke every certificate of a box, at once.
    Revoke(RevokeArgs),
    /// Set what a box does, or print what is set.
    Config(ConfigArgs),
    /// Every box: its certificates, and what it runs with.
    Boxes,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Camera,
    Lamp,
    Gate,
}

pub async fn run(args: DeviceArgs) -> anyhow::Result<()> {
    let lang = args.lang.unwrap_or_else(Lang::here);
    match args.act {
        Act::Enroll(enrol) => boxes::enrol(enrol, lang).await,
        Act::Revoke(revoke) => boxes::revoke(revoke, &args.hub, lang).await,
        Act::Config(config) => boxes::config(config, &args.hub, lang).await,
        Act::Boxes => boxes::list(&args.hub, args.json, lang).await,
        Act::Probe { ref device, ref purpose } => probe(&args, device, purpose.as_deref(), lang).await,
        Act::List { .. } | Act::Show { .. } => look(args, lang).await,
    }
}

/// How devices are doing.
async fn look(args: DeviceArgs, lang: Lang) -> anyhow::Result<()> {
    match &args.act {
        Act::List { area, kind, wrong } => {
            let mut query: Vec<(&str, String)> = area.iter().map(|area| ("area", area.clone())).collect();
            query.extend(
                kind.and_then(|kind| kind.to_possible_value())
                    .map(|kind| ("kind", kind.get_name().to_owned())),
            );
            query.extend(wrong.then(|| ("state", "wrong".to_owned())));
            let mut after = None;
            loop {
                let mut page = query.clone();
                page.extend(after.take().map(|after| ("after", after)));
                let is_first = page.len() == query.len();
                let fleet = ask(&args, "fleet", &page).await?;
                match args.json {
                    true => println!("{fleet}"),
                    false => print!("{}", list(&fleet, lang, is_first)),
                }
                after = fleet["next"].as_str().map(str::to_owned);
                if after.is_none() {
                    return Ok(());
                }
            }
        }
        Act::Show { device } => {
            let page = ask(&args, &format!("devices/{device}"), &[]).await?;
            match args.json {
                true => println!("{page}"),
                false => print!("{}", show(&page, lang)),
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Proof that a device works, or what is wrong.
async fn probe(args: &DeviceArgs, device: &str, purpose: Option<&str>, lang: Lang) -> anyhow::Result<()> {
    let page = ask(args, &format!("devices/{device}"), &[]).await?;
    let mut still = Ok(Value::Null);
    let began = Instant::now();
    if page["kind"] == "camera" {
        let purpose = purpose.unwrap_or(lang.pick("kiểm tra camera", "probe of the camera"));
        let (path, asked) = (format!("devices/{device}/still"), json!({ "purpose": purpose }));
        still = answer(args, |client, base| client.post(format!("{base}/{path}")).json(&asked)).await;
    }
    let took = began.elapsed();
    if args.json {
        let still = still.as_ref().map_or_else(|error| json!({ "error": error.to_string() }), Value::clone);
        println!("{}", json!({ "device": page, "still": still, "took_ms": took.as_millis() as u64 }));
    } else {
        print!("{}", probed(&page, &still, took, lang));
    }
    let is_well = page["state"] == "working" && still.as_ref().is_ok_and(has_arrived);
    if is_well { Ok(()) } else { bail!("{device}: {}", lang.pick("chưa đạt", "not as it should be")) }
}

/// A device that is no camera has no picture to wait for.
fn has_arrived(still: &Value) -> bool {
    still.is_null() || still["arrived"] == true
}

fn probed(page: &Value, still: &anyhow::Result<Value>, took: Duration, lang: Lang) -> String {
    let mut text = String::new();
    let seconds = took.as_secs_f64();
    match still {
        Ok(Value::Null) => {}
        Ok(still) if has_arrived(still) => {
            let (clip, at) = (still["clip"].as_str().unwrap_or_default(), time(&still["time"]));
            let words = lang.pick("có hình lúc", "picture of");
            let _ = writeln!(text, "✓ {words} {at}, {seconds:.1} s, {} {clip}", lang.pick("đoạn", "clip"));
        }
        Ok(still) => {
            let clip = still["clip"].as_str().unwrap_or_default();
            let words =
                lang.pick("đã chụp, hình chưa về tới máy chủ", "taken, the picture is still on its way");
            let _ = writeln!(text, "✕ {words}: {clip}");
        }
        Err(error) => {
            let _ = writeln!(text, "✕ {}: {error:#}", lang.pick("không lấy được hình", "no picture"));
        }
    }
    let heard = lang.pick("nghe lần cuối", "last heard");
    let _ = writeln!(text, "{heard}: {}", time(&page["last_heard"]));
    let state = page["state"].as_str().unwrap_or_default();
    let sign = if state == "working" { "✓" } else { "✕" };
    let since = lang.pick("từ", "since");
    let _ = writeln!(text, "{sign} {} {since} {}", word(lang, state), time(&page["since"]));
    for trouble in array(&page["troubles"]) {
        let name = word(lang, trouble["trouble"].as_str().unwrap_or_default());
        let _ = writeln!(text, "  {name}, {since} {}", time(&trouble["since"]));
    }
    text
}

async fn ask(args: &DeviceArgs, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
    answer(args, |client, base| client.get(format!("{base}/{path}")).query(query)).await
}

/// The hub's answer to a request; its own words where it refuses.
async fn answer(
    args: &DeviceArgs,
    request: impl FnOnce(&reqwest::Client, &str) -> reqwest::RequestBuilder,
) -> anyhow::Result<Value> {
    let base = format!("{}/api/v1", args.hub.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(WITHIN).build()?;
    let response = request(&client, &base).send().await;
    let response = response.with_context(|| format!("no hub answers at {}; is it running?", args.hub))?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{base} did not answer with JSON"))?;
    if !status.is_success() {
        let text = |key: &str| body[key].as_str().unwrap_or_default();
        bail!("{}: {}", text("title"), text("detail"));
    }
    Ok(body)
}

fn list(fleet: &Value, lang: Lang, is_first: bool) -> String {
    let mut text = String::new();
    if is_first {
        for (kind, states) in fleet["totals"].as_object().into_iter().flatten() {
            let states = states.as_object().into_iter().flatten();
            let counts: Vec<String> = states
                .map(|(state, count)| format!("{} {} {count}", sign(state), word(lang, state)))
                .collect();
            let _ = writeln!(text, "{}: {}", word(lang, kind), counts.join(", "));
        }
        for incident in array(&fleet["incidents"]) {
            let devices = array(&incident["devices"]).len();
            let (kind, id) = (&incident["cause"]["kind"], &incident["cause"]["id"]);
            let (kind, id) = (kind.as_str().unwrap_or_default(), id.as_str().unwrap_or_default());
            let trouble = word(lang, incident["trouble"].as_str().unwrap_or_default());
            let of = lang.pick("thiết bị", "devices");
            let _ = writeln!(
                text,
                "✕ {} {id}: {trouble}, {devices} {of}, {} {}",
                word(lang, kind),
                lang.pick("từ", "since"),
                time(&incident["since"])
            );
        }
    }
    for device in array(&fleet["devices"]) {
        let state = device["state"].as_str().unwrap_or_default();
        let troubles: Vec<&str> = array(&device["troubles"])
            .iter()
            .map(|trouble| word(lang, trouble["trouble"].as_str().unwrap_or_default()))
            .collect();
        let _ = writeln!(
            text,
            "{} {:<24} {:<28} {} {}  {}",
            sign(state),
            device["id"].as_str().unwrap_or_default(),
            device["name"].as_str().unwrap_or_default(),
            word(lang, state),
            time(&device["since"]),
            troubles.join(", ")
        );
    }
    text
}

fn show(page: &Value, lang: Lang) -> String {
    let mut text = list(&serde_json::json!({ "devices": [page] }), lang, false);
    let mut line = |vi: &str, en: &str, what: String| {
        if !what.is_empty() {
            let _ = writeln!(text, "  {}: {what}", lang.pick(vi, en));
        }
    };
    line("nghe lần cuối", "last heard", time(&page["last_heard"]));
    let share = |key: &str| page["this_month"][key].as_f64().map(|share| format!("{:.1} %", share * 100.0));
    line("tháng này hoạt động", "worked this month", share("working").unwrap_or_default());
    for (key, vi, en) in [("health", "camera", "camera"), ("box_health", "hộp biên", "box")] {
        let said = &page[key]["said"];
        let figures: Vec<String> =
            said.as_object().into_iter().flatten().map(|(name, value)| format!("{name} {value}")).collect();
        line(vi, en, figures.join(", "));
    }
    for state in array(&page["states"]).iter().take(10) {
        let name = state["state"].as_str().unwrap_or_default();
        line("trước đây", "before", format!("{} {} {}", time(&state["since"]), sign(name), word(lang, name)));
    }
    for order in array(&page["orders"]) {
        let stage = word(lang, order["stage"].as_str().unwrap_or_default());
        let id = order["id"].as_str().unwrap_or_default();
        line(
            "phiếu sửa chữa",
            "work order",
            format!("{id} {stage} {}", order["assignee"].as_str().unwrap_or_default()),
        );
    }
    text
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn time(value: &Value) -> String {
    let zone = TimeZone::get(ZONE).unwrap_or(TimeZone::UTC);
    let time: Option<Timestamp> = value.as_str().and_then(|text| text.parse().ok());
    time.map_or(String::new(), |time| time.to_zoned(zone).strftime("%d/%m/%Y %H:%M:%S").to_string())
}

/// States have a shape beside their word.
fn sign(state: &str) -> &'static str {
    match state {
        "working" => "●",
        "degraded" => "◐",
        "not_recording" => "○",
        "unreachable" => "✕",
        "maintenance" => "⚑",
        _ => "·",
    }
}

fn word(lang: Lang, word: &str) -> &str {
    let (vi, en) = match word {
        "camera" => ("camera", "cameras"),
        "lamp" => ("đèn", "lamps"),
        "gate" => ("cổng", "gates"),
        "working" => ("hoạt động", "working"),
        "degraded" => ("kém", "degraded"),
        "not_recording" => ("không ghi", "not recording"),
        "unreachable" => ("mất liên lạc", "unreachable"),
        "maintenance" => ("đang bảo trì", "under maintenance"),
        "retired" => ("ngừng dùng", "retired"),
        "open" => ("mới mở", "open"),
        "assigned" => ("đã giao", "assigned"),
        "unproved" => ("chờ chứng thực", "not proved yet"),
        "closed" => ("đã đóng", "closed"),
        other => match words::of_name(other) {
            Some(Words { vi, en, .. }) => (vi, en),
            None => (other, other),
        },
    };
    lang.pick(vi, en)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Trouble;

    #[test]
    fn states_and_causes_are_told_in_both_languages() {
        let device = json!({ "id": "cam-01", "name": "Ngã ba chợ", "state": "unreachable",
            "since": "2026-11-22T15:15:07Z", "troubles": [{ "trouble": "camera_unreachable", "since": "2026-11-22T15:15:07Z" }] });
        let fleet = json!({ "totals": { "camera": { "unreachable": 1, "working": 10 } },
            "incidents": [{ "cause": { "kind": "device", "id": "cam-01" }, "trouble": "camera_unreachable",
                "since": "2026-11-22T15:15:07Z", "devices": ["cam-01"] }],
            "devices": [device] });
        let vi = list(&fleet, Lang::Vi, true);
        assert!(vi.contains("camera: ✕ mất liên lạc 1, ● hoạt động 10"), "{vi}");
        assert!(
            vi.contains("✕ thiết bị cam-01: mất kết nối camera, 1 thiết bị, từ 22/11/2026 22:15:07"),
            "{vi}"
        );
        let en = list(&fleet, Lang::En, true);
        assert!(en.contains("unreachable 22/11/2026 22:15:07  camera unreachable"), "{en}");
    }

    #[test]
    fn every_trouble_has_its_words() {
        // A trouble that is new to the model and not to this table would be told as it is written.
        for trouble in Trouble::ALL {
            let name = json!(trouble);
            let name = name.as_str().unwrap();
            assert_ne!(word(Lang::Vi, name), name, "{name}");
        }
    }

    #[test]
    fn a_probe_says_whether_there_is_a_picture_and_what_is_wrong() {
        let well = json!({ "state": "working", "since": "2026-11-22T15:15:07Z", "last_heard": "2026-11-22T15:20:00Z" });
        let still = json!({ "clip": "01a2", "time": "2026-11-22T15:20:01Z", "arrived": true });
        let took = Duration::from_millis(1840);
        let said = probed(&well, &Ok(still), took, Lang::Vi);
        assert!(said.contains("✓ có hình lúc 22/11/2026 22:20:01, 1.8 s, đoạn 01a2"), "{said}");
        assert!(said.contains("✓ hoạt động từ 22/11/2026 22:15:07"), "{said}");
        let dark = json!({ "state": "degraded", "since": "2026-11-22T15:15:07Z", "last_heard": "2026-11-22T15:20:00Z",
            "troubles": [{ "trouble": "picture_dark", "since": "2026-11-22T15:15:07Z" }] });
        let said = probed(&dark, &Err(anyhow::anyhow!("box box-01 is offline")), took, Lang::En);
        assert!(said.contains("✕ no picture: box box-01 is offline"), "{said}");
        assert!(said.contains("picture dark, since"), "{said}");
        assert!(!has_arrived(&json!({ "arrived": false })) && has_arrived(&Value::Null));
    }
}
