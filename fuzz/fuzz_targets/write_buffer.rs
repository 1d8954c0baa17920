//! The write buffer under any sequence of calls.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unbroken::fuzzing::write_buffer(data));
