//! Object storage, measured: uploads of generated data to any store that speaks S3.
//!
//! ```text
//! upload      the story of a run: connect, send, read back, delete; multipart: begin, parts, complete
//! store       where the store is, and how it is spoken to
//! data        what is uploaded, made while it is sent
//! line        one request after the other, each with deadlines and further attempts
//! connection  name look-up, TCP, TLS, HTTP; request: signatures; answer: XML
//! janitor     what must be removed however a run ended
//! outcome     the figures of a run; report: those of many, page: the same to look at
//! regions     the same asked of services
//! endpoints   the part of the regional service; download: the data as such
//! ```

mod answer;
mod checksum;
mod connection;
mod data;
mod download;
mod endpoints;
mod failure;
mod janitor;
mod line;
mod meter;
mod multipart;
mod outcome;
mod page;
mod plan;
mod process;
mod random;
mod read_back;
mod regions;
mod report;
mod request;
mod seconds;
mod socket_facts;
mod store;
mod tls;
mod troubles;
mod upload;

pub use checksum::Checksum;
pub use connection::ConnectTimes;
pub use endpoints::{ENDPOINTS, TOKEN_VARIABLE, Uploads};
pub use failure::{Failure, Reason, Step};
pub use janitor::{Janitor, Swept, sweep};
pub use meter::Meter;
pub use outcome::{Outcome, PartTimes, Process, ReadBack, Server};
pub use page::{chart, page};
pub use plan::{MB, MIB, Plan, STREAMS_MOST, Shape, parse_size, size};
pub use regions::{Question, ask};
pub use report::{Difference, Report, Setting, compare};
pub use socket_facts::SocketFacts;
pub use store::{Addressing, Endpoint, Keys, Patience, RETRIES, Settings, Store};
pub use upload::upload;
