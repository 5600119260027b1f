//! WireGuard for very many peers: datagrams and the time in, datagrams and deadlines out.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: time is a [`Moment`], randomness comes from a
//! [`Random`], both given by the caller, so that every exchange can be replayed.

mod cookie;
mod gate;
mod handshake;
mod handshakes;
mod key;
mod message;
mod moment;
mod noise;
mod outlet;
mod peer;
mod random;
mod routes;
mod session;
mod tai64n;
mod wheel;
mod window;

pub use cookie::{CookieJar, CookieMint, MacKey, has_mac1};
pub use gate::{Admission, Gate, GateSettings};
pub use handshake::{HandshakeError, Identified, Identity, Initiated, Role, SessionKeys, Verified};
pub use handshakes::{Dropped, Handshakes, Introduction, Outcome, Owners};
pub use key::{KEY, KeyError, PresharedKey, PrivateKey, PublicKey, SharedSecret};
pub use message::{
    COOKIE_REPLY, CookieReply, INITIATION, Initiation, Message, PADDING, RESPONSE, Response, TRANSPORT_HEADER,
    TRANSPORT_TAG, Transport,
};
pub use moment::Moment;
pub use outlet::{Outlet, Path};
pub use peer::{Action, Peer, Received, Slot};
pub use random::Random;
pub use routes::{Keyed, Prefix, PrefixError, Routes};
pub use session::{
    Exhausted, Opened, Opener, REJECT_AFTER, REKEY_AFTER, ReceivingHalf, Rejected, Sealer, SendingHalf,
    datagram_length, halves,
};
pub use tai64n::Tai64N;
pub use wheel::Wheel;
