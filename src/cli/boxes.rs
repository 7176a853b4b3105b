//! `camnet device enroll | revoke | config | boxes`: who is a box of this hub, and what it does.
//!
//! Owns arguments and output. `enroll` works on the hub's machine, whether the hub runs or not: if its book is locked the
//! hub is asked to sign, else this does. The private key is made here and goes into the file only.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use qrcode::QrCode;
use qrcode::render::{svg, unicode};
use serde_json::{Value, json};

use super::search::words::Lang;
use crate::hub::config::HubConfig;
use crate::hub::enrol::book::How;
use crate::hub::web::enrol::{ConfigAsked, ConfigView, EnrolAsked, InviteAsked, Invited, RevokeAsked};
use crate::limits::{BOX_CONFIG_BYTES_MAX, ENROL_INVITATION_VALID};
use crate::model::{BoxId, PURPOSE_HEADER, purpose_to_header};
use crate::tls::NewKey;
use crate::toml_file::ConfigFile;
use crate::wire::enrol::Enrolment;

const WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// The hub's configuration file (TOML).
    #[arg(long, conflicts_with = "dir", required_unless_present = "dir")]
    config: Option<PathBuf>,
    /// The folder that `camnet hub init` made: its hub.toml.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Id of the box.
    #[arg(long = "box", value_name = "BOX")]
    box_id: BoxId,
    /// Cameras, lamps, ring and outbox of the box: a file with these tables of edge.toml.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Name or address under which the box reaches the hub; default: `boxes.name` of the hub's configuration.
    #[arg(long)]
    name: Option<String>,
    /// The file that is made; default: BOX.camnet, or BOX.invitation with --invite. Only its owner can read it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make no key here, but a QR code with which the box fetches a certificate for a key of its own. It works once.
    #[arg(long)]
    invite: bool,
    /// Also write the QR code as a picture (SVG).
    #[arg(long, value_name = "FILE", requires = "invite")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Id of the box.
    #[arg(long = "box", value_name = "BOX")]
    box_id: BoxId,
    /// Why; goes into the list of certificates and the access log.
    #[arg(long)]
    why: String,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Id of the box.
    #[arg(long = "box", value_name = "BOX")]
    box_id: BoxId,
    /// A file with the tables of edge.toml that shall be so from now on; without it, what is set is printed.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Why; goes into the access log.
    #[arg(long, default_value = "")]
    why: String,
}

pub async fn enrol(args: EnrolArgs, lang: Lang) -> anyhow::Result<()> {
    let path = match (&args.config, &args.dir) {
        (Some(config), _) => config.clone(),
        (None, Some(dir)) => dir.join("hub.toml"),
        (None, None) => bail!("say --config or --dir"),
    };
    let config = HubConfig::load(&path)?;
    let tables = match &args.from {
        Some(file) => read_bounded(file)?,
        None => String::new(),
    };
    if args.invite {
        return invite(&args, &config, tables, lang).await;
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.camnet", args.box_id)));
    // Before anything is signed: a certificate that nobody can have would stay in the book.
    if out.exists() {
        bail!("{}: exists already and is not overwritten", out.display());
    }
    let key = NewKey::make()?;
    let asked = EnrolAsked { key: key.proof(args.box_id.as_str())?, config: tables, name: args.name.clone() };
    let subject = json!({ "box": args.box_id, "act": "enrol" });
    let (box_id, body) = (args.box_id.clone(), json!(asked));
    let signed = crate::hub::enrol_stopped(&config, subject, move |enrol, actor| {
        enrol.enrol(&box_id, &asked.key, &asked.config, asked.name.as_deref(), How::File, actor)
    });
    let signed: Enrolment = match signed.await? {
        Some(enrolment) => enrolment,
        None => {
            let hub = format!("http://{}", config.officers.listen);
            let path = format!("boxes/{}/enrol", args.box_id);
            serde_json::from_value(ask(&hub, reqwest::Method::POST, &path, Some(body), None).await?)?
        }
    };
    let Enrolment { box_id, ca, certificate, config, .. } = signed.checked()?;
    let whole = Enrolment::new(box_id, ca, certificate, Some(key.to_pem()), config);
    write_secret(&out, whole.to_toml().as_bytes())?;
    let (out, sha256, id) = (out.display(), whole.sha256, &whole.box_id);
    match lang {
        Lang::Vi => println!(
            "{out}: giấy ghi danh của hộp {id}, có khóa riêng, chỉ chủ tệp đọc được\nSHA-256: {sha256}\n\
             Trên hộp: camnet edge enroll {out} --dir /etc/camnet"
        ),
        Lang::En => println!(
            "{out}: enrolment of box {id}, with its private key, readable by its owner only\nSHA-256: {sha256}\n\
             On the box: camnet edge enroll {out} --dir /etc/camnet"
        ),
    }
    Ok(())
}

async fn invite(args: &EnrolArgs, config: &HubConfig, tables: String, lang: Lang) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.invitation", args.box_id)));
    if out.exists() {
        bail!("{}: exists already and is not overwritten", out.display());
    }
    let asked = InviteAsked { config: tables, name: args.name.clone() };
    let subject = json!({ "box": args.box_id, "act": "invite" });
    let (box_id, body) = (args.box_id.clone(), json!(asked));
    let made = crate::hub::enrol_stopped(config, subject, move |enrol, actor| {
        enrol.invite(&box_id, &asked.config, asked.name.as_deref(), actor)
    });
    let text = match made.await? {
        Some(invitation) => invitation.to_string(),
        None => {
            let hub = format!("http://{}", config.officers.listen);
            let path = format!("boxes/{}/invitation", args.box_id);
            let answer = ask(&hub, reqwest::Method::POST, &path, Some(body), None).await?;
            serde_json::from_value::<Invited>(answer)?.invitation
        }
    };
    let code = QrCode::new(text.as_bytes()).context("the invitation does not fit into a QR code")?;
    write_secret(&out, text.as_bytes())?;
    if let Some(file) = &args.svg {
        let picture = code.render::<svg::Color>().min_dimensions(400, 400).build();
        write_secret(file, picture.as_bytes())?;
    }
    println!("{}", code.render::<unicode::Dense1x2>().build());
    let (out, hours) = (out.display(), ENROL_INVITATION_VALID.as_secs() / 3600);
    match lang {
        Lang::Vi => println!(
            "{out}: lời mời cho hộp {}, dùng một lần, trong {hours} giờ; ai có nó trước thì là hộp đó: giữ kín\n\
             Trên hộp: camnet edge enroll {out} --dir /etc/camnet",
            args.box_id
        ),
        Lang::En => println!(
            "{out}: invitation of box {}, works once, for {hours} hours; whoever has it first is the box: keep it secret\n\
             On the box: camnet edge enroll {out} --dir /etc/camnet",
            args.box_id
        ),
    }
    Ok(())
}

pub async fn revoke(args: RevokeArgs, hub: &str, lang: Lang) -> anyhow::Result<()> {
    let body = json!(RevokeAsked { why: args.why });
    let path = format!("boxes/{}/revoke", args.box_id);
    ask(hub, reqwest::Method::POST, &path, Some(body), None).await?;
    match lang {
        Lang::Vi => println!("hộp {}: mọi chứng thư đã bị thu hồi", args.box_id),
        Lang::En => println!("box {}: every certificate is revoked", args.box_id),
    }
    Ok(())
}

pub async fn config(args: ConfigArgs, hub: &str, lang: Lang) -> anyhow::Result<()> {
    let path = format!("boxes/{}/config", args.box_id);
    let Some(file) = &args.file else {
        let set: ConfigView =
            serde_json::from_value(ask(hub, reqwest::Method::GET, &path, None, None).await?)?;
        println!("# {} {}: {} {} {}", args.box_id, set.version, set.at, set.actor, set.why);
        println!("{}", set.toml);
        return Ok(());
    };
    let toml = read_bounded(file)?;
    let body = json!(ConfigAsked { toml, why: args.why.clone() });
    let why = Some(args.why.as_str()).filter(|why| !why.trim().is_empty());
    let set: ConfigView =
        serde_json::from_value(ask(hub, reqwest::Method::PUT, &path, Some(body), why).await?)?;
    match lang {
        Lang::Vi => println!(
            "hộp {}: đã đặt cấu hình số {}; hộp sẽ kiểm tra, chạy thử, và trở lại cấu hình cũ nếu không tới được máy chủ\n\
             Xem kết quả: camnet device boxes",
            args.box_id, set.version
        ),
        Lang::En => println!(
            "box {}: configuration {} is set; the box checks it, tries it, and goes back if it can't reach the hub\n\
             See what came of it: camnet device boxes",
            args.box_id, set.version
        ),
    }
    Ok(())
}

/// Every box: its certificates, and what it runs with.
pub async fn list(hub: &str, is_json: bool, lang: Lang) -> anyhow::Result<()> {
    let boxes = ask(hub, reqwest::Method::GET, "boxes", None, None).await?;
    match is_json {
        true => println!("{boxes}"),
        false => print!("{}", table(&boxes, lang)),
    }
    Ok(())
}

fn table(boxes: &Value, lang: Lang) -> String {
    let mut text = String::new();
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for found in array(&boxes["boxes"]) {
        let online = match found["online"].as_bool() {
            Some(true) => lang.pick("● đang nối", "● online"),
            Some(false) => lang.pick("✕ mất nối", "✕ offline"),
            None => lang.pick("· chưa nối", "· never"),
        };
        let _ = writeln!(text, "{:<24} {online}", word(&found["id"]));
        for certificate in array(&found["certificates"]) {
            let state = match (certificate["revoked"].is_object(), certificate["first_used"].is_string()) {
                (true, _) => {
                    let why = word(&certificate["revoked"]["why"]);
                    format!("{}: {why}", lang.pick("đã thu hồi", "revoked"))
                }
                (false, true) => {
                    format!(
                        "{} {}",
                        lang.pick("có hiệu lực đến", "good until"),
                        word(&certificate["expires"])
                    )
                }
                (false, false) => lang.pick("đã cấp, chưa dùng", "issued, not yet used").to_owned(),
            };
            let _ = writeln!(text, "  {} {state}", word(&certificate["serial"]));
        }
        let setting = &found["setting"];
        if let Some(wanted) = setting["wanted"].as_u64() {
            let running = setting["running"].as_u64().map_or("–".into(), |running| running.to_string());
            let (set, runs) = (lang.pick("cấu hình đặt", "set"), lang.pick("đang chạy", "running"));
            let _ = writeln!(text, "  {set} {wanted}, {runs} {running}");
        }
        if let Some(version) = setting["failed"]["version"].as_u64() {
            let why = word(&setting["failed"]["why"]);
            let _ = writeln!(text, "  ✕ {} {version}: {why}", lang.pick("không dùng được", "failed"));
        }
    }
    text
}

async fn ask(
    hub: &str,
    method: reqwest::Method,
    path: &str,
    body: Option<Value>,
    purpose: Option<&str>,
) -> anyhow::Result<Value> {
    let url = format!("{}/api/v1/{path}", hub.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(WITHIN).build()?;
    let mut request = client.request(method, &url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    if let Some(purpose) = purpose {
        request = request.header(PURPOSE_HEADER, purpose_to_header(purpose));
    }
    let response = request.send().await;
    let response = response.with_context(|| format!("no hub answers at {hub}; is it running?"))?;
    let status = response.status();
    let text = response.text().await?;
    if status.is_success() && text.is_empty() {
        return Ok(Value::Null);
    }
    let body: Value =
        serde_json::from_str(&text).with_context(|| format!("{url} did not answer with JSON"))?;
    if !status.is_success() {
        let text = |key: &str| body[key].as_str().unwrap_or_default();
        bail!("{}: {}", text("title"), text("detail"));
    }
    Ok(body)
}

fn read_bounded(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    if text.len() > BOX_CONFIG_BYTES_MAX {
        bail!("{}: at most {BOX_CONFIG_BYTES_MAX} bytes", file.display());
    }
    Ok(text)
}

/// A new file that only its owner can read.
fn write_secret(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        made.write_all(bytes)?;
        made.sync_all()
    };
    write().with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_what_a_box_runs_with_are_told_in_both_languages() {
        let boxes = json!({ "boxes": [{ "id": "box-01", "online": true,
            "certificates": [
                { "serial": "b2", "expires": "2027-12-27T00:00:00Z", "first_used": "2026-11-22T15:15:07Z" },
                { "serial": "c3", "expires": "2027-12-27T00:00:00Z", "first_used": null },
                { "serial": "a1", "expires": "2027-12-27T00:00:00Z", "first_used": null, "revoked": { "why": "mất hộp" } },
            ],
            "setting": { "wanted": 3, "running": 2, "failed": { "version": 3, "why": "ring.days" } } }] });
        for (lang, words) in [
            (
                Lang::Vi,
                ["đang nối", "b2 có hiệu lực đến 2027", "c3 đã cấp, chưa dùng", "a1 đã thu hồi: mất hộp"],
            ),
            (Lang::En, ["online", "b2 good until 2027", "c3 issued, not yet used", "a1 revoked: mất hộp"]),
        ] {
            let text = table(&boxes, lang);
            for word in words {
                assert!(text.contains(word), "{word}:\n{text}");
            }
            assert!(text.contains("3: ring.days"), "{text}");
        }
    }
}
