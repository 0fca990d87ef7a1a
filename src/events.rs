//! Delivers the events of the outbox to a webhook: `CloudEvents` in JSON, signed as Standard
//! Webhooks says.
//!
//! Of all processes on a database one delivers at a time. The events of a client arrive in
//! their order, and each at least once: a receiver must expect to see one again, and knows it
//! by its id. Events say what happened to which client, and never contain a token or a hash.

mod attempt;
mod deliverer;
mod endpoint;
mod message;
mod metrics;
mod signature;

pub use deliverer::{Deliverer, DeliveryOptions, SetupError, Webhook};
pub use endpoint::{BadEndpoint, Endpoint, PlainHttp};
pub use signature::{BadSecret, NoSecret, SecretSource, SigningKeys};
