//! Answers that are told as they come: NDJSON, CSV and GeoJSON.
//!
//! Owns their forms. One thread reads and writes lines; who hangs up ends it at the next line. What a download leaves
//! out is told at its end.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::api::{App, Looker, query};
use super::{Problem, Web, blocking};
use crate::hub::access::{Action, Pass};
use crate::hub::search::answer::{ClipView, Held};
use crate::hub::search::atlas::Atlas;
use crate::hub::search::cameras::Found;
use crate::hub::search::question::{Asked, Question};
use crate::hub::search::{Pages, SearchError, cameras_of, next_page, understood};
use crate::limits::{EXPORT_CLIPS_MAX, STREAM_CLIPS, STREAM_LINES_MAX};
use crate::model::Time;

/// `application/x-ndjson` is what the reader wants.
pub fn wants_lines(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/x-ndjson"))
}

/// A question that passed the gate.
struct Allowed {
    web: Arc<Web>,
    pass: Pass,
    question: Question,
    atlas: Arc<Atlas>,
    found: Vec<Found>,
    now: Time,
}

impl Allowed {
    async fn of(web: Arc<Web>, looker: Looker, asked: Asked, form: &str) -> Result<Self, Problem> {
        let (now, atlas) = (Time::now(), web.atlas().await);
        let question = Question::understand(&asked, &atlas, now)?;
        let mut subject = question.subject();
        subject["form"] = json!(form);
        let pass = looker.pass(&web, Action::Search, asked.purpose, subject).await?;
        blocking(move || {
            let found = cameras_of(&question, &atlas)?;
            Ok(Self { web, pass, question, atlas, found, now })
        })
        .await
    }

    /// Gives up to `most` clips to `take`. Returns the token of what is behind them.
    fn clips(&self, most: usize, take: impl FnMut(ClipView) -> bool) -> Result<Option<String>, SearchError> {
        let Self { web, pass, question, atlas, found, .. } = self;
        let pages = Pages { most, step: STREAM_CLIPS };
        let after = web.search().clips(pass, question, found, atlas, pages, take)?;
        Ok(after.map(|after| next_page(question, after)))
    }
}

/// Where the lines of an answer go.
struct Lines {
    to: mpsc::Sender<io::Result<Bytes>>,
}

impl Lines {
    /// False when nobody reads any more.
    fn put(&self, line: impl Into<Bytes>) -> bool {
        self.to.blocking_send(Ok(line.into())).is_ok()
    }

    fn put_json(&self, value: &Value) -> bool {
        self.put(value.to_string() + "\n")
    }
}

/// An answer whose body `write` makes on a thread of its own; an error of it ends the body early.
fn told(
    kind: &'static str,
    write: impl FnOnce(&Lines) -> Result<(), SearchError> + Send + 'static,
) -> Response {
    let (to, mut from) = mpsc::channel::<io::Result<Bytes>>(STREAM_LINES_MAX);
    tokio::task::spawn_blocking(move || {
        let lines = Lines { to };
        if let Err(error) = write(&lines) {
            tracing::error!(%error, "an answer ends early");
            let _ = lines.to.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| from.poll_recv(context)));
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
}

/// The answer of `/clips`, one JSON object a line: `understood`, each `clip`, each camera's `coverage`, then `end` with
/// the token of the next page. An error on the way is a last line `error`.
pub async fn lines(web: Arc<Web>, looker: Looker, asked: Asked) -> Result<Response, Problem> {
    let allowed = Allowed::of(web, looker, asked, "lines").await?;
    Ok(told("application/x-ndjson", move |lines| {
        if let Err(error) = tell_lines(&allowed, lines) {
            tracing::error!(%error, "an answer ends early");
            lines.put_json(&json!({ "error": { "detail": error.to_string() } }));
        }
        Ok(())
    }))
}

fn tell_lines(allowed: &Allowed, lines: &Lines) -> Result<(), SearchError> {
    let Allowed { web, pass, question, atlas, found, now } = allowed;
    if !lines.put_json(&json!({ "understood": understood(question, found) })) {
        return Ok(());
    }
    let next = allowed.clips(question.limit, |clip| lines.put_json(&json!({ "clip": clip })))?;
    web.search().accounts(pass, question, found, atlas, *now, |account| {
        lines.put_json(&json!({ "coverage": account }))
    })?;
    lines.put_json(&json!({ "end": { "next": next } }));
    Ok(())
}

/// The clips as a GeoJSON FeatureCollection (RFC 7946), each at its camera's place; at most `EXPORT_CLIPS_MAX` of them.
#[utoipa::path(get, path = "/api/v1/clips.geojson", params(Asked),
    responses((status = 200, content_type = "application/geo+json"), (status = 400, body = Problem),
        (status = 503, body = Problem)))]
pub async fn geojson(State(web): App, looker: Looker, uri: Uri) -> Result<Response, Problem> {
    let allowed = Allowed::of(web, looker, query(&uri)?, "geojson").await?;
    let response = told("application/geo+json", move |lines| {
        lines.put("{\"type\":\"FeatureCollection\",\"features\":[\n");
        let mut count = 0;
        let next = allowed.clips(EXPORT_CLIPS_MAX, |clip| {
            let comma = if count == 0 { "" } else { ",\n" };
            count += 1;
            lines.put(format!("{comma}{}", feature(&clip)))
        })?;
        let end = json!({ "clips": count, "complete": next.is_none(), "next": next });
        lines.put(format!("\n],\"camnet:end\":{end}}}\n"));
        Ok(())
    });
    Ok(as_file(response, "clips.geojson"))
}

fn feature(clip: &ClipView) -> Value {
    let mut properties = serde_json::to_value(clip).expect("a clip has only text keys");
    if let Some(properties) = properties.as_object_mut() {
        properties.remove("id");
        properties.remove("point");
    }
    let geometry = clip.point.map(|at| json!({ "type": "Point", "coordinates": [at.lon, at.lat] }));
    json!({ "type": "Feature", "id": clip.id, "geometry": geometry, "properties": properties })
}

const COLUMNS: &str = "clip,device,device_name,site,site_name,address,lat,lon,distance_m,start_utc,end_utc,\
    motion_start_utc,motion_end_utc,clock_sync,clock_uncertainty_ms,certainty,where,bytes,sha256,codec,width,height\r\n";

/// The clips as CSV (RFC 4180, UTF-8 with a byte order mark for spreadsheets); at most `EXPORT_CLIPS_MAX` of them.
#[utoipa::path(get, path = "/api/v1/clips.csv", params(Asked),
    responses((status = 200, content_type = "text/csv"), (status = 400, body = Problem),
        (status = 503, body = Problem)))]
pub async fn csv(State(web): App, looker: Looker, uri: Uri) -> Result<Response, Problem> {
    let allowed = Allowed::of(web, looker, query(&uri)?, "csv").await?;
    let response = told("text/csv; charset=utf-8; header=present", move |lines| {
        lines.put(format!("\u{feff}{COLUMNS}"));
        let next = allowed.clips(EXPORT_CLIPS_MAX, |clip| lines.put(row(&clip)))?;
        if next.is_some() {
            lines.put(format!(
                "# {EXPORT_CLIPS_MAX} clips; there are more: ask for less time or a smaller place\r\n"
            ));
        }
        Ok(())
    });
    Ok(as_file(response, "clips.csv"))
}

fn row(clip: &ClipView) -> String {
    let time = |time: Option<Time>| time.map_or(String::new(), |time| time.to_string());
    let text = |text: Option<&str>| field(text.unwrap_or_default());
    let number = |number: Option<f64>| number.map_or(String::new(), |n| n.to_string());
    let label = |value: Value| field(value.as_str().unwrap_or_default());
    let site = clip.site.as_ref();
    let cells = [
        clip.id.to_string(),
        field(&clip.device.id),
        field(&clip.device.name),
        text(site.map(|s| s.id.as_str())),
        text(site.map(|s| s.name.as_str())),
        text(site.map(|s| s.address.as_str())),
        number(clip.point.map(|p| p.lat)),
        number(clip.point.map(|p| p.lon)),
        number(clip.distance_m),
        clip.start.to_string(),
        clip.end.to_string(),
        time(clip.motion_start),
        time(clip.motion_end),
        label(json!(clip.clock.sync)),
        clip.clock.uncertainty_ms.map_or(String::new(), |ms| ms.to_string()),
        label(json!(clip.certainty)),
        if clip.held == Held::Hub { "hub".into() } else { "box".into() },
        clip.bytes.to_string(),
        clip.sha256.to_string(),
        field(&clip.video.codec),
        clip.video.width.to_string(),
        clip.video.height.to_string(),
    ];
    cells.join(",") + "\r\n"
}

/// A field that stays one: quoted where RFC 4180 says so, and never a formula to a spreadsheet.
fn field(text: &str) -> String {
    let text =
        if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn as_file(mut response: Response, name: &'static str) -> Response {
    let value = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")).expect("plain text");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_stays_a_field() {
        let table = [
            ("Cổng chợ", "Cổng chợ"),
            ("14, Hoa Phượng", "\"14, Hoa Phượng\""),
            ("\"Sen\"", "\"\"\"Sen\"\"\""),
            ("=1+1", "'=1+1"),
            ("-2", "'-2"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(field(text), expected);
        }
        assert_eq!(COLUMNS.split(',').count(), 22);
    }
}
