//! `Introspect` without what most calls do not need: the request is parsed in the read
//! buffer, and the response is written once, in wire format. [`check`](super::check) does
//! the same for Envoy.
//!
//! This handles only calls that can be answered immediately and successfully. Everything
//! else, such as an invalid field, a token that the index does not have, or a revision to
//! wait for, goes to the slow path, so there is one place for errors.

use super::wire::{
    ID_BYTES, ID_FIELD_BYTES, LEN, VARINT, bytes, id_field, int32, tag, varint, write_bytes,
    write_id, write_pair, write_varint_field,
};
use crate::{
    calls::message_buffer::PREFIX_BYTES,
    domain::{
        Revision,
        access::{Decision, Owner, PermissionCheck},
        introspection::ResolvedClient,
        role::{InstancePermission, SitePermission},
    },
    grpc::{
        Services, convert,
        introspection::{Judgement, PresentedToken, checks},
    },
    live_index::View,
    pb,
};

/// The longest request that is parsed here. One with all fields takes a third of that.
const MAX_REQUEST_BYTES: usize = 512;

/// The fields of an `IntrospectRequest`, borrowed from the message.
#[derive(Debug, Default, PartialEq, Eq)]
struct RequestFields<'m> {
    token: &'m [u8],
    check: Option<(&'m [u8], &'m [u8])>,
    at_least: Option<u64>,
    source: &'m [u8],
}

/// A snapshot of the index, for the requests that have arrived by then.
pub(super) struct FastIntrospector<'s> {
    pub(super) services: &'s Services,
    pub(super) view: View,
}

impl<'s> FastIntrospector<'s> {
    /// The current snapshot; None before the index is loaded.
    pub(super) fn snapshot(services: &'s Services) -> Option<Self> {
        let view = services.index().view().ok()?;
        Some(Self { services, view })
    }

    /// Answers a request immediately if it can, and appends the framed response. Otherwise
    /// it leaves `reply` as it was and returns false.
    pub(super) fn try_introspect(&self, message: &[u8], reply: &mut Vec<u8>) -> bool {
        write_framed(reply, |reply| self.write_answer(message, reply))
    }

    fn write_answer(&self, message: &[u8], reply: &mut Vec<u8>) -> Option<()> {
        let fields = parse(message)?;
        let check = match fields.check {
            Some((site, permission)) => Some(permission_check(site, permission)?),
            None => None,
        };
        let revision = self.view.index().revision();
        if fields.at_least.is_some_and(|wanted| revision.0 < wanted) {
            return None;
        }
        let source = std::str::from_utf8(fields.source).ok()?;
        // The slow path reports a text that is no address.
        let source = convert::introspection::read_source(source)?;
        let presented = PresentedToken::read(fields.token);
        if matches!(presented, PresentedToken::Unknown) {
            // The slow path refuses what is no text.
            std::str::from_utf8(fields.token).ok()?;
        }
        let judged = self
            .services
            .judge(&self.view, &presented, source, checks(check));
        let judged = judged.ok()??;
        write(&judged, revision, check.is_some(), reply);
        Some(())
    }
}

/// Appends the message that `write` writes, with its prefix, and returns whether there is
/// one.
pub(super) fn write_framed(
    reply: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
) -> bool {
    let start = reply.len();
    reply.extend_from_slice(&[0; PREFIX_BYTES]);
    let written = write(reply).and_then(|()| {
        let length = reply.len() - start - PREFIX_BYTES;
        u32::try_from(length).ok()
    });
    if let Some(length) = written {
        reply[start + 1..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    } else {
        reply.truncate(start);
    }
    written.is_some()
}

/// Parses a request, with its fields in any order. None if a field is unknown or occurs
/// twice.
fn parse(message: &[u8]) -> Option<RequestFields<'_>> {
    if message.len() > MAX_REQUEST_BYTES {
        return None;
    }
    let mut fields = RequestFields::default();
    let mut seen = 0_u8;
    let mut rest = message;
    while let Some((tag, after)) = rest.split_first() {
        let field = tag >> 3;
        // Each field once.
        let bit = 1_u8.checked_shl(field.into())?;
        if seen & bit != 0 {
            return None;
        }
        seen |= bit;
        rest = match tag {
            0x0a => {
                let (token, after) = bytes(after)?;
                fields.token = token;
                after
            }
            0x12 => {
                let (check, after) = bytes(after)?;
                fields.check = Some(parse_check(check)?);
                after
            }
            0x18 => {
                let (revision, after) = varint(after)?;
                fields.at_least = Some(revision);
                after
            }
            0x22 => {
                let (source, after) = bytes(after)?;
                fields.source = source;
                after
            }
            _ => return None,
        };
    }
    Some(fields)
}

fn parse_check(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut site, mut permission) = (None, None);
    let mut rest = message;
    while let Some((tag, after)) = rest.split_first() {
        let (text, after) = bytes(after)?;
        let slot = match tag {
            0x0a => &mut site,
            0x12 => &mut permission,
            _ => return None,
        };
        if slot.replace(text).is_some() {
            return None;
        }
        rest = after;
    }
    Some((site.unwrap_or_default(), permission?))
}

fn permission_check(site: &[u8], permission: &[u8]) -> Option<PermissionCheck> {
    let permission = std::str::from_utf8(permission).ok()?;
    if site.is_empty() {
        let permission: InstancePermission = permission.parse().ok()?;
        return Some(PermissionCheck::Instance(permission));
    }
    let permission: SitePermission = permission.parse().ok()?;
    let site = std::str::from_utf8(site).ok()?.parse().ok()?;
    Some(PermissionCheck::Site { site, permission })
}

/// Writes an `IntrospectResponse` as prost does: in the order of the field numbers, without
/// default values.
fn write(judged: &Judgement<'_>, revision: Revision, checked: bool, reply: &mut Vec<u8>) {
    match judged {
        Judgement::Inactive(reason) => {
            write_varint_field(
                reply,
                2,
                int32(convert::introspection::to_reason(*reason).into()),
            );
            write_varint_field(reply, 9, revision.0);
            if checked {
                write_decision(
                    reply,
                    convert::introspection::to_decision(Decision::Inactive),
                );
            }
        }
        Judgement::Active {
            client,
            cache_age,
            decision,
            ..
        } => {
            write_varint_field(reply, 1, 1);
            write_id(reply, 3, client.client.uuid());
            write_bytes(reply, 4, client.name.as_bytes());
            write_access(client, reply);
            write_varint_field(reply, 9, revision.0);
            let seconds = cache_age.num_seconds().cast_unsigned();
            write_pair(reply, 10, seconds, int32(cache_age.subsec_nanos()));
            if let Some(decision) = decision {
                write_decision(reply, convert::introspection::to_decision(*decision));
            }
        }
    }
}

fn write_access(client: &ResolvedClient, reply: &mut Vec<u8>) {
    let (field, id) = match client.owner {
        Owner::User(id) => (1, id.uuid()),
        Owner::Team(id) => (2, id.uuid()),
    };
    reply.extend_from_slice(&[tag(5, LEN), 2 + ID_BYTES]);
    write_id(reply, field, id);
    let role = convert::to_instance_role(client.access.instance_role);
    write_varint_field(reply, 6, int32(role.into()));
    for (site, role) in client.access.grants.iter() {
        // The site's id, and a role. Written at once, since most of an answer are grants.
        let role = i32::from(convert::to_site_role(*role));
        let role = u8::try_from(role).expect("the number of a role is below 128");
        let mut grant = [0; 2 + ID_FIELD_BYTES + 2];
        grant[..2].copy_from_slice(&[tag(7, LEN), 2 + ID_BYTES + 2]);
        grant[2..][..ID_FIELD_BYTES].copy_from_slice(&id_field(1, site.uuid()));
        grant[2 + ID_FIELD_BYTES..].copy_from_slice(&[tag(2, VARINT), role]);
        reply.extend_from_slice(&grant);
    }
    if let Some(time) = client.expiry.time() {
        let time = convert::to_timestamp(time);
        let seconds = time.seconds.cast_unsigned();
        write_pair(reply, 8, seconds, int32(time.nanos));
    }
}

fn write_decision(reply: &mut Vec<u8>, decision: pb::Decision) {
    write_pair(reply, 11, decision.allowed.into(), int32(decision.reason));
}
