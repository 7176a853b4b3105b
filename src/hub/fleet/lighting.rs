//! Where streets lie dark, and for how long.
//!
//! Owns what counts as dark: a circuit whose lamps give no light by night, or some of them; and which dark lamps lie next
//! to each other. Pure. What is out of reach is not dark but unknown, and said to be so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::STRETCH_GAP_M;
use crate::model::{DeviceId, Point, Time, Trouble, distance_m};

/// How dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Darkness {
    /// No lamp burns.
    Dark,
    /// Some lamps don't burn.
    Partly,
    /// Nothing is heard of the lamps.
    Unknown,
}

/// One circuit, or a lamp by itself, that does not give its light.
#[derive(Debug, Clone, PartialEq)]
pub struct DarkLamps {
    pub device: DeviceId,
    pub circuit: Option<u16>,
    /// What people call it.
    pub name: String,
    pub darkness: Darkness,
    pub since: Time,
    /// The line along which its lamps stand, or its point.
    pub route: Vec<Point>,
}

/// Dark lamps next to each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    pub darkness: Darkness,
    /// The first of them went dark then.
    pub since: Time,
    pub length_m: f64,
    pub lamps: Vec<DarkLamps>,
}

impl Darkness {
    /// What a trouble of a circuit or lamp means for the street.
    pub fn of(trouble: Trouble) -> Option<Self> {
        match trouble {
            Trouble::SupplyLoss | Trouble::OffByNight | Trouble::CabinetFault => Some(Self::Dark),
            Trouble::LampFailure => Some(Self::Partly),
            Trouble::BoxSilent | Trouble::Silent | Trouble::CabinetUnreachable => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// Joins those whose lines come near each other; the longest stretch first.
pub fn stretches(mut lamps: Vec<DarkLamps>) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    while let Some(first) = lamps.pop() {
        let mut joined = vec![first];
        let mut next = 0;
        while next < joined.len() {
            let of = joined[next].clone();
            let (near, far): (Vec<_>, Vec<_>) = std::mem::take(&mut lamps)
                .into_iter()
                .partition(|other| other.darkness == of.darkness && are_near(&of.route, &other.route));
            lamps = far;
            joined.extend(near);
            next += 1;
        }
        stretches.push(Stretch::of(joined));
    }
    stretches.sort_by(|a, b| {
        (a.darkness, b.length_m).partial_cmp(&(b.darkness, a.length_m)).unwrap_or(a.since.cmp(&b.since))
    });
    stretches
}

impl Stretch {
    fn of(mut lamps: Vec<DarkLamps>) -> Self {
        lamps.sort_by(|a, b| (&a.device, a.circuit).cmp(&(&b.device, b.circuit)));
        let darkness = lamps.first().map_or(Darkness::Unknown, |lamps| lamps.darkness);
        let since = lamps.iter().map(|lamps| lamps.since).min().unwrap_or_default();
        // Lines as long as they are, and single lamps from one end of their row to the other.
        let lines: f64 = lamps.iter().map(|lamps| line_m(&lamps.route)).sum();
        let single: Vec<Point> =
            lamps.iter().filter(|lamps| lamps.route.len() == 1).map(|lamps| lamps.route[0]).collect();
        let row =
            single.iter().flat_map(|&a| single.iter().map(move |&b| distance_m(a, b))).fold(0.0, f64::max);
        Self { darkness, since, length_m: lines + row, lamps }
    }
}

fn line_m(route: &[Point]) -> f64 {
    route.windows(2).map(|pair| distance_m(pair[0], pair[1])).sum()
}

/// A degree of latitude, metres; one of longitude is shorter.
const DEGREE_M: f64 = 111_320.0;

/// Whether two lines come near each other. Most pairs don't, which their extents show at once.
fn are_near(a: &[Point], b: &[Point]) -> bool {
    let gap = |of: fn(&Point) -> f64| {
        let extent = |route: &[Point]| {
            let all = || route.iter().map(of);
            (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max))
        };
        let ((a_from, a_to), (b_from, b_to)) = (extent(a), extent(b));
        (b_from - a_to).max(a_from - b_to)
    };
    // Lines around the 180th meridian or a pole have no lamps.
    gap(|point| point.lat) * DEGREE_M <= STRETCH_GAP_M
        && gap(|point| point.lon)
            * DEGREE_M
            * a.first().map_or(1.0, |point| point.lat.to_radians().cos().abs())
            <= STRETCH_GAP_M
        && gap_m(a, b) <= STRETCH_GAP_M
}

/// How near two lines come, by their corners: lamps stand some 30 m apart.
fn gap_m(a: &[Point], b: &[Point]) -> f64 {
    a.iter().flat_map(|&a| b.iter().map(move |&b| distance_m(a, b))).fold(f64::INFINITY, f64::min)
}

/// How many metres lie in each darkness.
pub fn metres(stretches: &[Stretch]) -> BTreeMap<Darkness, f64> {
    let mut metres = BTreeMap::new();
    for stretch in stretches {
        *metres.entry(stretch.darkness).or_default() += stretch.length_m;
    }
    metres
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many metres along a street that leads east.
    fn point(m: f64) -> Point {
        Point { lat: 10.776, lon: 106.7 + m / (111_320.0 * 10.776_f64.to_radians().cos()) }
    }

    fn lamps(name: &str, darkness: Darkness, route: &[f64]) -> DarkLamps {
        DarkLamps {
            device: DeviceId::new(format!("lamp-{name}")).unwrap(),
            circuit: None,
            name: name.to_owned(),
            darkness,
            since: Time::UNIX_EPOCH,
            route: route.iter().map(|&m| point(m)).collect(),
        }
    }

    fn check(lamps: Vec<DarkLamps>, expected: &[(&[&str], Darkness, f64)]) {
        let found = stretches(lamps);
        let short: Vec<(Vec<&str>, Darkness, f64)> = found
            .iter()
            .map(|s| {
                (
                    s.lamps.iter().map(|l| l.name.as_str()).collect(),
                    s.darkness,
                    (s.length_m / 10.0).round() * 10.0,
                )
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|(names, d, m)| (names.to_vec(), *d, *m)).collect();
        assert_eq!(short, expected);
    }

    #[test]
    fn dark_lamps_next_to_each_other_are_one_stretch() {
        use Darkness::*;
        check(
            vec![lamps("01", Dark, &[0.0]), lamps("02", Dark, &[35.0]), lamps("03", Dark, &[70.0])],
            &[(&["01", "02", "03"], Dark, 70.0)],
        );
        check(
            vec![lamps("01", Dark, &[0.0]), lamps("02", Dark, &[500.0])],
            &[(&["02"], Dark, 0.0), (&["01"], Dark, 0.0)],
        );
        check(
            vec![
                lamps("aa", Dark, &[0.0, 200.0]),
                lamps("bb", Dark, &[230.0, 400.0]),
                lamps("cc", Unknown, &[400.0, 500.0]),
            ],
            &[(&["aa", "bb"], Dark, 370.0), (&["cc"], Unknown, 100.0)],
        );
    }

    #[test]
    fn what_is_out_of_reach_is_not_called_dark() {
        assert_eq!(Darkness::of(Trouble::BoxSilent), Some(Darkness::Unknown));
        assert_eq!(Darkness::of(Trouble::SupplyLoss), Some(Darkness::Dark));
        assert_eq!(Darkness::of(Trouble::OnByDay), None);
        let both = stretches(vec![
            lamps("aa", Darkness::Dark, &[0.0, 100.0]),
            lamps("bb", Darkness::Unknown, &[100.0, 400.0]),
        ]);
        let metres: Vec<f64> = metres(&both).into_values().map(f64::round).collect();
        assert_eq!(metres, [100.0, 300.0]);
    }
}
