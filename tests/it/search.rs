//! `camnet search` against a real hub: what it says in words, and that the hub's errors are told as they are.

use crate::world::{HubWorld, camnet, run};

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_says_what_was_understood_and_the_hubs_own_errors() {
    let dir = tempfile::tempdir().unwrap();
    let world = HubWorld::new(dir.path(), &["box-01"]);
    let hub = world.start().await;
    let route = dir.path().join("r.geojson");
    let line = r#"{"type":"Feature","properties":{},"geometry":{"type":"LineString","coordinates":[[106.6953,10.7406],[106.6976,10.7406]]}}"#;
    std::fs::write(&route, line).unwrap();
    let route = route.to_str().unwrap();
    let search = |args: &[&str], locale: &str| {
        let mut command = camnet();
        command.args(["search", "--hub", &world.url("")]).args(args).env("LC_ALL", locale);
        command
    };
    let table: [(&[&str], &str, &[&str]); 8] = [
        (
            &["--near", "chợ bờ kênh", "--when", "1 giờ qua"],
            "C.UTF-8",
            &["Lúc: ", "UTC+07:00", "200 m quanh", "5 camera", "0 đoạn hình từ 5 camera"],
        ),
        (
            &["--near", "10.74048,106.69531", "--radius", "20", "--from", "10m"],
            "en_US.UTF-8",
            &["When: ", "20 m around", "1 camera\n", "0 clips from 1 camera\n"],
        ),
        (
            &["--area", "tân quy đông", "--device", "cam-01", "--lang", "en"],
            "C",
            &["devices cam-01", "0 clips"],
        ),
        (
            &["--route", route, "--width", "30", "--lang", "en"],
            "C",
            &["along the route, width 30 m · 5 cameras"],
        ),
        (&["--sees", "10.740478, 106.695490", "--lang", "en"], "C", &["1 camera\n", "sees from"]),
        (&["--suggest", "hoa phuong"], "C", &["Hoa Phượng"]),
        (&["--coverage", "--device", "cam-01", "--lang", "en"], "C", &["recorded 0 s", "|"]),
        (&["--csv", "-", "--from", "1h"], "C", &["clip,device"]),
    ];
    for (args, locale, expected) in table {
        let text = run(&mut search(args, locale));
        for part in expected {
            assert!(text.contains(part), "{args:?}: {part:?} is missing:\n{text}");
        }
    }
    let errors: [(&[&str], &str); 4] = [
        (&["--near", "không có nơi này"], "near = "),
        (&["--when", "bao giờ"], "when = "),
        (&["--follow", "01900000-0000-7000-8000-000000000000"], "there is no such clip"),
        (&["--hub", "http://127.0.0.1:1"], "no hub answers"),
    ];
    let here = world.url("");
    for (args, expected) in errors {
        let hub = if args[0] == "--hub" { &["search"][..] } else { &["search", "--hub", &here] };
        let args = [hub, args].concat();
        let output = camnet().args(&args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(expected), "{args:?}: {text}");
    }
    hub.stop();
}
