//! Listening for notifications.

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::{ANSWER_TIMEOUT, CHANNEL, within};
use crate::store::{Store, error::StoreError, wire::Driver};

/// A connection that receives notifications, which do not contain what changed.
pub struct NotificationListener {
    driver: Driver,
    _client: Client,
}

impl Store {
    /// Connects a listener, which calls `on_notification` for each notification. The
    /// callback must not block: a listener that does not read keeps Postgres from trimming
    /// its notification queue.
    pub async fn listen(
        &self,
        on_notification: impl Fn() + Send + 'static,
    ) -> Result<NotificationListener, StoreError> {
        let connected = async {
            let invalidated = self.connector.invalidation();
            let (client, mut connection) = self.connector.open().await?;
            let listening = async move {
                let mut messages =
                    futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
                loop {
                    match messages.try_next().await {
                        Ok(Some(tokio_postgres::AsyncMessage::Notification(_))) => {
                            on_notification();
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => return,
                        Err(error) => {
                            tracing::debug!(%error, "the listener's connection ended");
                            return;
                        }
                    }
                }
            };
            let driver = Driver(tokio::spawn(async move {
                tokio::select! {
                    () = listening => {}
                    () = invalidated => {}
                }
            }));
            client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
            Ok(NotificationListener {
                driver,
                _client: client,
            })
        };
        within(self.connect_timeout() + ANSWER_TIMEOUT, connected).await
    }
}

impl NotificationListener {
    /// Waits until the connection has ended.
    pub async fn ended(&mut self) {
        // However the task ended, it listens no more.
        drop((&mut self.driver.0).await);
    }
}
