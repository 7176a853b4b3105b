//! `camnet search`: the hub's clips API in a terminal.
//!
//! Owns the reading of times and places as a person types them, and the table. Asks the hub; knows nothing itself.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use serde_json::{Value, json};

use crate::model::{PURPOSE_HEADER, purpose_to_header};

/// Where people of the wards read a clock.
const ZONE: &str = "Asia/Ho_Chi_Minh";

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The hub's address.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    hub: String,
    /// From when: RFC 3339, "2026-11-20 22:15" (Vietnam time), or "15m" or "2h" for so long ago.
    #[arg(long, default_value = "1h")]
    from: String,
    /// Until when, in the same forms; default now.
    #[arg(long)]
    to: Option<String>,
    /// A point, "10.7405,106.6955".
    #[arg(long, value_name = "LAT,LON", conflicts_with_all = ["area", "device"])]
    near: Option<String>,
    /// Radius around the point, metres.
    #[arg(long, default_value_t = 200.0, requires = "near")]
    radius: f64,
    /// Id of an area: all that lies in it.
    #[arg(long, conflicts_with = "device")]
    area: Option<String>,
    /// Id of a device; may be given several times.
    #[arg(long)]
    device: Vec<String>,
    /// Oldest first; default newest first.
    #[arg(long)]
    oldest_first: bool,
    /// Clips at most; more are fetched page by page.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Why you look; goes into the access log.
    #[arg(long, default_value = "")]
    purpose: String,
    /// Print the hub's answer as JSON, one page per line.
    #[arg(long)]
    json: bool,
}

/// Asks the hub and prints a table, or its answer as JSON.
pub async fn run(args: SearchArgs) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut question = question(&args, Timestamp::now())?;
    let mut left = args.limit;
    let mut pages = Vec::new();
    loop {
        question["limit"] = json!(left.min(crate::limits::PAGE_CLIPS_MAX));
        let page = ask(&client, &args, &question).await?;
        left -= page["clips"].as_array().map_or(0, Vec::len).min(left);
        let next = page["next"].clone();
        pages.push(page);
        if next.is_null() || left == 0 {
            break;
        }
        question["page"] = next;
    }
    if args.json {
        for page in &pages {
            println!("{page}");
        }
    } else {
        print!("{}", table(&pages)?);
    }
    Ok(())
}

async fn ask(client: &reqwest::Client, args: &SearchArgs, question: &Value) -> anyhow::Result<Value> {
    let url = format!("{}/api/v1/clips", args.hub.trim_end_matches('/'));
    let mut request = client.post(&url).json(question);
    if !args.purpose.trim().is_empty() {
        request = request.header(PURPOSE_HEADER, purpose_to_header(&args.purpose));
    }
    let response =
        request.send().await.with_context(|| format!("no hub answers at {}; is it running?", args.hub))?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{url} did not answer with JSON"))?;
    if !status.is_success() {
        bail!(
            "{}: {}",
            body["title"].as_str().unwrap_or(status.as_str()),
            body["detail"].as_str().unwrap_or("")
        );
    }
    Ok(body)
}

fn question(args: &SearchArgs, now: Timestamp) -> anyhow::Result<Value> {
    let from = parse_time(&args.from, now).context("--from")?;
    let to = args.to.as_deref().map_or(Ok(now), |to| parse_time(to, now)).context("--to")?;
    let order = if args.oldest_first { "oldest" } else { "newest" };
    let mut question = json!({ "from": from, "to": to, "order": order });
    if let Some(near) = &args.near {
        let (lat, lon) = near
            .split_once(',')
            .and_then(|(lat, lon)| Some((lat.trim().parse::<f64>().ok()?, lon.trim().parse::<f64>().ok()?)))
            .with_context(|| format!("--near {near:?} is not LAT,LON, for instance 10.7405,106.6955"))?;
        question["lat"] = json!(lat);
        question["lon"] = json!(lon);
        question["radius_m"] = json!(args.radius);
    }
    if let Some(area) = &args.area {
        question["area"] = json!(area);
    }
    if !args.device.is_empty() {
        question["device"] = json!(args.device);
    }
    Ok(question)
}

/// RFC 3339, a civil time in Vietnam, or how long ago.
fn parse_time(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(civil) = text.parse::<civil::DateTime>() {
        let zone = TimeZone::get(ZONE).unwrap_or_else(|_| TimeZone::fixed(jiff::tz::offset(7)));
        return Ok(civil.to_zoned(zone)?.timestamp());
    }
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Ok(now.checked_sub(ago.abs())?);
    }
    bail!(
        "{text:?} is not a time: write 2026-11-20T22:15:00Z, \"2026-11-20 22:15\" (Vietnam time) or 15m (ago)"
    )
}

/// One line per clip, then what the cameras did not record and why.
fn table(pages: &[Value]) -> anyhow::Result<String> {
    let mut text = String::new();
    let clips: Vec<&Value> = pages.iter().filter_map(|page| page["clips"].as_array()).flatten().collect();
    if !clips.is_empty() {
        text += &format!(
            "{:<19}  {:>6}  {:<26} {:>7}  {:<7} {}\n",
            "time (UTC+7)", "length", "camera", "metres", "where", "clip"
        );
    }
    for clip in &clips {
        let start = clip["start"].as_str().unwrap_or_default();
        let length =
            match (start.parse::<Timestamp>(), clip["end"].as_str().unwrap_or_default().parse::<Timestamp>())
            {
                (Ok(start), Ok(end)) => format!("{:.0} s", end.duration_since(start).as_secs_f64()),
                _ => String::new(),
            };
        let unsure = if clip["clock"]["sync"] == "synced" { "" } else { "~" };
        text += &format!(
            "{:<19}{unsure:<1} {length:>6}  {:<26} {:>7}  {:<7} {}\n",
            local(start),
            name(&clip["device"], 26),
            clip["distance_m"].as_f64().map_or(String::new(), |d| format!("{d:.0}")),
            clip["where"].as_str().unwrap_or_default(),
            clip["id"].as_str().unwrap_or_default(),
        );
    }
    let Some(first) = pages.first() else { return Ok(text) };
    let cameras = first["coverage"].as_array().map(Vec::as_slice).unwrap_or_default();
    text += &format!("{} clips from {} cameras\n", clips.len(), cameras.len());
    for camera in cameras {
        let gaps: Vec<String> = gaps_by_cause(&camera["spans"]);
        if !gaps.is_empty() {
            text += &format!("  {:<26} not recorded: {}\n", name(&camera["device"], 26), gaps.join(", "));
        }
    }
    if pages.last().is_some_and(|page| !page["next"].is_null()) {
        text += "there is more: raise --limit\n";
    }
    Ok(text)
}

fn gaps_by_cause(spans: &Value) -> Vec<String> {
    let mut causes: Vec<(&str, f64, f64)> = Vec::new();
    for span in spans.as_array().map(Vec::as_slice).unwrap_or_default() {
        let Some(cause) = span["cause"].as_str() else { continue };
        let ends =
            [&span["start"], &span["end"]].map(|t| t.as_str().unwrap_or_default().parse::<Timestamp>());
        let [Ok(start), Ok(end)] = ends else { continue };
        let seconds = end.duration_since(start).as_secs_f64();
        let n = causes.iter().position(|(known, ..)| *known == cause).unwrap_or_else(|| {
            causes.push((cause, 0.0, 0.0));
            causes.len() - 1
        });
        // The box's last word, not yet confirmed, is no gap to count on.
        let is_confirmed = span["confirmed"] != false;
        *(if is_confirmed { &mut causes[n].1 } else { &mut causes[n].2 }) += seconds;
    }
    // Less than a second is the seam between two words of the box.
    causes.retain(|(_, gap_s, unconfirmed_s)| gap_s + unconfirmed_s >= 1.0);
    let told = causes.into_iter().map(|(cause, gap_s, unconfirmed_s)| {
        let cause = cause.replace('_', " ");
        let tail = if unconfirmed_s > 0.0 {
            format!(" (and by the box's last word {unconfirmed_s:.0} s more)")
        } else {
            String::new()
        };
        format!("{cause} {gap_s:.0} s{tail}")
    });
    told.collect()
}

fn local(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return time.to_owned() };
    let zone = TimeZone::get(ZONE).unwrap_or_else(|_| TimeZone::fixed(jiff::tz::offset(7)));
    time.to_zoned(zone).strftime("%d/%m/%Y %H:%M:%S").to_string()
}

fn name(device: &Value, width: usize) -> String {
    let text = device["name"].as_str().or(device["id"].as_str()).unwrap_or_default();
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_type_them() {
        let now: Timestamp = "2026-11-20T15:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-20T22:15:00Z", "2026-11-20T22:15:00Z"),
            ("2026-11-20T22:15:00+07:00", "2026-11-20T15:15:00Z"),
            ("2026-11-20 22:15", "2026-11-20T15:15:00Z"),
            ("2026-11-20T22:15", "2026-11-20T15:15:00Z"),
            ("15m", "2026-11-20T14:45:00Z"),
            ("2h", "2026-11-20T13:00:00Z"),
        ] {
            assert_eq!(parse_time(text, now).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", "yesterday", "25:00", "2026-13-01 00:00"] {
            assert!(parse_time(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_without_clips_says_what_was_not_recorded() {
        let page = json!({
            "clips": [],
            "coverage": [{
                "device": { "id": "cam-04", "name": "Cổng chợ" },
                "spans": [
                    { "state": "recorded", "start": "2026-11-20T15:00:00Z", "end": "2026-11-20T15:01:00Z" },
                    { "state": "gap", "cause": "camera_unreachable", "start": "2026-11-20T15:01:00Z", "end": "2026-11-20T15:01:30Z" },
                    { "state": "gap", "cause": "camera_unreachable", "start": "2026-11-20T15:01:30Z", "end": "2026-11-20T15:02:00Z", "open": true, "confirmed": false },
                ],
            }],
            "next": null,
        });
        let text = table(&[page]).unwrap();
        assert!(text.contains("0 clips from 1 cameras"), "{text}");
        assert!(text.contains("Cổng chợ") && text.contains("camera unreachable 30 s (and"), "{text}");
    }
}
