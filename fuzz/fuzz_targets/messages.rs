//! Envoy's question: bytes, as they come.

#![no_main]

#[path = "../../tests/readers/messages.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    messages::hold(message);
});
