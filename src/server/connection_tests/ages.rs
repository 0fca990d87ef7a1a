//! The maximum age of connections, over in-memory streams and with a paused clock.

use tokio::io::AsyncWriteExt;

use super::*;

const GOAWAY: u8 = 7;
const AGE: Duration = Duration::from_mins(10);

/// Waits for the GOAWAY, and returns how long it took; pings are answered.
async fn wait_for_goaway(peer: &mut RawClient) -> Duration {
    let begun = Instant::now();
    loop {
        let (kind, flags, _, content) =
            peer.frame().await.expect("the GOAWAY comes before the end");
        if kind == GOAWAY {
            // NO_ERROR (RFC 9113, section 6.8).
            assert_eq!(content[4..8], [0; 4]);
            return begun.elapsed();
        }
        pong(peer, kind, flags, &content).await;
    }
}

async fn pong(peer: &mut RawClient, kind: u8, flags: u8, content: &[u8]) {
    if kind == PING && flags & ACK == 0 {
        let head = [0, 0, 8, PING, ACK, 0, 0, 0, 0];
        peer.writes
            .write_all(&[&head[..], content].concat())
            .await
            .ok();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_its_age_and_its_calls_do_not() {
    let (mut connections, _usage) = connections_of_age(Some(AGE));
    let mut peer = RawClient::connect(&mut connections).await;
    let begun = Instant::now();
    peer.call(STREAM).await;
    let after = wait_for_goaway(&mut peer).await;
    let range = AGE.mul_f64(0.9)..=AGE.mul_f64(1.1);
    assert!(range.contains(&after), "{after:?}");
    // A call that crossed with the GOAWAY is answered, and so is the one before. The stream
    // has its grace period.
    peer.call(WAIT).await;
    let (mut late, mut stream) = (false, false);
    while !late {
        let (kind, flags, call, content) = peer.frame().await.expect("it goes on");
        pong(&mut peer, kind, flags, &content).await;
        let ends = kind <= HEADERS && flags & END_STREAM != 0;
        late |= ends && call == 3;
        stream |= ends && call == 1;
    }
    assert!(!stream && begun.elapsed() >= after + SLOW);
    // The services end it then, which its peer cannot learn as long as it does not read.
    peer.answer_pings().await;
    let end = begun.elapsed();
    let least = after + TIMEOUTS.grace + TIMEOUTS.stalled;
    assert!(
        (least..=least + TIMEOUTS.stalled / 2).contains(&end),
        "{end:?}"
    );
}

/// No call was ever begun, so there is nothing to wait for.
#[tokio::test(start_paused = true)]
async fn an_unused_connection_ends_at_its_age() {
    let (mut connections, _usage) = connections_of_age(Some(AGE));
    let mut peer = RawClient::connect(&mut connections).await;
    let begun = Instant::now();
    peer.answer_pings().await;
    let range = AGE.mul_f64(0.9)..=AGE.mul_f64(1.1) + UNUSED_CLOSE_TIMEOUT * 3;
    assert!(range.contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn retiring_a_connection_notifies_its_streams() {
    let activity = Arc::new(Activity::default());
    let mut retired = activity.retired();
    assert!(!*retired.borrow_and_update());
    activity.retire();
    retired.changed().await.unwrap();
    assert!(*retired.borrow());
}
