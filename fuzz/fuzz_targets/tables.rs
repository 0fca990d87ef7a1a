//! A file of a snapshot: bytes, as they come.

#![no_main]

#[path = "../../tests/readers/tables.rs"]
mod tables;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    // A panic of the decoder is caught and becomes an error. The fuzzer's own hook would end
    // everything before that.
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    let rows = std::panic::catch_unwind(|| tables::hold(file));
    if rows.is_err() {
        std::process::abort();
    }
});
