use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use edgeproxy_tunnel::Random;

/// Random bytes of the operating system.
#[derive(Clone)]
pub(crate) struct OsRandom(SystemRandom);

impl OsRandom {
    pub(crate) fn new() -> Self {
        Self(SystemRandom::new())
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

impl Random for OsRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("the system gives random bytes");
    }
}
