//! Answers that are told as they come: NDJSON, CSV and GeoJSON.
//!
//! Owns their forms. One thread reads and writes lines; who hangs up, or takes nothing for too long, ends it at the next
//! line. What a download leaves out is told at its end; a body that breaks off on the way ends as an error, never as if
//! it were whole.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::api::{Allowed, App, Looker, query};
use super::{Problem, Web, blocking};
use crate::hub::search::answer::{ClipView, Held};
use crate::hub::search::cameras::Found;
use crate::hub::search::question::Asked;
use crate::hub::search::{Pages, SearchError, cameras_of, next_page, understood};
use crate::limits::{
    EXPORT_CLIPS_MAX, PAGE_CLIPS, STREAM_CLIPS, STREAM_LINES_MAX, STREAM_STALL_MAX, STREAMS_MAX,
};
use crate::model::Time;

/// `application/x-ndjson` is what the reader wants.
pub fn wants_lines(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/x-ndjson"))
}

/// One of it for each answer that is being told.
static STREAMS: Semaphore = Semaphore::const_new(STREAMS_MAX);

/// A question that is answered line by line, and its turn.
struct Telling {
    _turn: SemaphorePermit<'static>,
    web: Arc<Web>,
    allowed: Allowed,
    found: Vec<Found>,
    /// Clips that are told.
    most: usize,
}

impl Telling {
    /// `most` clips are told unless somebody asks for fewer.
    async fn of(
        web: Arc<Web>,
        looker: Looker,
        asked: Asked,
        form: &str,
        most: usize,
    ) -> Result<Self, Problem> {
        let turn = STREAMS.try_acquire().map_err(|_| {
            let detail = format!("{STREAMS_MAX} answers are being told at once; try again in a moment");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?;
        let most = asked.limit.unwrap_or(most);
        let allowed = Allowed::of(&web, looker, asked, Some(form)).await?;
        blocking(move || {
            let found = cameras_of(&allowed.question, &allowed.atlas)?;
            Ok(Self { _turn: turn, web, allowed, found, most })
        })
        .await
    }

    /// Gives the clips to `take`. Returns the token of what is behind them.
    fn clips(&self, take: impl FnMut(ClipView) -> bool) -> Result<Option<String>, SearchError> {
        let Self { web, allowed: Allowed { pass, question, atlas, .. }, found, most, .. } = self;
        let pages = Pages { most: *most, step: STREAM_CLIPS };
        let after = web.search().clips(pass, question, found, atlas, pages, take)?;
        Ok(after.map(|after| next_page(question, after)))
    }
}

/// Where the lines of an answer go.
struct Lines {
    to: mpsc::Sender<Bytes>,
    runtime: Handle,
    /// How long one line waits for its reader.
    patience: Duration,
    is_lost: Cell<bool>,
}

impl Lines {
    /// False when nobody reads any more. Blocking.
    fn put(&self, line: impl Into<Bytes>) -> bool {
        if self.is_lost.get() {
            return false;
        }
        let is_sent = match self.to.try_send(line.into()) {
            Ok(()) => true,
            Err(TrySendError::Full(line)) => {
                self.runtime.block_on(self.to.send_timeout(line, self.patience)).is_ok()
            }
            Err(TrySendError::Closed(_)) => false,
        };
        self.is_lost.set(!is_sent);
        is_sent
    }

    fn put_json(&self, value: &Value) -> bool {
        self.put(value.to_string() + "\n")
    }
}

/// An answer whose body `write` makes on a thread of its own.
fn told(
    kind: &'static str,
    write: impl FnOnce(&Lines) -> Result<(), SearchError> + Send + 'static,
) -> Response {
    let (to, mut from) = mpsc::channel(STREAM_LINES_MAX);
    let is_whole = Arc::new(AtomicBool::new(false));
    let (runtime, ends_whole) = (Handle::current(), is_whole.clone());
    tokio::task::spawn_blocking(move || {
        let lines = Lines { to, runtime, patience: STREAM_STALL_MAX, is_lost: Cell::new(false) };
        match write(&lines) {
            Ok(()) => ends_whole.store(!lines.is_lost.get(), Ordering::Release),
            Err(error) => tracing::error!(%error, "an answer ends early"),
        }
    });
    let body = futures_util::stream::poll_fn(move |context| {
        from.poll_recv(context).map(|line| match line {
            Some(line) => Some(Ok(line)),
            None if is_whole.load(Ordering::Acquire) => None,
            None => Some(Err(io::Error::other("the answer ends early"))),
        })
    });
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], Body::from_stream(body)).into_response()
}

/// The answer of `/clips`, one JSON object a line: `understood`, each `clip`, each camera's `coverage`, then `end` with
/// the token of the next page. An error on the way is a last line `error`.
pub async fn lines(web: Arc<Web>, looker: Looker, asked: Asked) -> Result<Response, Problem> {
    let telling = Telling::of(web, looker, asked, "lines", PAGE_CLIPS).await?;
    Ok(told("application/x-ndjson", move |lines| {
        if let Err(error) = tell_lines(&telling, lines) {
            tracing::error!(%error, "an answer ends early");
            lines.put_json(&json!({ "error": { "detail": error.to_string() } }));
        }
        Ok(())
    }))
}

fn tell_lines(telling: &Telling, lines: &Lines) -> Result<(), SearchError> {
    let Telling { web, allowed: Allowed { pass, question, atlas, now }, found, .. } = telling;
    if !lines.put_json(&json!({ "understood": understood(question, found) })) {
        return Ok(());
    }
    let next = telling.clips(|clip| lines.put_json(&json!({ "clip": clip })))?;
    if lines.is_lost.get() {
        return Ok(());
    }
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
    let telling = Telling::of(web, looker, query(&uri)?, "geojson", EXPORT_CLIPS_MAX).await?;
    let response = told("application/geo+json", move |lines| {
        lines.put("{\"type\":\"FeatureCollection\",\"features\":[\n");
        let mut count = 0;
        let next = telling.clips(|clip| {
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
    let telling = Telling::of(web, looker, query(&uri)?, "csv", EXPORT_CLIPS_MAX).await?;
    let response = told("text/csv; charset=utf-8; header=present", move |lines| {
        lines.put(format!("\u{feff}{COLUMNS}"));
        let next = telling.clips(|clip| lines.put(row(&clip)))?;
        if next.is_some() {
            lines.put(format!(
                "# {} clips; there are more: ask for less time or a smaller place\r\n",
                telling.most
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
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
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

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_who_takes_nothing_is_given_up_and_never_told_that_this_was_all() {
        let (to, mut from) = mpsc::channel(1);
        let (runtime, patience) = (Handle::current(), Duration::from_millis(1));
        let lines = Lines { to, runtime, patience, is_lost: Cell::new(false) };
        let put =
            tokio::task::spawn_blocking(move || [lines.put("one"), lines.put("two"), lines.put("three")]);
        assert_eq!(put.await.unwrap(), [true, false, false]);
        assert_eq!((from.recv().await, from.recv().await), (Some("one".into()), None));

        let whole = told("text/plain", |lines| {
            assert!(lines.put("one"));
            Ok(())
        });
        assert_eq!(axum::body::to_bytes(whole.into_body(), 100).await.unwrap(), "one");
        let torn = told("text/plain", |lines| {
            lines.put("one");
            Err(SearchError::Question("x".into()))
        });
        assert!(axum::body::to_bytes(torn.into_body(), 100).await.is_err());
    }
}
