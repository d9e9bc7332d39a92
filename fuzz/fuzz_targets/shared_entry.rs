#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| token_broker::fuzz::run("shared_entry", input));
