//! The box's machine: disk, memory, temperature, supply, as the kernel tells them.
//!
//! Owns which files say what. What a machine does not tell is absent, never zero. May not start a program or write.
//!
//! Sources: Linux `Documentation/ABI/testing/sysfs-class-thermal`, `sysfs-class-hwmon` (`in0_lcrit_alarm` of `rpi_volt`),
//! `proc(5)`, `Documentation/networking/` (`/proc/net/wireless`); the Raspberry Pi's `get_throttled` (bit 0: too little voltage now); JEDEC eMMC 5.1
//! (JESD84-B51, 7.4.30: `DEVICE_LIFE_TIME_EST` in tenths, `PRE_EOL_INFO`) as the kernel shows them as `life_time` and
//! `pre_eol_info`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::model::BoxHealth;

/// Where the kernel's files are: `/`, or a folder of a test.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    data_dir: PathBuf,
}

impl Machine {
    pub fn new(root: &Path, data_dir: &Path) -> Self {
        Self { root: root.to_owned(), data_dir: data_dir.to_owned() }
    }

    /// What the machine tells now; the caller fills in what it knows itself. Blocking.
    pub fn read(&self) -> BoxHealth {
        let wear = self.disk().map(|disk| self.emmc_wear(&disk)).unwrap_or_default();
        BoxHealth {
            uptime_s: self.uptime_s().unwrap_or(0),
            disk_wear_percent: wear.percent,
            disk_failing: wear.is_failing,
            temperature_c: self.temperature_c(),
            under_voltage: self.under_voltage(),
            radio_dbm: self.radio_dbm(),
            memory_free_bytes: self.memory_free_bytes().unwrap_or(0),
            ..BoxHealth::default()
        }
    }

    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// Folders below `path` whose name begins so.
    fn folders(&self, path: &str, prefix: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut folders: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect();
        folders.sort();
        folders
    }

    fn uptime_s(&self) -> Option<u64> {
        let text = self.text("proc/uptime")?;
        text.split_whitespace().next()?.parse::<f64>().ok().map(|seconds| seconds as u64)
    }

    fn memory_free_bytes(&self) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// The hottest zone.
    fn temperature_c(&self) -> Option<f64> {
        let zones = self.folders("sys/class/thermal", "thermal_zone");
        let degrees = zones.iter().filter_map(|zone| {
            let millis: f64 = fs::read_to_string(zone.join("temp")).ok()?.trim().parse().ok()?;
            // Zones without a sensor tell nonsense.
            Some(millis / 1000.0).filter(|celsius| (-40.0..150.0).contains(celsius))
        });
        degrees.reduce(f64::max)
    }

    fn under_voltage(&self) -> Option<bool> {
        let throttled = self.text("sys/devices/platform/soc/soc:firmware/get_throttled");
        let bits = throttled.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        if let Some(bits) = bits {
            // Bit 16 stays until the next start: it would never be well again.
            return Some(bits & 1 != 0);
        }
        let monitor = self.folders("sys/class/hwmon", "hwmon").into_iter().find(|folder| {
            fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == "rpi_volt")
        })?;
        fs::read_to_string(monitor.join("in0_lcrit_alarm")).ok().map(|alarm| alarm.trim() == "1")
    }

    /// The best of its radios; the kernel lists those that are connected.
    fn radio_dbm(&self) -> Option<i16> {
        let text = self.text("proc/net/wireless")?;
        let levels = text.lines().filter_map(|line| {
            let (_, values) = line.split_once(':')?;
            // Status, link, level, noise; a level ends in a point where it was just measured.
            let level: f64 = values.split_whitespace().nth(2)?.trim_end_matches('.').parse().ok()?;
            // A driver that counts otherwise than in dBm says numbers above 0.
            (-120.0..0.0).contains(&level).then_some(level as i16)
        });
        levels.max()
    }

    /// The disk that the data folder is on, as a folder of `/sys`.
    fn disk(&self) -> io::Result<PathBuf> {
        let device = fs::metadata(&self.data_dir)?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let link = self.root.join(format!("sys/dev/block/{major}:{minor}"));
        let folder = fs::canonicalize(link)?;
        // A partition lies in the folder of its disk.
        let is_partition = folder.join("partition").exists();
        Ok(if is_partition { folder.parent().map(Path::to_owned).unwrap_or(folder) } else { folder })
    }

    fn emmc_wear(&self, disk: &Path) -> Wear {
        let text = |name: &str| fs::read_to_string(disk.join("device").join(name)).ok();
        let tenths = text("life_time").and_then(|text| {
            // Of two kinds of cells: the worse.
            text.split_whitespace()
                .filter_map(|n| u8::from_str_radix(n.trim_start_matches("0x"), 16).ok())
                .max()
        });
        let end = text("pre_eol_info")
            .and_then(|text| u8::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
        Wear {
            // 0 is not defined; 1 is up to 10 %, 10 up to 100 %, 11 beyond.
            percent: tenths.filter(|&tenths| tenths > 0).map(|tenths| tenths.saturating_mul(10)),
            is_failing: end.filter(|&end| end > 0).map(|end| end >= 3),
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Wear {
    percent: Option<u8>,
    is_failing: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of these files.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::new(root.path(), root.path());
        (root, machine)
    }

    #[test]
    fn a_raspberry_pi_tells_its_heat_its_memory_and_its_supply() {
        let (_root, machine) = machine(&[
            ("proc/uptime", "12345.67 40000.00\n"),
            ("proc/meminfo", "MemTotal: 948304 kB\nMemFree: 100 kB\nMemAvailable:   512000 kB\n"),
            (
                "proc/net/wireless",
                "Inter-| sta-|   Quality        |   Discarded packets\n face | tus | link level noise |  nwid\n \
                 wlan0: 0000   54.  -56.  -256        0      0      0\n",
            ),
            ("sys/class/thermal/thermal_zone0/temp", "61234\n"),
            ("sys/class/thermal/thermal_zone1/temp", "-273000\n"),
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
        ]);
        let health = machine.read();
        assert_eq!((health.uptime_s, health.memory_free_bytes), (12_345, 512_000 * 1024));
        assert_eq!((health.temperature_c, health.under_voltage), (Some(61.234), Some(true)));
        assert_eq!((health.disk_wear_percent, health.radio_dbm), (None, Some(-56)));
    }

    #[test]
    fn supply_is_read_from_either_place_and_absent_where_nothing_tells() {
        let alarm = "sys/class/hwmon/hwmon1/in0_lcrit_alarm";
        let name = "sys/class/hwmon/hwmon1/name";
        let other = ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n");
        for (files, expected) in [
            (vec![other, (name, "rpi_volt\n"), (alarm, "1\n")], Some(true)),
            (vec![other, (name, "rpi_volt\n"), (alarm, "0\n")], Some(false)),
            (vec![("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")], Some(false)),
            (vec![("sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")], Some(false)),
            (vec![other], None),
        ] {
            let (_root, machine) = machine(&files);
            assert_eq!(machine.read().under_voltage, expected, "{files:?}");
        }
    }

    #[test]
    fn a_card_tells_its_wear() {
        let (root, machine) = machine(&[]);
        let disk = root.path().join("disk");
        fs::create_dir_all(disk.join("device")).unwrap();
        for (life_time, end, expected) in [
            ("0x01 0x03\n", "0x01\n", Wear { percent: Some(30), is_failing: Some(false) }),
            ("0x0b 0x00\n", "0x03\n", Wear { percent: Some(110), is_failing: Some(true) }),
            ("0x00 0x00\n", "0x00\n", Wear::default()),
        ] {
            fs::write(disk.join("device/life_time"), life_time).unwrap();
            fs::write(disk.join("device/pre_eol_info"), end).unwrap();
            assert_eq!(machine.emmc_wear(&disk), expected);
        }
    }

    #[test]
    fn this_machine_tells_something() {
        let health = Machine::new(Path::new("/"), &std::env::temp_dir()).read();
        assert!(health.uptime_s > 0 && health.memory_free_bytes > 0, "{health:?}");
    }
}
