//! stub
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[derive(Debug)]
pub struct Queue(OwnedFd);
impl From<OwnedFd> for Queue {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
impl Queue {
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
    pub fn write_vectored(&self, slices: &[io::IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.0, slices)?;
        Ok(())
    }
}
impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
