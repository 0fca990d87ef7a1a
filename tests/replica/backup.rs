//! A connection over which a server's log is received, and no commit is acknowledged: that of a
//! backup.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{nodes::Node, support::proxy::Messages};

/// The version of Postgres' protocol, 3.0.
const VERSION: u32 = 3 << 16;

/// Connects to a server for its log.
pub async fn receive_log(of: &Node) -> UnixStream {
    let mut startup = VERSION.to_be_bytes().to_vec();
    startup.extend(b"user\0postgres\0replication\0true\0application_name\0backup\0\0");
    let length = u32::try_from(startup.len() + 4).unwrap();
    let mut receiver = UnixStream::connect(of.socket()).await.unwrap();
    receiver.write_all(&length.to_be_bytes()).await.unwrap();
    receiver.write_all(&startup).await.unwrap();
    let mut answers = Messages::default();
    loop {
        match answers.next() {
            Some(answer) if answer[0] == b'Z' => return receiver,
            Some(answer) => assert_ne!(answer[0], b'E', "{}", answer.escape_ascii()),
            None => assert_ne!(receiver.read_buf(&mut answers.buffer).await.unwrap(), 0),
        }
    }
}
