//! `camnet edge enroll`: makes a machine a box.
//!
//! Owns arguments and output. What is brought is read from a file or from standard input, never from the command line: it
//! holds a secret.

use std::path::PathBuf;

use clap::Args;

use super::search::words::Lang;
use crate::edge::enrol::{Brought, Enrolled, come, read_brought, unpack};

#[derive(Debug, Args)]
pub struct EdgeEnrolArgs {
    /// The file that `camnet device enroll` made, or one with the text of its QR code; - for standard input.
    brought: PathBuf,
    /// Folder for edge.toml, certificate and key. The user that the box runs as must be able to write it.
    #[arg(long, default_value = "/etc/camnet")]
    dir: PathBuf,
    /// Folder for outbox, ring and clips, where it is not the one that the enrolment names.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Put the new edge.toml in the place of the one that is there.
    #[arg(long)]
    replace: bool,
    /// Language of what is printed; default by LANG, and Vietnamese where that says neither.
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

pub async fn enrol_edge(args: EdgeEnrolArgs) -> anyhow::Result<()> {
    let lang = args.lang.unwrap_or_else(Lang::here);
    let EdgeEnrolArgs { brought, dir, data_dir, replace, .. } = args;
    let (enrolment, key) = match read_brought(&brought)? {
        Brought::File(enrolment) => (*enrolment, None),
        Brought::Invitation(invitation) => {
            let (enrolment, key) = come(&invitation).await?;
            (enrolment, Some(key))
        }
    };
    let unpacked =
        tokio::task::spawn_blocking(move || unpack(enrolment, key, &dir, data_dir.as_deref(), replace));
    let Enrolled { box_id, config } = unpacked.await??;
    let config = config.display();
    match lang {
        Lang::Vi => println!(
            "{config}: hộp {box_id} đã ghi danh. Chạy: camnet edge --config {config}\n\
             Hãy xóa tệp ghi danh đã mang tới: trong đó có khóa riêng."
        ),
        Lang::En => println!(
            "{config}: box {box_id} is enrolled. Run: camnet edge --config {config}\n\
             Delete the file that you brought: it holds the private key."
        ),
    }
    Ok(())
}
