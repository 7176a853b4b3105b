//! Names of places: what an officer types, found among areas, streets, sites and devices.
//!
//! Owns the folding of Vietnamese, the abbreviations and the ranking. Marks do not count, composed and decomposed
//! letters are one, đ is d; "P.", "TX.", "KP." and their like are written out. A name is found, best first:
//!
//! 0. as it is,
//! 1. without words like "phường" or "đường",
//! 2. by its beginning,
//! 3. by words in their order,
//! 4. by words in any order,
//! 5. with words of its address or of the areas above it,
//! 6. with one letter wrong in a word of four or more, where nothing else is found.
//!
//! Former names, and names that the registry had before, lead to what bears another now.

use std::collections::HashMap;

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use utoipa::ToSchema;

use super::answer::{NameView, PointView};
use super::coordinates;
use super::geometry::{line_from, middle_of};
use super::when::Words;
use crate::hub::registry::{History, Version};
use crate::limits::{SEARCH_CANDIDATES_MAX, SEARCH_NEAR_RADIUS_M};
use crate::model::{Area, AreaId, Point, Time, distance_m};

/// What a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    Coordinates,
    Area,
    Street,
    Site,
    Device,
}

/// One thing that somebody may mean.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Suggestion {
    pub kind: NameKind,
    pub id: String,
    pub name: String,
    /// The name that was found, where it is not the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_name: Option<String>,
    /// Until when that was its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub former_until: Option<Time>,
    /// Address, and the areas around it from small to large.
    pub context: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<PointView>,
    /// What is to be known of how it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Words>,
}

/// A point that a text names.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    pub point: Point,
    /// None for coordinates.
    pub name: Option<String>,
    pub note: Option<Words>,
}

#[derive(Debug)]
struct Entry {
    shown: Suggestion,
    /// The words of the name, and those that tell it from others of its kind.
    words: Vec<String>,
    telling: Vec<String>,
    /// Words of its address and of the areas above.
    around: Vec<String>,
}

/// Every name of a history.
#[derive(Debug, Default)]
pub struct Names {
    entries: Vec<Entry>,
}

/// How well a name fits; the less the better.
type Rank = u8;
/// Up to this rank a name is taken for what was meant.
const SURE: Rank = 3;

impl Names {
    pub fn of(history: &History) -> Self {
        let mut names = Self::default();
        let paths = Paths::of(history);
        for (id, versions) in history.areas() {
            names.add_area(id, versions, &paths, history);
        }
        for (id, versions) in history.streets() {
            let Some(street) = versions.last().map(|v| &v.value) else { continue };
            let context = street.area.as_ref().map_or(String::new(), |area| paths.of_area(area));
            let line = line_from(&street.line);
            let point = line.get(line.len() / 2).map(|&[lon, lat]| Point { lat, lon });
            names.add(NameKind::Street, id.as_str(), &street.name, &street.name, None, context, point, "");
        }
        for (id, versions) in history.sites() {
            let Some(site) = versions.last().map(|v| &v.value) else { continue };
            let context = joined(&[&site.address, &paths.of_area(&site.area)]);
            for text in [site.name.as_str(), &site.address, id.as_str()] {
                let point = Some(site.point);
                names.add(
                    NameKind::Site,
                    id.as_str(),
                    &site.name,
                    text,
                    None,
                    context.clone(),
                    point,
                    &site.address,
                );
            }
        }
        for (id, versions) in history.devices() {
            let Some(device) = versions.last().map(|v| &v.value) else { continue };
            let Some(site) = history.site(&device.site) else { continue };
            let context = joined(&[&site.address, &paths.of_area(&site.area)]);
            for text in [device.name.as_str(), id.as_str()] {
                let (point, about) = (Some(site.point), joined(&[&site.name, &site.address]));
                names.add(
                    NameKind::Device,
                    id.as_str(),
                    &device.name,
                    text,
                    None,
                    context.clone(),
                    point,
                    &about,
                );
            }
        }
        names
    }

    fn add_area(&mut self, id: &AreaId, versions: &[Version<Area>], paths: &Paths, history: &History) {
        let Some(area) = versions.last().map(|v| &v.value) else { return };
        let context = area.parent.as_ref().map_or(String::new(), |parent| paths.of_area(parent));
        let point = middle_of_area(area, history);
        let mut add = |text: &str, until: Option<Time>| {
            self.add(NameKind::Area, id.as_str(), &area.name, text, until, context.clone(), point, "");
        };
        add(&area.name, None);
        for former in area.former_names.iter().filter(|f| f.name != area.name) {
            add(&former.name, Some(former.until));
        }
        for version in versions.iter().filter(|v| v.value.name != area.name) {
            add(&version.value.name, version.until);
        }
    }

    #[expect(clippy::too_many_arguments)]
    fn add(
        &mut self,
        kind: NameKind,
        id: &str,
        name: &str,
        text: &str,
        until: Option<Time>,
        context: String,
        point: Option<Point>,
        about: &str,
    ) {
        let is_former = kind == NameKind::Area && text != name;
        let words = fold(text);
        let mut around = fold(about);
        around.extend(fold(&context));
        let shown = Suggestion {
            kind,
            id: id.to_owned(),
            name: name.to_owned(),
            former_name: is_former.then(|| text.to_owned()),
            former_until: until.filter(|_| is_former),
            context,
            point: point.map(|p| PointView { lat: p.lat, lon: p.lon }),
            note: None,
        };
        self.entries.push(Entry { shown, telling: telling(&words), words, around });
    }

    /// What the text may mean, best first.
    pub fn suggest(&self, text: &str, limit: usize) -> Vec<Suggestion> {
        let mut suggestions = Vec::new();
        if let Some(Ok(pasted)) = coordinates::parse(text) {
            let Point { lat, lon } = pasted.point;
            suggestions.push(Suggestion {
                kind: NameKind::Coordinates,
                id: format!("{lat:.6},{lon:.6}"),
                name: format!("{lat:.6}, {lon:.6}"),
                former_name: None,
                former_until: None,
                context: String::new(),
                point: Some(PointView { lat, lon }),
                note: pasted.note,
            });
        }
        for (_, entry) in self.ranked(text, true) {
            if suggestions.len() >= limit {
                break;
            }
            suggestions.push(entry.shown.clone());
        }
        suggestions.truncate(limit);
        suggestions
    }

    /// Every thing that fits, once, best first. Who is `typing` has not finished the last word.
    fn ranked(&self, text: &str, typing: bool) -> Vec<(Rank, &Entry)> {
        let words = fold(text);
        if words.is_empty() {
            return Vec::new();
        }
        let asked = Query { telling: telling(&words), words, typing };
        let mut ranked: Vec<(Rank, &Entry)> =
            self.entries.iter().filter_map(|entry| Some((asked.rank(entry)?, entry))).collect();
        // Wrong letters are looked for only where nothing is right.
        if ranked.is_empty() {
            ranked = self.entries.iter().filter(|e| asked.nearly_in(&e.words)).map(|e| (6, e)).collect();
        }
        let order = |(rank, e): &(Rank, &Entry)| {
            (
                *rank,
                e.shown.former_name.is_some(),
                e.shown.kind,
                e.words.len(),
                e.shown.name.clone(),
                e.shown.id.clone(),
            )
        };
        ranked.sort_by_cached_key(order);
        let mut seen = std::collections::HashSet::new();
        ranked.retain(|(_, entry)| seen.insert((entry.shown.kind, entry.shown.id.as_str())));
        ranked
    }

    /// The one area with this id or name.
    pub fn area(&self, text: &str, history: &History) -> Result<(NameView, Option<String>), String> {
        if let Some(area) = AreaId::new(text.trim()).ok().and_then(|id| history.area(&id)) {
            return Ok((NameView { id: area.id.to_string(), name: area.name.clone() }, None));
        }
        let ranked = self.ranked(text, false);
        let areas = || ranked.iter().filter(|(_, e)| e.shown.kind == NameKind::Area);
        // Who writes a whole name means it, also where others begin with it.
        let best = areas().map(|(rank, _)| *rank).min().filter(|rank| *rank <= 1);
        let fitting: Vec<&Entry> = areas().filter(|(rank, _)| Some(*rank) == best).map(|(_, e)| *e).collect();
        match fitting.as_slice() {
            [one] => {
                let view = NameView { id: one.shown.id.clone(), name: one.shown.name.clone() };
                Ok((view, one.shown.former_name.clone()))
            }
            [] => {
                let near: Vec<&Entry> = areas().map(|(_, e)| *e).collect();
                Err(match near.is_empty() {
                    true => "there is no such area; /api/v1/suggest finds names".into(),
                    false => format!("no area has this name; near to it are {}", listed(&near)),
                })
            }
            several => Err(format!("several areas have this name, send an id: {}", listed(several))),
        }
    }

    /// The one point that the text means: coordinates, or the name of a site, device, street or address.
    pub fn locate(&self, text: &str) -> Result<Located, String> {
        if let Some(pasted) = coordinates::parse(text) {
            let pasted = pasted?;
            return Ok(Located { point: pasted.point, name: None, note: pasted.note });
        }
        let ranked = self.ranked(text, false);
        let placed =
            || ranked.iter().filter(|(_, e)| e.shown.kind != NameKind::Area && e.shown.point.is_some());
        let best = placed().map(|(rank, _)| *rank).min().filter(|rank| *rank <= SURE);
        let fitting: Vec<&Entry> =
            placed().filter(|(rank, _)| Some(*rank) == best).map(|(_, e)| *e).collect();
        let point_of = |e: &Entry| e.shown.point.map(|p| Point { lat: p.lat, lon: p.lon });
        if let Some(point) = fitting.first().and_then(|e| point_of(e)) {
            // A camera and its site are one place.
            let is_one = fitting
                .iter()
                .filter_map(|e| point_of(e))
                .all(|p| distance_m(p, point) < SEARCH_NEAR_RADIUS_M / 10.0);
            if is_one {
                return Ok(Located { point, name: Some(fitting[0].shown.name.clone()), note: None });
            }
            return Err(format!("fits several places, be more exact: {}", listed(&fitting)));
        }
        let areas = ranked.iter().any(|(rank, e)| *rank <= SURE && e.shown.kind == NameKind::Area);
        let near: Vec<&Entry> = placed().map(|(_, e)| *e).collect();
        Err(match (areas, near.is_empty()) {
            (true, _) => "is an area, not a point; send it as `area`".into(),
            (false, false) => format!("no place has this name; near to it are {}", listed(&near)),
            (false, true) => {
                "no place has this name; send coordinates like \"10.7405, 106.6955\", or the name of a \
                              site, camera, street or address"
                    .into()
            }
        })
    }
}

fn listed(entries: &[&Entry]) -> String {
    let mut shown = Vec::new();
    for entry in entries.iter().take(SEARCH_CANDIDATES_MAX) {
        let Suggestion { id, name, context, .. } = &entry.shown;
        shown.push(match context.is_empty() {
            true => format!("{name} ({id})"),
            false => format!("{name}, {context} ({id})"),
        });
    }
    let more = if entries.len() > shown.len() { " and others" } else { "" };
    shown.join("; ") + more
}

struct Query {
    words: Vec<String>,
    telling: Vec<String>,
    typing: bool,
}

impl Query {
    fn rank(&self, entry: &Entry) -> Option<Rank> {
        if self.words == entry.words {
            return Some(0);
        }
        if self.telling == entry.telling {
            return Some(1);
        }
        if self.begins(&entry.words) || self.begins(&entry.telling) {
            return Some(2);
        }
        if self.in_order(&entry.words) {
            return Some(3);
        }
        if self.all_in(|word| entry.words.iter().any(|w| word(w))) {
            return Some(4);
        }
        // At least one word must be of the name itself.
        let names_it = self.telling.iter().any(|word| entry.telling.contains(word));
        let is_around = || self.all_in(|word| entry.words.iter().chain(&entry.around).any(|w| word(w)));
        (names_it && is_around()).then_some(5)
    }

    /// Whether a word that was typed stands for `word`. Numbers are typed whole, but for one that is still typed.
    fn fits(&self, n: usize, word: &str) -> bool {
        let typed = self.words[n].as_str();
        if typed == word {
            return true;
        }
        let is_number = typed.bytes().all(|b| b.is_ascii_digit());
        let is_last = n + 1 == self.words.len();
        (!is_number || (self.typing && is_last)) && word.starts_with(typed) && (is_last || typed.len() > 1)
    }

    fn begins(&self, words: &[String]) -> bool {
        let (Some(last), true) = (self.words.len().checked_sub(1), self.words.len() <= words.len()) else {
            return false;
        };
        self.words[..last] == words[..last] && self.fits(last, &words[last])
    }

    fn in_order(&self, words: &[String]) -> bool {
        let mut rest = words.iter();
        (0..self.words.len()).all(|n| rest.any(|word| self.fits(n, word)))
    }

    fn all_in(&self, has: impl Fn(&dyn Fn(&str) -> bool) -> bool) -> bool {
        (0..self.words.len()).all(|n| has(&|word| self.fits(n, word)))
    }

    fn nearly_in(&self, words: &[String]) -> bool {
        let is_near = |n: usize, word: &String| {
            let typed = &self.words[n];
            let is_text = typed.len() >= 4 && !typed.bytes().any(|b| b.is_ascii_digit());
            self.fits(n, word) || (is_text && differs_by_one(typed, word))
        };
        (0..self.words.len()).all(|n| words.iter().any(|word| is_near(n, word)))
    }
}

/// Whether one letter too many, too few, wrong, or exchanged with its neighbour makes one word of the other.
fn differs_by_one(a: &str, b: &str) -> bool {
    // Most words differ by much, which their bytes tell at once.
    if a.len().abs_diff(b.len()) > 4 {
        return false;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (short, long) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
    if long.len() - short.len() > 1 {
        return false;
    }
    let same = short.iter().zip(long.iter()).take_while(|(x, y)| x == y).count();
    if short.len() < long.len() {
        return short[same..] == long[same + 1..];
    }
    let is_wrong = same == short.len() || short[same + 1..] == long[same + 1..];
    let is_exchanged = same + 1 < short.len()
        && short[same] == long[same + 1]
        && short[same + 1] == long[same]
        && short[same + 2..] == long[same + 2..];
    is_wrong || is_exchanged
}

/// Lower case, without marks, đ as d; composed or decomposed is the same.
pub fn fold_marks(text: &str) -> String {
    let lower = text.to_lowercase();
    lower.nfd().filter(|c| !is_combining_mark(*c)).map(|c| if c == 'đ' { 'd' } else { c }).collect()
}

/// Abbreviations, as folded, and what they stand for.
const ABBREVIATIONS: &[(&str, &[&str])] = &[
    ("p", &["phuong"]),
    ("f", &["phuong"]),
    ("x", &["xa"]),
    ("q", &["quan"]),
    ("h", &["huyen"]),
    ("tx", &["thi", "xa"]),
    ("tt", &["thi", "tran"]),
    ("tp", &["thanh", "pho"]),
    ("kp", &["khu", "pho"]),
    ("kdc", &["khu", "dan", "cu"]),
    ("tdp", &["to", "dan", "pho"]),
    ("d", &["duong"]),
    ("ng", &["ngo"]),
    ("hem", &["hem"]),
];

/// Words that say what kind of thing a name is of.
const KIND_WORDS: &[&[&str]] = &[
    &["phuong"],
    &["xa"],
    &["quan"],
    &["huyen"],
    &["tinh"],
    &["thi", "xa"],
    &["thi", "tran"],
    &["thanh", "pho"],
    &["khu", "pho"],
    &["to", "dan", "pho"],
    &["duong"],
    &["so"],
    &["nha"],
];

/// The words of a name, folded, with abbreviations written out: "P. Tân Hưng", "KP1", "TP.HCM".
pub fn fold(text: &str) -> Vec<String> {
    let folded = fold_marks(text);
    let mut words: Vec<(String, bool)> = Vec::new();
    // Where a part of an address begins, an abbreviation needs no point.
    let (mut word, mut begins) = (String::new(), true);
    let mut raw: Vec<(String, bool, char)> = Vec::new();
    for c in folded.chars().chain(std::iter::once(' ')) {
        let turns = word.chars().last().is_some_and(|l| l.is_ascii_digit() != c.is_ascii_digit());
        if c.is_alphanumeric() && !(turns && is_abbreviation(&word)) {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            let end = if c.is_ascii_digit() { '.' } else { c };
            raw.push((std::mem::take(&mut word), begins, end));
            begins = false;
        }
        if matches!(c, ',' | ';' | '-' | '–') {
            begins = true;
        }
        if c.is_alphanumeric() {
            word.push(c);
        }
    }
    for (n, (word, begins, end)) in raw.iter().enumerate() {
        let is_short = *end == '.' || (*begins && n + 1 < raw.len());
        let long = ABBREVIATIONS.iter().find(|(short, _)| is_short && short == word);
        match long {
            Some((_, long)) => words.extend(long.iter().map(|w| ((*w).to_owned(), true))),
            None => words.push((word.clone(), false)),
        }
    }
    words.into_iter().map(|(word, _)| word).collect()
}

fn is_abbreviation(word: &str) -> bool {
    ABBREVIATIONS.iter().any(|(short, _)| *short == word)
}

/// The words without those of its kind; all of them where nothing else is left.
fn telling(words: &[String]) -> Vec<String> {
    let mut rest = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let stands = |kind: &&&[&str]| {
            words.len() >= at + kind.len() && words[at..].iter().zip(kind.iter()).all(|(a, b)| a == b)
        };
        match KIND_WORDS.iter().find(stands) {
            Some(kind) => at += kind.len(),
            None => {
                rest.push(words[at].clone());
                at += 1;
            }
        }
    }
    // "Khu phố 1" without its kind is a bare number, which names nothing.
    let is_bare = rest.iter().all(|word| word.bytes().all(|b| b.is_ascii_digit()));
    if is_bare { words.to_vec() } else { rest }
}

fn joined(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    parts.join(", ")
}

/// The names of the areas from one upwards, for instance "Khu phố 1, Phường Tân Hưng".
struct Paths<'a> {
    areas: HashMap<&'a AreaId, &'a Area>,
}

impl<'a> Paths<'a> {
    fn of(history: &'a History) -> Self {
        let newest = |(id, versions): (&'a AreaId, &'a [Version<Area>])| Some((id, &versions.last()?.value));
        Self { areas: history.areas().filter_map(newest).collect() }
    }

    fn of_area(&self, area: &AreaId) -> String {
        let (mut names, mut up) = (Vec::new(), Some(area));
        // What was removed may lead anywhere; a tree is never as deep.
        while let Some(area) = up.and_then(|id| self.areas.get(id)).filter(|_| names.len() < 16) {
            names.push(area.name.as_str());
            up = area.parent.as_ref();
        }
        names.join(", ")
    }
}

/// The middle of its border, else of the sites that are filed under it.
fn middle_of_area(area: &Area, history: &History) -> Option<Point> {
    if let Some(ring) = area.boundary.first() {
        return middle_of(&line_from(ring));
    }
    let points: Vec<[f64; 2]> = history
        .sites()
        .filter_map(|(_, versions)| versions.last())
        .filter(|v| v.until.is_none() && v.value.area == area.id)
        .map(|v| [v.value.point.lon, v.value.point.lat])
        .collect();
    middle_of(&points)
}

#[cfg(test)]
mod tests;
