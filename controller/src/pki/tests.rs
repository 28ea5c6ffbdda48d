//! Keys and certificates: made once, read back, renewed, rotated, and refused
//! when they are damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::certificate::NodeSubject;
use super::*;
use crate::domain::notice::cause::OwnCertificate;

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

/// Drafts, signs and puts in force, as the operation layer does. Gives the version.
fn change(pki: &Pki, change: Change, now: UnixMillis) -> Result<u64, PkiError> {
    let Some(set) = pki.draft(change, now)? else {
        return Ok(pki.trust().borrow().version);
    };
    pki.install(pki.stage(pki.sign(&set)?, now)?)?;
    Ok(set.version)
}

fn set(pki: &Pki) -> TrustSet {
    pki.trust_facts().unwrap().set
}

fn certificate_of(pki: &Pki, now: UnixMillis) -> CertificateDer<'static> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = csr(&key, CertificateParams::default());
    let issued = pki.issue_node(&request, NODE, now).unwrap();
    CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap()
}

/// Whether a server that shows `chain` is believed by one who knows these CAs.
fn believes(authorities: &[CertificateDer<'static>], pki: &Pki, now: UnixMillis) -> bool {
    let state = pki.lock();
    let trusted = state.trust.authorities(&pki.inner.files).unwrap();
    let (leaf, links) = state.server.chain(&state.trust.authority, &trusted);
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let at = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_millis(now.0));
    rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &*verifier,
        &leaf,
        &links,
        &name,
        &[],
        at,
    )
    .is_ok()
}

fn authorities(pki: &Pki) -> Vec<CertificateDer<'static>> {
    set(pki)
        .authorities
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .collect()
}

#[test]
fn a_rotation_of_the_signing_key_overlaps_and_survives_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let old = pki.signing().borrow().public();
    assert_eq!(change(&pki, Change::RotateSigning, NOW).unwrap(), 2);
    assert_eq!(
        change(&pki, Change::RotateSigning, NOW).unwrap(),
        2,
        "one rotation at a time"
    );
    assert_eq!(pki.signing().borrow().public(), old);
    assert!(set(&pki).controller_keys.contains(&old));
    assert_eq!(set(&pki).controller_keys.len(), 2);

    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let early = pki.take_over(NOW.after(Duration::from_secs(99))).unwrap();
    assert!(!early.signing);
    assert_eq!(pki.signing().borrow().public(), old);
    let done = NOW.after(Duration::from_secs(100));
    assert!(pki.take_over(done).unwrap().signing);
    let new = pki.signing().borrow().public();
    assert_ne!(new, old);
    assert!(set(&pki).controller_keys.contains(&new));
    assert!(
        set(&pki).controller_keys.contains(&old),
        "for what is under way"
    );

    let pki = Pki::open(config(directory.path()), done).unwrap();
    assert_eq!(pki.signing().borrow().public(), new);
    assert!(!pki.take_over(done).unwrap().signing);
    assert_eq!(change(&pki, Change::RotateSigning, done).unwrap(), 3);
}

#[test]
fn a_signing_key_leaves_when_asked_and_never_the_one_that_signs() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let stolen = pki.signing().borrow().public();
    let error = change(&pki, Change::RetireSigning(stolen), NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TrustInUse);
    change(&pki, Change::RotateSigning, NOW).unwrap();
    let done = NOW.after(Duration::from_secs(100));
    assert!(pki.take_over(done).unwrap().signing);
    let signing = pki.signing().borrow().public();
    assert_eq!(
        change(&pki, Change::RetireSigning(stolen), done).unwrap(),
        3
    );
    assert_eq!(set(&pki).controller_keys, [signing]);
    let error = change(&pki, Change::RetireSigning(stolen), done).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TrustNotFound);
}

#[test]
fn what_was_announced_and_called_off_is_never_used() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let signing = pki.signing().borrow().public();
    let issuing = pki.authority_fingerprint();
    let announce = || {
        change(&pki, Change::RotateSigning, NOW).unwrap();
        change(&pki, Change::RotateAuthority, NOW).unwrap();
        let keys = set(&pki).controller_keys;
        let key = keys.into_iter().find(|key| *key != signing).unwrap();
        let cas = authorities(&pki);
        let ca = cas.iter().map(|ca| certificate::fingerprint(ca));
        (key, ca.clone().find(|ca| *ca != issuing).unwrap())
    };
    let (key, ca) = announce();
    change(&pki, Change::RetireSigning(key), NOW).unwrap();
    change(&pki, Change::RetireAuthority(ca), NOW).unwrap();
    let done = NOW.after(Duration::from_secs(500));
    assert_eq!(pki.take_over(done).unwrap(), TakenOver::default());
    let (later_key, later_ca) = announce();
    assert_ne!((later_key, later_ca), (key, ca));
}

#[test]
fn the_overlap_begins_when_a_set_comes_into_force_not_when_it_was_drafted() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    for kind in [Change::RotateSigning, Change::RotateAuthority] {
        let drafted = pki.draft(kind, NOW).unwrap().unwrap();
        // The way to the root key and back took longer than the overlap.
        let installed = NOW.after(Duration::from_secs(500));
        pki.install(pki.stage(pki.sign(&drafted).unwrap(), installed).unwrap())
            .unwrap();
        let early = installed.after(Duration::from_secs(99));
        assert_eq!(pki.take_over(early).unwrap(), TakenOver::default());
    }
    let taken = pki.take_over(NOW.after(Duration::from_secs(600))).unwrap();
    assert!(taken.signing && taken.authority);
}

#[test]
fn a_rotation_of_the_ca_overlaps_and_who_knows_either_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let first = authorities(&pki);
    let old = pki.authority_fingerprint();
    assert_eq!(change(&pki, Change::RotateAuthority, NOW).unwrap(), 2);
    assert_eq!(change(&pki, Change::RotateAuthority, NOW).unwrap(), 2);
    let both = authorities(&pki);
    let next: Vec<_> = both
        .iter()
        .filter(|ca| !first.contains(ca))
        .cloned()
        .collect();
    assert_eq!((both.len(), next.len()), (2, 1));
    assert_eq!(pki.authority_fingerprint(), old, "not before the overlap");
    assert!(believes(&first, &pki, NOW));

    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let done = NOW.after(Duration::from_secs(100));
    let changes = pki.mqtt_tls();
    assert!(pki.take_over(done).unwrap().authority);
    assert!(
        pki.renew_server(done).unwrap(),
        "the server shows the new CA"
    );
    assert!(changes.has_changed().unwrap());
    assert_ne!(pki.authority_fingerprint(), old);
    let leaf = certificate_of(&pki, done);
    assert!(pki.lock().trust.authority.is_issuer_of(&leaf));
    for known in [&first, &next, &both] {
        assert!(believes(known, &pki, done), "{} known", known.len());
    }

    let pki = Pki::open(config(directory.path()), done).unwrap();
    assert!(believes(&first, &pki, done));
    let error = change(
        &pki,
        Change::RetireAuthority(pki.authority_fingerprint()),
        done,
    );
    assert_eq!(error.unwrap_err().code(), ErrorCode::TrustInUse);
    let error = change(&pki, Change::RetireAuthority([9; 32]), done);
    assert_eq!(error.unwrap_err().code(), ErrorCode::TrustNotFound);
    assert_eq!(change(&pki, Change::RetireAuthority(old), done).unwrap(), 3);
    assert_eq!(authorities(&pki), next);
    assert!(
        !believes(&first, &pki, done),
        "who knew the old one is not led on"
    );
    assert!(believes(&next, &pki, done));
}

#[test]
fn links_lead_over_two_rotations_and_no_more_cas_are_held() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let first = authorities(&pki);
    let mut now = NOW;
    for _ in 0..2 {
        change(&pki, Change::RotateAuthority, now).unwrap();
        now = now.after(Duration::from_secs(100));
        assert!(pki.take_over(now).unwrap().authority);
        pki.renew_server(now).unwrap();
        assert!(believes(&first, &pki, now));
    }
    let error = change(&pki, Change::RotateAuthority, now).unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitReached);
    for retired in [0, 0] {
        let fingerprint = certificate::fingerprint(&authorities(&pki)[retired]);
        change(&pki, Change::RetireAuthority(fingerprint), now).unwrap();
    }
    change(&pki, Change::RotateAuthority, now).unwrap();
}

/// Copies the key directory as a crash after some writes would leave it.
fn crashed(from: &Path, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("pki");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from.join("pki")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    change(&to);
    directory
}

#[test]
fn a_takeover_that_was_interrupted_is_brought_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    change(&pki, Change::RotateAuthority, NOW).unwrap();
    change(&pki, Change::RotateSigning, NOW).unwrap();
    let set = set(&pki);
    let copy = |to: &Path, from: &str, name: &str| {
        fs::copy(to.join(from), to.join(name)).unwrap();
    };
    let steps: [&dyn Fn(&Path); 5] = [
        &|to| copy(to, "ca.next.key", "ca.key"),
        &|to| {
            copy(to, "ca.next.key", "ca.key");
            copy(to, "ca.next.pem", "ca.pem");
        },
        &|to| {
            copy(to, "ca.next.key", "ca.key");
            fs::rename(to.join("ca.next.pem"), to.join("ca.pem")).unwrap();
        },
        &|to| {
            copy(to, "ca.next.key", "ca.key");
            fs::rename(to.join("ca.next.pem"), to.join("ca.pem")).unwrap();
            fs::remove_file(to.join("ca.next.key")).unwrap();
        },
        &|to| copy(to, "signing.next.key", "signing.key"),
    ];
    let done = NOW.after(Duration::from_secs(100));
    for (step, crash) in steps.iter().enumerate() {
        let after = crashed(directory.path(), |to| crash(to));
        let pki = Pki::open(config(after.path()), done)
            .unwrap_or_else(|error| panic!("step {step}: {error}"));
        pki.take_over(done).unwrap();
        pki.renew_server(done).unwrap();
        let facts = pki.trust_facts().unwrap();
        assert_eq!(facts.set, set);
        assert!(
            facts
                .keys
                .iter()
                .all(|(_, duty)| !matches!(duty, Duty::Next { .. }))
        );
        let duties: Vec<_> = facts.authorities.iter().map(|(_, _, duty)| *duty).collect();
        assert_eq!(duties, [Duty::Before, Duty::InUse], "step {step}");
        assert!(believes(&authorities(&pki), &pki, done));
        let left = fs::read_dir(after.path().join("pki")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            !left
                .iter()
                .any(|name| name.to_string_lossy().contains("next.key")),
            "step {step}: {left:?}"
        );
    }
}

#[test]
fn a_next_key_or_ca_that_was_half_made_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    pki.draft(Change::RotateAuthority, NOW).unwrap();
    // Another key than the certificate's: the crash came between the two.
    let stray = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let path = directory.path().join("pki/ca.next.key");
    fs::write(path, stray.serialize_pem()).unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    change(&pki, Change::RotateAuthority, NOW).unwrap();
    let done = NOW.after(Duration::from_secs(100));
    assert!(pki.take_over(done).unwrap().authority);
}

#[test]
fn a_staged_set_counts_only_if_the_journal_holds_it() {
    for recorded in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(config(directory.path()), NOW).unwrap();
        let drafted = pki.draft(Change::RotateSigning, NOW).unwrap().unwrap();
        let staged = pki.stage(pki.sign(&drafted).unwrap(), NOW).unwrap();
        let digest = CurrentTrust {
            version: 2,
            signed: staged.signed,
        }
        .digest();

        let pki = Pki::open(config(directory.path()), NOW).unwrap();
        assert_eq!(pki.trust().borrow().version, 1, "not in force by itself");
        let held = pki.trust().borrow().digest();
        pki.settle(Some(if recorded { digest } else { held }))
            .unwrap();
        let version = if recorded { 2 } else { 1 };
        assert_eq!(pki.trust().borrow().version, version);
        assert!(!directory.path().join("pki/trust.staged.bin").exists());
        let pki = Pki::open(config(directory.path()), NOW).unwrap();
        assert_eq!(pki.trust().borrow().version, version);
        let taken = pki.take_over(NOW.after(Duration::from_secs(100))).unwrap();
        assert_eq!(taken.signing, recorded);
    }
}

#[test]
fn without_the_root_key_a_set_is_drafted_signed_elsewhere_and_installed() {
    let directory = tempfile::tempdir().unwrap();
    Pki::open(config(directory.path()), NOW).unwrap();
    let path = directory.path().join("pki/root.key");
    let root = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let error = change(&pki, Change::RotateSigning, NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TrustRootOffline);
    assert_eq!(pki.trust().borrow().version, 1);
    assert!(!pki.trust_facts().unwrap().has_root);

    let drafted = pki.draft(Change::RotateSigning, NOW).unwrap().unwrap();
    let again = pki.draft(Change::RotateSigning, NOW).unwrap().unwrap();
    assert_eq!(drafted, again, "the same next key");
    let bytes = protocol::message::encode(&drafted);
    let (set, signed) = sign_offline(&bytes, &root).unwrap();
    assert_eq!(set, drafted);
    pki.install(pki.stage(signed.clone(), NOW).unwrap())
        .unwrap();
    assert_eq!(pki.trust().borrow().version, 2);

    let stale = pki.stage(signed, NOW).unwrap_err();
    assert_eq!(stale.code(), ErrorCode::TrustStale);
    let stranger = SigningKey::from_seed(&[3; 32]).unwrap();
    let newer = TrustSet {
        version: 9,
        ..drafted
    };
    let wrong = pki.stage(newer.sign(&stranger), NOW).unwrap_err();
    assert_eq!(wrong.code(), ErrorCode::TrustInvalid);
    assert!(sign_offline(b"nothing", &root).is_err());
    assert!(sign_offline(&bytes, b"nothing").is_err());
}

#[test]
fn a_set_under_which_the_controller_could_not_work_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let good = TrustSet {
        version: 2,
        ..set(&pki)
    };
    let stranger = SigningKey::from_seed(&[3; 32]).unwrap().public();
    let no_key = TrustSet {
        controller_keys: vec![stranger],
        ..good.clone()
    };
    let mut many_keys = good.clone();
    for seed in 4..8 {
        let key = SigningKey::from_seed(&[seed; 32]).unwrap().public();
        many_keys.controller_keys.push(key);
    }
    let no_authority = TrustSet {
        authorities: Vec::new(),
        ..good.clone()
    };
    let mut no_certificate = good.clone();
    no_certificate.authorities.push("pem".to_owned());
    let mut many = good.clone();
    many.authorities = vec![good.authorities[0].clone(); 4];
    for unfit in [no_key, many_keys, no_authority, no_certificate, many] {
        let error = pki.stage(pki.sign(&unfit).unwrap(), NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TrustUnfit, "{error}");
    }
    let other = TrustSet {
        fleet: FleetId::from_bytes([9; 10]),
        ..good.clone()
    };
    let error = pki.stage(pki.sign(&other).unwrap(), NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TrustInvalid);
    pki.stage(pki.sign(&good).unwrap(), NOW).unwrap();
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

#[test]
fn the_controllers_own_certificates_are_told_of_before_their_end() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(config(directory.path()), NOW).unwrap();
    let own = pki.own_certificates().unwrap();
    let [server, authority] = own.as_slice() else {
        panic!("{own:?}");
    };
    assert_eq!(server.expires_at, pki.server_expires_at());
    let told = |own: &OwnCertificate, before: Duration| {
        let at = own.expires_at.before(before);
        own.notice(at).state.name()
    };
    // It renews itself at two thirds of its fifteen minutes.
    assert_eq!(told(server, Duration::from_secs(300)), "resolved");
    assert_eq!(told(server, Duration::from_secs(225)), "raised");
    let day = Duration::from_secs(86_400);
    assert_eq!(told(authority, 181 * day), "resolved");
    assert_eq!(told(authority, 180 * day), "raised");
}
