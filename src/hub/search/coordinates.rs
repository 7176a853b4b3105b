//! Coordinates as people paste them: decimal, degrees-minutes-seconds, map links.
//!
//! Owns their reading. Nothing is asked of the network, so a short link can't be resolved: the error says what to do.
//! Where latitude and longitude stand the wrong way round and only the other order lies in Vietnam, they are swapped,
//! and a note says so.

use super::when::Words;
use crate::model::Point;

/// Coordinates that were found in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Pasted {
    pub point: Point,
    pub note: Option<Words>,
}

/// The coordinates in `text`. None: it is something else; an error: it is meant to be coordinates, but can't be used.
pub fn parse(text: &str) -> Option<Result<Pasted, String>> {
    let text = text.trim();
    let lower = text.to_lowercase();
    if let Some(rest) = lower.strip_prefix("geo:") {
        let pair = rest.split([';', '?']).next().unwrap_or_default();
        return Some(decimal_pair(pair).ok_or("a geo: link is geo:lat,lon".into()).and_then(checked));
    }
    let is_link = lower.contains("://") || lower.starts_with("www.") || lower.contains("goo.gl/");
    if is_link || lower.starts_with("maps.") || lower.starts_with("google.") {
        return Some(link(text));
    }
    if let Some((lat, lon)) = sexagesimal(text) {
        return Some(exact(lat, lon));
    }
    decimal_pair(text).map(checked)
}

const SHORT_LINKS: [&str; 5] =
    ["maps.app.goo.gl", "goo.gl/maps", "g.co/", "osm.org/go", "openstreetmap.org/go"];

fn link(text: &str) -> Result<Pasted, String> {
    let decoded = percent_decoded(text);
    if let Some(short) = SHORT_LINKS.iter().find(|short| decoded.contains(**short)) {
        return Err(format!(
            "a short link ({short}) can't be read without asking the internet; open it, wait for the map and paste \
             the long address or the coordinates"
        ));
    }
    let after = |mark: &str| decoded.find(mark).map(|at| &decoded[at + mark.len()..]);
    // The pin before the middle of the map.
    if let (Some(lat), Some(lon)) = (after("!3d"), after("!4d")) {
        return leading_number(lat).zip(leading_number(lon)).ok_or_else(no_coordinates).and_then(checked);
    }
    if let (Some(lat), Some(lon)) = (after("mlat="), after("mlon=")) {
        return leading_number(lat).zip(leading_number(lon)).ok_or_else(no_coordinates).and_then(checked);
    }
    if let Some(rest) = after("#map=") {
        let mut parts = rest.split(['/', '&']).skip(1);
        let pair = parts.next().and_then(leading_number).zip(parts.next().and_then(leading_number));
        return pair.ok_or_else(no_coordinates).and_then(checked);
    }
    let marks = [
        "?q=",
        "&q=",
        "query=",
        "&ll=",
        "?ll=",
        "destination=",
        "daddr=",
        "/place/",
        "/search/",
        "/dir//",
        "@",
        "center=",
    ];
    for rest in marks.iter().filter_map(|mark| after(mark)) {
        let part = rest.split(['&', '/', '#', '?']).next().unwrap_or_default();
        let part = part.strip_prefix("loc:").unwrap_or(part);
        // "@10.74,106.69,17z"
        let mut numbers = part.split(',');
        let pair = numbers.next().and_then(whole_number).zip(numbers.next().and_then(whole_number));
        if let Some(pair) = pair {
            return checked(pair);
        }
        if let Some((lat, lon)) = sexagesimal(part) {
            return exact(lat, lon);
        }
    }
    Err(no_coordinates())
}

fn no_coordinates() -> String {
    "this link has no coordinates in it; in the map, press and hold the place and copy the coordinates".into()
}

fn exact(lat: f64, lon: f64) -> Result<Pasted, String> {
    let point = Point { lat, lon };
    match point.is_valid() {
        true => Ok(Pasted { point, note: None }),
        false => Err(format!("{lat}, {lon}: latitude lies in -90..90, longitude in -180..180")),
    }
}

/// Vietnam with its islands, roughly.
fn is_in_vietnam(point: Point) -> bool {
    (6.0..=24.0).contains(&point.lat) && (101.0..=118.0).contains(&point.lon)
}

fn checked((lat, lon): (f64, f64)) -> Result<Pasted, String> {
    let swapped = Point { lat: lon, lon: lat };
    if !is_in_vietnam(Point { lat, lon }) && is_in_vietnam(swapped) {
        let note = Words {
            vi: format!("đã đổi chỗ vĩ độ và kinh độ: {lon}, {lat}"),
            en: format!("latitude and longitude were swapped: {lon}, {lat}"),
        };
        return Ok(Pasted { point: swapped, note: Some(note) });
    }
    exact(lat, lon)
}

/// "10.7405, 106.6955", "10.7405 106.6955", "(10.7405; 106.6955)", "10,7405; 106,6955".
fn decimal_pair(text: &str) -> Option<(f64, f64)> {
    let text = text.trim().trim_matches(['(', ')', '[', ']']).trim();
    let is_ours = |c: char| {
        c.is_ascii_digit() || matches!(c, '.' | ',' | ';' | '-' | '+' | '/' | '°') || c.is_whitespace()
    };
    if !text.chars().all(is_ours) {
        return None;
    }
    let text = text.replace('°', " ").replace([';', '/'], " ");
    let fields: Vec<String> = if text.contains('.') {
        text.replace(',', " ").split_whitespace().map(str::to_owned).collect()
    } else {
        decimal_commas(&text)
    };
    match fields.as_slice() {
        // Two bare integers are a house and a lane, not a place.
        [lat, lon] if lat.contains('.') || lon.contains('.') => whole_number(lat).zip(whole_number(lon)),
        _ => None,
    }
}

/// Fields of a text without a point: a comma may separate numbers or belong to one.
fn decimal_commas(text: &str) -> Vec<String> {
    let parts: Vec<&str> =
        text.split_whitespace().map(|p| p.trim_matches(',')).filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [one] => match one.split(',').collect::<Vec<_>>().as_slice() {
            // "10,7405,106,6955"
            [a, b, c, d] => vec![format!("{a}.{b}"), format!("{c}.{d}")],
            numbers => numbers.iter().map(|n| (*n).to_owned()).collect(),
        },
        parts => parts.iter().map(|p| p.replace(',', ".")).collect(),
    }
}

/// What stands in degrees, minutes and seconds, or with the letters of the compass: `10°44'26"N 106°41'43"E`,
/// `10 44 26 N, 106 41 43 E`, `N 10.7405 E 106.6955`, `10°44′26,5″B 106°41′43″Đ`.
fn sexagesimal(text: &str) -> Option<(f64, f64)> {
    let pieces = pieces(text)?;
    let is_vietnamese = pieces.iter().any(|p| matches!(p, Piece::Letter('B' | 'Đ')));
    let has_letters = pieces.iter().any(|p| matches!(p, Piece::Letter(_)));
    let has_degrees = pieces.iter().any(|p| matches!(p, Piece::Degree));
    if !has_letters && !has_degrees {
        return None;
    }
    let letters_first = matches!(pieces.first(), Some(Piece::Letter(_)));
    let mut angles: Vec<(Vec<f64>, Option<char>)> = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Number(value) => {
                // Without letters a number before a degree sign begins an angle.
                let begins = match (has_letters, angles.last()) {
                    (_, None) => true,
                    (true, Some((_, letter))) => letter.is_some() && !letters_first,
                    (false, Some(_)) => matches!(pieces.get(n + 1), Some(Piece::Degree)),
                };
                if begins {
                    angles.push((Vec::new(), None));
                }
                angles.last_mut()?.0.push(*value);
            }
            Piece::Letter(letter) if letters_first => angles.push((Vec::new(), Some(*letter))),
            Piece::Letter(letter) => {
                let angle = angles.last_mut().filter(|(_, known)| known.is_none())?;
                angle.1 = Some(*letter);
            }
            Piece::Degree => {}
        }
    }
    let [first, second] = angles.as_slice() else { return None };
    let (a, b) = (degrees(&first.0)?, degrees(&second.0)?);
    match (first.1, second.1) {
        (None, None) => Some((a, b)),
        (Some(first), Some(second)) => {
            let (a_is_lat, a_sign) = hemisphere(first, is_vietnamese)?;
            let (b_is_lat, b_sign) = hemisphere(second, is_vietnamese)?;
            match (a_is_lat, b_is_lat) {
                (true, false) => Some((a * a_sign, b * b_sign)),
                (false, true) => Some((b * b_sign, a * a_sign)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether the letter is one of latitude, and its sign. In Vietnamese N is Nam, the south.
fn hemisphere(letter: char, is_vietnamese: bool) -> Option<(bool, f64)> {
    match letter {
        'B' => Some((true, 1.0)),
        'N' if is_vietnamese => Some((true, -1.0)),
        'N' => Some((true, 1.0)),
        'S' => Some((true, -1.0)),
        'Đ' | 'E' => Some((false, 1.0)),
        'T' | 'W' => Some((false, -1.0)),
        _ => None,
    }
}

/// Degrees, and minutes and seconds below 60.
fn degrees(numbers: &[f64]) -> Option<f64> {
    let (minutes, seconds) = (numbers.get(1).copied().unwrap_or(0.0), numbers.get(2).copied().unwrap_or(0.0));
    if numbers.is_empty()
        || numbers.len() > 3
        || !(0.0..60.0).contains(&minutes)
        || !(0.0..60.0).contains(&seconds)
    {
        return None;
    }
    let whole = numbers[0].abs() + minutes / 60.0 + seconds / 3600.0;
    Some(if numbers[0].is_sign_negative() { -whole } else { whole })
}

enum Piece {
    Number(f64),
    Letter(char),
    Degree,
}

/// Numbers, letters of the compass and degree signs; None where anything else stands between them.
fn pieces(text: &str) -> Option<Vec<Piece>> {
    use unicode_normalization::UnicodeNormalization;
    let mut text: String = text.nfc().collect::<String>().to_uppercase();
    for (word, letter) in [
        ("BẮC", "B"),
        ("ĐÔNG", "Đ"),
        ("NAM", "N"),
        ("TÂY", "T"),
        ("VĨ ĐỘ", ""),
        ("KINH ĐỘ", ""),
        ("LAT", ""),
        ("LON", ""),
    ] {
        text = text.replace(word, letter);
    }
    let mut pieces = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '0'..='9' | '-' | '+' => {
                let mut number = String::from(c);
                while let Some(&next) = chars.peek() {
                    let follows = chars.clone().nth(1).is_some_and(|after| after.is_ascii_digit());
                    match next {
                        '0'..='9' => number.push(next),
                        '.' => number.push('.'),
                        // A comma with a digit on both sides, once, belongs to the number.
                        ',' if follows && !number.contains('.') => number.push('.'),
                        _ => break,
                    }
                    chars.next();
                }
                pieces.push(Piece::Number(whole_number(&number)?));
            }
            'N' | 'S' | 'E' | 'W' | 'B' | 'Đ' | 'T' => pieces.push(Piece::Letter(c)),
            '°' | 'º' | '˚' => pieces.push(Piece::Degree),
            '\'' | '"' | '′' | '″' | '’' | '‘' | '“' | '”' | '`' | '´' | ',' | ';' | ':' | '(' | ')'
            | '/' => {}
            c if c.is_whitespace() => {}
            _ => return None,
        }
    }
    Some(pieces)
}

/// The number that is all of the text.
fn whole_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_ours = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite())?;
    text.chars().all(is_ours).then_some(number)
}

/// The number with which the text begins.
fn leading_number(text: &str) -> Option<f64> {
    let is_ours = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
    let end = text.find(|c| !is_ours(c)).unwrap_or(text.len());
    whole_number(&text[..end])
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let hex = |b: &u8| (*b as char).to_digit(16);
        rest = after;
        match (byte, after) {
            (b'%', [high, low, tail @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push((hex(high).unwrap_or(0) * 16 + hex(low).unwrap_or(0)) as u8);
                rest = tail;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_read_as_people_paste_them() {
        let table = [
            "10.7405, 106.6955",
            "10.7405,106.6955",
            "10.7405 106.6955",
            "10.7405;106.6955",
            "(10.7405, 106.6955)",
            "[10.7405, 106.6955]",
            "  10.7405 / 106.6955 ",
            "10,7405; 106,6955",
            "10,7405 106,6955",
            "10,7405, 106,6955",
            "10,7405,106,6955",
            "+10.7405 +106.6955",
            "10.7405° 106.6955°",
            "10.7405°N 106.6955°E",
            "10.7405N 106.6955E",
            "10.7405 N, 106.6955 E",
            "N 10.7405 E 106.6955",
            "N10.7405, E106.6955",
            "106.6955°E, 10.7405°N",
            "10,7405°B 106,6955°Đ",
            "10.7405 Bắc, 106.6955 Đông",
            "10°44'25.8\"N 106°41'43.8\"E",
            "10°44′25.8″N, 106°41′43.8″E",
            "10º44’25,8”N 106º41’43,8”E",
            "10 44 25.8 N 106 41 43.8 E",
            "10:44:25.8N 106:41:43.8E",
            "N10°44'25.8\" E106°41'43.8\"",
            "10°44'25.8\" 106°41'43.8\"",
            "10°44,43'N 106°41,73'E",
            "10°44'25.8\"B 106°41'43.8\"Đ",
            "vĩ độ 10°44'25.8\"B kinh độ 106°41'43.8\"Đ",
            "geo:10.7405,106.6955",
            "geo:10.7405,106.6955;u=35",
            "geo:10.7405,106.6955?z=17",
            "https://www.google.com/maps/@10.7405,106.6955,17z",
            "https://www.google.com/maps/@10.7405,106.6955,3a,75y,90h,90t/data=!3m6!1e1",
            "https://www.google.com/maps/place/X/@10.8,106.7,17z/data=!4m6!3m5!1s0x0:0x0!8m2!3d10.7405!4d106.6955!16s",
            "https://www.google.com/maps?q=10.7405,106.6955",
            "https://maps.google.com/?q=10.7405%2C106.6955&z=17",
            "https://maps.google.com/maps?q=loc:10.7405,106.6955",
            "https://www.google.com/maps/search/?api=1&query=10.7405%2C106.6955",
            "https://www.google.com/maps/search/10.7405,+106.6955?entry=tts",
            "https://www.google.com/maps/place/10%C2%B044'25.8%22N+106%C2%B041'43.8%22E",
            "https://www.google.com/maps/dir//10.7405,106.6955",
            "maps.google.com/?q=10.7405,106.6955",
            "https://www.openstreetmap.org/#map=17/10.7405/106.6955",
            "https://www.openstreetmap.org/?mlat=10.7405&mlon=106.6955#map=15/10.8/106.7",
            "https://maps.apple.com/?ll=10.7405,106.6955",
        ];
        for text in table {
            let Some(Ok(found)) = parse(text) else { panic!("{text}: {:?}", parse(text)) };
            let off = (found.point.lat - 10.7405).abs().max((found.point.lon - 106.6955).abs());
            assert!(off < 1e-4, "{text}: {:?}", found.point);
            assert_eq!(found.note, None, "{text}");
        }
    }

    #[test]
    fn the_wrong_order_is_swapped_and_said() {
        for text in
            ["106.6955, 10.7405", "106,6955; 10,7405", "https://www.google.com/maps/@106.6955,10.7405,17z"]
        {
            let found = parse(text).unwrap().unwrap();
            assert_eq!((found.point.lat, found.point.lon), (10.7405, 106.6955), "{text}");
            assert!(found.note.unwrap().vi.contains("đổi chỗ"), "{text}");
        }
        // Elsewhere nobody knows what was meant; with letters nothing is to be guessed.
        let london = parse("51.5, -0.12").unwrap().unwrap();
        assert_eq!((london.point.lat, london.note), (51.5, None));
        assert_eq!(parse("10.5°S 106.5°W").unwrap().unwrap().point, Point { lat: -10.5, lon: -106.5 });
        assert_eq!(parse("10°30'N 106°30'Đ").unwrap().unwrap().point.lat, -10.5);
    }

    #[test]
    fn what_can_not_be_used_says_what_to_do() {
        let table = [
            ("https://maps.app.goo.gl/AbCdEf", "paste the long address"),
            ("https://goo.gl/maps/AbCdEf", "paste the long address"),
            ("https://osm.org/go/0E", "paste the long address"),
            ("https://example.com/abc", "no coordinates"),
            ("91.5, 200.1", "latitude lies in"),
            ("geo:abc", "geo:lat,lon"),
        ];
        for (text, expected) in table {
            let error = parse(text).unwrap().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let other = [
            "",
            "14 Hoa Phượng",
            "52",
            "10.7405",
            "khu phố 1",
            "7 B",
            "1 2 3",
            "N",
            "10,7",
            "P. 14 Q. 5",
            "1/2/3",
            "- -",
            "..",
            "-,-",
        ];
        for text in other {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
