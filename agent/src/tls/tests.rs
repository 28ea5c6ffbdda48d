//! Which certificates are believed, at which times.

use std::time::Duration;

use protocol::time::UnixMillis;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::clock::EARLIEST;
use crate::domain::time::Offset;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Fleet {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

fn fleet() -> Fleet {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Fleet {
        authority: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

impl Fleet {
    /// A server certificate for `host`, valid for a day from `from`.
    fn server(&self, host: &str, from: UnixMillis) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let base = std::time::SystemTime::UNIX_EPOCH;
        params.not_before = (base + Duration::from_millis(from.0)).into();
        params.not_after = (base + Duration::from_millis(from.0) + DAY).into();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }

    fn verifier(&self, clock: &Clock) -> Pinned {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap();
        roots.add(der).unwrap();
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        Pinned {
            inner: inner.build().unwrap(),
            clock: clock.clone(),
        }
    }
}

fn believed(verifier: &Pinned, certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    // What rustls thinks the time is must not matter.
    let now = UnixTime::since_unix_epoch(Duration::ZERO);
    verifier
        .verify_server_cert(certificate, &[], &name, &[], now)
        .is_ok()
}

#[test]
fn a_node_whose_clock_is_unproven_believes_what_may_be_valid_by_now() {
    let (fleet, clock) = (fleet(), Clock::default());
    let verifier = fleet.verifier(&clock);
    let year_ahead = EARLIEST.after(DAY * 365);
    assert!(believed(
        &verifier,
        &fleet.server("broker", EARLIEST.after(DAY)),
        "broker"
    ));
    assert!(believed(
        &verifier,
        &fleet.server("broker", year_ahead),
        "broker"
    ));
    // Expired before the time that has certainly passed.
    assert!(!believed(
        &verifier,
        &fleet.server("broker", EARLIEST.before(DAY * 2)),
        "broker"
    ));
    clock.learn(None, Some(EARLIEST.after(DAY * 30)));
    assert!(!believed(
        &verifier,
        &fleet.server("broker", EARLIEST.after(DAY)),
        "broker"
    ));
}

#[test]
fn once_the_time_is_proven_certificates_are_judged_strictly() {
    let (fleet, clock) = (fleet(), Clock::default());
    let verifier = fleet.verifier(&clock);
    let now = EARLIEST.after(DAY * 100);
    let offset = Offset {
        ms: now.offset_from(clock.wall()),
        error_ms: 1,
    };
    clock.learn(Some(offset), Some(now));
    assert!(believed(
        &verifier,
        &fleet.server("broker", now.before(DAY / 2)),
        "broker"
    ));
    assert!(!believed(
        &verifier,
        &fleet.server("broker", now.after(DAY)),
        "broker"
    ));
    assert!(!believed(
        &verifier,
        &fleet.server("broker", now.before(DAY * 2)),
        "broker"
    ));
}

#[test]
fn another_fleets_certificate_and_another_name_are_not_believed() {
    let (ours, theirs, clock) = (fleet(), fleet(), Clock::default());
    let verifier = ours.verifier(&clock);
    let from = EARLIEST.after(DAY);
    assert!(!believed(
        &verifier,
        &theirs.server("broker", from),
        "broker"
    ));
    assert!(!believed(&verifier, &ours.server("other", from), "broker"));
    let damaged = CertificateDer::from(vec![0x30, 0x01, 0x00]);
    assert!(!believed(&verifier, &damaged, "broker"));
}

#[test]
fn material_that_cannot_be_used_is_named() {
    let clock = Clock::default();
    let error = pinned(&["nonsense".to_owned()], None, &clock).unwrap_err();
    assert!(matches!(error, TlsError::NoAuthority), "{error:?}");
    let fleet = fleet();
    let identity = ClientIdentity {
        certificate: &fleet.authority,
        key: "no key",
    };
    let error = pinned(
        std::slice::from_ref(&fleet.authority),
        Some(&identity),
        &clock,
    )
    .unwrap_err();
    assert!(matches!(error, TlsError::Identity { .. }), "{error:?}");
    assert_eq!(error.code(), ErrorCode::IdentityInvalid);
}
