//! Uploads to stores that work, and to stores that do not.

mod encrypted;
mod failing;
mod servers;
mod support;
mod working;
