//! Callers: which service account a token or a certificate shows, and whether that
//! may ask for something.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Services,
    context::{Caller, Proof},
    error::ApiError,
};
use crate::{
    domain::caller::{CallerPermission, ServiceAccount},
    transport::tls::Peer,
};

impl Services {
    /// The caller that shows that, where it has the permission that is needed, if one
    /// is.
    ///
    /// # Errors
    /// Where there is none, it may not, or it cannot be told.
    pub(crate) async fn prove_caller(
        &self,
        shown: Option<Proof>,
        needed: Option<CallerPermission>,
        give_up: Instant,
    ) -> Result<Caller, ApiError> {
        let proof = shown.ok_or(ApiError::CallerUnknown)?;
        let account = self.find_caller(&proof, needed, give_up).await?;
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
        give_up: Instant,
    ) -> Result<Arc<ServiceAccount>, ApiError> {
        // An old index knows the callers of long ago. For introspection that will do,
        // because from an old index no token is answered as active; everything else
        // needs the database anyway.
        let introspects = needed == Some(CallerPermission::Introspect);
        let view = self.replica.loaded_view(give_up).await?;
        let is_fresh = view.require_fresh().is_ok();
        let known = proof.account(view.index().callers()).cloned();
        drop(view);
        if !introspects && !is_fresh {
            let account = match proof {
                Proof::Token(token) => self.store.find_caller(*token).await?,
                Proof::Certificate(Peer(names)) => self.store.find_named_caller(names).await?,
            };
            return account.map(Arc::new).ok_or(ApiError::CallerUnknown);
        }
        if let Some(account) = known {
            return Ok(account);
        }
        // Perhaps it was made a moment ago.
        self.replica.ask(give_up).await?;
        let view = self.replica.view()?;
        if let Some(account) = proof.account(view.index().callers()) {
            return Ok(Arc::clone(account));
        }
        // The database answered, but it may not be the one that takes the writes: there, the
        // account may exist.
        view.require_fresh()?;
        Err(ApiError::CallerUnknown)
    }
}
