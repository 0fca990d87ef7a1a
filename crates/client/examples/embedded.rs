//! Judges tokens by a copy of the index inside of the program, one on each line of the standard
//! input. The service account needs the permission `replicate`.
//!
//! ```console
//! $ HITKEEP_AUTH_CALLER_TOKEN=hks_… cargo run -p hitkeep-auth-client --example embedded
//! hkp_…
//! user:… may see the system: false
//! ```

use hitkeep_auth_client::{
    Authenticator, CallerToken, Client, EmbeddedOptions, Error, InstancePermission, PermissionCheck,
};

/// What is said about a token.
pub async fn judge(authenticator: &Authenticator, token: &str) -> String {
    let permission = PermissionCheck::Instance(InstancePermission::ViewSystem);
    match authenticator.authenticate(token).await {
        Ok(principal) => {
            let can = principal.can(permission);
            format!("{} may see the system: {can}", principal.owner())
        }
        Err(Error::Inactive(reason)) => format!("it does not work: {reason}"),
        // Nothing is known against the token.
        Err(Error::Unavailable(cause)) => format!("no answer: {cause}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::main]
#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it is a program of its own"
)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let token = std::env::var("HITKEEP_AUTH_CALLER_TOKEN")?;
    let client = Client::builder("http://127.0.0.1:50051")
        .caller_token(CallerToken::new(&token)?)
        // Only on one machine: it would be readable on a network.
        .allow_plaintext()
        .build()?;
    let authenticator = Authenticator::embedded(&client, EmbeddedOptions::default());
    authenticator.ready().await;
    for line in std::io::stdin().lines() {
        let said = judge(&authenticator, &line?).await;
        println!("{said}");
    }
    // So that no use is lost.
    authenticator.finish().await;
    Ok(())
}
