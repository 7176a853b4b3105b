//! Day or night at a place, from its position and the date.
//!
//! Owns the formula: solar position after the Astronomical Almanac's low-precision form (Michalsky, Solar Energy 40(3),
//! 1988), good to 0.01° until 2050, which is some seconds of dusk. Pure.

use jiff::SignedDuration;

use crate::model::{Point, Time};

/// Lamps burn from dusk to dawn: from the sun's height at the end of civil twilight's brighter half on.
const DUSK_DEG: f64 = -3.0;
/// The sun's middle at sunrise and sunset: refraction and its own size (the Almanac's convention).
pub const HORIZON_DEG: f64 = -0.833;

/// Whether a street lamp should burn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    Day,
    Night,
    /// Around dusk and dawn: either is right.
    Between,
}

/// The light at a place; within `margin` of dusk or dawn nobody knows.
pub fn light(point: Point, at: Time, margin: SignedDuration) -> Light {
    let moments = [at.checked_sub(margin).unwrap_or(at), at, at.checked_add(margin).unwrap_or(at)];
    let heights = moments.map(|moment| height_deg(point, moment));
    if heights.iter().all(|&height| height > HORIZON_DEG) {
        Light::Day
    } else if heights.iter().all(|&height| height < DUSK_DEG) {
        Light::Night
    } else {
        Light::Between
    }
}

/// How high the sun stands above the horizon, degrees.
pub fn height_deg(point: Point, at: Time) -> f64 {
    // Days since noon of 1 January 2000 (UTC).
    let days = at.as_microsecond() as f64 / 86_400e6 - 10_957.5;
    let mean_longitude = (280.460 + 0.985_647_4 * days).rem_euclid(360.0);
    let anomaly = (357.528 + 0.985_600_3 * days).rem_euclid(360.0).to_radians();
    let longitude = (mean_longitude + 1.915 * anomaly.sin() + 0.020 * (2.0 * anomaly).sin()).to_radians();
    let obliquity = (23.439 - 0.000_000_4 * days).to_radians();
    let right_ascension = (obliquity.cos() * longitude.sin()).atan2(longitude.cos());
    let declination = (obliquity.sin() * longitude.sin()).asin();
    let hours = (days - 0.5).rem_euclid(1.0) * 24.0;
    let days_at_midnight = days - hours / 24.0;
    let sidereal_h = 6.697_375 + 0.065_709_824_2 * days_at_midnight + 1.002_737_909 * hours;
    let hour_angle = (sidereal_h * 15.0 + point.lon).to_radians() - right_ascension;
    let latitude = point.lat.to_radians();
    (latitude.sin() * declination.sin() + latitude.cos() * declination.cos() * hour_angle.cos())
        .asin()
        .to_degrees()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sunrise and sunset as the United States Naval Observatory and timeanddate tell them, to the minute.
    #[test]
    fn sunrise_and_sunset_are_where_almanacs_have_them() {
        let table = [
            // Ho Chi Minh City, 21 June and 21 December 2026, local time is UTC+7.
            (10.776, 106.701, "2026-06-20T22:32:00Z", "2026-06-21T11:18:00Z"),
            (10.776, 106.701, "2026-12-20T23:06:00Z", "2026-12-21T10:35:00Z"),
            // Hanoi.
            (21.028, 105.854, "2026-06-20T22:16:00Z", "2026-06-21T11:41:00Z"),
            // Greenwich, where the day has no offset.
            (51.477, 0.0, "2026-03-20T06:03:00Z", "2026-03-20T18:14:00Z"),
        ];
        for (lat, lon, rise, set) in table {
            for moment in [rise, set] {
                let height = height_deg(Point { lat, lon }, moment.parse().unwrap());
                // The sun climbs a degree in four to seven minutes.
                assert!((height - HORIZON_DEG).abs() < 0.6, "{lat} {lon} {moment}: {height}");
            }
        }
    }

    #[test]
    fn lamps_burn_by_night_and_nobody_minds_at_dusk() {
        let ward = Point { lat: 10.776, lon: 106.701 };
        let margin = SignedDuration::from_mins(30);
        let table = [
            ("2026-11-22T05:00:00Z", Light::Day),
            ("2026-11-22T10:35:00Z", Light::Between),
            ("2026-11-22T12:30:00Z", Light::Night),
            ("2026-11-22T22:45:00Z", Light::Between),
            ("2026-11-23T00:30:00Z", Light::Day),
        ];
        for (moment, expected) in table {
            assert_eq!(light(ward, moment.parse().unwrap(), margin), expected, "{moment}");
        }
    }
}
