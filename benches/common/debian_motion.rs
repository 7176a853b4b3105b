//! Debian's `motion` 4.5, what people would otherwise run: the same streams, its own defaults.
//!
//! Owns its configuration and reads what it says. It plays files as well as cameras in real time only: its times are the
//! clock's, so an event is placed by the seconds since its start; how much later it began to read a stream it does not say.

#![allow(dead_code, reason = "not every bench needs all of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::Running;

/// Its `event_gap`: an event ends so long after its last movement, seconds.
const EVENT_GAP_S: f64 = 3.0;

pub struct DebianMotion {
    folder: PathBuf,
    cameras: usize,
    running: Option<(Running, f64)>,
}

impl DebianMotion {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), cameras: 0, running: None }
    }

    /// Adds a stream at its native size.
    pub fn add(&mut self, url: &str, fps: f64) -> usize {
        self.cameras += 1;
        let (id, folder) = (self.cameras, self.folder.display());
        let camera = format!(
            "camera_id {id}\nnetcam_url {url}\nframerate {:.0}\nwidth 640\nheight 360\n\
             on_event_start {folder}/note start %t\non_event_end {folder}/note end %t\n",
            fps.ceil()
        );
        std::fs::write(self.folder.join(format!("camera{id}.conf")), camera).expect("a file");
        id
    }

    pub fn start(&mut self) -> u32 {
        let folder = self.folder.display();
        let mut config =
            "daemon off\nsetup_mode off\nlog_level 4\nwebcontrol_port 0\nstream_port 0\nmovie_output off\n\
                          picture_output off\nmovie_passthrough on\n"
                .to_owned();
        config += &format!("event_gap {EVENT_GAP_S:.0}\ntarget_dir {folder}\n");
        for id in 1..=self.cameras {
            config += &format!("camera {folder}/camera{id}.conf\n");
        }
        let note = format!("#!/bin/sh\necho \"$1 $2 $(date +%s.%N)\" >> {folder}/events\n");
        std::fs::write(self.folder.join("motion.conf"), config).expect("a file");
        std::fs::write(self.folder.join("note"), note).expect("a file");
        std::fs::write(self.folder.join("events"), "").expect("a file");
        let made = Command::new("chmod").arg("+x").arg(self.folder.join("note")).status();
        assert!(made.expect("chmod runs").success());
        let began_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let child = Command::new("motion")
            .args(["-n", "-c"])
            .arg(self.folder.join("motion.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's motion starts; deploy/install-deps.sh bench installs it");
        let id = child.id();
        self.running = Some((Running(child), began_s));
        id
    }

    /// Lets it look for so long; the events of each stream, from and to in seconds since the start.
    pub fn watch(&mut self, seconds: f64) -> Vec<Vec<(f64, f64)>> {
        self.start();
        let until = Instant::now() + Duration::from_secs_f64(seconds + EVENT_GAP_S);
        let (mut running, began_s) = self.running.take().expect("it was started");
        while Instant::now() < until {
            let ended = running.0.try_wait().expect("a child");
            assert!(ended.is_none(), "Debian's motion ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(running);
        let said = std::fs::read_to_string(self.folder.join("events")).expect("what it said");
        let mut events = vec![Vec::new(); self.cameras];
        let mut began = vec![None; self.cameras];
        for line in said.lines() {
            let [what, camera, at_s] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let camera = camera.parse::<usize>().expect("a camera") - 1;
            let at_s = at_s.parse::<f64>().expect("a time") - began_s;
            match what {
                "start" => began[camera] = Some(at_s),
                _ => events[camera].extend(began[camera].take().map(|from_s| (from_s, at_s - EVENT_GAP_S))),
            }
        }
        for (events, began) in events.iter_mut().zip(began) {
            events.extend(began.map(|from_s| (from_s, seconds)));
        }
        events
    }
}
