//! What stands after `--` on the command line of a benchmark. Each option has a
//! default, so that a plain `cargo bench` measures what it is meant to. What was
//! asked for is printed, since figures without their command are worth little.

use std::{str::FromStr, time::Duration};

/// The options that were given and not yet asked for.
pub struct Arguments {
    /// Each with its value, where it has one.
    given: Vec<(String, Option<String>)>,
    known: Vec<&'static str>,
}

impl Arguments {
    /// Reads the command line: `--name value`, or `--name` alone, as often as one likes.
    pub fn read() -> Self {
        let mut given = Vec::new();
        // Cargo says `--bench` to every benchmark.
        let words = std::env::args().skip(1).filter(|word| word != "--bench");
        let mut words = words.peekable();
        while let Some(name) = words.next() {
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (name, words.next_if(|next| !next.starts_with("--"))),
            };
            given.push((name, value));
        }
        let known = Vec::new();
        Self { given, known }
    }

    /// The value of an option, or its default.
    pub fn value<T: FromStr>(&mut self, name: &'static str, default: T) -> T {
        let read = |text: &str| text.parse().ok();
        self.take(name, read).unwrap_or(default)
    }

    /// A length of time, such as `10s` or `250ms`.
    pub fn time(&mut self, name: &'static str, default: Duration) -> Duration {
        let read = |text: &str| humantime::parse_duration(text).ok();
        self.take(name, read).unwrap_or(default)
    }

    /// Whether an option that takes no value was given.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.known.push(name);
        let is_it = |(given, value): &(String, Option<String>)| given == name && value.is_none();
        let at = self.given.iter().position(is_it);
        at.map(|at| self.given.remove(at)).is_some()
    }

    fn take<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.known.push(name);
        let at = self.given.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.given.remove(at);
        let value = value.unwrap_or_else(|| panic!("{name} needs a value"));
        let Some(value) = read(&value) else {
            panic!("{name} cannot be {value:?}");
        };
        Some(value)
    }

    /// Nothing may be left. Says how to measure the same again.
    #[expect(clippy::print_stdout, reason = "it belongs to the figures")]
    pub fn done(self) {
        let Self { given, known } = self;
        assert!(
            given.is_empty(),
            "unknown: {given:?}; this benchmark takes {known:?}"
        );
        let mut words: Vec<_> = std::env::args()
            .skip(1)
            .filter(|word| word != "--bench")
            .collect();
        if !words.is_empty() {
            words.insert(0, " --".to_owned());
        }
        println!(
            "$ cargo bench --bench {}{}",
            env!("CARGO_CRATE_NAME"),
            words.join(" ")
        );
        // "0.20 0.26 1.04 2/213 4711": over one, five and fifteen minutes.
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("{cores} cores; load average before it began: {load}");
    }
}
