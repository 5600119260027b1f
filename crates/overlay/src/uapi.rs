//! The text protocol by which the `wg` tool speaks to a device that is not the kernel's, over a Unix socket.
//!
//! ```text
//! get=1\n\n                               -> all of the device, then errno=0\n\n
//! set=1\nlisten_port=...\npublic_key=...\n...\n\n -> errno=0\n\n
//! ```
//! A request is done whole or not at all: it is applied once its last line was read and all of it was found good. `request`
//! reads, `answer` writes, neither knows of sockets; `server` does. Keys are the operator's to see: the socket is open to
//! its owner alone. <https://www.wireguard.com/xplatform/#configuration-protocol>

mod answer;
mod refusal;
mod request;
mod server;
#[cfg(test)]
mod tests;

pub use answer::{write_device, write_peer};
pub use refusal::Refusal;
pub use request::{LONGEST_LINE, LONGEST_REQUEST, Request, RequestReader};
pub use server::{CONNECTIONS_MOST, DIRECTORY, IDLE, OPERATION_WITHIN, Uapi, UapiError};
