//! What every end-to-end test begins with.

use std::path::Path;

use edgeproxy_world::Site;

/// A place for a POP of the binary under test.
pub(crate) fn site() -> Site {
    Site::new(Path::new(env!("CARGO_BIN_EXE_edgeproxy"))).unwrap()
}
