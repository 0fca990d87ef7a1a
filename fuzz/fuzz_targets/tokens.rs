//! Headers: a name and a value, line by line.

#![no_main]

#[path = "../../tests/readers/tokens.rs"]
mod tokens;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let headers = text.lines().filter_map(|line| line.split_once(':'));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    tokens::hold(&headers.map(owned).collect::<Vec<_>>());
});
