//! A PostgreSQL of its own for a bench, in a temporary folder, with its defaults; it ends with the bench.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::free_port;

pub struct Postgres {
    child: Option<Child>,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Postgres {
    pub fn start() -> Self {
        let bin = newest_postgres();
        // Where the user postgres can go; target/ may stand below a private home.
        let dir = tempfile::Builder::new().prefix("camnet-bench-pg").tempdir().expect("a folder");
        let (uid, gid) = (id_of("-u"), id_of("-g"));
        std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("root gives it away");
        let home = dir.path().to_owned();
        let run = |program: &str| {
            let mut command = Command::new(bin.join(program));
            command.uid(uid).gid(gid).current_dir(&home).env_clear().env("PATH", "/usr/bin:/bin");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let data = dir.path().join("data");
        let made = run("initdb").args(["-A", "trust", "-U", "postgres", "-D"]).arg(&data).status();
        assert!(made.expect("initdb").success(), "initdb failed");
        let port = free_port();
        let child = run("postgres")
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "synchronous_commit=on",
            ])
            .arg("-k")
            .arg(dir.path())
            .spawn()
            .expect("postgres starts");
        let postgres = Self { child: Some(child), port, _dir: dir };
        let began = Instant::now();
        while !run("pg_isready")
            .args(["-h", "127.0.0.1", "-p", &port.to_string()])
            .status()
            .is_ok_and(|s| s.success())
        {
            assert!(began.elapsed() < Duration::from_secs(60), "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        postgres
    }

    pub fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // SIGINT is its fast shutdown; SIGKILL would leave its children.
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let _ = child.wait();
    }
}

fn newest_postgres() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: deploy/install-deps.sh bench");
    let bins = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    bins.filter(|bin| bin.join("initdb").exists()).max().expect("PostgreSQL: deploy/install-deps.sh bench")
}

fn id_of(which: &str) -> u32 {
    let output = Command::new("id").args([which, "postgres"]).output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("the user postgres")
}
