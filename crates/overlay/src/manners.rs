//! What a hub says to a peer whose packet it did not pass on (RFC 1812, RFC 4443), and how often.

use std::net::IpAddr;

use edgeproxy_tunnel::Moment;

use crate::counters::Loss;
use crate::packet::{ICMPV6_LONGEST, Notice, Unreachable, View, notice};

/// Notices a second and worker; silence says the rest.
const PER_SECOND: u32 = 100;

/// How many notices may still be sent.
pub(crate) struct Manners {
    left: u32,
    second: u64,
}

impl Manners {
    pub(crate) fn new(now: Moment) -> Self {
        Self { left: PER_SECOND, second: now.as_millis() / 1000 }
    }

    /// The answer to a packet that was not passed on; empty for none.
    pub(crate) fn answer(&mut self, loss: Loss, packet: &[u8], ours: &[IpAddr], now: Moment) -> Vec<u8> {
        let what = match loss {
            Loss::Expired => Notice::TimeExceeded,
            Loss::OtherTenant => Notice::Unreachable(Unreachable::Prohibited),
            Loss::Loop => Notice::Unreachable(Unreachable::Host),
            _ => return Vec::new(),
        };
        let Ok(view) = View::parse(packet) else { return Vec::new() };
        let same_family = |own: &&IpAddr| own.is_ipv4() == view.source().is_ipv4();
        let Some(from) = ours.iter().find(same_family).filter(|_| self.may(now)) else { return Vec::new() };
        let mut answer = vec![0; ICMPV6_LONGEST];
        let length = notice(what, packet, *from, &mut answer).unwrap_or(0);
        answer.truncate(length);
        self.left -= u32::from(length > 0);
        answer
    }

    fn may(&mut self, now: Moment) -> bool {
        let second = now.as_millis() / 1000;
        if second != self.second {
            *self = Self { left: PER_SECOND, second };
        }
        self.left > 0
    }
}
