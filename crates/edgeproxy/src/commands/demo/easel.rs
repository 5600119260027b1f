//! Where the picture of what was measured is made.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use edgeproxy_bench::fleet::Run;
use edgeproxy_bench::report;
use tempfile::{Builder, NamedTempFile};

/// A picture has nothing to hide.
const MODE: u32 = 0o644;

/// A file beside the place of the picture, whose place it takes once it is drawn: as a whole, and never through a link.
pub(super) struct Easel {
    file: NamedTempFile,
    picture: PathBuf,
}

impl Easel {
    /// Sees to it that a picture can be made there.
    pub(super) fn at(picture: PathBuf) -> io::Result<Self> {
        if picture.is_dir() {
            return Err(told(&picture, &io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let folder = picture.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = Builder::new().permissions(Permissions::from_mode(MODE)).tempfile_in(folder);
        Ok(Self { file: file.map_err(|error| told(&picture, &error))?, picture })
    }

    /// Draws it; where it is.
    pub(super) fn draw(mut self, run: &Run) -> io::Result<PathBuf> {
        let text = report::chart(run).map_err(io::Error::other)?;
        self.file.write_all(text.as_bytes()).map_err(|error| told(&self.picture, &error))?;
        self.file.persist(&self.picture).map_err(|error| told(&self.picture, &error.error))?;
        Ok(self.picture)
    }
}

fn told(picture: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("no picture at {}: {error}", picture.display()))
}
