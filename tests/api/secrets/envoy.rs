//! What Envoy asks, with tokens where they belong and where they do not.

use super::Run;
use crate::{
    fixtures::SITE,
    harness::Caller,
    sidecars::envoy::{Sending, asking},
};

impl Run {
    /// Asks for a request with the token in every place that there is.
    pub async fn show_to_envoy(&self, sidecar: &Caller, token: &str) {
        let bearer = format!("Bearer {token}");
        // Envoy gets the names of the headers to remove, in lower case: so a legacy token
        // would be in the answer.
        let spoofed = format!("x-hitkeep-{}", &token[..40]);
        for settings in [
            vec![],
            vec![("site_id", SITE), ("permission", "site.delete")],
            vec![("permission", token)],
            vec![("site_id", token)],
            vec![("site_path", token)],
            vec![("human_only", token)],
            vec![(token, "site.view")],
            vec![("site_path", "/{site_id}")],
        ] {
            let path = format!("/{token}?token={token}");
            for request in [
                asking(&settings, &path).bearing(token),
                asking(&settings, &path).with([("x-api-key", token), (&spoofed, "1")]),
                asking(&settings, &path).with_raw([("authorization", bearer.as_str())]),
            ] {
                // The settings are the operator's, who has no token there.
                let mut shown = request.clone();
                shown
                    .attributes
                    .as_mut()
                    .unwrap()
                    .context_extensions
                    .clear();
                self.said.note("a check", format!("{shown:?} {shown:#?}"));
                self.said
                    .note("its parts", format!("{:?}", shown.attributes));
                self.said.note("its parts", format!("{:#?}", shown.http()));
                let answer = sidecar.check(request).await.unwrap();
                self.said.note("Check", format!("{answer:?} {answer:#?}"));
            }
        }
    }
}
