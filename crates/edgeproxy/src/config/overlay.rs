//! Section `overlay`: WireGuard inside the process.

use std::path::PathBuf;

use edgeproxy_overlay::Mode;

use super::reader::Reader;

/// Whether there is an overlay, and how it is run.
#[derive(Clone, Debug)]
pub(crate) struct OverlaySettings {
    /// A wg-quick file, or a folder with one for each region; `None`: no overlay.
    pub(crate) config: Option<PathBuf>,
    /// How TCP inside is had.
    pub(crate) mode: Mode,
    /// Packets of one peer for another are passed on.
    pub(crate) forward: bool,
    /// Threads that encrypt; 0: one per core.
    pub(crate) threads: usize,
}

pub(super) fn read(reader: &mut Reader<'_>) -> OverlaySettings {
    let mut section = reader.section("overlay");
    OverlaySettings {
        config: section.path("config"),
        mode: section.word("mode", |word| match word {
            "auto" => Some(Mode::Auto),
            "tun" => Some(Mode::Tun),
            "userns" => Some(Mode::UserNamespace),
            _ => None,
        }),
        forward: section.word("forward", |word| Some(word == "on")),
        threads: section.count("threads"),
    }
}
