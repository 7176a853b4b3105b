//! The hub's answers as a person reads them in a terminal, in Vietnamese or English.
//!
//! Owns the words and the columns. Knows only what stands in the answer: what is missing there is left out.

use std::io::{self, Write};

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;

use super::zone;

/// Columns of a bar, and of a histogram.
const BAR: usize = 48;
const NAME: usize = 26;
/// Spans of one kind that a camera's account names; the rest is counted.
const SPANS_MAX: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    Vi,
    En,
}

impl Lang {
    /// By LC_ALL, LC_MESSAGES and LANG, of which the first that is set counts; Vietnamese as the console where it says
    /// neither.
    pub fn of_locale(values: &[String]) -> Self {
        let set = values.iter().find(|value| !value.is_empty());
        if set.is_some_and(|value| value.to_lowercase().starts_with("en")) { Self::En } else { Self::Vi }
    }

    /// As this process was started.
    pub fn here() -> Self {
        let names = ["LC_ALL", "LC_MESSAGES", "LANG"];
        Self::of_locale(&names.map(|name| std::env::var(name).unwrap_or_default()))
    }

    pub fn pick<'a>(self, vi: &'a str, en: &'a str) -> &'a str {
        match self {
            Self::Vi => vi,
            Self::En => en,
        }
    }

    fn of(self, words: &Value) -> &str {
        words[self.pick("vi", "en")].as_str().unwrap_or_default()
    }

    /// What the hub calls by a word of the contract.
    fn word(self, word: &str) -> &str {
        let (vi, en) = match word {
            "box_off" => ("hộp tắt", "box off"),
            "camera_unreachable" => ("mất kết nối camera", "camera unreachable"),
            "stream_broken" => ("luồng hình hỏng", "stream broken"),
            "disk_full" => ("đĩa đầy", "disk full"),
            "disk_failed" => ("đĩa hỏng", "disk failed"),
            "clock_unsure" => ("đồng hồ chưa chắc", "clock unsure"),
            "paused_by_owner" => ("chủ máy tạm dừng", "paused by owner"),
            "not_yet_reported" => ("chưa báo cáo", "not yet reported"),
            "lit" => ("sáng", "lit"),
            "dark" => ("tắt", "dark"),
            "unknown" => ("chưa báo", "unknown"),
            "hub" => ("máy chủ", "hub"),
            "box" => ("hộp biên", "box"),
            "area" => ("địa bàn", "area"),
            "street" => ("đường", "street"),
            "site" => ("điểm lắp đặt", "site"),
            "device" => ("thiết bị", "device"),
            "coordinates" => ("tọa độ", "coordinates"),
            other => (other, other),
        };
        self.pick(vi, en)
    }
}

/// Says answers to `out`, line by line, each as soon as it is known.
pub struct Teller<W> {
    out: W,
    lang: Lang,
    clips: usize,
}

impl<W: Write> Teller<W> {
    pub fn new(out: W, lang: Lang) -> Self {
        Self { out, lang, clips: 0 }
    }

    pub fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    /// What was understood: time, place, cameras.
    pub fn understood(&mut self, understood: &Value) -> io::Result<()> {
        let lang = self.lang;
        let (from, to) = (local(&understood["from"]), local(&understood["to"]));
        let offset = understood["offset"].as_str().unwrap_or_default();
        let when = lang.of(&understood["words"]);
        self.line(&format!("{}: {when}", lang.pick("Lúc", "When")))?;
        self.line(&format!("     {from} – {to} (UTC{offset})"))?;
        let windows = list(&understood["windows"]);
        if windows.len() > 1 {
            let each = lang.pick("khoảng giờ trong đó", "windows within");
            self.line(&format!("     {} {each}", windows.len()))?;
        }
        let conditions = list(&understood["place"]["conditions"]);
        let places: Vec<String> = conditions.iter().map(|c| place(c, lang)).collect();
        let place = if places.is_empty() {
            lang.pick("mọi nơi", "everywhere").to_owned()
        } else {
            places.join(lang.pick(" và ", " and "))
        };
        let cameras = understood["cameras"].as_u64().unwrap_or_default();
        self.line(&format!(
            "{}: {place} · {cameras} camera{}",
            lang.pick("Nơi", "Where"),
            plural(cameras, lang)
        ))?;
        for note in conditions.iter().map(|c| lang.of(&c["note"])).filter(|note| !note.is_empty()) {
            self.line(&format!("     {note}"))?;
        }
        self.line("")
    }

    pub fn clip(&mut self, clip: &Value) -> io::Result<()> {
        let lang = self.lang;
        if self.clips == 0 {
            let (time, length) = (lang.pick("lúc (UTC+7)", "time (UTC+7)"), lang.pick("dài", "length"));
            let (metres, held, id) =
                (lang.pick("cách", "metres"), lang.pick("nằm ở", "where"), lang.pick("đoạn hình", "clip"));
            self.line(&format!("{time:<19}  {length:>6}  {:<NAME$} {metres:>9}  {held:<8} {id}", "camera"))?;
        }
        self.clips += 1;
        let seconds =
            seconds_between(&clip["start"], &clip["end"]).map_or(String::new(), |s| format!("{s:.0} s"));
        let is_sure = clip["certainty"].is_null() && clip["clock"]["sync"] == "synced";
        let open = clip["clock"]["uncertainty_ms"].as_f64().filter(|_| !is_sure);
        let open = open.map_or(String::new(), |ms| format!("  ±{:.0} s", (ms / 1000.0).ceil()));
        let distance = clip["distance_m"].as_f64().map_or(String::new(), |m| format!("{m:.0} m"));
        let wind =
            clip["bearing_deg"].as_f64().filter(|_| !distance.is_empty()).map_or("", |deg| wind(deg, lang));
        let line = format!(
            "{:<19}{:<1} {seconds:>6}  {:<NAME$} {distance:>6} {wind:<2}  {:<8} {}{open}",
            local(&clip["start"]),
            if is_sure { "" } else { "~" },
            name(&clip["device"]),
            lang.word(clip["where"].as_str().unwrap_or_default()),
            clip["id"].as_str().unwrap_or_default(),
        );
        self.line(line.trim_end())
    }

    /// What each camera recorded, what it did not and why, where the footage lies, and the light.
    pub fn accounts(&mut self, accounts: &[Value], is_more: bool) -> io::Result<()> {
        let lang = self.lang;
        if self.clips > 0 {
            self.line("")?;
        }
        let (clips, cameras) = (self.clips as u64, accounts.len() as u64);
        self.line(&match lang {
            Lang::Vi => format!("{clips} đoạn hình từ {cameras} camera"),
            Lang::En => {
                format!("{clips} clip{} from {cameras} camera{}", plural(clips, lang), plural(cameras, lang))
            }
        })?;
        for account in accounts {
            self.account(account)?;
        }
        if is_more {
            self.line(lang.pick("còn nữa: tăng --limit", "there is more: raise --limit"))?;
        }
        Ok(())
    }

    fn account(&mut self, account: &Value) -> io::Result<()> {
        let lang = self.lang;
        let recorded = account["recorded_s"].as_f64().unwrap_or_default();
        let sees = account["sees"]["distance_m"].as_f64().map_or(String::new(), |metres| {
            let off = account["sees"]["off_axis_deg"].as_f64().unwrap_or_default();
            format!("; {} {metres:.0} m, {off:.0}°", lang.pick("thấy từ", "sees from"))
        });
        let head = lang.pick("có ghi", "recorded");
        self.line(&format!("  {:<NAME$} {head} {}{sees}", name(&account["device"]), length(recorded)))?;
        let mut below = Vec::new();
        let gaps = gaps_by_cause(&account["spans"], lang);
        if !gaps.is_empty() {
            below.push(format!("{}: {}", lang.pick("không ghi", "not recorded"), gaps.join(", ")));
        }
        let at_box = list(&account["at_box"]);
        if !at_box.is_empty() {
            let only = lang.pick("chỉ có trên hộp biên", "recorded on the box only");
            let more = if account["at_box_truncated"] == true { " …" } else { "" };
            below.push(format!("{only}: {}{more}", spans(at_box, lang)));
        }
        let overwritten = account["overwritten_s"].as_f64().unwrap_or_default();
        if overwritten > 0.0 {
            let word = lang.pick("hộp biên đã ghi đè", "overwritten on the box");
            below.push(format!("{word}: {}", length(overwritten)));
        }
        for lamp in list(&account["lamps"]) {
            // Less than a second is the seam at the window's edge.
            let spans = list(&lamp["spans"]).iter();
            let spans = spans.filter(|span| seconds_between(&span["start"], &span["end"]) >= Some(1.0));
            let states: Vec<String> = spans
                .map(|span| format!("{} {}", lang.word(bare(&span["state"])), clock_span(span)))
                .collect();
            if states.is_empty() {
                continue;
            }
            let (name, metres) = (lamp["name"].as_str().unwrap_or_default(), lamp["distance_m"].as_f64());
            let states = first_of(states, lang);
            below.push(format!(
                "{} {name} ({:.0} m): {states}",
                lang.pick("đèn", "lamps"),
                metres.unwrap_or_default()
            ));
        }
        for line in below {
            self.line(&format!("    {line}"))?;
        }
        Ok(())
    }

    /// Clips per bucket as a histogram; several buckets a line where there are many.
    pub fn timeline(&mut self, timeline: &Value) -> io::Result<()> {
        let buckets = list(&timeline["buckets"]);
        let step = buckets.len().div_ceil(BAR).max(1);
        let rows: Vec<(String, u64)> = buckets
            .chunks(step)
            .map(|part| (local(&part[0]["start"]), part.iter().filter_map(|b| b["clips"].as_u64()).sum()))
            .collect();
        let most = rows.iter().map(|(_, clips)| *clips).max().unwrap_or(0).max(1);
        for (start, clips) in rows {
            let length = (clips as usize * BAR).div_ceil(most as usize);
            self.line(format!("{start}  {:>5}  {}", clips, "█".repeat(length)).trim_end())?;
        }
        let (clips, cameras) = (&timeline["clips"], &timeline["cameras"]);
        self.line(&match self.lang {
            Lang::Vi => format!("{clips} đoạn hình từ {cameras} camera"),
            Lang::En => format!("{clips} clips from {cameras} cameras"),
        })
    }

    /// What was recorded as a bar for each camera.
    pub fn bars(&mut self, coverage: &Value) -> io::Result<()> {
        let lang = self.lang;
        let (from, to) = (local(&coverage["from"]), local(&coverage["to"]));
        let space = " ".repeat((BAR + 2).saturating_sub(from.chars().count() + to.chars().count()).max(3));
        self.line(&format!("{:<NAME$}  {from}{space}{to}", ""))?;
        for camera in list(&coverage["cameras"]) {
            let buckets = list(&camera["buckets"]);
            let step = buckets.len().div_ceil(BAR).max(1);
            let bar: String = buckets.chunks(step).map(cell).collect();
            let recorded: f64 = buckets.iter().filter_map(|b| b["recorded_s"].as_f64()).sum();
            let gap: f64 = buckets.iter().filter_map(|b| b["gap_s"].as_f64()).sum();
            self.line(&format!(
                "{:<NAME$} |{bar}| {} {}, {} {}",
                name(&camera["device"]),
                lang.pick("ghi", "recorded"),
                length(recorded),
                lang.pick("trống", "gaps"),
                length(gap)
            ))?;
        }
        self.line(lang.pick(
            "█ ghi đủ  ▒ ghi một phần  · không ghi  ? theo lời cuối của hộp, chưa xác nhận",
            "█ recorded  ▒ in part  · not recorded  ? by the box's last word, not confirmed",
        ))
    }

    pub fn suggestions(&mut self, found: &Value) -> io::Result<()> {
        let lang = self.lang;
        let found = list(&found["suggestions"]);
        if found.is_empty() {
            return self.line(lang.pick("không có gì mang tên như vậy", "nothing has a name like that"));
        }
        for one in found {
            let text = |key: &str| one[key].as_str().unwrap_or_default();
            let former = one["former_name"]
                .as_str()
                .map_or(String::new(), |former| format!(" ({} {former})", lang.pick("trước là", "formerly")));
            let line = format!(
                "{:<13} {:<24} {}{former} · {}",
                lang.word(text("kind")),
                text("id"),
                text("name"),
                text("context")
            );
            self.line(line.trim_end_matches([' ', '·']))?;
        }
        Ok(())
    }

    /// Where to look next, with the search of each.
    pub fn followed(&mut self, followed: &Value) -> io::Result<()> {
        let lang = self.lang;
        let speed = &followed["speed"];
        self.line(&format!(
            "{} {} · {}–{} km/h · {} {}",
            lang.pick("Từ", "From"),
            local(&followed["from"]["time"]),
            speed["min_kmh"],
            speed["max_kmh"],
            followed["minutes"],
            lang.pick("phút", "minutes"),
        ))?;
        let cameras = list(&followed["cameras"]);
        if cameras.is_empty() {
            return self.line(lang.pick("không có camera nào trên đường đi", "no camera stands on the way"));
        }
        for next in cameras {
            let metres = next["distance_m"].as_f64().unwrap_or_default();
            let wind = wind(next["bearing_deg"].as_f64().unwrap_or_default(), lang);
            let sees =
                if next["sees"] == true { lang.pick("thấy đường đi", "sees the way") } else { "" };
            let id = next["device"]["id"].as_str().unwrap_or_default();
            let line = format!(
                "{}  {:<NAME$} {id:<10} {metres:>5.0} m {wind:<2}  {sees}",
                clock_span(
                    &serde_json::json!({ "start": next["window"]["from"], "end": next["window"]["to"] })
                ),
                name(&next["device"]),
            );
            self.line(line.trim_end())?;
            let (from, to) = (&next["window"]["from"], &next["window"]["to"]);
            self.line(&format!("    camnet search --device {id} --from {} --to {}", bare(from), bare(to)))?;
        }
        let left_out = followed["left_out"].as_u64().unwrap_or_default();
        if left_out > 0 {
            self.line(&format!(
                "{left_out} {}",
                lang.pick("camera nữa không nêu ra", "more cameras are not named")
            ))?;
        }
        Ok(())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn bare(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn plural(count: u64, lang: Lang) -> &'static str {
    if count == 1 || lang == Lang::Vi { "" } else { "s" }
}

/// One condition of a place.
fn place(condition: &Value, lang: Lang) -> String {
    let point = || format!("{}, {}", condition["point"]["lat"], condition["point"]["lon"]);
    let named = || condition["name"].as_str().map_or_else(point, str::to_owned);
    let texts = |key: &str| list(&condition[key]).iter().map(bare).collect::<Vec<_>>().join(", ");
    match condition["kind"].as_str().unwrap_or_default() {
        "circle" => {
            let radius = condition["radius_m"].as_f64().unwrap_or_default();
            format!("{radius:.0} m {} {}", lang.pick("quanh", "around"), named())
        }
        "polygon" => lang.pick("trong vùng đã vẽ", "within the drawn area").to_owned(),
        "route" => {
            let width = condition["width_m"].as_f64().unwrap_or_default();
            format!("{} {width:.0} m", lang.pick("dọc tuyến, rộng", "along the route, width"))
        }
        "area" => {
            let former = condition["former_name"]
                .as_str()
                .map_or(String::new(), |former| format!(" ({} {former})", lang.pick("trước là", "formerly")));
            format!("{}{former}", bare(&condition["area"]["name"]))
        }
        "sites" => format!("{} {}", lang.pick("điểm", "sites"), texts("sites")),
        "devices" => format!("{} {}", lang.pick("thiết bị", "devices"), texts("devices")),
        "sees" => format!("{} {}", lang.pick("nhìn thấy", "with a view of"), named()),
        other => other.to_owned(),
    }
}

/// Most of what a part of a bar is.
fn cell(buckets: &[Value]) -> char {
    let sum = |key: &str| buckets.iter().filter_map(|bucket| bucket[key].as_f64()).sum::<f64>();
    let (recorded, gap, unconfirmed) = (sum("recorded_s"), sum("gap_s"), sum("unconfirmed_s"));
    let all = recorded + gap + unconfirmed;
    match () {
        () if all <= 0.0 => ' ',
        () if unconfirmed > all / 2.0 => '?',
        () if recorded + unconfirmed >= 0.98 * all => '█',
        () if recorded > 0.0 => '▒',
        () => '·',
    }
}

fn gaps_by_cause(spans: &Value, lang: Lang) -> Vec<String> {
    let mut causes: Vec<(&str, f64, f64)> = Vec::new();
    for span in list(spans) {
        let Some(cause) = span["cause"].as_str() else { continue };
        let Some(seconds) = seconds_between(&span["start"], &span["end"]) else { continue };
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
        let tail = if unconfirmed_s > 0.0 {
            let by = lang.pick("và theo lời cuối của hộp thêm", "and by the box's last word, more:");
            format!(" ({by} {})", length(unconfirmed_s))
        } else {
            String::new()
        };
        format!("{} {}{tail}", lang.word(cause), length(gap_s))
    });
    told.collect()
}

fn spans(spans: &[Value], lang: Lang) -> String {
    first_of(spans.iter().map(clock_span).collect(), lang)
}

fn first_of(all: Vec<String>, lang: Lang) -> String {
    let rest = all.len().saturating_sub(SPANS_MAX);
    let shown = all.iter().take(SPANS_MAX).cloned().collect::<Vec<_>>().join(", ");
    if rest == 0 {
        return shown;
    }
    match lang {
        Lang::Vi => format!("{shown} và {rest} khoảng nữa"),
        Lang::En => format!("{shown} and {rest} more"),
    }
}

/// Hours of a span, with the day where the end lies on another.
fn clock_span(span: &Value) -> String {
    let [start, end] = [&span["start"], &span["end"]].map(|time| bare(time).parse::<Timestamp>());
    let (Ok(start), Ok(end)) = (start, end) else { return String::new() };
    let (start, end) = (start.to_zoned(zone()), end.to_zoned(zone()));
    let to = if start.date() == end.date() { "%H:%M:%S" } else { "%d/%m %H:%M:%S" };
    format!("{}–{}", start.strftime("%d/%m %H:%M:%S"), end.strftime(to))
}

fn seconds_between(start: &Value, end: &Value) -> Option<f64> {
    let [start, end] = [start, end].map(|time| bare(time).parse::<Timestamp>());
    Some(end.ok()?.duration_since(start.ok()?).as_secs_f64())
}

/// A length of time as short as it can be read.
fn length(seconds: f64) -> String {
    let whole = seconds.round() as i64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

fn wind(deg: f64, lang: Lang) -> &'static str {
    let names = match lang {
        Lang::Vi => ["B", "ĐB", "Đ", "ĐN", "N", "TN", "T", "TB"],
        Lang::En => ["N", "NE", "E", "SE", "S", "SW", "W", "NW"],
    };
    names[((deg.rem_euclid(360.0) / 45.0).round() as usize) % 8]
}

fn local(time: &Value) -> String {
    let Ok(at) = bare(time).parse::<Timestamp>() else { return bare(time).to_owned() };
    at.to_zoned(zone()).strftime("%d/%m/%Y %H:%M:%S").to_string()
}

fn name(device: &Value) -> String {
    let text = device["name"].as_str().or(device["id"].as_str()).unwrap_or_default();
    text.chars().take(NAME).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(lang: Lang, say: impl FnOnce(&mut Teller<&mut Vec<u8>>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        say(&mut Teller::new(&mut out, lang)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_language_is_that_of_the_terminal_or_vietnamese() {
        let table = [
            (["", "", ""], Lang::Vi),
            (["", "", "C.UTF-8"], Lang::Vi),
            (["", "", "en_US.UTF-8"], Lang::En),
            (["vi_VN.UTF-8", "", "en_US.UTF-8"], Lang::Vi),
            (["", "en_GB", "vi_VN"], Lang::En),
        ];
        for (values, lang) in table {
            assert_eq!(Lang::of_locale(&values.map(str::to_owned)), lang, "{values:?}");
        }
    }

    #[test]
    fn an_account_says_gaps_footage_on_the_box_and_light_in_both_languages() {
        let t = |minute: u32, second: u32| format!("2026-11-20T15:{minute:02}:{second:02}Z");
        let account = json!({
            "device": { "id": "cam-04", "name": "Cổng chợ" },
            "recorded_s": 60.0,
            "spans": [
                { "state": "recorded", "start": t(0, 0), "end": t(1, 0) },
                { "state": "gap", "cause": "camera_unreachable", "start": t(1, 0), "end": t(1, 30) },
                { "state": "gap", "cause": "camera_unreachable", "start": t(1, 30), "end": t(4, 0), "open": true, "confirmed": false },
            ],
            "at_box": [{ "start": t(0, 10), "end": t(1, 0) }],
            "overwritten_s": 10.0,
            "lamps": [{ "name": "Nhánh chợ", "distance_m": 12.4, "spans": [
                { "state": "lit", "start": t(0, 0), "end": t(2, 0) }, { "state": "dark", "start": t(2, 0), "end": t(4, 0) },
            ] }],
        });
        let table = [
            (
                Lang::Vi,
                [
                    "0 đoạn hình từ 1 camera",
                    "mất kết nối camera 30 s (và theo lời cuối của hộp thêm 2:30)",
                    "chỉ có trên hộp biên: 20/11 22:00:10–22:01:00",
                    "hộp biên đã ghi đè: 10 s",
                    "đèn Nhánh chợ (12 m): sáng 20/11 22:00:00–22:02:00, tắt 20/11 22:02:00–22:04:00",
                    "còn nữa: tăng --limit",
                ],
            ),
            (
                Lang::En,
                [
                    "0 clips from 1 camera\n",
                    "camera unreachable 30 s (and by the box's last word, more: 2:30)",
                    "recorded on the box only: 20/11 22:00:10–22:01:00",
                    "overwritten on the box: 10 s",
                    "lamps Nhánh chợ (12 m): lit 20/11 22:00:00–22:02:00, dark 20/11 22:02:00–22:04:00",
                    "there is more: raise --limit",
                ],
            ),
        ];
        for (lang, expected) in table {
            let text = told(lang, |teller| teller.accounts(std::slice::from_ref(&account), true));
            for part in expected {
                assert!(text.contains(part), "{part:?} is missing:\n{text}");
            }
        }
    }

    #[test]
    fn a_clip_says_how_sure_its_time_is_and_where_it_lies() {
        let clip = |sync: &str, certainty: Value| {
            json!({ "id": "c1", "device": { "id": "cam-01", "name": "Cổng" }, "start": "2026-11-20T15:00:00Z",
                "end": "2026-11-20T15:00:10Z", "clock": { "sync": sync, "uncertainty_ms": 1500 },
                "certainty": certainty, "where": "box", "distance_m": 31.2, "bearing_deg": 92.0 })
        };
        let table = [
            (
                Lang::Vi,
                clip("synced", Value::Null),
                "20/11/2026 22:00:00    10 s  Cổng                         31 m Đ   hộp biên c1\n",
            ),
            (
                Lang::En,
                clip("unsynced", json!("maybe")),
                "20/11/2026 22:00:00~   10 s  Cổng                         31 m E   box      c1  ±2 s\n",
            ),
        ];
        for (lang, clip, expected) in table {
            let text = told(lang, |teller| teller.clip(&clip));
            let (_, row) = text.split_once('\n').unwrap();
            assert_eq!(row, expected);
        }
    }

    #[test]
    fn what_was_understood_comes_first_in_words() {
        let understood = json!({
            "from": "2026-11-19T14:00:00Z", "to": "2026-11-19T16:00:00Z", "windows": [{}, {}], "offset": "+07:00",
            "words": { "vi": "tối qua", "en": "last night" }, "cameras": 3,
            "place": { "conditions": [
                { "kind": "circle", "point": { "lat": 10.5, "lon": 106.5 }, "radius_m": 200.0, "name": "Chợ",
                  "note": { "vi": "đã đổi chỗ", "en": "swapped" } },
                { "kind": "area", "area": { "id": "kp", "name": "KP 1" }, "former_name": "Ấp 1" },
                { "kind": "sees", "point": { "lat": 10.5, "lon": 106.5 } },
            ] },
        });
        let text = told(Lang::Vi, |teller| teller.understood(&understood));
        for part in [
            "Lúc: tối qua",
            "19/11/2026 21:00:00 – 19/11/2026 23:00:00 (UTC+07:00)",
            "2 khoảng giờ",
            "200 m quanh Chợ và KP 1 (trước là Ấp 1) và nhìn thấy 10.5, 106.5 · 3 camera\n",
            "đã đổi chỗ",
        ] {
            assert!(text.contains(part), "{part:?} is missing:\n{text}");
        }
        let text = told(Lang::En, |teller| teller.understood(&understood));
        assert!(
            text.contains("When: last night") && text.contains("3 cameras") && text.contains("swapped"),
            "{text}"
        );
    }

    #[test]
    fn bars_and_histograms_show_what_there_is() {
        let bucket = |recorded: f64, gap: f64, unconfirmed: f64| json!({ "recorded_s": recorded, "gap_s": gap, "unconfirmed_s": unconfirmed });
        let buckets =
            [bucket(60.0, 0.0, 0.0), bucket(30.0, 30.0, 0.0), bucket(0.0, 60.0, 0.0), bucket(0.0, 0.0, 60.0)];
        let coverage = json!({ "from": "2026-11-20T15:00:00Z", "to": "2026-11-20T15:04:00Z",
            "cameras": [{ "device": { "id": "cam-01", "name": "Cổng" }, "buckets": buckets }] });
        let text = told(Lang::En, |teller| teller.bars(&coverage));
        assert!(text.contains("|█▒·?| recorded 1:30, gaps 1:30"), "{text}");
        let clips: Vec<Value> =
            (0..96).map(|n| json!({ "start": "2026-11-20T15:00:00Z", "clips": u64::from(n < 4) })).collect();
        let timeline = json!({ "buckets": clips, "clips": 4, "cameras": 2 });
        let text = told(Lang::Vi, |teller| teller.timeline(&timeline));
        assert_eq!(text.lines().count(), BAR + 1, "{text}");
        assert!(text.lines().next().unwrap().ends_with(&format!("2  {}", "█".repeat(BAR))), "{text}");
        assert!(text.ends_with("4 đoạn hình từ 2 camera\n"), "{text}");
    }
}
