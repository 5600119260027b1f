//! What keeps strangers from making us compute: mac1, which needs our public key, and, under load, mac2, which needs a
//! cookie that only the owner of the source address was sent (paper, section 5.4.4 and 5.4.7).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use crate::key::{KEY, PublicKey, Secret};
use crate::message::{COOKIE, COOKIE_NONCE, COOKIE_REPLY, CookieReply, MACS, Macs};
use crate::moment::Moment;
use crate::noise::{MAC, hash, mac};
use crate::random::Random;

/// A secret that cookies are made of is replaced after this.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// A cookie is used for this long after it came: its secret is older than its arrival.
const COOKIE_LIFETIME: Duration = Duration::from_secs(115);

/// The key of mac1 in messages to somebody: everybody who knows its public key knows this one.
#[derive(Clone, Debug)]
pub struct MacKey([u8; KEY]);

impl MacKey {
    /// For messages to the owner of this key.
    pub fn of(receiver: &PublicKey) -> Self {
        Self(hash(&[b"mac1----", &receiver.0]))
    }
}

/// The key that cookies from the owner of `giver` are sealed with.
fn cookie_key(giver: &PublicKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&hash(&[b"cookie--", &giver.0]).into())
}

/// Whether a message was made for the owner of this key. Costs a hash, and nothing else is done before.
pub fn has_mac1<const LENGTH: usize>(message: &[u8; LENGTH], key: &MacKey) -> bool {
    let macs = Macs::of(message);
    mac(&key.0, macs.covered).is(macs.first)
}

/// Makes and verifies the cookies we give.
pub struct CookieMint {
    seal: XChaCha20Poly1305,
    secret: Secret,
    since: Option<Moment>,
}

impl CookieMint {
    /// Gives cookies in the name of this key.
    pub fn new(ours: &PublicKey) -> Self {
        Self { seal: cookie_key(ours), secret: Secret::default(), since: None }
    }

    /// Whether the message's sender was given a cookie for its address not long ago.
    pub fn has_mac2<const LENGTH: usize>(&self, message: &[u8; LENGTH], from: SocketAddr, now: Moment) -> bool {
        if !self.is_fresh(now) {
            return false;
        }
        let macs = Macs::of(message);
        mac(&self.cookie(from), macs.covered_by_second).is(macs.second)
    }

    /// Sends a cookie instead of an answer. `remote` is the index the message's sender gave.
    pub fn reply<const LENGTH: usize>(
        &mut self,
        message: &[u8; LENGTH],
        remote: u32,
        from: SocketAddr,
        now: Moment,
        random: &mut impl Random,
    ) -> [u8; COOKIE_REPLY] {
        if !self.is_fresh(now) {
            random.fill(&mut *self.secret);
            self.since = Some(now);
        }
        let mut nonce = [0; COOKIE_NONCE];
        random.fill(&mut nonce);
        let mut sealed = [0; COOKIE + MAC];
        let (cookie, tag) = sealed.split_at_mut(COOKIE);
        cookie.copy_from_slice(&self.cookie(from));
        let made = self.seal.encrypt_inout_detached(&nonce.into(), Macs::of(message).first, cookie.into());
        tag.copy_from_slice(&made.expect("16 bytes are not too long"));
        CookieReply::write(remote, &nonce, &sealed)
    }

    fn is_fresh(&self, now: Moment) -> bool {
        self.since.is_some_and(|since| now.since(since) < SECRET_LIFETIME)
    }

    /// Bound to the port as well: behind one address there may be many.
    fn cookie(&self, from: SocketAddr) -> [u8; COOKIE] {
        let mut source = [0; 18];
        let (address, port) = source.split_at_mut(16);
        match from.ip() {
            IpAddr::V4(ip) => address.copy_from_slice(&ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => address.copy_from_slice(&ip.octets()),
        }
        port.copy_from_slice(&from.port().to_be_bytes());
        mac(&*self.secret, &source).bytes()
    }
}

/// The cookie a peer gave us, and what is needed to take the next.
#[derive(Default)]
pub struct CookieJar {
    cookie: Option<([u8; COOKIE], Moment)>,
    /// mac1 of the last message, which the peer's cookie has to refer to.
    last: Option<[u8; MAC]>,
}

impl CookieJar {
    /// Puts both MACs under a message: the second is zero as long as no cookie was given.
    pub fn sign<const LENGTH: usize>(&mut self, message: &mut [u8; LENGTH], receiver: &MacKey, now: Moment) {
        let (covered, macs) = message.split_at_mut(LENGTH - MACS);
        let first = mac(&receiver.0, covered).bytes();
        macs[..MAC].copy_from_slice(&first);
        self.last = Some(first);
        let cookie = self.cookie.as_ref().filter(|(_, since)| now.since(*since) < COOKIE_LIFETIME);
        let (covered, second) = message.split_at_mut(LENGTH - MAC);
        second.copy_from_slice(&cookie.map_or([0; MAC], |(cookie, _)| mac(cookie, covered).bytes()));
    }

    /// Takes a cookie from the owner of `giver`. Returns whether it was one for our last message.
    pub fn take(&mut self, reply: CookieReply<'_>, giver: &PublicKey, now: Moment) -> bool {
        let Some(last) = self.last else { return false };
        let (mut cookie, tag): ([u8; COOKIE], [u8; MAC]) = {
            let (cookie, tag) = reply.cookie().split_at(COOKIE);
            (cookie.try_into().expect("16 of 32 bytes"), tag.try_into().expect("the other 16"))
        };
        let nonce = (*reply.nonce()).into();
        let opened = cookie_key(giver).decrypt_inout_detached(&nonce, &last, (&mut cookie[..]).into(), &tag.into());
        if opened.is_ok() {
            self.cookie = Some((cookie, now));
            // One cookie for one message: a second reply to it is somebody's repetition.
            self.last = None;
        }
        opened.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{INITIATION, Message};
    use crate::random::Seeded;

    const RECEIVER: PublicKey = PublicKey([9; KEY]);

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn take(jar: &mut CookieJar, reply: &[u8], now: Moment) -> bool {
        let Some(Message::CookieReply(reply)) = Message::parse(reply) else { panic!("no cookie reply") };
        jar.take(reply, &RECEIVER, now)
    }

    #[test]
    fn a_cookie_proves_the_address_it_was_sent_to() {
        let (mut mint, mut jar) = (CookieMint::new(&RECEIVER), CookieJar::default());
        let key = MacKey::of(&RECEIVER);
        let (from, now) = (at("192.0.2.1:1000"), Moment::default());
        let mut message = [7; INITIATION];
        jar.sign(&mut message, &key, now);
        assert!(has_mac1(&message, &key) && !has_mac1(&message, &MacKey::of(&PublicKey([8; KEY]))));
        assert!(!mint.has_mac2(&message, from, now), "no cookie was given");

        let reply = mint.reply(&message, 5, from, now, &mut Seeded::new(1));
        assert!(take(&mut jar, &reply, now));
        assert!(!take(&mut jar, &reply, now), "the same again");
        jar.sign(&mut message, &key, now);
        assert!(has_mac1(&message, &key) && mint.has_mac2(&message, from, now));
        for other in ["192.0.2.2:1000", "192.0.2.1:1001", "[::1]:1000"] {
            assert!(!mint.has_mac2(&message, at(other), now), "{other}");
        }
        message[20] ^= 1;
        assert!(!has_mac1(&message, &key) && !mint.has_mac2(&message, from, now));
    }

    #[test]
    fn cookies_and_their_secrets_grow_old() {
        let (mut mint, mut jar) = (CookieMint::new(&RECEIVER), CookieJar::default());
        let (key, from, mut random) = (MacKey::of(&RECEIVER), at("[2001:db8::1]:1000"), Seeded::new(1));
        let mut message = [7; INITIATION];
        let mut now = Moment::default();
        jar.sign(&mut message, &key, now);
        let reply = mint.reply(&message, 5, from, now, &mut random);
        assert!(take(&mut jar, &reply, now));
        now = now.after(Duration::from_secs(114));
        jar.sign(&mut message, &key, now);
        assert!(mint.has_mac2(&message, from, now));
        now = now.after(Duration::from_secs(6));
        assert!(!mint.has_mac2(&message, from, now), "the secret is 120 s old");
        let mut without = [7; INITIATION];
        jar.sign(&mut without, &key, now);
        assert_eq!(without[INITIATION - MAC..], [0; MAC], "the cookie is older than 115 s");
        let again = mint.reply(&without, 5, from, now, &mut random);
        assert_ne!(reply[32..], again[32..]);
        assert!(take(&mut jar, &again, now));
    }

    #[test]
    fn a_cookie_for_another_message_is_not_taken() {
        let (mut mint, mut jar) = (CookieMint::new(&RECEIVER), CookieJar::default());
        let (key, from, now) = (MacKey::of(&RECEIVER), at("192.0.2.1:1000"), Moment::default());
        let mut message = [7; INITIATION];
        jar.sign(&mut message, &key, now);
        let mut reply = mint.reply(&message, 5, from, now, &mut Seeded::new(1));
        let mut next = [8; INITIATION];
        jar.sign(&mut next, &key, now);
        assert!(!take(&mut jar, &reply, now));
        reply = mint.reply(&next, 5, from, now, &mut Seeded::new(2));
        reply[40] ^= 1;
        assert!(!take(&mut jar, &reply, now), "changed on its way");
    }
}
