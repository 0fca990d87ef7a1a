//! What was said during a run, and the shapes in which a token, or what is kept of
//! one, could be in it.

use std::{cell::RefCell, fmt::Debug};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use hitkeep_auth::domain::token::{LegacyToken, StoredHash, Token};
use prost::Message;
use tonic::Status;

/// Everything that must not have a token in it, each with its source.
#[derive(Default)]
pub struct Said(RefCell<Vec<(String, String)>>);

impl Said {
    pub fn note(&self, source: &str, text: impl AsRef<[u8]>) {
        // A token is ASCII: it survives whatever is around it.
        let text = String::from_utf8_lossy(text.as_ref()).into_owned();
        self.0.borrow_mut().push((source.to_owned(), text));
    }

    /// A reply that reveals nothing: as it is printed, and as it was sent.
    pub fn reply<T: Message + Debug>(&self, source: &str, reply: &T) {
        self.note(source, format!("{reply:?} {reply:#?}"));
        self.note(source, reply.encode_to_vec());
    }

    /// A reply that reveals a token, of which only the print must not have it.
    pub fn revealing<T: Debug>(&self, source: &str, reply: &T) {
        self.note(source, format!("{reply:?} {reply:#?}"));
    }

    /// A refusal with all that is in it.
    pub fn refusal<T: Debug>(&self, source: &str, result: Result<T, Status>) {
        let status = result.expect_err(source);
        self.note(source, format!("{status:?} {status:#?} {status}"));
        self.note(source, status.message());
        self.note(source, status.details());
        self.note(source, format!("{:?}", status.metadata()));
    }

    /// The sources in which one of the needles is.
    pub fn found(&self, needles: &[(String, String)]) -> Vec<String> {
        let said = self.0.borrow();
        let mut found = Vec::new();
        for (source, text) in &*said {
            for (what, needle) in needles {
                if text.contains(needle) {
                    found.push(format!("{what} in {source}"));
                }
            }
        }
        found
    }
}

/// What of a token must not be seen: all of it, and its secret alone. A legacy token is all
/// secret: there, no long part of it.
pub fn plain(token: &str) -> Vec<(String, String)> {
    let (kind, secret) = match LegacyToken::parse(token) {
        Ok(_) => ("old", &token[8..56]),
        Err(_) => (&token[..3], &token[4..47]),
    };
    vec![
        (format!("a whole {kind} token"), token.into()),
        (format!("the secret of an {kind} token"), secret.into()),
        (format!("an {kind} token in base64"), STANDARD.encode(token)),
        (
            format!("the bytes of an {kind} token"),
            listed(token.as_bytes()),
        ),
    ]
}

/// Its hash, which the database keeps, as logs might show it.
pub fn hashed(token: &str) -> Vec<(String, String)> {
    let hash: StoredHash = match LegacyToken::parse(token) {
        Ok(token) => token.hash().into(),
        Err(_) => Token::parse(token).expect("it was issued").hash().into(),
    };
    let hash = hash.bytes();
    let each = |show: fn(&u8) -> String| hash.iter().map(show).collect::<Vec<_>>();
    let hex = each(|byte| format!("{byte:02x}"));
    vec![
        ("a hash in HEX".to_owned(), hex.concat().to_uppercase()),
        ("a hash in hex".to_owned(), hex.concat()),
        ("a hash in spaced hex".to_owned(), hex.join(" ")),
        ("a hash in escaped hex".to_owned(), hex.join("\\x")),
        (
            "a hash as a byte string".to_owned(),
            each(|byte| byte.escape_ascii().to_string()).concat(),
        ),
        ("a hash in base64".to_owned(), STANDARD.encode(hash)),
        ("a hash in base64url".to_owned(), URL_SAFE.encode(hash)),
        ("a hash as numbers".to_owned(), listed(hash)),
    ]
}

/// Bytes as `Debug` lists them.
fn listed(bytes: &[u8]) -> String {
    let list = format!("{bytes:?}");
    list.trim_matches(['[', ']']).to_owned()
}
