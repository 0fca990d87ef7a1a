//! Envoy's question, read where it lies. Most of it is of no account here, and is
//! looked at all the same: what is not a message that prost would read is left to the
//! usual way, which refuses it.
//!
//! A message may have a field several times, and then counts as the whole of its
//! parts. So each field is taken as it comes, and the last text of a name stands.

use std::str::from_utf8;

use prost::Message;

use super::{
    introspect::{AtOnce, framed},
    wire::{
        EIGHT_BYTES, Field, LENGTH, NUMBER, field, int32, key, write_bytes, write_message,
        write_number,
    },
};
use crate::{
    grpc::{
        convert::ext_authz::to_denied,
        sidecar::{AuthorizationQuery, ParsedQuery, conclude},
    },
    pb::envoy::config::core::v3::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd,
    proxy_auth::{
        credential::{Credential, Credentials},
        route::{Preflight, RouteSettings},
        verdict::{Pass, Refused, Verdict, is_reserved},
    },
};

/// How many settings are taken. There are no more.
const MAX_SETTINGS: usize = 4;
/// How deep metadata may be.
const MAX_DEPTH: u8 = 16;

/// What the check needs of a request.
#[derive(Default)]
pub struct Read<'m> {
    settings: [(&'m str, &'m str); MAX_SETTINGS],
    set: usize,
    /// The method, empty where there is none.
    pub method: &'m str,
    /// The path, where there is a request of HTTP.
    pub target: Option<&'m str>,
    /// The headers with the token.
    pub credentials: Credentials<'m>,
    /// Whether there is a header that only the check may set.
    pub has_reserved: bool,
}

impl<'m> Read<'m> {
    /// Reads a `CheckRequest`. `None` where that is not so simple.
    pub fn of(message: &'m [u8]) -> Option<Self> {
        let mut read = Self::default();
        each(message, |Field { key, content }| match key {
            ATTRIBUTES => read.attributes(content),
            _ => None,
        })?;
        Some(read)
    }

    /// The settings of the route, in the order in which they came.
    pub fn settings(&self) -> &[(&'m str, &'m str)] {
        &self.settings[..self.set]
    }

    fn attributes(&mut self, message: &'m [u8]) -> Option<()> {
        each(message, |Field { key, content }| match key {
            SOURCE | DESTINATION => sound(&PEER, content, MAX_DEPTH),
            REQUEST => self.request(content),
            CONTEXT_EXTENSIONS => {
                let (name, value) = pair(content)?;
                let setting = (from_utf8(name).ok()?, from_utf8(value).ok()?);
                *self.settings.get_mut(self.set)? = setting;
                self.set += 1;
                Some(())
            }
            METADATA_CONTEXT | ROUTE_METADATA_CONTEXT => sound(&METADATA, content, MAX_DEPTH),
            TLS_SESSION => sound(&TLS, content, MAX_DEPTH),
            _ => None,
        })
    }

    fn request(&mut self, message: &'m [u8]) -> Option<()> {
        each(message, |Field { key, content }| match key {
            TIME => sound(&TIMESTAMP, content, MAX_DEPTH),
            HTTP => self.http(content),
            _ => None,
        })
    }

    fn http(&mut self, message: &'m [u8]) -> Option<()> {
        self.target.get_or_insert("");
        each(message, |Field { key, content }| match key {
            HEADERS => {
                let (name, value) = pair(content)?;
                self.header(name, value);
                Some(())
            }
            HEADER_MAP => each(content, |Field { key, content }| match key {
                HEADER_MAP_HEADERS => {
                    let (name, value) = header(content)?;
                    self.header(name, value);
                    Some(())
                }
                _ => None,
            }),
            PATH => {
                self.target = Some(from_utf8(content).ok()?);
                Some(())
            }
            METHOD => {
                self.method = from_utf8(content).ok()?;
                Some(())
            }
            ID | HOST | SCHEME | QUERY | FRAGMENT | PROTOCOL | BODY => {
                is_text(content).then_some(())
            }
            SIZE | RAW_BODY => Some(()),
            _ => None,
        })
    }

    fn header(&mut self, name: &[u8], value: &'m [u8]) {
        self.credentials.see(name, value);
        self.has_reserved |= is_reserved(name);
    }
}

/// Looks at each field of a message. `None` where one is not as it should be.
fn each<'m>(mut message: &'m [u8], mut look: impl FnMut(Field<'m>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let (field, rest) = field(message)?;
        look(field)?;
        message = rest;
    }
    Some(())
}

/// Whether a field is text. Nearly all is ASCII, and that is seen sooner.
fn is_text(content: &[u8]) -> bool {
    content.is_ascii() || from_utf8(content).is_ok()
}

/// An entry of a map of texts.
fn pair(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut value) = (&[][..], &[][..]);
    each(message, |Field { key, content }| {
        match key {
            FIRST => name = content,
            SECOND => value = content,
            _ => return None,
        }
        is_text(content).then_some(())
    })?;
    Some((name, value))
}

/// A header that stands by itself: its value is text or bytes, and those come first.
fn header(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut value, mut raw) = (&[][..], &[][..], &[][..]);
    each(message, |Field { key, content }| {
        match key {
            FIRST => name = content,
            SECOND => value = content,
            THIRD => raw = content,
            _ => return None,
        }
        (key == THIRD || is_text(content)).then_some(())
    })?;
    Some((name, if raw.is_empty() { value } else { raw }))
}

// The keys of the fields: their numbers, and that they have a length.
const FIRST: u8 = key(1, LENGTH);
const SECOND: u8 = key(2, LENGTH);
const THIRD: u8 = key(3, LENGTH);
const ATTRIBUTES: u8 = FIRST;
const SOURCE: u8 = FIRST;
const DESTINATION: u8 = SECOND;
const REQUEST: u8 = key(4, LENGTH);
const CONTEXT_EXTENSIONS: u8 = key(10, LENGTH);
const METADATA_CONTEXT: u8 = key(11, LENGTH);
const TLS_SESSION: u8 = key(12, LENGTH);
const ROUTE_METADATA_CONTEXT: u8 = key(13, LENGTH);
const TIME: u8 = FIRST;
const HTTP: u8 = SECOND;
const ID: u8 = FIRST;
const METHOD: u8 = SECOND;
const HEADERS: u8 = THIRD;
const PATH: u8 = key(4, LENGTH);
const HOST: u8 = key(5, LENGTH);
const SCHEME: u8 = key(6, LENGTH);
const QUERY: u8 = key(7, LENGTH);
const FRAGMENT: u8 = key(8, LENGTH);
const SIZE: u8 = key(9, NUMBER);
const PROTOCOL: u8 = key(10, LENGTH);
const BODY: u8 = key(11, LENGTH);
const RAW_BODY: u8 = key(12, LENGTH);
const HEADER_MAP: u8 = key(13, LENGTH);
const HEADER_MAP_HEADERS: u8 = FIRST;

/// What a message that is of no account is made of, field by field from the first.
type Shape = [Kind];

/// What is in a field.
enum Kind {
    /// A number of whatever type.
    Number,
    /// A number of eight bytes.
    Double,
    /// Text.
    Text,
    /// A message.
    Of(&'static Shape),
}

use Kind::{Double, Number, Of, Text};

static PEER: [Kind; 5] = [Of(&ADDRESS), Text, Of(&TEXT_ENTRY), Text, Text];
static ADDRESS: [Kind; 2] = [Of(&SOCKET_ADDRESS), Of(&PIPE)];
static SOCKET_ADDRESS: [Kind; 3] = [Number, Text, Number];
static PIPE: [Kind; 1] = [Text];
static TEXT_ENTRY: [Kind; 2] = [Text, Text];
static TIMESTAMP: [Kind; 2] = [Number, Number];
static TLS: [Kind; 1] = [Text];
static METADATA: [Kind; 1] = [Of(&STRUCT_ENTRY)];
static STRUCT_ENTRY: [Kind; 2] = [Text, Of(&STRUCT)];
static STRUCT: [Kind; 1] = [Of(&VALUE_ENTRY)];
static VALUE_ENTRY: [Kind; 2] = [Text, Of(&VALUE)];
static VALUE: [Kind; 6] = [Number, Double, Text, Number, Of(&STRUCT), Of(&LIST)];
static LIST: [Kind; 1] = [Of(&VALUE)];

/// Whether a message has that shape, so that prost reads it.
fn sound(shape: &Shape, message: &[u8], depth: u8) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    each(
        message,
        |Field {
             key: found,
             content,
         }| {
            let number = found >> 3;
            let kind = shape.get(usize::from(number).checked_sub(1)?)?;
            let (expected, is_sound) = match kind {
                Number => (NUMBER, true),
                Double => (EIGHT_BYTES, true),
                Text => (LENGTH, is_text(content)),
                Of(shape) => (LENGTH, sound(shape, content, depth).is_some()),
            };
            (is_sound && found == key(number, expected)).then_some(())
        },
    )
}

impl AtOnce<'_> {
    /// Answers Envoy's question, where that can be done at once: appends the framed
    /// reply. Otherwise leaves `reply` as it was, and says so.
    pub(super) fn check(&self, message: &[u8], reply: &mut Vec<u8>) -> bool {
        framed(reply, |reply| write(&self.verdict(message)?, reply))
    }

    fn verdict(&self, message: &[u8]) -> Option<Verdict> {
        let read = Read::of(message)?;
        // A mistake is told of on the usual way.
        let settings = RouteSettings::read(read.settings().iter().copied()).ok()?;
        if settings.preflight == Preflight::Passes && read.method == "OPTIONS" {
            // Whether it is a preflight is found out there.
            return None;
        }
        let credential = read.credentials.credential();
        if credential == Credential::Several {
            // Of two entries of a map, only the last one counts.
            return None;
        }
        let asked = AuthorizationQuery {
            settings: Ok(settings),
            is_preflight: false,
            target: read.target,
            credential,
        };
        let (need, presented) = match asked.parse() {
            Ok(ParsedQuery::Judge(need, presented)) => (need, presented),
            Ok(ParsedQuery::Preflight) | Err(Refused::Misconfigured(_)) => return None,
            Err(refused) => return Some(Verdict::Refused(refused)),
        };
        if read.has_reserved {
            // Which of them are to be removed is found out there. Before the judgement,
            // which counts as a use of the token.
            return None;
        }
        let judged = self.services.judge(&self.view, &presented, need.check());
        let judged = judged.ok()??;
        Some(conclude(&judged, need))
    }
}

/// Writes a `CheckResponse`, as prost does. `None` for what is answered on the usual way.
fn write(verdict: &Verdict, reply: &mut Vec<u8>) -> Option<()> {
    match verdict {
        Verdict::Allowed(pass) => write_ok(pass, reply),
        Verdict::Preflight => return None,
        Verdict::Refused(refused) => to_denied(refused)
            .encode(reply)
            .expect("a vector grows as far as it is needed"),
    }
    Some(())
}

fn write_ok(pass: &Pass, reply: &mut Vec<u8>) {
    // The status is OK, which is the default.
    write_message(reply, 1, |_| {});
    write_message(reply, 3, |reply| {
        pass.each_header(|name, value| {
            write_message(reply, 2, |reply| {
                write_message(reply, 1, |reply| {
                    write_bytes(reply, 1, name.as_bytes());
                    write_bytes(reply, 2, value.as_bytes());
                });
                write_number(reply, 3, int32(OverwriteIfExistsOrAdd.into()));
            });
        });
    });
    write_message(reply, 4, |reply| {
        pass.each_header(|name, value| {
            write_message(reply, 1, |reply| {
                write_bytes(reply, 1, name.as_bytes());
                write_message(reply, 2, |reply| write_bytes(reply, 3, value.as_bytes()));
            });
        });
    });
}
