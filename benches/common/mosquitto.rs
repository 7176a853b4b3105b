//! A fresh Mosquitto without persistence, with the ACL that the project delivers.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::common::Running;

/// Starts one at `port`; `dir` has the certificates of `camnet hub init`. Killed when dropped.
pub fn start(root: &Path, dir: &Path, port: u16) -> Running {
    let at = dir.display();
    let text = format!(
        "listener {port} 127.0.0.1\ncafile {at}/ca.pem\ncertfile {at}/hub.pem\nkeyfile {at}/hub.key\n\
             require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nacl_file {at}/mosquitto.acl\n\
             max_queued_messages 10000000\nmax_inflight_messages 1000\nmax_packet_size 1048576\npersistence false\n\
             user root\nlog_type error\n"
    );
    std::fs::write(dir.join("mosquitto.conf"), text).expect("a file");
    std::fs::copy(root.join("deploy/mosquitto.acl"), dir.join("mosquitto.acl")).expect("a file");
    let debian = "/usr/sbin/mosquitto";
    let program = if Path::new(debian).exists() { debian } else { "mosquitto" };
    let child = Command::new(program).arg("-c").arg(dir.join("mosquitto.conf")).spawn();
    let running = Running(child.expect("mosquitto starts"));
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}
