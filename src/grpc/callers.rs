//! Callers: finds the service account of a token or certificate, and checks its permission.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Management, Origin, Services,
    context::{Caller, Proof},
    error::ApiError,
};
use crate::{
    domain::caller::{CallerPermission, ServiceAccount},
    store::Transaction,
    transport::tls::Peer,
};

impl Services {
    /// The caller with these credentials, if it has the permission.
    ///
    /// # Errors
    /// If the caller is unknown, lacks the permission, or cannot be looked up.
    pub(crate) async fn authenticate_caller(
        &self,
        proof: Option<Proof>,
        needed: Option<CallerPermission>,
        wait_until: Instant,
    ) -> Result<Caller, ApiError> {
        let proof = proof.ok_or(ApiError::CallerUnknown)?;
        let account = self.find_caller(&proof, needed, wait_until).await?;
        match needed {
            Some(permission) if !account.may(permission) => {
                Err(ApiError::CallerNotPermitted(permission))
            }
            _ => Ok(Caller { account, proof }),
        }
    }

    async fn find_caller(
        &self,
        proof: &Proof,
        needed: Option<CallerPermission>,
        wait_until: Instant,
    ) -> Result<Arc<ServiceAccount>, ApiError> {
        // A stale index may have outdated callers. That is acceptable for introspection,
        // since a stale index answers no token as active. Everything else needs the
        // database anyway.
        let introspects = needed == Some(CallerPermission::Introspect);
        let view = self.index.loaded_view(wait_until).await?;
        let fresh = view.require_fresh();
        let known = proof.account(view.index().callers(), || view.now).cloned();
        drop(view);
        if let (false, Err(stale)) = (introspects, fresh) {
            let Origin::Database(store) = &self.origin else {
                return Err(stale.into());
            };
            let account = match proof {
                Proof::Token(token) => store.find_caller(*token).await?,
                Proof::Certificate(Peer(names)) => store.find_named_caller(names).await?,
            };
            return account.map(Arc::new).ok_or(ApiError::CallerUnknown);
        }
        if let Some(account) = known {
            return Ok(account);
        }
        // It may have been created a moment ago.
        self.index.refresh(wait_until).await?;
        let view = self.index.view()?;
        if let Some(account) = proof.account(view.index().callers(), || view.now) {
            return Ok(Arc::clone(account));
        }
        // The database answered, but it may not be the one that takes the writes: there, the
        // account may exist.
        view.require_fresh()?;
        Err(ApiError::CallerUnknown)
    }
}

impl Management {
    /// Refuses a caller that was revoked after it was authenticated, while its message came or
    /// its transaction waited for others.
    ///
    /// # Errors
    /// If its credentials are no longer those of its account.
    pub(super) async fn check_caller(
        &self,
        Caller { account, proof }: &Caller,
        tx: &mut Transaction,
    ) -> Result<(), ApiError> {
        let view = self.index.view().ok();
        // Changes of API clients that the index has yet to take in do not count.
        let fresh = view.filter(|view| !view.stays_fresh_for().is_zero());
        let is_still = if let Some(view) = fresh {
            proof.is_still(account, view.index().callers(), || view.now)
        } else {
            let found = match proof {
                Proof::Token(token) => tx.find_caller(*token).await?,
                Proof::Certificate(Peer(names)) => tx.find_named_caller(names).await?,
            };
            found.is_some_and(|found| found.id == account.id)
        };
        if is_still {
            Ok(())
        } else {
            Err(ApiError::CallerUnknown)
        }
    }
}
