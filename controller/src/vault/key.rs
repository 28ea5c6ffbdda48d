//! The keys of the vault: one that is kept, and two that are made of it.

use core::fmt;

use data_encoding::HEXLOWER;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of each key.
const KEY_BYTES: usize = 32;

/// The key that is kept, in a file of the key directory. `Debug` hides it.
pub struct VaultKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultKey")
    }
}

impl VaultKey {
    /// A new key; an error's text when there is no randomness.
    pub(crate) fn random() -> Result<Self, String> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new()
            .fill(key.as_mut())
            .map_err(|_| "there is no randomness".to_owned())?;
        Ok(Self(key))
    }

    /// A key from the text of its file; none when it is not one.
    pub(crate) fn from_text(text: &[u8]) -> Option<Self> {
        let bytes = Zeroizing::new(HEXLOWER.decode(text.trim_ascii()).ok()?);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if bytes.len() != KEY_BYTES {
            return None;
        }
        key.copy_from_slice(&bytes);
        Some(Self(key))
    }

    /// The text of its file.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(HEXLOWER.encode(self.0.as_ref()));
        text.push('\n');
        text
    }
}

/// The keys that are made of a [`VaultKey`].
pub(super) struct Keys {
    seal: LessSafeKey,
    digest: hmac::Key,
    id: [u8; 8],
}

impl Keys {
    pub(super) fn of(key: &VaultKey) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, key.0.as_ref());
        let derive = |purpose: &str| {
            let tag = hmac::sign(&root, purpose.as_bytes());
            let mut derived = Zeroizing::new([0; KEY_BYTES]);
            derived.copy_from_slice(tag.as_ref());
            derived
        };
        let seal = derive("flotilla vault seal 1");
        let seal = UnboundKey::new(&CHACHA20_POLY1305, seal.as_ref())
            .expect("the key has the algorithm's length");
        let digest = derive("flotilla vault digest 1");
        let named = derive("flotilla vault id 1");
        let mut id = [0; 8];
        id.copy_from_slice(named.first_chunk::<8>().expect("it has 32 bytes"));
        Self {
            seal: LessSafeKey::new(seal),
            digest: hmac::Key::new(hmac::HMAC_SHA256, digest.as_ref()),
            id,
        }
    }

    /// Tells one key from another, and nothing of either.
    pub(super) fn id(&self) -> [u8; 8] {
        self.id
    }

    /// The keyed digest of a secret.
    pub(super) fn digest(&self, content: &[u8]) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&self.digest, content).as_ref());
        bytes
    }

    /// Encrypts a content and binds it to what it is. The nonce is random, which
    /// is safe for far more than 2³² contents' worth of files that a disk holds.
    pub(super) fn seal(&self, what: &str, content: &[u8]) -> Result<Vec<u8>, String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| "there is no randomness".to_owned())?;
        let mut sealed = content.to_vec();
        let outcome = self.seal.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(what.as_bytes()),
            &mut sealed,
        );
        if outcome.is_err() {
            sealed.zeroize();
            return Err("it could not be encrypted".to_owned());
        }
        let mut bytes = nonce.to_vec();
        bytes.append(&mut sealed);
        Ok(bytes)
    }

    /// The content of what [`Self::seal`] made; none when it is not that, or is of
    /// something else.
    pub(super) fn open(&self, what: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut content = sealed.to_vec();
        let length = self
            .seal
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(what.as_bytes()),
                &mut content,
            )
            .ok()?
            .len();
        content.truncate(length);
        Some(content)
    }
}
