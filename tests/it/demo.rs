//! `camnet demo` and the README's commands, as a newcomer runs them; and the console in a real browser.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camnet::demo::StreetPictures;
use camnet::media::rtsp_server::{Credentials, RtspServer};
use tokio::sync::MutexGuard;

use crate::world::{BOTH_CORES, Process, camnet, free_port, root, run, signal, wait_for};

/// A demo that says where to look.
struct Demo {
    child: Child,
    console: String,
    search: String,
    ready_after: Duration,
    _alone: MutexGuard<'static, ()>,
}

impl Demo {
    fn start(port: u16, args: &[&str]) -> Self {
        let alone = BOTH_CORES.blocking_lock();
        let started = Instant::now();
        let mut child = camnet()
            .args(["demo", "--minutes", "8", "--port", &port.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<String> = lines.take(2).map(Result::unwrap).collect();
        let after = |prefix: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(prefix));
            line.unwrap_or_else(|| panic!("no line {prefix:?} in {lines:?}")).to_owned()
        };
        let (console, search) = (after("console: "), after("search: "));
        Self { console, search, ready_after: started.elapsed(), child, _alone: alone }
    }

    /// Runs the printed search until it finds something; its output.
    fn search_finds(&self, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            let output = run(Command::new("sh").args(["-c", &self.search]).env("LC_ALL", "en_US.UTF-8"));
            if !output.contains("\n0 clips") {
                return output;
            }
            assert!(Instant::now() < deadline, "the printed search found nothing:\n{output}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Ctrl-C, and a clean end.
    fn stop(mut self) {
        signal(self.child.id(), "INT");
        let deadline = Instant::now() + Duration::from_secs(40);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "the demo ended with {status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the demo did not stop");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_printed_search_finds_clips_within_a_minute_twice() {
    for _ in 0..2 {
        let demo = Demo::start(free_port(), &[]);
        let table = demo.search_finds(Duration::from_secs(60).saturating_sub(demo.ready_after));
        assert!(table.contains("cameras"), "{table}");
        assert!(table.contains("camera unreachable"), "the dead camera says why it has nothing:\n{table}");
        assert!(table.contains("not yet reported"), "cameras that no box serves say so:\n{table}");
        demo.stop();
    }
}

#[test]
fn files_can_be_played_instead() {
    let videos = root().join("../shared/videos");
    let (a, b) = (videos.join("car-detection.mp4"), videos.join("one-by-one-person-detection.mp4"));
    let demo = Demo::start(free_port(), &["--video", a.to_str().unwrap(), "--video", b.to_str().unwrap()]);
    demo.search_finds(Duration::from_secs(90));
    demo.stop();
}

#[test]
fn real_cameras_can_be_taken_instead_and_their_passwords_stay_off_the_disk_of_others() {
    let login = Credentials { user: "ward".into(), password: "s3cret".into() };
    let server = RtspServer::start(0, Some(&login)).unwrap();
    server.mount_drawn("gate", StreetPictures::new(3, None)).unwrap();
    let url = server.url("gate").replace("rtsp://", "rtsp://ward:s3cret@");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("demo");
    let demo = Demo::start(free_port(), &["--rtsp", &url, "--data", data.to_str().unwrap()]);
    demo.search_finds(Duration::from_secs(60));
    demo.stop();
    let secret = data.join("cam-01.password");
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    for file in ["box-01.toml", "camnet.log"] {
        let text = std::fs::read_to_string(data.join(file)).unwrap();
        assert!(!text.contains("s3cret"), "{file} holds the password");
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = camnet().args(["demo", "--minutes", "1", "--port", &port]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&port) && said.contains("is taken") && said.contains("--port"), "{said}");
    assert!(output.stdout.is_empty(), "nothing is promised");
}

/// A walk of tests/browser through a demo's console, after what is to be done `before` it.
fn walk_in_the_browser(walk: &str, before: impl FnOnce(&str)) {
    if !Path::new("/usr/bin/chromium").exists() {
        panic!(
            "/usr/bin/chromium is missing; deploy/install-deps.sh test installs it (Ubuntu's snap does not do)"
        );
    }
    let demo = Demo::start(free_port(), &[]);
    demo.search_finds(Duration::from_secs(60));
    let shots = root().join("target/screenshots");
    std::fs::create_dir_all(&shots).unwrap();
    let console = demo.console.trim_end_matches('/');
    before(console);
    let said = run(Command::new("timeout")
        .args(["340", "node"])
        .arg(root().join("tests/browser").join(walk))
        .arg(console)
        .arg(&shots));
    println!("{said}");
    demo.stop();
}

#[test]
fn an_officer_finds_and_plays_a_clip_in_the_browser() {
    walk_in_the_browser("officer.mjs", |_| {});
}

#[test]
fn a_technician_looks_mends_and_reports_on_a_phone() {
    // In a terminal first: a camera is asked for a picture, through its box and back.
    walk_in_the_browser("technician.mjs", |hub| {
        let arguments = ["device", "probe", "cam-01", "--lang", "vi", "--hub", hub];
        // A busy machine may well find the camera degraded, which is said by the exit code.
        let said = camnet().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("✓ có hình lúc ") && said.contains("nghe lần cuối: "), "{said}");
    });
}

/// Every command in the README's code blocks is run by a test, or stands here with the reason why not.
#[tokio::test(flavor = "multi_thread")]
async fn readme_commands_are_known_and_work() {
    camnet::tls::install_crypto();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    let mut run_here = Vec::new();
    for line in shell_lines(&readme) {
        let command = line.split(" #").next().unwrap().trim().to_owned();
        match command.as_str() {
            // Run by CI itself, by the tests above through the same program, or by `make check`.
            "git clone <this repository> camnet && cd camnet" | "make demo" | "make test" | "make check" => {}
            r#"make demo VIDEO="a.mp4 b.mp4""# => {
                check_make(&command, "camnet demo --video \"a.mp4\" --video \"b.mp4\"")
            }
            c if c.starts_with("make demo RTSP=") => check_make(c, "--rtsp \"rtsp://192.0.2.10/stream1\""),
            "make build" => check_make("make build", "build --release"),
            "make bench" => check_make("make bench", "--bench figures"),
            "make bench SIZE=100M" => check_make(&command, "SIZE=100M"),
            "make deny" => check_make("make deny", ".ci/deny"),
            "make soak OF=memory MINUTES=60" => check_make(&command, "--bench box -- flat"),
            "make soak MINUTES=10" => check_make(&command, "CAMNET_SOAK_MINUTES=10"),
            "make powercut ROUNDS=8" => check_make(&command, "rounds 8"),
            "make fuzz SECONDS=60" => check_make(&command, ".ci/fuzz \"60\""),
            // The daemons are started for real by every other test; here their files are checked.
            "camnet hub --config /etc/camnet/hub.toml" | "camnet edge --config /etc/camnet/edge.toml" => {}
            // Wants a camera: tests/it/probe.rs has some.
            c if c.starts_with("camnet edge probe rtsp://") => {}
            // That it switches is seen by `lamp_command`; here no hub runs.
            c if c.starts_with("camnet hub lamp ") => {
                let nowhere = format!("camnet hub lamp --hub http://127.0.0.1:{} ", free_port());
                let text = c.replace("camnet hub lamp ", &nowhere);
                let said = camnet().args(text.split_whitespace().skip(1)).output().unwrap().stderr;
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(said.contains("no hub answers"), "{text}: {said}");
            }
            // What they do is seen by `enrol` and by the technician above; here no hub runs.
            c if ["revoke", "config", "boxes", "list", "show", "probe"]
                .iter()
                .any(|act| c.starts_with(&format!("camnet device {act}"))) =>
            {
                let tables = dir.path().join("tables.toml");
                std::fs::write(&tables, "[ring]\ndays = 3\n").unwrap();
                let binary = env!("CARGO_BIN_EXE_camnet");
                let nowhere = format!("{binary} device --hub http://127.0.0.1:{} ", free_port());
                let text = c.replacen("camnet device ", &nowhere, 1);
                let text = text.replace("tables.toml", tables.to_str().unwrap());
                let said = Command::new("sh").args(["-c", &text]).output().unwrap().stderr;
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(said.contains("no hub answers"), "{text}: {said}");
            }
            // That it finds footage is seen by `copies` and `search`; here no hub runs.
            c if c.starts_with("camnet search ") => {
                let binary = env!("CARGO_BIN_EXE_camnet");
                let nowhere = format!("{binary} search --lang en --hub http://127.0.0.1:{} ", free_port());
                let text = c.replacen("camnet search ", &nowhere, 1);
                let said = Command::new("sh").args(["-c", &text]).output().unwrap().stderr;
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(said.contains("no hub answers"), "{text}: {said}");
            }
            c if c.starts_with("camnet ") => run_here.push(c.to_owned()),
            other => panic!("the README has a command that no test knows: {other}"),
        }
    }
    assert!(run_here.len() >= 3, "{run_here:?}");
    for command in run_here {
        let text = command.replace("/etc/camnet", etc.to_str().unwrap());
        if text.contains("journal check") {
            hub_of_the_readme_starts(&etc).await;
        }
        if text.contains("edge.toml") {
            let edge = std::fs::read_to_string(root().join("config/edge.toml")).unwrap();
            std::fs::write(etc.join("edge.toml"), edge).unwrap();
            std::fs::create_dir(etc.join("cabinets")).unwrap_or_default();
            for map in std::fs::read_dir(root().join("config/cabinets")).unwrap() {
                let map = map.unwrap();
                std::fs::copy(map.path(), etc.join("cabinets").join(map.file_name())).unwrap();
            }
        }
        let said = run(camnet().args(text.split_whitespace().skip(1)));
        // A hub that no box has found has nothing to dump.
        assert!(!said.is_empty() || command.contains("journal dump"), "{command} says nothing");
    }
}

/// As `camnet hub init` made it, but for the ports, which another program on this machine may have.
async fn hub_of_the_readme_starts(etc: &Path) {
    camnet::tls::install_crypto();
    let config = etc.join("hub.toml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    let officers = free_port();
    for (port, free) in [(8080, officers), (8443, free_port()), (8883, free_port())] {
        text = text.replace(&format!(":{port}\""), &format!(":{free}\""));
    }
    std::fs::write(&config, text).unwrap();
    let hub = Process::start(etc, "hub", camnet().args(["hub", "--config"]).arg(&config));
    let url = format!("http://127.0.0.1:{officers}/readyz");
    wait_for("the README's hub to be ready", Duration::from_secs(60), || async {
        reqwest::get(&url).await.ok().filter(|answer| answer.status().is_success())
    })
    .await;
    hub.stop();
}

fn shell_lines(readme: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut is_shell = false;
    for line in readme.lines() {
        match line {
            "```sh" => is_shell = true,
            "```" => is_shell = false,
            _ if is_shell && !line.trim().is_empty() => lines.push(line.to_owned()),
            _ => {}
        }
    }
    assert!(lines.len() > 8, "the README's commands were not found");
    lines
}

/// What make would run.
fn check_make(command: &str, expected: &str) {
    let dry =
        run(Command::new("sh").args(["-c", &command.replacen("make", "make -n", 1)]).current_dir(root()));
    assert!(dry.contains(expected), "{command} runs:\n{dry}");
}
