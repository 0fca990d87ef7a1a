//! Option values of a few words. To completions, a function says nothing of what it reads, and
//! they offer the names of files; these parsers list their words.

use std::ffi::OsStr;

use clap::{
    Arg, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};

use crate::domain::{
    audit::Action,
    caller::CallerPermission,
    client::ClientState,
    role::{InstancePermission, InstanceRole, SitePermission},
};

/// Reads one of the words.
#[derive(Clone)]
pub(super) struct OneOf<T: 'static> {
    all: &'static [T],
    word: fn(T) -> &'static str,
}

impl<T: Copy + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let Self { all, word } = *self;
        let read = move |text: &str| {
            let named = all.iter().copied().find(|one| word(*one) == text);
            let known = || {
                let words: Vec<_> = all.iter().map(|one| word(*one)).collect();
                format!("must be one of {}", words.join(", "))
            };
            named.ok_or_else(known)
        };
        read.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = self.all.iter().map(|one| (self.word)(*one));
        Some(Box::new(words.map(PossibleValue::new)))
    }
}

/// Reads any text, and lists those that this version knows: the server may know more.
#[derive(Clone)]
pub(super) struct AnyText(fn() -> Vec<&'static str>);

impl TypedValueParser for AnyText {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter().map(PossibleValue::new)))
    }
}

pub(super) const fn caller_permission() -> OneOf<CallerPermission> {
    OneOf {
        all: CallerPermission::ALL,
        word: CallerPermission::as_str,
    }
}

pub(super) const fn instance_role() -> OneOf<InstanceRole> {
    OneOf {
        all: InstanceRole::ALL,
        word: InstanceRole::as_str,
    }
}

pub(super) const fn client_state() -> OneOf<ClientState> {
    /// A state as people write it.
    const fn word(state: ClientState) -> &'static str {
        match state {
            ClientState::Active => "active",
            ClientState::Revoked => "revoked",
            ClientState::Expired => "expired",
            ClientState::OwnerInactive => "owner-inactive",
        }
    }

    OneOf {
        all: ClientState::ALL,
        word,
    }
}

pub(super) const fn permission() -> AnyText {
    AnyText(|| {
        let of_sites = SitePermission::ALL.iter().map(|one| one.as_str());
        let of_instance = InstancePermission::ALL.iter().map(|one| one.as_str());
        of_sites.chain(of_instance).collect()
    })
}

pub(super) const fn action() -> AnyText {
    AnyText(|| Action::ALL.iter().map(|one| one.as_str()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(parser: &impl TypedValueParser) -> Vec<String> {
        let values = parser.possible_values().unwrap();
        values.map(|value| value.get_name().to_owned()).collect()
    }

    #[test]
    fn words_that_are_offered_are_read() {
        let command = Command::new("test");
        let read = |text: &str| client_state().parse_ref(&command, None, OsStr::new(text));
        let words = offered(&client_state());
        assert_eq!(words, ["active", "revoked", "expired", "owner-inactive"]);
        let read_again = words.iter().map(|word| read(word).unwrap());
        assert_eq!(read_again.collect::<Vec<_>>(), ClientState::ALL);
        for wrong in ["gone", "ACTIVE", ""] {
            let error = read(wrong).unwrap_err().to_string();
            let known = "must be one of active, revoked, expired, owner-inactive";
            assert!(error.contains(known), "{error}");
        }
    }

    #[test]
    fn words_of_a_newer_server_are_read_too() {
        let command = Command::new("test");
        let read = permission().parse_ref(&command, None, OsStr::new("site.fly"));
        assert_eq!(read.unwrap(), "site.fly");
        let words = offered(&permission());
        for known in ["site.view", "instance.view_all_sites"] {
            assert!(words.iter().any(|word| word == known), "{words:?}");
        }
        assert!(offered(&action()).contains(&"api_client.rotated".to_owned()));
    }
}
