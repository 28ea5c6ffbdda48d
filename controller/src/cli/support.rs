//! `flotilla support`: one archive for whoever helps.
//!
//! **Invariant:** nothing in it is a secret: the configuration names files that
//! hold secrets, and neither keys nor the profile's key are read.

use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cli::Session;
use crate::cli::args::Support;
use crate::cli::failure::CliFailure;
use crate::exit::Exit;
use crate::operation::view::system::SupportView;

pub(super) async fn run(session: &mut Session, asked: Support) -> Result<Exit, CliFailure> {
    let view: SupportView = session.client.get("/support").await?;
    let to = asked.to.unwrap_or_else(|| {
        let stamp = session.print.now().to_string().replace(':', "-");
        PathBuf::from(format!("flotilla-support-{stamp}.tar.gz"))
    });
    let cannot = |error: &std::io::Error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot write {}", to.display()),
            error,
        )
    };
    let bundle = pack(&view, session.print.now().0 / 1000).map_err(|error| cannot(&error))?;
    std::fs::write(&to, bundle).map_err(|error| cannot(&error))?;
    session.print.line(to.display().to_string())?;
    super::note("Look into it before you send it: it names hosts and users.");
    Ok(Exit::Ok)
}

fn pack(view: &SupportView, at_s: u64) -> std::io::Result<Vec<u8>> {
    let status = serde_json::to_string_pretty(&view.status).map_err(std::io::Error::other)?;
    let versions = format!(
        "flotilla (this command) {}\ncontroller {}\n",
        env!("CARGO_PKG_VERSION"),
        view.status.version
    );
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in [
        ("versions.txt", versions),
        ("status.json", status),
        ("health.txt", view.parts.join("\n")),
        ("configuration.txt", view.configuration.clone()),
        ("metrics.txt", view.metrics.clone()),
        ("log.txt", view.log.join("\n")),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(at_s);
        header.set_cksum();
        archive.append_data(
            &mut header,
            format!("flotilla-support/{name}"),
            text.as_bytes(),
        )?;
    }
    archive.into_inner()?.finish()
}
