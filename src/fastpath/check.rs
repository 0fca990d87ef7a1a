//! Reads Envoy's `CheckRequest` without decoding it into a struct. Most of its fields do
//! not matter here, but all are validated: a message that prost would not decode goes to
//! the slow path, which refuses it.
//!
//! protobuf allows a message field to occur several times, and merges the occurrences. So
//! fields are handled one by one, and the last value of a scalar field wins.

use std::str::from_utf8;

use prost::Message;

use super::{
    introspect::{FastIntrospector, write_framed},
    wire::{
        Field, I64, LEN, VARINT, field, int32, tag, write_bytes, write_message, write_varint_field,
    },
};
use crate::{
    domain::access::EffectiveAccess,
    grpc::{convert::ext_authz::to_denied, sidecar::conclude},
    pb::envoy::config::core::v3::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd,
    proxy_auth::{
        credential::{Credential, Credentials},
        query::{AuthorizationQuery, ParsedQuery},
        route::{Preflight, RouteSettings, SETTINGS},
        source::FORWARDED_FOR,
        verdict::{Pass, Refused, Verdict, is_reserved},
    },
};

/// How many settings of a route are kept. No more exist.
const MAX_SETTINGS: usize = SETTINGS.len();
/// The nesting limit of metadata.
const MAX_NESTING: u8 = 16;

/// The fields of a `CheckRequest` that the check needs.
#[derive(Default)]
pub struct CheckFields<'m> {
    settings: [(&'m str, &'m str); MAX_SETTINGS],
    settings_count: usize,
    /// The HTTP method, empty if there is none.
    pub method: &'m str,
    /// The path, None if the message holds no HTTP request.
    pub target: Option<&'m str>,
    /// The credentials in the headers.
    pub credentials: Credentials<'m>,
    /// Whether the client sent a header that only the check may set.
    pub has_reserved: bool,
    /// The address that Envoy was called from; empty if it states none.
    pub peer: &'m str,
    has_source: bool,
    /// The addresses that the proxies in front of Envoy state.
    pub forwarded_for: Option<&'m [u8]>,
    /// Whether that header occurs several times; then only the last one is there.
    pub has_forwarded_twice: bool,
}

impl<'m> CheckFields<'m> {
    /// Parses a `CheckRequest`. None if it is malformed, or has fields that the fast path
    /// does not handle.
    pub fn parse(message: &'m [u8]) -> Option<Self> {
        let mut fields = Self::default();
        for_each_field(message, |Field { tag, content }| match tag {
            ATTRIBUTES => fields.attributes(content),
            _ => None,
        })?;
        Some(fields)
    }

    /// The settings of the route, in the order of the message.
    pub fn settings(&self) -> &[(&'m str, &'m str)] {
        &self.settings[..self.settings_count]
    }

    fn attributes(&mut self, message: &'m [u8]) -> Option<()> {
        for_each_field(message, |Field { tag, content }| match tag {
            SOURCE => self.source(content),
            DESTINATION => check_shape(&PEER, content, MAX_NESTING),
            REQUEST => self.request(content),
            CONTEXT_EXTENSIONS => {
                let (name, value) = map_entry(content)?;
                let setting = (from_utf8(name).ok()?, from_utf8(value).ok()?);
                *self.settings.get_mut(self.settings_count)? = setting;
                self.settings_count += 1;
                Some(())
            }
            METADATA_CONTEXT | ROUTE_METADATA_CONTEXT => {
                check_shape(&METADATA, content, MAX_NESTING)
            }
            TLS_SESSION => check_shape(&TLS, content, MAX_NESTING),
            _ => None,
        })
    }

    /// The source, once: several are merged on the slow path.
    fn source(&mut self, message: &'m [u8]) -> Option<()> {
        check_shape(&PEER, message, MAX_NESTING)?;
        if std::mem::replace(&mut self.has_source, true) {
            return None;
        }
        let (mut address, mut socket, mut pipe, mut text) = (None, None, None, None);
        only(message, ADDRESS_OF_PEER, &mut address)?;
        let address = address.unwrap_or_default();
        only(address, SOCKET, &mut socket)?;
        only(address, PIPE_ADDRESS, &mut pipe)?;
        if pipe.is_some() {
            // In the place of the socket, or after it.
            return None;
        }
        only(socket.unwrap_or_default(), ADDRESS_OF_SOCKET, &mut text)?;
        self.peer = from_utf8(text.unwrap_or_default()).ok()?;
        Some(())
    }

    fn request(&mut self, message: &'m [u8]) -> Option<()> {
        for_each_field(message, |Field { tag, content }| match tag {
            TIME => check_shape(&TIMESTAMP, content, MAX_NESTING),
            HTTP => self.http(content),
            _ => None,
        })
    }

    fn http(&mut self, message: &'m [u8]) -> Option<()> {
        self.target.get_or_insert("");
        for_each_field(message, |Field { tag, content }| match tag {
            HEADERS => {
                let (name, value) = map_entry(content)?;
                self.header(name, value);
                Some(())
            }
            HEADER_MAP => for_each_field(content, |Field { tag, content }| match tag {
                HEADER_MAP_HEADERS => {
                    let (name, value) = header_value(content)?;
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
        if name.eq_ignore_ascii_case(FORWARDED_FOR.as_bytes()) {
            self.has_forwarded_twice |= self.forwarded_for.replace(value).is_some();
        }
    }
}

/// Finds the content of the only field with that tag, if there is one. None if there are
/// several; they would have to be merged.
fn only<'m>(message: &'m [u8], wanted: u8, found: &mut Option<&'m [u8]>) -> Option<()> {
    for_each_field(message, |Field { tag, content }| {
        if tag == wanted && found.replace(content).is_some() {
            return None;
        }
        Some(())
    })
}

/// Visits each field of a message. None if a field is malformed, or `visit` returns None.
fn for_each_field<'m>(
    mut message: &'m [u8],
    mut visit: impl FnMut(Field<'m>) -> Option<()>,
) -> Option<()> {
    while !message.is_empty() {
        let (field, rest) = field(message)?;
        visit(field)?;
        message = rest;
    }
    Some(())
}

/// Whether a field is UTF-8. The check for ASCII is faster, and nearly always succeeds.
fn is_text(content: &[u8]) -> bool {
    content.is_ascii() || from_utf8(content).is_ok()
}

/// An entry of a map of strings.
fn map_entry(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut value) = (&[][..], &[][..]);
    for_each_field(message, |Field { tag, content }| {
        match tag {
            FIRST => name = content,
            SECOND => value = content,
            _ => return None,
        }
        is_text(content).then_some(())
    })?;
    Some((name, value))
}

/// A `HeaderValue`: `raw_value` takes precedence over `value`.
fn header_value(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut name, mut value, mut raw) = (&[][..], &[][..], &[][..]);
    for_each_field(message, |Field { tag, content }| {
        match tag {
            FIRST => name = content,
            SECOND => value = content,
            THIRD => raw = content,
            _ => return None,
        }
        (tag == THIRD || is_text(content)).then_some(())
    })?;
    Some((name, if raw.is_empty() { value } else { raw }))
}

// The tags of the fields: the field number and the wire type.
const FIRST: u8 = tag(1, LEN);
const SECOND: u8 = tag(2, LEN);
const THIRD: u8 = tag(3, LEN);
const ATTRIBUTES: u8 = FIRST;
const SOURCE: u8 = FIRST;
const DESTINATION: u8 = SECOND;
const ADDRESS_OF_PEER: u8 = FIRST;
const SOCKET: u8 = FIRST;
const PIPE_ADDRESS: u8 = SECOND;
const ADDRESS_OF_SOCKET: u8 = SECOND;
const REQUEST: u8 = tag(4, LEN);
const CONTEXT_EXTENSIONS: u8 = tag(10, LEN);
const METADATA_CONTEXT: u8 = tag(11, LEN);
const TLS_SESSION: u8 = tag(12, LEN);
const ROUTE_METADATA_CONTEXT: u8 = tag(13, LEN);
const TIME: u8 = FIRST;
const HTTP: u8 = SECOND;
const ID: u8 = FIRST;
const METHOD: u8 = SECOND;
const HEADERS: u8 = THIRD;
const PATH: u8 = tag(4, LEN);
const HOST: u8 = tag(5, LEN);
const SCHEME: u8 = tag(6, LEN);
const QUERY: u8 = tag(7, LEN);
const FRAGMENT: u8 = tag(8, LEN);
const SIZE: u8 = tag(9, VARINT);
const PROTOCOL: u8 = tag(10, LEN);
const BODY: u8 = tag(11, LEN);
const RAW_BODY: u8 = tag(12, LEN);
const HEADER_MAP: u8 = tag(13, LEN);
const HEADER_MAP_HEADERS: u8 = FIRST;

/// The field types of a message that is only validated, in the order of the field numbers.
type Shape = [FieldType];

enum FieldType {
    /// Any type that is encoded as a varint.
    Varint,
    /// A field of eight bytes.
    Double,
    Text,
    Nested(&'static Shape),
}

use FieldType::{Double, Nested, Text, Varint};

static PEER: [FieldType; 5] = [Nested(&ADDRESS), Text, Nested(&TEXT_ENTRY), Text, Text];
static ADDRESS: [FieldType; 2] = [Nested(&SOCKET_ADDRESS), Nested(&PIPE)];
static SOCKET_ADDRESS: [FieldType; 3] = [Varint, Text, Varint];
static PIPE: [FieldType; 1] = [Text];
static TEXT_ENTRY: [FieldType; 2] = [Text, Text];
static TIMESTAMP: [FieldType; 2] = [Varint, Varint];
static TLS: [FieldType; 1] = [Text];
static METADATA: [FieldType; 1] = [Nested(&STRUCT_ENTRY)];
static STRUCT_ENTRY: [FieldType; 2] = [Text, Nested(&STRUCT)];
static STRUCT: [FieldType; 1] = [Nested(&VALUE_ENTRY)];
static VALUE_ENTRY: [FieldType; 2] = [Text, Nested(&VALUE)];
static VALUE: [FieldType; 6] = [Varint, Double, Text, Varint, Nested(&STRUCT), Nested(&LIST)];
static LIST: [FieldType; 1] = [Nested(&VALUE)];

/// Whether prost would decode a message of that shape.
fn check_shape(shape: &Shape, message: &[u8], depth: u8) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    for_each_field(
        message,
        |Field {
             tag: found,
             content,
         }| {
            let number = found >> 3;
            let field_type = shape.get(usize::from(number).checked_sub(1)?)?;
            let (expected, is_valid) = match field_type {
                Varint => (VARINT, true),
                Double => (I64, true),
                Text => (LEN, is_text(content)),
                Nested(shape) => (LEN, check_shape(shape, content, depth).is_some()),
            };
            (is_valid && found == tag(number, expected)).then_some(())
        },
    )
}

impl FastIntrospector<'_> {
    /// Answers a `CheckRequest` immediately if it can, and appends the framed response.
    /// Otherwise it leaves `reply` as it was and returns false.
    pub(super) fn try_check(&self, message: &[u8], reply: &mut Vec<u8>) -> bool {
        write_framed(reply, |reply| write(&self.verdict(message)?, reply))
    }

    fn verdict(&self, message: &[u8]) -> Option<Verdict> {
        let fields = CheckFields::parse(message)?;
        // The slow path reports the mistake.
        let settings = RouteSettings::read(fields.settings().iter().copied()).ok()?;
        if settings.preflight == Preflight::Passes && fields.method == "OPTIONS" {
            // The slow path decides whether it is a preflight.
            return None;
        }
        let credential = fields.credentials.credential();
        if credential == Credential::Several {
            // Of two entries of a map with the same key, only the last one counts; the slow
            // path decodes the map.
            return None;
        }
        let hops = self.services.trusted_hops();
        if !hops.is_envoy_first() && fields.has_forwarded_twice {
            return None;
        }
        let source = hops.behind_envoy(fields.peer, fields.forwarded_for.into_iter());
        let query = AuthorizationQuery {
            source,
            settings: Ok(settings),
            is_preflight: false,
            target: fields.target,
            credential,
        };
        let (need, presented) = match query.parse() {
            Ok(ParsedQuery::Judge(need, presented)) => (need, presented),
            Ok(ParsedQuery::Preflight) | Err(Refused::Misconfigured(_)) => return None,
            Err(refused) => return Some(Verdict::Refused(refused)),
        };
        if fields.has_reserved {
            // The slow path removes such headers. This comes before the judgement, which
            // records a use of the token.
            return None;
        }
        let decide = |access: &EffectiveAccess| need.decide(access);
        let judged = self.services.judge(&self.view, &presented, source, decide);
        let judged = judged.ok()??;
        Some(conclude(&judged, need))
    }
}

/// Writes a `CheckResponse` as prost does. None if the slow path must answer.
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
                write_varint_field(reply, 3, int32(OverwriteIfExistsOrAdd.into()));
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
