//! Compose files as people write them, and what each comes to.
//! `FLOTILLA_BLESS=1` writes what they come to; read the difference before you
//! commit it.

use std::fs;
use std::path::PathBuf;

use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/domain/deployment/compose/testdata")
}

fn beside() -> Beside {
    Beside::with(
        &[
            ("TAG", "2.4"),
            ("DB_PASSWORD", "hunter2"),
            ("DOMAIN", "shop.example"),
        ],
        &[
            (
                "./app.env",
                "# the application\nLOG_LEVEL=info\nURL=\"https://${DOMAIN}/\"\n",
            ),
            ("./nginx.conf", "server { listen 80; }\n"),
            ("./certs/tls.key", "-----BEGIN PRIVATE KEY-----\n"),
            ("./prometheus.yml", "global: {}\n"),
        ],
    )
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn files_as_people_write_them_come_to_what_is_expected() {
    let files = files();
    assert!(files.len() >= 12, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let shown = match check_with(&text, &beside()) {
            Ok(project) => rendered(&project.spec),
            Err(problems) => format!("{problems}\n"),
        };
        let expected = path.with_extension("expected");
        if std::env::var_os("FLOTILLA_BLESS").is_some() {
            fs::write(&expected, &shown).unwrap();
        }
        let frozen = fs::read_to_string(&expected).unwrap();
        assert_eq!(shown, frozen, "{}", path.display());
    }
}

#[test]
fn what_a_file_comes_to_is_sound_and_differs_from_itself_in_nothing() {
    for path in files() {
        let text = fs::read_to_string(&path).unwrap();
        if let Ok(project) = check_with(&text, &beside()) {
            project.spec.check().unwrap();
            assert!(crate::domain::deployment::diff::diff(&project.spec, &project.spec).is_empty());
        }
    }
}
