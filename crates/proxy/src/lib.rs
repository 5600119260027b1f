//! The data path: listener -> route -> dial -> relay.

mod settings;

pub use settings::{CheckKind, CheckSettings, ListenerSettings, ProxySettings, WhenAllDown};
