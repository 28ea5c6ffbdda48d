//! Whom a release is believed, and over what it may be installed.

use super::*;

const NOW: UnixMillis = UnixMillis(1_000_000);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn release() -> Release {
    let target = "x86_64-unknown-linux-gnu";
    Release {
        version: "0.2.0".to_owned(),
        issued_at: NOW,
        expires_at: NOW.after(LIFETIME_DEFAULT),
        from_min: "0.1.0".to_owned(),
        from_max: "0.2.0".to_owned(),
        archives: vec![Archive {
            target: target.to_owned(),
            name: archive_name("0.2.0", target),
            bytes: 3_000_000,
            sha256: "ab".repeat(32),
            unpacked_bytes: 8_000_000,
        }],
    }
}

/// What a release that was changed, and signed as it then is, is refused with.
#[track_caller]
fn refused(change: impl FnOnce(&mut Release)) -> String {
    let mut changed = release();
    change(&mut changed);
    let error = changed
        .sign(&key(1))
        .verify(&[key(1).public()])
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::ReleaseInvalid);
    error.to_string()
}

#[test]
fn only_what_a_release_key_signed_is_believed() {
    let signed = release().sign(&key(1));
    assert_eq!(
        signed.verify(&[key(2).public(), key(1).public()]),
        Ok(release())
    );
    let unknown = signed.verify(&[key(2).public()]).unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::ReleaseUntrusted);
    assert_eq!(
        signed.verify(&[]).unwrap_err().code(),
        ErrorCode::ReleaseUntrusted,
        "without keys nothing is believed"
    );

    let mut changed = signed.clone();
    changed.bytes[0] ^= 1;
    let mut unsigned = signed.clone();
    unsigned.signature.clear();
    let mut bare = signed.clone();
    bare.signature = key(1).sign(&bare.bytes).to_vec();
    for signed in [changed, unsigned, bare] {
        let error = signed.verify(&[key(1).public()]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ReleaseUntrusted);
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused_though_it_is_signed() {
    let other_name = refused(|release| release.archives[0].name = "other.tar.gz".to_owned());
    assert!(
        other_name.contains("is named \"other.tar.gz\""),
        "{other_name}"
    );
    let path = refused(|release| release.archives[0].target = "../../etc".to_owned());
    assert!(path.contains("is no target triple"), "{path}");
    refused(|release| release.version = "two".to_owned());
    refused(|release| release.from_min = "0.3.0".to_owned());
    refused(|release| release.expires_at = release.issued_at);
    refused(|release| release.archives.clear());
    refused(|release| release.archives.push(release.archives[0].clone()));
    refused(|release| release.archives[0].sha256 = "AB".repeat(32));
    refused(|release| release.archives[0].bytes = ARCHIVE_BYTES_MAX + 1);
    refused(|release| release.archives[0].unpacked_bytes = 0);
}

#[test]
fn a_release_is_installed_over_the_versions_that_it_names() {
    let admit = |running: &str, kept: bool, revoked: &[String], now: UnixMillis| {
        release()
            .admit(running, kept, revoked, now)
            .map_err(|error| error.code())
    };
    assert_eq!(admit("0.1.0", false, &[], NOW), Ok(()));
    assert_eq!(admit("0.1.9-rc.1", false, &[], NOW), Ok(()));
    for elsewhere in ["0.0.9", "0.3.0", "0.1.0-rc.1"] {
        let refused = Err(ErrorCode::ReleaseForbidden);
        assert_eq!(admit(elsewhere, false, &[], NOW), refused, "{elsewhere}");
    }
    assert_eq!(admit("0.3.0", true, &[], NOW), Ok(()), "it is gone back to");

    let revoked = ["0.2.0".to_owned()];
    let refused = Err(ErrorCode::ReleaseRevoked);
    assert_eq!(admit("0.1.0", false, &revoked, NOW), refused);
    assert_eq!(admit("0.3.0", true, &revoked, NOW), refused);

    let late = release().expires_at;
    assert_eq!(
        admit("0.1.0", false, &[], late),
        Err(ErrorCode::ReleaseExpired)
    );
    assert_eq!(
        admit("0.1.0", true, &[], late),
        Ok(()),
        "it is installed already"
    );
}

#[test]
fn a_target_without_an_archive_is_named() {
    assert!(release().archive("x86_64-unknown-linux-gnu").is_ok());
    let error = release()
        .archive("riscv64gc-unknown-linux-gnu")
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::ReleaseNoTarget);
    assert!(error.to_string().contains("riscv64gc"), "{error}");
}
