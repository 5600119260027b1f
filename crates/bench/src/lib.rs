//! Measures from every region.
