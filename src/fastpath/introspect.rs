//! `Introspect`, and in [`check`](super::check) Envoy's question, without what most calls do not
//! need: the request is read where it lies, and the reply written once, as it goes
//! over the wire.
//!
//! Only for calls that can be answered at once and with success. Everything else,
//! such as a field that is wrong, a token that the index does not know, or a
//! revision to wait for, is left to the usual way, so that there is one way to
//! fail. What is answered is decided in the same place for both.

use super::wire::{
    ID_BYTES, LENGTH, bytes, int32, key, varint, write_bytes, write_id, write_number, write_pair,
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
        introspection::{Judgement, PresentedToken},
    },
    pb,
    replica::View,
};

/// The longest request that is read here. One with everything in it is a third of
/// that.
const MAX_REQUEST_BYTES: usize = 512;

/// A request as it lies in a message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read<'m> {
    token: &'m [u8],
    check: Option<(&'m [u8], &'m [u8])>,
    at_least: Option<u64>,
}

/// The index as it is at one moment, to answer what has come in by then.
pub(super) struct AtOnce<'s> {
    pub(super) services: &'s Services,
    pub(super) view: View,
}

impl<'s> AtOnce<'s> {
    /// As the index is now; `None` before there is one.
    pub(super) fn now(services: &'s Services) -> Option<Self> {
        let view = services.replica().view().ok()?;
        Some(Self { services, view })
    }

    /// Answers a message that was framed, where that can be done at once: appends
    /// the framed reply. Otherwise leaves `reply` as it was, and says so.
    pub(crate) fn answer(&self, message: &[u8], reply: &mut Vec<u8>) -> bool {
        framed(reply, |reply| self.try_answer(message, reply))
    }

    fn try_answer(&self, message: &[u8], reply: &mut Vec<u8>) -> Option<()> {
        let read = read(message)?;
        let check = match read.check {
            Some((site, permission)) => Some(permission_check(site, permission)?),
            None => None,
        };
        let revision = self.view.index().revision;
        if read.at_least.is_some_and(|wanted| revision.0 < wanted) {
            return None;
        }
        let presented = PresentedToken::read(std::str::from_utf8(read.token).ok()?);
        let judged = self.services.judge(&self.view, &presented, check);
        let judged = judged.ok()??;
        write(&judged, revision, check.is_some(), reply);
        Some(())
    }
}

/// Appends what is written in its frame, and says so; nothing where that is `None`.
pub(super) fn framed(reply: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> bool {
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

/// Reads a request, in whatever order its fields come. `None` for what is not
/// usual: a field twice, or one that is not known.
fn read(message: &[u8]) -> Option<Read<'_>> {
    if message.len() > MAX_REQUEST_BYTES {
        return None;
    }
    let mut read = Read::default();
    let mut seen = 0_u8;
    let mut rest = message;
    while let Some((key, after)) = rest.split_first() {
        let field = key >> 3;
        // Each once.
        let bit = 1_u8.checked_shl(field.into())?;
        if seen & bit != 0 {
            return None;
        }
        seen |= bit;
        rest = match key {
            0x0a => {
                let (token, after) = bytes(after)?;
                read.token = token;
                after
            }
            0x12 => {
                let (check, after) = bytes(after)?;
                read.check = Some(read_check(check)?);
                after
            }
            0x18 => {
                let (revision, after) = varint(after)?;
                read.at_least = Some(revision);
                after
            }
            _ => return None,
        };
    }
    Some(read)
}

fn read_check(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut site, mut permission) = (None, None);
    let mut rest = message;
    while let Some((key, after)) = rest.split_first() {
        let (text, after) = bytes(after)?;
        let place = match key {
            0x0a => &mut site,
            0x12 => &mut permission,
            _ => return None,
        };
        if place.replace(text).is_some() {
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

/// Writes the fields of an `IntrospectResponse` in the order of their numbers,
/// those with their default left out: as prost does.
fn write(judged: &Judgement<'_>, revision: Revision, checked: bool, reply: &mut Vec<u8>) {
    match judged {
        Judgement::Inactive(reason) => {
            write_number(
                reply,
                2,
                int32(convert::introspection::to_reason(*reason).into()),
            );
            write_number(reply, 9, revision.0);
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
            write_number(reply, 1, 1);
            write_id(reply, 3, client.client.uuid());
            write_bytes(reply, 4, client.name.as_bytes());
            write_access(client, reply);
            write_number(reply, 9, revision.0);
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
    reply.extend_from_slice(&[key(5, LENGTH), 2 + ID_BYTES]);
    write_id(reply, field, id);
    let role = convert::to_instance_role(client.access.instance_role);
    write_number(reply, 6, int32(role.into()));
    for (site, role) in client.access.grants.iter() {
        // The site's id, and a role, whose number is below 128.
        reply.extend_from_slice(&[key(7, LENGTH), 2 + ID_BYTES + 2]);
        write_id(reply, 1, site.uuid());
        write_number(reply, 2, int32(convert::to_site_role(*role).into()));
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
