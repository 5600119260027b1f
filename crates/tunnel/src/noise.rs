//! The symmetric half of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s: hashes, the chain of keys, sealing with them.
//!
//! Names are those of the WireGuard paper (section 5.4): HASH, MAC, HMAC, KDFn, AEAD.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac};
use hmac::SimpleHmac;
use subtle::ConstantTimeEq;

use crate::key::{KEY, PublicKey, Secret, SharedSecret};

/// Bytes of a hash.
pub(crate) const HASH: usize = 32;
/// Bytes of a MAC, of an AEAD's tag too.
pub(crate) const MAC: usize = 16;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// What was sealed cannot be opened: made with another key, or changed on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Forged;

pub(crate) fn hash(parts: &[&[u8]]) -> [u8; HASH] {
    let mut hash = Blake2s256::default();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize_fixed().into()
}

/// A MAC as it has to be. It cannot be compared but in constant time, lest who guesses learns how far he got.
pub(crate) struct Authentic([u8; MAC]);

impl Authentic {
    /// Whether this is what a message has.
    pub(crate) fn is(&self, claimed: &[u8; MAC]) -> bool {
        self.0.ct_eq(claimed).into()
    }

    /// To be put into a message, or used as a key.
    pub(crate) fn bytes(self) -> [u8; MAC] {
        self.0
    }
}

pub(crate) fn mac(key: &[u8], message: &[u8]) -> Authentic {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("a MAC's key has at most 32 bytes");
    Mac::update(&mut mac, message);
    Authentic(mac.finalize().into_bytes().into())
}

fn hmac(key: &[u8; HASH], parts: [&[u8]; 2]) -> Secret {
    let mut hmac = SimpleHmac::<Blake2s256>::new_from_slice(key).expect("an HMAC's key has any length");
    parts.iter().for_each(|part| Mac::update(&mut hmac, part));
    Secret::new(hmac.finalize().into_bytes().into())
}

/// An AEAD under a key.
pub(crate) fn aead(key: &[u8; KEY]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key has 32 bytes"))
}

/// The nonce of a counter: four zero bytes, then the counter in little endian.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What both ends of a handshake have said so far, and the key that follows from it.
#[derive(Clone)]
pub(crate) struct Chain {
    key: Secret,
    hash: [u8; HASH],
}

impl Chain {
    /// The beginning of every handshake with this responder.
    pub(crate) fn begin(responder: &PublicKey) -> Self {
        let key = hash(&[CONSTRUCTION]);
        let hash_of_name = hash(&[&key, IDENTIFIER]);
        let mut chain = Self { key: Secret::new(key), hash: hash_of_name };
        chain.mix_hash(&responder.0);
        chain
    }

    pub(crate) fn mix_hash(&mut self, said: &[u8]) {
        self.hash = hash(&[&self.hash, said]);
    }

    /// KDF1.
    fn mix_key(&mut self, input: &[u8; KEY]) {
        let extracted = hmac(&self.key, [input, &[]]);
        self.key = hmac(&extracted, [&[1], &[]]);
    }

    /// An ephemeral key was said.
    pub(crate) fn mix_ephemeral(&mut self, key: &PublicKey) {
        self.mix_key(&key.0);
        self.mix_hash(&key.0);
    }

    pub(crate) fn mix_shared(&mut self, shared: &SharedSecret) {
        self.mix_key(&shared.0);
    }

    /// KDF2: goes on, and gives a key for what is said next.
    pub(crate) fn mix_shared_for_key(&mut self, shared: &SharedSecret) -> Secret {
        let extracted = hmac(&self.key, [&*shared.0, &[]]);
        self.key = hmac(&extracted, [&[1], &[]]);
        hmac(&extracted, [&*self.key, &[2]])
    }

    /// KDF3: mixes a preshared key in, and gives a key for what is said next.
    pub(crate) fn mix_preshared_for_key(&mut self, preshared: &[u8; KEY]) -> Secret {
        let extracted = hmac(&self.key, [preshared, &[]]);
        self.key = hmac(&extracted, [&[1], &[]]);
        let said = hmac(&extracted, [&*self.key, &[2]]);
        self.mix_hash(&*said);
        hmac(&extracted, [&*said, &[3]])
    }

    /// Seals `plain` for the other end: into `sealed`, which is as much longer as a tag.
    pub(crate) fn seal(&mut self, key: &Secret, plain: &[u8], sealed: &mut [u8]) {
        let (text, tag) = sealed.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        let made = aead(key).seal_in_place_separate_tag(nonce(0), Aad::from(&self.hash), text);
        tag.copy_from_slice(made.expect("a few bytes are not too long").as_ref());
        self.mix_hash(sealed);
    }

    /// Opens what the other end sealed.
    pub(crate) fn open<const PLAIN: usize>(&mut self, key: &Secret, sealed: &[u8]) -> Result<[u8; PLAIN], Forged> {
        let (text, tag) = sealed.split_at_checked(PLAIN).ok_or(Forged)?;
        let mut plain = [0; PLAIN];
        aead(key).open_separate_gather(nonce(0), Aad::from(&self.hash), text, tag, &mut plain).map_err(|_| Forged)?;
        self.mix_hash(sealed);
        Ok(plain)
    }

    /// The keys of the session: first the initiator's for sending, then the responder's.
    pub(crate) fn split(self) -> (Secret, Secret) {
        let extracted = hmac(&self.key, [&[], &[]]);
        let first = hmac(&extracted, [&[1], &[]]);
        let second = hmac(&extracted, [&*first, &[2]]);
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7693, appendix B ("abc").
    #[test]
    fn the_hash_is_blake2s() {
        let abc = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
        let hex: String = hash(&[b"a", b"bc"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, abc);
    }

    /// Compiles only while a MAC has no `==`, which would stop at the first byte that differs: with one, there would be
    /// two answers to what `Either` is here.
    #[test]
    fn macs_are_compared_in_constant_time_or_not_at_all() {
        trait Either<Which> {
            fn look() {}
        }
        impl<T> Either<()> for T {}
        impl<T: PartialEq> Either<u8> for T {}
        <Authentic as Either<_>>::look();
        let made = mac(&[1; KEY], b"message");
        let other = mac(&[1; KEY], b"massage").bytes();
        assert!(!made.is(&other) && made.is(&mac(&[1; KEY], b"message").bytes()));
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let begin = Chain::begin(&PublicKey([3; KEY]));
        let key = Secret::new([5; KEY]);
        let mut sealed = [0; 12 + MAC];
        begin.clone().seal(&key, b"twelve bytes", &mut sealed);
        assert_eq!(begin.clone().open(&key, &sealed), Ok(*b"twelve bytes"));
        assert_eq!(begin.clone().open::<12>(&key, &sealed[..20]), Err(Forged));
        sealed[3] ^= 1;
        assert_eq!(begin.clone().open::<12>(&key, &sealed), Err(Forged));
    }
}
