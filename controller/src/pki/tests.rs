//! Keys and certificates: made once, read back, renewed, rotated, and refused
//! when they are damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use protocol::key::KeyId;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::certificate::NodeSubject;
use super::*;

const FLEET: FleetId = FleetId::from_bytes([7; 10]);
const NODE: NodeId = NodeId::from_bytes([1; 10]);
const NOW: UnixMillis = UnixMillis(1_795_465_140_000);

fn config(directory: &Path) -> PkiConfig {
    PkiConfig {
        directory: directory.join("pki"),
        fleet: FLEET,
        hosts: vec!["controller.example".to_owned(), "192.0.2.1".to_owned()],
        server_life: Duration::from_secs(900),
        node_life: Duration::from_secs(300),
        rotation_overlap: Duration::from_secs(100),
    }
}

fn csr(key: &KeyPair, params: CertificateParams) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn keys_are_private_and_the_same_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = Pki::open(config(directory.path()), NOW).unwrap();
    let root = directory.path().join("pki");
    assert_eq!(
        fs::metadata(&root).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let mut files = 0;
    for entry in fs::read_dir(&root).unwrap() {
        let entry = entry.unwrap();
        files += 1;
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.path()
        );
    }
    assert_eq!(files, 8);

    let again = Pki::open(config(directory.path()), NOW).unwrap();
    assert_eq!(first.authority_fingerprint(), again.authority_fingerprint());
    assert_eq!(first.root(), again.root());
    assert_eq!(*first.trust().borrow(), *again.trust().borrow());
    assert_eq!(first.server_expires_at(), again.server_expires_at());
    let key = |pki: &Pki| pki.signing().borrow().public();
    assert_eq!(key(&first), key(&again));
}

#[test]
fn a_nodes_certificate_names_what_we_say_whatever_the_request_asks() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut greedy = CertificateParams::new(vec!["controller.example".to_owned()]).unwrap();
    greedy
        .distinguished_name
        .push(DnType::CommonName, "another-node");
    greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issued = pki.issue_node(&csr(&key, greedy), NODE, NOW).unwrap();

    let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
    assert_eq!(
        NodeSubject::read(&der).unwrap(),
        NodeSubject {
            fleet: FLEET,
            node: NODE
        }
    );
    let parsed = certificate::parse(&der).unwrap();
    assert!(!parsed.is_ca());
    assert!(parsed.subject_alternative_name().unwrap().is_none());
    assert_eq!(
        parsed.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
    assert_eq!(
        issued.expires_at,
        NOW.after(Duration::from_secs(300)),
        "the life is the configured one"
    );
    assert_eq!(
        parsed.serial.to_str_radix(16),
        issued.serial,
        "the serial that is recorded is the certificate's"
    );
}

#[test]
fn bad_signing_requests_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let good = csr(&key, CertificateParams::default());
    let other = csr(
        &KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        CertificateParams::default(),
    );
    let mut forged = good.clone().into_bytes();
    // Inside the base64 of the signature, near the end.
    let place = forged.len() - 50;
    forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
    for bad in [
        String::new(),
        "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----".to_owned(),
        String::from_utf8(forged).unwrap(),
        other,
        good.repeat(100),
    ] {
        let error = pki.issue_node(&bad, NODE, NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::JoinCsrInvalid, "{bad}");
    }
}

#[test]
fn the_servers_certificate_is_renewed_at_two_thirds_and_for_new_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let changes = pki.mqtt_tls();
    assert!(
        !pki.renew_server(NOW.after(Duration::from_secs(500)))
            .unwrap()
    );
    assert!(!changes.has_changed().unwrap());
    let later = NOW.after(Duration::from_secs(601));
    assert!(pki.renew_server(later).unwrap());
    assert!(changes.has_changed().unwrap());
    assert_eq!(
        pki.server_expires_at(),
        later.after(Duration::from_secs(900))
    );
    assert!(!pki.renew_server(later).unwrap());

    let mut moved = config(directory.path());
    moved.hosts = vec!["elsewhere.example".to_owned()];
    let before = pki.server_expires_at();
    let moved = Pki::open(moved, later.after(Duration::from_secs(1))).unwrap();
    assert!(moved.server_expires_at() > before);
}

#[test]
fn a_half_written_server_certificate_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    Pki::open(config(directory.path()), NOW).unwrap();
    let path = directory.path().join("pki/server.key");
    fs::write(path, "cut short").unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    assert!(pki.server_expires_at() > NOW);
}

#[test]
fn damaged_or_missing_keys_are_refused_and_left_as_they_are() {
    for name in ["ca.key", "ca.pem", "signing.key", "root.pub", "trust.bin"] {
        for content in [None, Some("damaged")] {
            let directory = tempfile::tempdir().unwrap();
            Pki::open(config(directory.path()), NOW).unwrap();
            let path = directory.path().join("pki").join(name);
            match content {
                None if name == "trust.bin" => continue,
                None => fs::remove_file(&path).unwrap(),
                Some(text) => fs::write(&path, text).unwrap(),
            }
            let error = Pki::open(config(directory.path()), NOW)
                .err()
                .unwrap_or_else(|| panic!("{name} {content:?} was accepted"));
            assert_eq!(error.code(), ErrorCode::PkiInvalid);
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(
                fs::read_to_string(&path).ok().as_deref(),
                content,
                "{name} was touched"
            );
        }
    }
}

#[test]
fn another_fleets_keys_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    Pki::open(config(directory.path()), NOW).unwrap();
    let mut other = config(directory.path());
    other.fleet = FleetId::from_bytes([8; 10]);
    assert!(matches!(
        Pki::open(other, NOW),
        Err(PkiError::WrongFleet { .. })
    ));
}

#[test]
fn a_rotation_overlaps_and_survives_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let old = pki.signing().borrow().public();
    let key_ids = |pki: &Pki| -> Vec<KeyId> {
        let trust = pki.trust();
        let current = trust.borrow();
        let set = current.signed.verify(&pki.root(), FLEET, 0).unwrap();
        set.controller_keys.iter().map(PublicKey::id).collect()
    };
    assert_eq!(pki.rotate_signing(NOW).unwrap(), 2);
    assert_eq!(
        pki.rotate_signing(NOW).unwrap(),
        2,
        "one rotation at a time"
    );
    assert_eq!(pki.signing().borrow().public(), old);
    assert!(key_ids(&pki).contains(&old.id()));
    assert_eq!(key_ids(&pki).len(), 2);

    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    assert!(
        !pki.finish_rotation(NOW.after(Duration::from_secs(99)))
            .unwrap()
    );
    assert_eq!(pki.signing().borrow().public(), old);
    let done = NOW.after(Duration::from_secs(100));
    assert!(pki.finish_rotation(done).unwrap());
    let new = pki.signing().borrow().public();
    assert_ne!(new, old);
    assert!(key_ids(&pki).contains(&new.id()));
    assert!(key_ids(&pki).contains(&old.id()), "for what is under way");

    let pki = Pki::open(config(directory.path()), done).unwrap();
    assert_eq!(pki.signing().borrow().public(), new);
    assert!(!pki.finish_rotation(done).unwrap());
    assert_eq!(pki.rotate_signing(done).unwrap(), 3);
}

#[test]
fn everything_but_a_new_trust_set_works_without_the_root_key() {
    let directory = tempfile::tempdir().unwrap();
    Pki::open(config(directory.path()), NOW).unwrap();
    fs::remove_file(directory.path().join("pki/root.key")).unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    assert!(matches!(
        pki.rotate_signing(NOW),
        Err(PkiError::RootOffline { .. })
    ));
    assert_eq!(pki.trust().borrow().version, 1);
}

#[test]
fn the_vaults_key_is_made_once_and_a_damaged_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let first = pki.vault_key().unwrap();
    let file = directory.path().join("pki/vault.key");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = Pki::open(config(directory.path()), NOW).unwrap();
    assert_eq!(*first.to_text(), *again.vault_key().unwrap().to_text());
    fs::write(&file, "0a0a").unwrap();
    let error = pki.vault_key().unwrap_err().to_string();
    assert!(error.contains("vault.key is damaged"), "{error}");
}
