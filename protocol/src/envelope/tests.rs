use super::*;
use crate::session::Announce;

const FLEET: FleetId = FleetId::from_bytes([1; 10]);
const SENDER: NodeId = NodeId::from_bytes([2; 10]);

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32]).unwrap()
}

fn sealed() -> Vec<u8> {
    let seal = Seal {
        fleet: FLEET,
        sender: SENDER,
        key: &key(),
    };
    let announce = Announce {
        incarnation: 4,
        now: UnixMillis(5),
    };
    seal.seal(6, UnixMillis(7), &announce)
}

fn open_here(bytes: &[u8]) -> Result<Opened<'_>, EnvelopeError> {
    open(bytes, FLEET, |_, _| Some(key().public()))
}

#[test]
fn an_envelope_opens_to_what_was_sealed() {
    let bytes = sealed();
    let opened = open_here(&bytes).unwrap();
    assert_eq!(opened.header.sender, SENDER);
    assert_eq!(opened.header.counter, 6);
    assert_eq!(opened.header.sent_at, UnixMillis(7));
    assert_eq!(opened.decode::<Announce>().unwrap().incarnation, 4);
    assert_eq!(peek(&bytes).unwrap(), opened.header);
}

#[test]
fn every_changed_byte_is_noticed() {
    let bytes = sealed();
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        assert!(open_here(&changed).is_err(), "byte {index}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let bytes = sealed();
    for length in 0..bytes.len() {
        let error = open_here(&bytes[..length]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::EnvelopeMalformed, "{length} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(open_here(&longer).is_err());
}

#[test]
fn ten_megabytes_are_refused_before_anything_is_read() {
    let error = open_here(&vec![0; 10 << 20]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::EnvelopeTooLarge);
}

#[test]
fn another_fleet_is_refused_by_name() {
    let bytes = sealed();
    let other = FleetId::from_bytes([9; 10]);
    let error = open(&bytes, other, |_, _| Some(key().public())).unwrap_err();
    assert_eq!(
        error,
        EnvelopeError::WrongFleet {
            found: FLEET,
            expected: other
        }
    );
}

#[test]
fn an_unknown_sender_and_a_foreign_key_are_told_apart() {
    let bytes = sealed();
    let unknown = open(&bytes, FLEET, |_, _| None).unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::EnvelopeUnknownKey);

    let mut forged = bytes.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = open_here(&forged).unwrap_err();
    assert_eq!(forged.code(), ErrorCode::EnvelopeBadSignature);
}

#[test]
fn a_kind_or_version_that_is_not_known_says_so_and_opens_all_the_same() {
    let key = key();
    let seal = Seal {
        fleet: FLEET,
        sender: SENDER,
        key: &key,
    };
    let bytes = seal.seal_payload(Kind(999), 1, 1, UnixMillis(1), b"");
    let opened = open_here(&bytes).unwrap();
    assert!(matches!(
        opened.decode::<Announce>(),
        Err(DecodeError::Kind { found: 999, .. })
    ));

    let bytes = seal.seal_payload(Kind::ANNOUNCE, 99, 1, UnixMillis(1), b"");
    let opened = open_here(&bytes).unwrap();
    assert!(matches!(
        opened.decode::<Announce>(),
        Err(DecodeError::Version { found: 99, .. })
    ));
}

#[test]
fn bytes_behind_a_payload_are_malformed() {
    let announce = Announce {
        incarnation: 4,
        now: UnixMillis(5),
    };
    let mut payload = message::encode(&announce);
    payload.push(0);
    assert!(matches!(
        message::decode::<Announce>(Kind::ANNOUNCE, 1, &payload),
        Err(DecodeError::Malformed { .. })
    ));
}
