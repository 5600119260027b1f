#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| edgeproxy_fuzz::pg_first(data));
