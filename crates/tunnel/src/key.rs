//! Keys, and what is made of two of them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a key of any kind.
pub const KEY: usize = 32;
/// The same in base64.
const KEY_BASE64: usize = 44;

/// 32 bytes that are wiped when dropped and never shown.
pub(crate) type Secret = Zeroizing<[u8; KEY]>;

/// Why a key cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not base64 of 32 bytes.
    #[error("a key is 32 bytes in base64: 44 characters, the last one \"=\"")]
    Malformed,
    /// A point of low order: what is agreed with it is known to everybody.
    #[error("this public key is of low order and protects nothing")]
    LowOrder,
}

/// A peer's identity: an X25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY]);

impl PublicKey {
    /// Whether what is agreed with it is known to everybody, whoever agrees: nobody has such a key.
    ///
    /// These are the points whose order divides 8, on the curve and on its twist, in every way to write them
    /// (<https://cr.yp.to/ecdh.html>).
    pub fn is_of_low_order(&self) -> bool {
        let mut bytes = self.0;
        // X25519 looks at 255 bits of a public key.
        bytes[KEY - 1] &= 0x7f;
        LOW_ORDER.contains(&bytes)
    }
}

/// 0, 1, the two points of order 8, and p - 1, p, p + 1, where p is 2^255 - 19. Little endian.
const LOW_ORDER: [[u8; KEY]; 7] = [
    [0; KEY],
    beginning(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    beginning(0xec, 0xff, 0x7f),
    beginning(0xed, 0xff, 0x7f),
    beginning(0xee, 0xff, 0x7f),
];

const fn beginning(first: u8, between: u8, last: u8) -> [u8; KEY] {
    let mut bytes = [between; KEY];
    bytes[0] = first;
    bytes[KEY - 1] = last;
    bytes
}

/// An X25519 private key.
pub struct PrivateKey {
    bytes: Secret,
    agree: agreement::PrivateKey,
    public: PublicKey,
}

/// A secret both ends were given beforehand, mixed into each handshake. All zero means none.
#[derive(Clone, Default)]
pub struct PresharedKey(Secret);

/// What a private and a public key agree on.
pub struct SharedSecret(pub(crate) Secret);

impl PrivateKey {
    /// A key of these bytes, which have to be random; clamped as X25519 wants it.
    ///
    /// # Panics
    /// Never: every 32 bytes, once clamped, are a key.
    pub fn from_bytes(bytes: [u8; KEY]) -> Self {
        let mut bytes = Secret::new(bytes);
        bytes[0] &= 0b1111_1000;
        bytes[31] = bytes[31] & 0b0111_1111 | 0b0100_0000;
        let agree = agreement::PrivateKey::from_private_key(&X25519, &*bytes).expect("32 clamped bytes are a key");
        let public = agree.compute_public_key().expect("a private key has a public one");
        let public = PublicKey(public.as_ref().try_into().expect("an X25519 public key has 32 bytes"));
        Self { bytes, agree, public }
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The text form, for a configuration file.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(&*self.bytes))
    }

    /// The key itself, clamped, for other text forms.
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.bytes
    }

    /// What only the owners of the two private keys know.
    ///
    /// # Errors
    /// The other key is of low order.
    pub fn agree(&self, other: &PublicKey) -> Result<SharedSecret, KeyError> {
        let other = UnparsedPublicKey::new(&X25519, other.0);
        agreement::agree(&self.agree, other, KeyError::LowOrder, |agreed| {
            let mut secret = Secret::default();
            secret.copy_from_slice(agreed);
            // The library refuses it as well; not to depend on that costs nothing.
            if bool::from(secret.ct_eq(&[0; KEY])) { Err(KeyError::LowOrder) } else { Ok(SharedSecret(secret)) }
        })
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.ct_eq(&*other.bytes).into()
    }
}

impl Eq for PrivateKey {}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        Self::from_bytes(*self.bytes)
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for PresharedKey {}

impl PresharedKey {
    /// A key of these bytes, which have to be random.
    pub fn from_bytes(bytes: [u8; KEY]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The text form, for a configuration file.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(&*self.0))
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !bool::from(self.0.ct_eq(&[0; KEY]))
    }

    /// The key itself, for other text forms.
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }
}

fn decode(text: &str) -> Result<Secret, KeyError> {
    let mut bytes = Secret::default();
    // The decoder takes what is too short as well.
    if text.len() != KEY_BASE64 || Base64::decode(text, &mut *bytes).map_err(|_| KeyError::Malformed)?.len() != KEY {
        return Err(KeyError::Malformed);
    }
    Ok(bytes)
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self::from_bytes(*bytes))
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "PresharedKey(set)" } else { "PresharedKey(none)" })
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1.
    #[test]
    fn agreement_is_that_of_the_rfc() {
        let alice = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse::<PrivateKey>().unwrap();
        let bob = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=".parse::<PrivateKey>().unwrap();
        assert_eq!(alice.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(bob.public().to_string(), "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=");
        let agreed = alice.agree(&bob.public()).unwrap();
        assert_eq!(*agreed.0, *bob.agree(&alice.public()).unwrap().0);
        assert_eq!(Base64::encode_string(&*agreed.0), "Sl2dW6TOLeFyjjv0gDUPJeB+IclH0Z4zdvCbPB4WF0I=");
    }

    #[test]
    fn points_of_low_order_are_refused() {
        let key = PrivateKey::from_bytes([7; KEY]);
        let mut one = [0; KEY];
        one[0] = 1;
        // The points of order 8 and the one of order 4 (in other coordinates) of https://cr.yp.to/ecdh.html.
        let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let other = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157";
        let minus_one = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
        let from_hex = |hex: &str| std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap());
        for low in [[0; KEY], one, from_hex(eight), from_hex(other), from_hex(minus_one)] {
            assert_eq!(key.agree(&PublicKey(low)).unwrap_err(), KeyError::LowOrder, "{low:x?}");
        }
        // Those that are told beforehand are those that nothing can be agreed with, and no others.
        for low in LOW_ORDER {
            for highest_bit in [0, 0x80] {
                let mut low = PublicKey(low);
                low.0[KEY - 1] |= highest_bit;
                assert!(low.is_of_low_order() && key.agree(&low).is_err(), "{low}");
            }
        }
        let two = PublicKey(beginning(2, 0, 0));
        for good in [key.public(), two, PublicKey([0xff; KEY])] {
            assert!(!good.is_of_low_order() && key.agree(&good).is_ok(), "{good}");
        }
    }

    #[test]
    fn secrets_are_wiped_when_dropped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: fn(PresharedKey) -> T) {}
        is_wiped(|PresharedKey(secret)| secret);
        // All others hold the same type.
        let _: fn(PrivateKey) -> Secret = |key| key.bytes;
        let _: fn(SharedSecret) -> Secret = |SharedSecret(secret)| secret;
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        let good = PrivateKey::from_bytes([1; KEY]).to_base64();
        assert_eq!(*good.parse::<PrivateKey>().unwrap().to_base64(), *good);
        for bad in ["", "AAAA", &good[..43], &format!("{}=", *good), &good.replace('=', "A"), &good.replace('A', "!")] {
            assert_eq!(bad.parse::<PublicKey>().unwrap_err(), KeyError::Malformed, "{bad}");
            assert_eq!(bad.parse::<PresharedKey>().unwrap_err(), KeyError::Malformed, "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = PrivateKey::from_bytes([1; KEY]);
        assert_eq!(format!("{key:?}"), format!("PrivateKey(of {})", key.public()));
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([1; KEY])), "PresharedKey(set)");
        assert_eq!(format!("{:?}", PresharedKey::default()), "PresharedKey(none)");
        assert_eq!(format!("{:?}", key.agree(&key.public()).unwrap()), "SharedSecret");
    }
}
