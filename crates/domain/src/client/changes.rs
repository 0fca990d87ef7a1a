//! What an update changes, and what it widens.

use super::{ApiClient, rfc3339};
use crate::{
    Timestamp,
    access::SiteGrants,
    audit::FieldChange,
    id::SiteId,
    role::{InstanceRole, SiteRole},
};

/// What an update widens, and the actor must therefore be able to delegate.
pub(super) struct Widened {
    pub(super) instance_role: InstanceRole,
    pub(super) grants: SiteGrants,
}

impl ApiClient {
    /// The access that `next` has and this client does not.
    pub(super) fn widened_by(&self, next: &Self, now: Timestamp) -> Widened {
        let (old, new) = (&self.delegated, &next.delegated);
        let starts_earlier = next.activation < self.activation && !self.activation.has_come(now);
        let works_elsewhere = !self.sources.cover(&next.sources);
        if next.expiry > self.expiry || starts_earlier || works_elsewhere {
            let grants = new.grants().clone();
            return Widened {
                instance_role: new.instance_role(),
                grants,
            };
        }
        let instance_role = match new.instance_role() {
            role if role > old.instance_role() => role,
            _ => InstanceRole::User,
        };
        let wider = |(site, role): &(&SiteId, &SiteRole)| {
            old.grants().get(site).is_none_or(|before| before < role)
        };
        let grants = new
            .grants()
            .iter()
            .filter(wider)
            .map(|(site, role)| (*site, *role));
        Widened {
            instance_role,
            grants: grants.collect(),
        }
    }

    /// Every field that an actor can set, as the audit trail shows it: as changes from empty
    /// values.
    pub fn described(&self) -> Vec<FieldChange> {
        let mut fields = vec![
            FieldChange::new("name", "", self.name.as_str()),
            FieldChange::new("description", "", self.description.as_str()),
            FieldChange::new("instance_role", "", self.delegated.instance_role().as_str()),
            FieldChange::new(
                "expire_time",
                "",
                &self.expiry.time().map(rfc3339).unwrap_or_default(),
            ),
            FieldChange::new("allowed_cidrs", "", &self.sources.to_string()),
            FieldChange::new(
                "not_before_time",
                "",
                &self.activation.time().map(rfc3339).unwrap_or_default(),
            ),
        ];
        let grants = self.delegated.grants().iter();
        fields.extend(grants.map(|(site, role)| {
            FieldChange::new(&format!("site_grants[{site}]"), "", role.as_str())
        }));
        fields.retain(|field| !field.after.is_empty());
        fields
    }
}
