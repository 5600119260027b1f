use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use edgeproxy_tunnel::Random;

/// Random bytes of the operating system.
#[derive(Clone, Debug)]
pub struct OsRandom(SystemRandom);

impl OsRandom {
    /// They are always to be had.
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }

    /// 64 of them as a number.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

impl Default for OsRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for OsRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("the system gives random bytes");
    }
}
