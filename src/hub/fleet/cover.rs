//! Which camera's view another one covers: a camera that stands alone is missed more.
//!
//! Owns the rule. The middle of a camera's view is the point half its reach ahead of it, or the middle of the corners of a
//! drawn view; a camera without a view, or one that sees all around, has its own place for a middle. A camera is covered
//! if another one that does its work, well or in part, sees that point. One point stands for the whole view: two cameras
//! that look at the same crossing cover each other, two that stand back to back do not. Pure.

use crate::hub::search::cameras::Cameras;
use crate::limits::COVERED_CAMERA_WEIGHT;
use crate::model::{DeviceId, Time};

/// How many cameras' worth is missed while so many are away, of whom some are covered: one that stands alone counts 1.
pub fn weight(away: usize, covered: usize) -> f64 {
    (away - covered.min(away)) as f64 + covered.min(away) as f64 * COVERED_CAMERA_WEIGHT
}

/// Whether a camera that works sees what this one sees.
pub fn is_covered(cameras: &Cameras, device: &DeviceId, works: impl Fn(&DeviceId) -> bool, at: Time) -> bool {
    let Some(stand) = cameras.stand_at(device, at) else { return false };
    cameras.seeing(stand.middle(), at).any(|other| other != device && works(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::registry::{Registry, RegistryFile};

    /// Two cameras at one crossing, one far away, one that looks the other way.
    const WARD: &str = r#"
[[area]]
id = "ward-1"
name = "Phường"
kind = "ward"
[[site]]
id = "crossing"
name = "Ngã tư"
address = "1"
area = "ward-1"
owner = "Khu phố"
point = { lat = 10.0, lon = 106.0 }
[[site]]
id = "opposite"
name = "Đối diện"
address = "2"
area = "ward-1"
owner = "Khu phố"
point = { lat = 10.0, lon = 106.0003 }
[[device]]
id = "cam-east"
name = "Nhìn đông"
kind = "camera"
site = "crossing"
box = "box-01"
view = { heading_deg = 90, angle_deg = 80, reach_m = 30 }
[[device]]
id = "cam-west"
name = "Nhìn tây"
kind = "camera"
site = "opposite"
box = "box-01"
view = { heading_deg = 270, angle_deg = 80, reach_m = 30 }
[[device]]
id = "cam-away"
name = "Quay lưng"
kind = "camera"
site = "opposite"
box = "box-01"
view = { heading_deg = 90, angle_deg = 80, reach_m = 30 }
"#;

    #[test]
    fn a_camera_is_covered_by_one_that_works_and_looks_there() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let now = Time::now();
        let file = RegistryFile::parse(std::path::Path::new("ward.toml"), WARD).unwrap();
        registry.import(&file, now).unwrap();
        let cameras = Cameras::of(&registry.history());
        let id = |name: &str| DeviceId::new(name).unwrap();
        let (east, west, away) = (id("cam-east"), id("cam-west"), id("cam-away"));
        let table = [
            (&east, vec![&west, &away], true),
            (&east, vec![&away], false),
            (&west, vec![&east], true),
            (&away, vec![&east, &west], false),
        ];
        for (device, working, expected) in table {
            let works = |other: &DeviceId| working.contains(&other);
            assert_eq!(is_covered(&cameras, device, works, now), expected, "{device} beside {working:?}");
        }
        assert_eq!((weight(2, 0), weight(3, 1), weight(0, 0)), (2.0, 2.0 + COVERED_CAMERA_WEIGHT, 0.0));
    }
}
