//! A route's template, and a request's target: two lines of text.

#![no_main]

#[path = "../../tests/readers/paths.rs"]
mod paths;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Some((template, target)) = text.split_once('\n') {
        paths::hold(template, target);
    }
});
