//! Uploads by the regional service and by the command, with the real binary.

mod command;
mod endpoints;
mod service;
