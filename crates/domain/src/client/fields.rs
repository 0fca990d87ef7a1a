//! The validated parts of a client: name, description, and the overlap of old and new token.

use std::borrow::Cow;

use chrono::TimeDelta;

use crate::token::without_tokens;

/// The longest name, in characters.
pub const MAX_NAME: usize = 120;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 500;
/// The longest overlap of an old token with its successor.
pub const MAX_OVERLAP: TimeDelta = TimeDelta::days(7);

/// A client's name: 1 to 120 characters, trimmed, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// A client's description: at most 500 characters, without control characters other than
/// line breaks and tabs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description(String);

/// Why a text cannot be a name or a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// The text is empty or only white space.
    #[error("must not be empty")]
    Empty,
    /// The text exceeds its limit.
    #[error("must have at most {limit} characters")]
    TooLong {
        /// The limit in characters.
        limit: usize,
    },
    /// Control characters are unreadable, and Postgres does not store NUL.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// It may contain a token, and would get into the audit trail with it.
    #[error("must not contain a token, nor what looks like one")]
    Token,
}

impl Name {
    /// Trims and checks a name.
    pub fn parse(text: &str) -> Result<Self, BadText> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadText::Empty);
        }
        check_text(text, MAX_NAME, |_| false)?;
        Ok(Self(text.to_owned()))
    }

    /// The same for a name that a caller gives, which must not contain a token. What is stored
    /// may contain one, from HitKeep or from before this was refused, and is readable.
    pub fn from_caller(text: &str) -> Result<Self, BadText> {
        let name = Self::parse(text)?;
        refuse_token(text)?;
        Ok(name)
    }

    /// Whether it contains what looks like a token.
    pub(super) fn has_token(&self) -> bool {
        refuse_token(&self.0).is_err()
    }

    /// The validated text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Description {
    /// Checks a description.
    pub fn parse(text: &str) -> Result<Self, BadText> {
        check_text(text, MAX_DESCRIPTION, |c| matches!(c, '\n' | '\r' | '\t'))?;
        Ok(Self(text.to_owned()))
    }

    /// The same for a description that a caller gives, which must not contain a token either.
    pub fn from_caller(text: &str) -> Result<Self, BadText> {
        let description = Self::parse(text)?;
        refuse_token(text)?;
        Ok(description)
    }

    /// Whether it contains what looks like a token.
    pub(super) fn has_token(&self) -> bool {
        refuse_token(&self.0).is_err()
    }

    /// Whether they are the same but for white space around them, which HitKeep's dashboard
    /// removes.
    pub(super) fn is_shown_like(&self, other: &Self) -> bool {
        self.0.trim() == other.0.trim()
    }

    /// The validated text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses a text that is too long or has control characters that are not `allowed`.
pub fn check_text(text: &str, limit: usize, allowed: fn(char) -> bool) -> Result<(), BadText> {
    if text.chars().count() > limit {
        return Err(BadText::TooLong { limit });
    }
    if text.chars().any(|c| c.is_control() && !allowed(c)) {
        return Err(BadText::ControlCharacter);
    }
    Ok(())
}

/// Refuses a text that contains what looks like a token. The error does not repeat it. A hint,
/// which people write into descriptions, is none.
fn refuse_token(text: &str) -> Result<(), BadText> {
    match without_tokens(text) {
        Cow::Borrowed(_) => Ok(()),
        Cow::Owned(_) => Err(BadText::Token),
    }
}

/// How long an old token stays valid beside its successor: 0 to 7 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap(TimeDelta);

impl Overlap {
    /// `None` if the length is negative or over the limit. The length is rounded down to
    /// microseconds, as every time is; the limit applies before that.
    pub fn new(length: TimeDelta) -> Option<Self> {
        let allowed = (TimeDelta::zero()..=MAX_OVERLAP).contains(&length);
        let micros = length.num_microseconds().filter(|_| allowed)?;
        Some(Self(TimeDelta::microseconds(micros)))
    }

    /// The overlap, 0 to 7 days.
    pub const fn length(self) -> TimeDelta {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that is one over a limit of characters, and the longest that is within it.
    fn around(limit: usize) -> [String; 2] {
        [limit + 1, limit].map(|length| "é".repeat(length))
    }

    #[test]
    fn a_name_has_its_limits() {
        let [over, longest] = around(120);
        let parse = |text: &str| match Name::parse(text) {
            Ok(name) => name.as_str().to_owned(),
            Err(why) => why.to_string(),
        };
        for (text, expected) in [
            (" a name\t", "a name"),
            (&longest, &longest),
            ("", "must not be empty"),
            (" \n", "must not be empty"),
            (&over, "must have at most 120 characters"),
            ("a\nb", "must not contain control characters"),
            ("a\0b", "must not contain control characters"),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_description_has_its_limits() {
        let [over, longest] = around(500);
        let parse = |text: &str| match Description::parse(text) {
            Ok(description) => description.as_str().to_owned(),
            Err(why) => why.to_string(),
        };
        for (text, expected) in [
            ("", ""),
            (" a\r\n\tb ", " a\r\n\tb "),
            (&longest, &longest),
            (&over, "must have at most 500 characters"),
            ("a\u{7}b", "must not contain control characters"),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_caller_gives_no_token_and_a_stored_one_is_readable() {
        let legacy = "0a".repeat(32);
        for text in ["my hkp_12345678", "hkt_12345678", "(hks_12345678)", &legacy] {
            assert_eq!(Name::from_caller(text), Err(BadText::Token), "{text}");
            assert_eq!(
                Description::from_caller(text),
                Err(BadText::Token),
                "{text}"
            );
            assert_eq!(Name::parse(text).unwrap().as_str(), text);
            assert_eq!(Description::parse(text).unwrap().as_str(), text);
        }
        for text in [" hkp ", "hkp_", "the successor of hkp_...x7Qa"] {
            assert_eq!(Name::from_caller(text), Name::parse(text.trim()), "{text}");
        }
        assert_eq!(Name::from_caller(" "), Err(BadText::Empty));
        assert_eq!(Description::from_caller(" hk "), Description::parse(" hk "));
        assert_eq!(
            Description::from_caller("\0"),
            Err(BadText::ControlCharacter)
        );
    }

    #[test]
    fn an_overlap_is_from_nothing_to_seven_days() {
        let nanosecond = TimeDelta::nanoseconds(1);
        let length = |length| Overlap::new(length).map(Overlap::length);
        for whole in [
            TimeDelta::zero(),
            TimeDelta::microseconds(1),
            TimeDelta::days(7),
        ] {
            assert_eq!(length(whole), Some(whole));
        }
        let rounded = TimeDelta::microseconds(1) + nanosecond * 999;
        assert_eq!(length(rounded), Some(TimeDelta::microseconds(1)));
        assert_eq!(length(-nanosecond), None);
        assert_eq!(length(TimeDelta::days(7) + nanosecond), None);
    }
}
