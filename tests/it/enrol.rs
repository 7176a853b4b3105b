//! Boxes from their enrolment to their end: certificates, invitations, renewal, revocation, and what the hub sets.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use camnet::edge::config::EdgeConfig;
use camnet::edge::enrol::identity;
use camnet::tls;
use camnet::toml_file::ConfigFile;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{HubWorld, Process, camnet, free_port, run, signal, wait_for};

const PATIENCE: Duration = Duration::from_secs(40);

/// A hub and a box that is enrolled with it.
struct World {
    hub: HubWorld,
}

impl World {
    fn new(dir: &Path, of_boxes: &str) -> Self {
        Self { hub: HubWorld::new(dir, &[]).with_boxes(of_boxes).with_embedded_broker() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.hub.dir.join(name)
    }

    fn enroll(&self, id: &str, out: &Path, more: &[&str]) -> String {
        run(self.enroll_command(id, out).args(more))
    }

    fn enroll_command(&self, id: &str, out: &Path) -> Command {
        let mut command = camnet();
        command.args(["device", "--lang", "en", "enroll", "--box", id, "--dir"]).arg(&self.hub.dir);
        command.arg("--out").arg(out);
        command
    }

    /// As on the box: a folder of its own.
    fn unpack(&self, id: &str, brought: &Path, more: &[&str]) -> Command {
        let mut command = camnet();
        command.args(["edge", "enroll", "--lang", "en"]).arg(brought);
        command.arg("--dir").arg(self.file(id)).arg("--data-dir").arg(self.file(id).join("data")).args(more);
        command
    }

    fn start_box(&self, id: &str) -> Process {
        let config = self.config(id);
        Process::start(&self.hub.dir, id, camnet().args(["edge", "--config"]).arg(config))
    }

    fn config(&self, id: &str) -> PathBuf {
        self.file(id).join("edge.toml")
    }

    fn edge_config(&self, id: &str) -> EdgeConfig {
        EdgeConfig::load(&self.config(id)).unwrap()
    }

    /// What the API says of the box.
    async fn of_box(&self, id: &str) -> Value {
        let boxes = self.hub.get("/api/v1/boxes").await;
        let found = boxes["boxes"].as_array().unwrap().iter().find(|found| found["id"] == id);
        found.cloned().unwrap_or_default()
    }

    async fn until(&self, what: &str, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, || async {
            let found = self.of_box(id).await;
            is_so(&found).then_some(found)
        })
        .await
    }

    /// The box has shown its newest certificate, and is online.
    async fn proved(&self, id: &str) -> Value {
        self.until("the box to prove itself", id, |found| {
            found["online"] == true && found["certificates"][0]["first_used"].is_string()
        })
        .await
    }

    async fn post(&self, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
        let request = reqwest::Client::new().request(method, self.hub.url(path)).json(&body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn set(&self, id: &str, toml: &str) -> (u16, Value) {
        let path = format!("/api/v1/boxes/{id}/config");
        self.post(reqwest::Method::PUT, &path, json!({ "toml": toml, "why": "thử" })).await
    }

    /// A connection to the boxes' listener with the box's own certificate; what the hub answers to a hello on it.
    async fn connect(
        &self,
        id: &str,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let config = tls::client_config(&identity(&self.edge_config(id))).unwrap();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.hub.boxes)).await?;
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::clone(&config)).connect(name, stream).await?;
        stream
            .write_all(b"POST /box/v1/hello HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\n{}")
            .await?;
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).await?;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(stream)
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What a command says when it fails.
fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_enrolled_by_one_file_and_proves_itself_at_its_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), "");
    let tables = world.file("tables.toml");
    std::fs::write(&tables, "[ring]\ndays = 3\n").unwrap();
    // While the hub is stopped, and while it runs.
    let (first, second) = (world.file("first.camnet"), world.file("second.camnet"));
    world.enroll("box-01", &first, &["--from", tables.to_str().unwrap()]);
    let hub = world.hub.start().await;
    let said = world.enroll("box-02", &second, &[]);
    assert!(said.contains("SHA-256"), "{said}");
    assert_eq!((mode(&first), mode(&second)), (0o600, 0o600));
    assert!(fails(&mut world.enroll_command("box-02", &second)).contains("exists already"));
    let found = world.of_box("box-01").await;
    assert_eq!(found["certificates"][0]["first_used"], Value::Null, "issued, not yet used: {found}");

    run(&mut world.unpack("box-01", &first, &[]));
    let config = world.edge_config("box-01");
    assert_eq!((config.ring.days, mode(&config.hub.key)), (3, 0o600));
    assert!(fails(&mut world.unpack("box-01", &first, &[])).contains("--replace"));
    let damaged = std::fs::read_to_string(&second).unwrap().replace("box-02", "box-09");
    std::fs::write(&second, damaged).unwrap();
    assert!(fails(&mut world.unpack("box-02", &second, &[])).contains("damaged"));
    assert!(!world.config("box-02").exists());

    let edge = world.start_box("box-01");
    let proved = world.proved("box-01").await;
    assert_eq!(proved["certificates"][0]["how"], "file");
    // The acts are on record, and the list of a running hub is the one that the command line prints.
    let log = world.hub.get("/api/v1/access?limit=1000").await;
    let acts = log["access"].as_array().unwrap().iter().filter(|record| record["action"] == "box");
    assert_eq!(acts.count(), 2, "one by the command line, one through the hub: {log}");
    let told = run(camnet().args(["device", "--lang", "en", "--hub", &world.hub.url(""), "boxes"]));
    assert!(
        told.contains("box-01") && told.contains("good until") && told.contains("not yet used"),
        "{told}"
    );
    edge.stop();
    hub.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invited_box_makes_its_own_key_and_the_invitation_works_once() {
    let dir = tempfile::tempdir().unwrap();
    let enrol_port = free_port();
    let world = World::new(dir.path(), &format!("enrol_listen = \"127.0.0.1:{enrol_port}\""));
    let hub = world.hub.start().await;
    let (invitation, svg) = (world.file("box-01.invitation"), world.file("box-01.svg"));
    let said = world.enroll("box-01", &invitation, &["--invite", "--svg", svg.to_str().unwrap()]);
    assert!(said.contains('█') && std::fs::read_to_string(&svg).unwrap().contains("<svg"), "{said}");
    assert_eq!((mode(&invitation), mode(&svg)), (0o600, 0o600));
    let text = std::fs::read_to_string(&invitation).unwrap();
    let wrong = |change: &dyn Fn(&str) -> String| {
        let path = world.file("wrong.invitation");
        std::fs::write(&path, change(&text)).unwrap();
        fails(&mut world.unpack("box-01", &path, &[]))
    };
    let (head, secret) = text.rsplit_once('.').unwrap();
    let said = wrong(&|_| format!("{head}.{}", "A".repeat(secret.len())));
    assert!(said.contains("not known"), "another secret: {said}");
    let said = wrong(&|text| text.replace("#box-01", "#box-02"));
    assert!(said.contains("not known"), "another box: {said}");
    let (host, rest) = head.split_once('.').map(|_| head.split_once("#box-01.").unwrap()).unwrap();
    let said = wrong(&|_| format!("{host}#box-01.{}.{secret}", "0".repeat(rest.len())));
    assert!(said.contains("another SHA-256"), "another hub: {said}");

    run(&mut world.unpack("box-01", &invitation, &[]));
    let again = fails(&mut world.unpack("box-01", &invitation, &["--replace"]));
    assert!(again.contains("not known"), "{again}");
    let edge = world.start_box("box-01");
    let proved = world.proved("box-01").await;
    assert_eq!(proved["certificates"][0]["how"], "invitation");
    // Whoever has no invitation finds nothing else there.
    let anybody = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let other = anybody.get(format!("https://127.0.0.1:{enrol_port}/api/v1/boxes")).send().await.unwrap();
    assert_eq!(other.status(), 404);
    let secret_told = hub.log().contains(secret) || edge.log().contains(secret);
    assert!(!secret_told, "the secret stands in a log");
    edge.stop();
    hub.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_box_is_cut_off_at_once_and_comes_back_when_it_is_enrolled_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), "");
    let file = world.file("box-01.camnet");
    world.enroll("box-01", &file, &[]);
    run(&mut world.unpack("box-01", &file, &[]));
    let hub = world.hub.start().await;
    let edge = world.start_box("box-01");
    world.proved("box-01").await;
    let mut live = world.connect("box-01").await.unwrap();
    let refused = fails(camnet().args([
        "device",
        "--hub",
        &world.hub.url(""),
        "revoke",
        "--box",
        "box-01",
        "--why",
        " ",
    ]));
    assert!(refused.contains("why"), "{refused}");
    run(camnet().args([
        "device",
        "--hub",
        &world.hub.url(""),
        "revoke",
        "--box",
        "box-01",
        "--why",
        "mất hộp",
    ]));
    // The connection that was open ends, and no other begins.
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        let mut rest = Vec::new();
        live.read_to_end(&mut rest).await
    });
    ended.await.expect("the open connection is closed at once").ok();
    assert!(world.connect("box-01").await.is_err(), "no new connection");
    let found = world.until("the broker to let go of it", "box-01", |found| found["online"] == false).await;
    assert_eq!(found["certificates"][0]["revoked"]["why"], "mất hộp");
    wait_for("the box to be refused by the broker", PATIENCE, || async {
        edge.log().contains("mqtt link is down").then_some(())
    })
    .await;
    edge.stop();
    // It stays so over a restart of the hub.
    hub.stop();
    let hub = world.hub.start().await;
    assert!(world.connect("box-01").await.is_err());

    let again = world.file("again.camnet");
    world.enroll("box-01", &again, &[]);
    run(&mut world.unpack("box-01", &again, &["--replace"]));
    let edge = world.start_box("box-01");
    let found = world.proved("box-01").await;
    assert_eq!(found["certificates"].as_array().unwrap().len(), 2);
    edge.stop();
    hub.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_ends_and_the_old_one_is_of_no_use_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), "certificate_valid = \"15s\"");
    let file = world.file("box-01.camnet");
    let hub = world.hub.start().await;
    world.enroll("box-01", &file, &[]);
    run(&mut world.unpack("box-01", &file, &[]));
    let key = world.edge_config("box-01").hub.key;
    let before = std::fs::read(&key).unwrap();
    let edge = world.start_box("box-01");
    let first = world.proved("box-01").await["certificates"][0]["serial"].clone();
    let renewed = world
        .until("the box to use a renewed certificate", "box-01", |found| {
            found["certificates"].as_array().is_some_and(|all| {
                all.iter().any(|one| one["how"] == "renewal" && one["first_used"].is_string())
            })
        })
        .await;
    let old = renewed["certificates"].as_array().unwrap().iter().find(|one| one["serial"] == first).unwrap();
    assert!(old["revoked"]["why"].as_str().unwrap().contains("uses"), "{renewed}");
    assert_ne!(std::fs::read(&key).unwrap(), before);
    assert_eq!(mode(&key), 0o600);
    // Closed by the broker with its old certificate, the link comes back with the new one.
    world.until("the box to be online again", "box-01", |found| found["online"] == true).await;
    std::fs::write(&key, &before).unwrap();
    assert!(world.connect("box-01").await.is_err(), "the old certificate is refused");
    edge.stop();
    hub.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_sets_is_tried_and_kept_or_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), "");
    let file = world.file("box-01.camnet");
    world.enroll("box-01", &file, &[]);
    run(&mut world.unpack("box-01", &file, &[]));
    let own = std::fs::read_to_string(world.config("box-01")).unwrap();
    let own = format!("trial = \"6s\"\n{own}");
    std::fs::write(world.config("box-01"), &own).unwrap();
    let hub = world.hub.start().await;
    let mut edge = world.start_box("box-01");
    world.proved("box-01").await;

    // By the command line; the box runs with it, and says so.
    let tables = world.file("tables.toml");
    std::fs::write(&tables, "[ring]\ndays = 5\n").unwrap();
    let hub_url = world.hub.url("");
    let device = ["device", "--lang", "en", "--hub", &hub_url, "config", "--box", "box-01"];
    run(camnet().args(device).arg("--file").arg(&tables));
    let runs = |version: u64| move |found: &Value| found["setting"]["running"] == version;
    world.until("the box to run with version 1", "box-01", runs(1)).await;
    wait_for("version 1 to be confirmed", PATIENCE, || async {
        let state = std::fs::read_to_string(world.file("box-01/data/set/state.json")).unwrap();
        (state == "{\"confirmed\":1}").then_some(())
    })
    .await;
    assert!(run(camnet().args(device)).contains("days = 5"));

    // What the hub itself can see is refused at once, by its line.
    let (status, problem) = world.set("box-01", "[ring]\ndays 5").await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("line 2")), (400, true), "{problem}");
    let (status, problem) = world.set("box-01", "data_dir = \"/\"").await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("data_dir")), (400, true), "{problem}");

    // What only the box can see, it says, by its line; it goes on as before.
    let (status, set) = world.set("box-01", "[ring]\nbytes_per_camera = 1\ndays = \"many\"").await;
    assert_eq!((status, &set["version"]), (202, &json!(2)));
    let found = world
        .until("the box to refuse version 2", "box-01", |found| found["setting"]["failed"]["version"] == 2)
        .await;
    let why = found["setting"]["failed"]["why"].as_str().unwrap();
    assert!(why.contains("line 3") && found["setting"]["running"] == 1, "{found}");

    // A hub that is not there: tried, given up, told.
    let nowhere = format!("[hub]\nmqtt = \"127.0.0.1:{}\"\n[ring]\ndays = 9", free_port());
    assert_eq!(world.set("box-01", &nowhere).await.0, 202);
    let found = world
        .until("the box to come back from version 3", "box-01", |found| {
            found["setting"]["failed"]["version"] == 3 && found["setting"]["running"] == 1
        })
        .await;
    assert!(found["setting"]["failed"]["why"].as_str().unwrap().contains("no receipt"), "{found}");
    world.until("the box to be online again", "box-01", |found| found["online"] == true).await;

    // A hub that can be heard and not be asked: it could take nothing back.
    let unasked = format!("[hub]\nurl = \"https://127.0.0.1:{}\"\n[ring]\ndays = 9", free_port());
    assert_eq!(world.set("box-01", &unasked).await.0, 202);
    let found = world
        .until("the box to come back from version 4", "box-01", |found| {
            found["setting"]["failed"]["version"] == 4 && found["setting"]["running"] == 1
        })
        .await;
    let why = found["setting"]["failed"]["why"].as_str().unwrap();
    assert!(why.contains("hub.url") && why.contains("can't be reached"), "{found}");
    world.until("the box to be online again", "box-01", |found| found["online"] == true).await;

    // A box that was off when it was set asks at its next start; its own file stays as it was.
    assert_eq!(edge.ended(), None, "the process went on all the time");
    edge.stop();
    assert_eq!(world.set("box-01", "[ring]\ndays = 7").await.0, 202);
    let edge = world.start_box("box-01");
    world.until("the box to run with version 5", "box-01", runs(5)).await;
    assert_eq!(std::fs::read_to_string(world.config("box-01")).unwrap(), own);
    edge.stop();
    hub.stop();
}

/// With Mosquitto the hub does not see connections: it sets aside what comes, and Mosquitto refuses by the list when it
/// has read that anew.
#[tokio::test(flavor = "multi_thread")]
async fn with_mosquitto_a_revoked_box_is_set_aside_at_once_and_refused_after_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), "");
    world.hub = world.hub.with_external_broker();
    // The hub writes the list when it first starts.
    let hub = world.hub.start_soon();
    let list = world.file("data/revoked-boxes.pem");
    wait_for("the list", PATIENCE, || async { list.exists().then_some(()) }).await;
    let mosquitto = world.hub.start_mosquitto_as(false, |text| {
        assert!(text.contains("# crlfile"), "deploy/mosquitto.conf says how");
        text.replace("# crlfile", "crlfile")
    });
    world.hub.ready().await;
    for id in ["box-01", "box-02"] {
        let file = world.file(&format!("{id}.camnet"));
        world.enroll(id, &file, &[]);
        run(&mut world.unpack(id, &file, &[]));
    }
    let edge = world.start_box("box-01");
    world.proved("box-01").await;
    let (status, _) =
        world.post(reqwest::Method::POST, "/api/v1/boxes/box-01/revoke", json!({ "why": "mất hộp" })).await;
    assert_eq!(status, 204);
    // The box's connection to Mosquitto is still open: a start of the box makes it say something.
    edge.stop();
    let edge = world.start_box("box-01");
    let refused = wait_for("what came after the revocation to be set aside", PATIENCE, || async {
        let refused = world.hub.get("/api/v1/refused?box=box-01&reason=revoked").await;
        refused["refused"].as_array().unwrap().first().cloned()
    })
    .await;
    assert!(refused["detail"].as_str().unwrap().contains("is revoked"), "{refused}");
    edge.stop();

    let publish = |id: &str| {
        let config = world.edge_config(id);
        let topic = format!("camnet/1/{id}/status");
        let mut command = Command::new("mosquitto_pub");
        command.args(["-V", "5", "-i", id, "-h", "127.0.0.1", "-q", "1", "-t", &topic, "-m", "{}"]);
        command.args(["-p", &world.hub.mqtt.to_string()]).arg("--cafile").arg(&config.hub.ca);
        command.arg("--cert").arg(&config.hub.certificate).arg("--key").arg(&config.hub.key);
        command.output().unwrap().status.success()
    };
    assert!(publish("box-01"), "the CA signed it, and Mosquitto has not read the list anew");
    signal(mosquitto.pid(), "HUP");
    wait_for("Mosquitto to refuse the revoked box", PATIENCE, || async {
        (!publish("box-01")).then_some(())
    })
    .await;
    assert!(publish("box-02"), "another box is let in");
    hub.stop();
    mosquitto.stop();
}
