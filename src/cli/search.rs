//! `camnet search`: the hub's search in a terminal.
//!
//! Owns the arguments, the asking and the reading of answers as they come; `words.rs` says them. Asks the hub; knows
//! nothing itself: places, times in words and limits are understood there, and errors are the hub's words.

pub mod words;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, ValueEnum};
use futures_util::StreamExt;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use serde_json::{Value, json};

use crate::limits::{PAGE_CLIPS_MAX, SEARCH_LINE_BYTES_MAX};
use crate::model::{PURPOSE_HEADER, purpose_to_header};
use words::{Lang, Teller};

/// Where people of the wards read a clock.
const ZONE: &str = "Asia/Ho_Chi_Minh";
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A hub that says nothing for so long is not there any more.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// As a shell says of a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("form").multiple(false)
    .args(["timeline", "coverage", "suggest", "follow", "csv", "geojson"])))]
pub struct SearchArgs {
    /// The hub's address.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    hub: String,
    /// The time in words: "tối qua 21–23h", "22:15 ± 20p", "each night 22-04 last week".
    #[arg(long, value_name = "TEXT")]
    when: Option<String>,
    /// From when: RFC 3339, "2026-11-20 22:15" (Vietnam time), or "15m" or "2h" for so long ago [default: 1h, unless
    /// --when says it].
    #[arg(long)]
    from: Option<String>,
    /// Until when, in the same forms; default now.
    #[arg(long)]
    to: Option<String>,
    /// Hours of every day: "22:00-04:00".
    #[arg(long, value_name = "FROM-TO")]
    hours: Option<String>,
    /// Days: mon,tue,wed,thu,fri,sat,sun.
    #[arg(long, value_name = "DAYS")]
    weekdays: Option<String>,
    /// Coordinates as people paste them, a map link, or the name of a site, camera, street or address.
    #[arg(long, value_name = "PLACE")]
    near: Option<String>,
    /// Radius around --near, metres.
    #[arg(long, requires = "near")]
    radius: Option<f64>,
    /// A file with a GeoJSON Polygon or MultiPolygon: what lies in it.
    #[arg(long, value_name = "FILE")]
    polygon: Option<PathBuf>,
    /// A file with a GeoJSON LineString: what lies along it.
    #[arg(long, value_name = "FILE")]
    route: Option<PathBuf>,
    /// Whole width of the corridor along --route, metres.
    #[arg(long, requires = "route")]
    width: Option<f64>,
    /// Name, present or former, or id of an area: all that lies in it.
    #[arg(long, value_name = "NAME")]
    area: Option<String>,
    /// Id of a site; may be given several times.
    #[arg(long, value_name = "ID")]
    site: Vec<String>,
    /// Id of a device; may be given several times.
    #[arg(long, value_name = "ID")]
    device: Vec<String>,
    /// A place as with --near: only cameras that have it in view.
    #[arg(long, value_name = "PLACE")]
    sees: Option<String>,
    /// Which clips first.
    #[arg(long, value_enum, default_value = "newest")]
    order: Order,
    /// Clips at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Where to look next, from this clip.
    #[arg(long, value_name = "CLIP")]
    follow: Option<String>,
    /// Where to, degrees clockwise from north; with --follow.
    #[arg(long, requires = "follow")]
    heading: Option<f64>,
    /// walking, bicycle, motorbike, or a range of km/h such as 10-40; with --follow.
    #[arg(long, requires = "follow")]
    speed: Option<String>,
    /// How far ahead to look; with --follow.
    #[arg(long, requires = "follow")]
    minutes: Option<f64>,
    /// How many clips when.
    #[arg(long)]
    timeline: bool,
    /// What each camera recorded when, as bars.
    #[arg(long)]
    coverage: bool,
    /// What a text may mean: areas, streets, sites, devices, coordinates.
    #[arg(long, value_name = "TEXT")]
    suggest: Option<String>,
    /// Write the clips as CSV; - for standard output.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the clips as GeoJSON; - for standard output.
    #[arg(long, value_name = "FILE")]
    geojson: Option<PathBuf>,
    /// Why you look; goes into the access log.
    #[arg(long, default_value = "")]
    purpose: String,
    /// Print the hub's answer as JSON, as it comes.
    #[arg(long)]
    json: bool,
    /// Language of what is printed; default by LANG, and Vietnamese where that says neither.
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    Newest,
    Oldest,
}

/// Asks the hub and prints its answer as it comes. Ctrl-C hangs up, which ends the hub's work too.
pub async fn run(args: SearchArgs) -> anyhow::Result<()> {
    let lang = args.lang.unwrap_or_else(Lang::here);
    let done = tokio::select! {
        done = answer(&args, lang) => done,
        stopped = tokio::signal::ctrl_c() => {
            stopped.context("Ctrl-C can't be caught")?;
            eprintln!("{}", lang.pick("đã dừng; phía trên là những gì đã kịp về", "stopped; above is what had come"));
            std::process::exit(INTERRUPTED);
        }
    };
    match done {
        // Whoever read us has read enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

async fn answer(args: &SearchArgs, lang: Lang) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().connect_timeout(CONNECT_MAX).read_timeout(SILENT_MAX).build()?;
    let hub = Hub { client, args };
    let mut teller = Teller::new(io::stdout().lock(), lang);
    if let Some(text) = &args.suggest {
        let found = hub.json(hub.get("suggest", &json!({ "q": text }))?).await?;
        return told(args, &mut teller, &found, Teller::suggestions);
    }
    if let Some(clip) = &args.follow {
        let found = hub.json(hub.client.post(hub.url("follow")).json(&follow(args, clip)?)).await?;
        return told(args, &mut teller, &found, Teller::followed);
    }
    let question = question(args, Timestamp::now())?;
    if args.timeline {
        let found = hub.json(hub.get("timeline", &question)?).await?;
        return told(args, &mut teller, &found, Teller::timeline);
    }
    if args.coverage {
        let found = hub.json(hub.get("coverage", &question)?).await?;
        return told(args, &mut teller, &found, Teller::bars);
    }
    for (name, to) in [("clips.csv", &args.csv), ("clips.geojson", &args.geojson)] {
        if let Some(to) = to {
            return hub.download(hub.get(name, &question)?, to, lang).await;
        }
    }
    clips(&hub, question, &mut teller).await
}

/// Says an answer that came whole, or prints it as it is.
fn told<W: Write>(
    args: &SearchArgs,
    teller: &mut Teller<W>,
    found: &Value,
    say: impl FnOnce(&mut Teller<W>, &Value) -> io::Result<()>,
) -> anyhow::Result<()> {
    if args.json {
        teller.line(&found.to_string())?
    } else {
        say(teller, found)?
    }
    Ok(())
}

/// Clips as they come, page after page; then each camera's account, which is the same on every page.
async fn clips<W: Write>(hub: &Hub<'_>, mut question: Value, teller: &mut Teller<W>) -> anyhow::Result<()> {
    let mut left = hub.args.limit.max(1);
    let mut accounts = Vec::new();
    for page in 0.. {
        question["limit"] = json!(left.min(PAGE_CLIPS_MAX));
        let request =
            hub.client.post(hub.url("clips")).header("Accept", "application/x-ndjson").json(&question);
        let mut lines = Lines::of(hub.send(request).await?);
        let mut next = Value::Null;
        while let Some(line) = lines.next().await? {
            if hub.args.json {
                teller.line(&line)?;
            }
            let mut line: Value = serde_json::from_str(&line).context("the hub did not answer with JSON")?;
            if let Some(why) = line["error"]["detail"].as_str() {
                bail!("{why}");
            }
            let is_clip = line.get("clip").is_some();
            left -= usize::from(is_clip).min(left);
            next = line["end"]["next"].take();
            if hub.args.json {
                continue;
            }
            match page {
                0 if line.get("understood").is_some() => teller.understood(&line["understood"])?,
                0 if line.get("coverage").is_some() => accounts.push(line["coverage"].take()),
                _ if is_clip => teller.clip(&line["clip"])?,
                _ => {}
            }
        }
        if next.is_null() || left == 0 {
            return match hub.args.json {
                true => Ok(()),
                false => Ok(teller.accounts(&accounts, !next.is_null())?),
            };
        }
        question["page"] = next;
    }
    Ok(())
}

/// Who is asked.
struct Hub<'a> {
    client: reqwest::Client,
    args: &'a SearchArgs,
}

impl Hub<'_> {
    fn url(&self, name: &str) -> String {
        format!("{}/api/v1/{name}", self.args.hub.trim_end_matches('/'))
    }

    /// A question as a query: lists with commas, shapes as JSON text.
    fn get(&self, name: &str, question: &Value) -> anyhow::Result<reqwest::RequestBuilder> {
        let keys = question.as_object().context("a question has keys")?;
        let pairs: Vec<(&str, String)> =
            keys.iter().map(|(key, value)| (key.as_str(), pair(value))).collect();
        Ok(self.client.get(self.url(name)).query(&pairs))
    }

    /// The answer's head; what is no success is an error in the hub's words.
    async fn send(&self, mut request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        if !self.args.purpose.trim().is_empty() {
            request = request.header(PURPOSE_HEADER, purpose_to_header(&self.args.purpose));
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("no hub answers at {}; is it running?", self.args.hub))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: Value = response.json().await.unwrap_or_default();
        let title = body["title"].as_str().unwrap_or(status.as_str()).to_owned();
        bail!("{title}: {}", body["detail"].as_str().unwrap_or_default());
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        self.send(request).await?.json().await.context("the hub did not answer with JSON")
    }

    /// Into a file that appears when it is complete, or to standard output.
    async fn download(&self, request: reqwest::RequestBuilder, to: &Path, lang: Lang) -> anyhow::Result<()> {
        let mut body = self.send(request).await?.bytes_stream();
        let is_stdout = to == Path::new("-");
        let mut part = to.as_os_str().to_owned();
        part.push(".part");
        let in_file = |e: io::Error| anyhow::Error::from(e).context(format!("{}", to.display()));
        let mut out: Box<dyn Write> = match is_stdout {
            true => Box::new(io::stdout().lock()),
            false => Box::new(std::fs::File::create(&part).map_err(in_file)?),
        };
        while let Some(piece) = body.next().await {
            let written = match piece.context("the hub broke off; the file is not complete") {
                Ok(piece) => out.write_all(&piece).map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                if !is_stdout {
                    let _ = std::fs::remove_file(&part);
                }
                return Err(error);
            }
        }
        out.flush()?;
        if !is_stdout {
            std::fs::rename(&part, to).map_err(in_file)?;
            eprintln!("{}: {}", to.display(), lang.pick("đã ghi xong", "written"));
        }
        Ok(())
    }
}

fn pair(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(pair).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The lines of an answer as they come.
struct Lines<S> {
    body: S,
    waiting: Vec<u8>,
    /// Bytes of `waiting` without the end of a line.
    seen: usize,
}

impl Lines<()> {
    fn of(
        response: reqwest::Response,
    ) -> Lines<impl futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin> {
        Lines { body: Box::pin(response.bytes_stream()), waiting: Vec::new(), seen: 0 }
    }
}

impl<S, E> Lines<S>
where
    S: futures_util::Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(at) = self.waiting[self.seen..].iter().position(|&byte| byte == b'\n') {
                let rest = self.waiting.split_off(self.seen + at + 1);
                let mut line = std::mem::replace(&mut self.waiting, rest);
                self.seen = 0;
                line.pop();
                return String::from_utf8(line).map(Some).context("the hub's answer is no text");
            }
            self.seen = self.waiting.len();
            if self.seen > SEARCH_LINE_BYTES_MAX {
                bail!("a line of the hub's answer is longer than {SEARCH_LINE_BYTES_MAX} bytes");
            }
            match self.body.next().await {
                Some(piece) => self.waiting.extend_from_slice(&piece.context("the hub broke off")?),
                None if self.waiting.is_empty() => return Ok(None),
                None => bail!("the hub broke off within a line"),
            }
        }
    }
}

/// What is asked, as the hub's API has it; only what was given.
fn question(args: &SearchArgs, now: Timestamp) -> anyhow::Result<Value> {
    let mut question = json!({});
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            question[key] = value;
        }
    };
    let from = args.from.as_deref().or(if args.when.is_none() { Some("1h") } else { None });
    for (key, text) in [("from", from), ("to", args.to.as_deref())] {
        let time = text.map(|text| parse_time(text, now)).transpose();
        put(key, json!(time.with_context(|| format!("--{key}"))?));
    }
    put("when", json!(args.when));
    put("hours", json!(args.hours));
    put("weekdays", json!(args.weekdays));
    put("near", json!(args.near));
    put("radius_m", json!(args.radius));
    put(
        "polygon",
        json!(args.polygon.as_deref().map(|f| shape(f, &["Polygon", "MultiPolygon"])).transpose()?),
    );
    put("route", json!(args.route.as_deref().map(|f| shape(f, &["LineString"])).transpose()?));
    put("width_m", json!(args.width));
    put("area", json!(args.area));
    put("sees", json!(args.sees));
    for (key, list) in [("site", &args.site), ("device", &args.device)] {
        if !list.is_empty() {
            put(key, json!(list));
        }
    }
    if args.order == Order::Oldest {
        put("order", json!("oldest"));
    }
    Ok(question)
}

/// What to follow, as the hub's API has it.
fn follow(args: &SearchArgs, clip: &str) -> anyhow::Result<Value> {
    let mut asked = json!({ "clip": clip });
    for (key, value) in [("heading_deg", args.heading), ("minutes", args.minutes)] {
        if let Some(value) = value {
            asked[key] = json!(value);
        }
    }
    let Some(speed) = &args.speed else { return Ok(asked) };
    asked["speed"] = match speed.as_str() {
        "walking" | "bicycle" | "motorbike" => json!(speed),
        range => {
            let ends = range.split_once('-').and_then(|(least, most)| {
                Some((least.trim().parse::<f64>().ok()?, most.trim().parse::<f64>().ok()?))
            });
            let (min_kmh, max_kmh) = ends.with_context(|| {
                format!("--speed {range:?}: walking, bicycle, motorbike, or km/h such as 10-40")
            })?;
            json!({ "min_kmh": min_kmh, "max_kmh": max_kmh })
        }
    };
    Ok(asked)
}

/// The one geometry of these kinds in a GeoJSON file: alone, in a Feature, or in a FeatureCollection.
fn shape(file: &Path, kinds: &[&str]) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let json: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let mut found = geometries(&json, kinds);
    match found.len() {
        1 => Ok(found.remove(0)),
        n => bail!("{}: {n} of {}, exactly one is needed", file.display(), kinds.join(" or ")),
    }
}

fn geometries(json: &Value, kinds: &[&str]) -> Vec<Value> {
    match json["type"].as_str() {
        Some("FeatureCollection") => {
            let features = json["features"].as_array().map(Vec::as_slice).unwrap_or_default();
            features.iter().flat_map(|feature| geometries(&feature["geometry"], kinds)).collect()
        }
        Some("Feature") => geometries(&json["geometry"], kinds),
        Some(kind) if kinds.contains(&kind) => vec![json.clone()],
        _ => Vec::new(),
    }
}

/// RFC 3339, a civil time in Vietnam, or how long ago.
fn parse_time(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(civil) = text.parse::<civil::DateTime>() {
        return Ok(civil.to_zoned(zone())?.timestamp());
    }
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Ok(now.checked_sub(ago.abs())?);
    }
    bail!(
        "{text:?} is not a time: write 2026-11-20T22:15:00Z, \"2026-11-20 22:15\" (Vietnam time) or 15m (ago); words \
         go to --when"
    )
}

fn zone() -> TimeZone {
    TimeZone::get(ZONE).unwrap_or_else(|_| TimeZone::fixed(jiff::tz::offset(7)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use futures_util::stream;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SearchArgs,
    }

    fn args(line: &[&str]) -> Result<SearchArgs, clap::Error> {
        Cli::try_parse_from([&["search"], line].concat()).map(|cli| cli.args)
    }

    const NOW: &str = "2026-11-20T15:00:00Z";

    #[test]
    fn times_are_read_as_people_type_them() {
        let now: Timestamp = NOW.parse().unwrap();
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
    fn every_key_of_the_contract_can_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, json: &Value| {
            let path = dir.path().join(name);
            std::fs::write(&path, json.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let polygon = json!({ "type": "Polygon", "coordinates": [[[106.0, 10.0], [107.0, 10.0], [107.0, 11.0], [106.0, 10.0]]] });
        let route = json!({ "type": "LineString", "coordinates": [[106.0, 10.0], [107.0, 10.0]] });
        let feature = |shape: &Value| json!({ "type": "Feature", "properties": {}, "geometry": shape });
        let polygon_file = file(
            "p.geojson",
            &json!({ "type": "FeatureCollection",
            "features": [feature(&polygon), feature(&route)] }),
        );
        let route_file = file("r.geojson", &feature(&route));
        let table: [(Vec<&str>, Value); 7] = [
            (vec![], json!({ "from": "2026-11-20T14:00:00Z" })),
            (vec!["--when", "tối qua"], json!({ "when": "tối qua" })),
            (
                vec!["--from", "2h", "--to", "1h", "--hours", "22:00-04:00", "--weekdays", "mon,tue"],
                json!({ "from": "2026-11-20T13:00:00Z", "to": "2026-11-20T14:00:00Z", "hours": "22:00-04:00",
                    "weekdays": "mon,tue" }),
            ),
            (
                vec!["--when", "x", "--near", "10.7405,106.6953", "--radius", "400", "--area", "KP 1"],
                json!({ "when": "x", "near": "10.7405,106.6953", "radius_m": 400.0, "area": "KP 1" }),
            ),
            (
                vec!["--when", "x", "--polygon", &polygon_file, "--route", &route_file, "--width", "30"],
                json!({ "when": "x", "polygon": polygon, "route": route, "width_m": 30.0 }),
            ),
            (
                vec!["--when", "x", "--site", "a", "--site", "b", "--device", "cam-01", "--order", "oldest"],
                json!({ "when": "x", "site": ["a", "b"], "device": ["cam-01"], "order": "oldest" }),
            ),
            (vec!["--when", "x", "--sees", "chợ"], json!({ "when": "x", "sees": "chợ" })),
        ];
        for (line, expected) in table {
            let asked = question(&args(&line).unwrap(), NOW.parse().unwrap()).unwrap();
            assert_eq!(asked, expected, "{line:?}");
        }
        for line in [["--polygon", &route_file], ["--route", "/nowhere.geojson"], ["--from", "hôm qua"]] {
            assert!(question(&args(&line).unwrap(), NOW.parse().unwrap()).is_err(), "{line:?}");
        }
        for line in [vec!["--radius", "5"], vec!["--timeline", "--coverage"], vec!["--heading", "5"]] {
            assert!(args(&line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_follow_takes_a_name_or_a_range_of_speeds() {
        let asked = |line: &[&str]| follow(&args(&[&["--follow", "c"], line].concat()).unwrap(), "c");
        assert_eq!(asked(&[]).unwrap(), json!({ "clip": "c" }));
        let named = asked(&["--heading", "90", "--speed", "bicycle", "--minutes", "5"]).unwrap();
        assert_eq!(named, json!({ "clip": "c", "heading_deg": 90.0, "speed": "bicycle", "minutes": 5.0 }));
        let range = asked(&["--speed", "10-40"]).unwrap();
        assert_eq!(range["speed"], json!({ "min_kmh": 10.0, "max_kmh": 40.0 }));
        assert!(asked(&["--speed", "fast"]).is_err());
    }

    #[tokio::test]
    async fn lines_come_whole_whatever_the_pieces() {
        let pieces = ["{\"a\":", "1}\n{\"b\"", ":\"đ\"}\n", "\n{\"c\":2}\n"];
        let body = pieces.map(|piece| Ok::<_, io::Error>(bytes::Bytes::from(piece)));
        let mut lines = Lines { body: stream::iter(body), waiting: Vec::new(), seen: 0 };
        let mut came = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            came.push(line);
        }
        assert_eq!(came, ["{\"a\":1}", "{\"b\":\"đ\"}", "", "{\"c\":2}"]);
        let torn = stream::iter([Ok::<_, io::Error>(bytes::Bytes::from_static(b"{\"a\""))]);
        assert!(Lines { body: torn, waiting: Vec::new(), seen: 0 }.next().await.is_err());
    }
}
