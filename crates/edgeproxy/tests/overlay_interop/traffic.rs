//! Much through the tunnel, also while something changes beneath.

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::stage;
use crate::tunnel::{MIB, Plan, THEIR_PORT, Tunnel, shown, transfer, until};

pub(crate) const WE_KNOW: &str = "Endpoint = 127.0.0.1:51821";

/// What is lost where two machines send more than one of them can take.
const LOST_BY_LOAD: [&str; 2] = ["network_full", "replayed"];

pub(crate) async fn we_initiate() -> io::Result<()> {
    let tunnel = Tunnel::start(Plan { our_peer: WE_KNOW, ..Plan::default() }).await?;
    let before = shown(&tunnel.pop).await?;
    assert_eq!(before["peers"][0]["last_handshake_s"], Value::Null);

    let started = Instant::now();
    let (mut client, mut server) = tunnel.connect().await?;
    println!("a backend reached in {:?}, the handshake included", started.elapsed());
    client.send(b"hello").await?;
    assert_eq!(server.receive(5).await?, b"hello");
    const BYTES: u64 = 100 * MIB;
    let took = transfer(client, server, BYTES, Duration::from_secs(100)).await?;
    println!("100 MiB each way in {took:?}");

    let after = shown(&tunnel.pop).await?;
    let peer = &after["peers"][0];
    assert!(peer["bytes_sent"].as_u64() > Some(BYTES) && peer["bytes_received"].as_u64() > Some(BYTES), "{peer}");
    assert!(peer["last_handshake_s"].as_f64().is_some() && tunnel.theirs.latest_handshake() > 0, "{peer}");
    println!("lost: {}", losses(&after));
    for (cause, count) in after["lost"].as_object().unwrap() {
        let rising = *count != before["lost"][cause];
        assert!(!rising || LOST_BY_LOAD.contains(&cause.as_str()), "{cause}: {count}");
    }
    tunnel.stop().await
}

/// Those that there were, in words.
pub(crate) fn losses(shown: &Value) -> String {
    let all = shown["lost"].as_object().unwrap().iter().filter(|(_, count)| **count != 0);
    let all: Vec<String> = all.map(|(cause, count)| format!("{cause} {count}")).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

pub(crate) async fn a_transfer_outlives_roaming() -> io::Result<()> {
    const MOVES: u16 = 3;
    let tunnel = Tunnel::start(Plan { our_peer: WE_KNOW, ..Plan::default() }).await?;
    let (client, server) = tunnel.connect().await?;
    let received =
        || async { io::Result::Ok(shown(&tunnel.pop).await?["peers"][0]["bytes_received"].as_u64().unwrap()) };
    let moves = async {
        for number in 1..=MOVES {
            let (port, from) = (THEIR_PORT + number, received().await?);
            let endpoint = format!("127.0.0.1:{port}");
            let on_its_way = |shown: &Value| (shown["peers"][0]["bytes_received"].as_u64()? > from + MIB).then_some(());
            until(&tunnel.pop, "a transfer on its way", Duration::from_secs(60), on_its_way).await?;
            tunnel.theirs.listen(port);
            let moved = Instant::now();
            let there = |shown: &Value| (shown["peers"][0]["endpoint"] == endpoint.as_str()).then_some(());
            until(&tunnel.pop, "the new endpoint", Duration::from_secs(20), there).await?;
            println!("found at {endpoint} after {:?}", moved.elapsed());
        }
        Ok(())
    };
    let (took, ()) = tokio::try_join!(transfer(client, server, 100 * MIB, Duration::from_secs(100)), moves)?;
    println!("100 MiB each way in {took:?}, while the other side moved {MOVES} times");
    println!("lost: {}", losses(&shown(&tunnel.pop).await?));
    tunnel.stop().await
}

pub(crate) async fn a_rekey_is_not_noticed() -> io::Result<()> {
    // Whoever began a session renews it after 120 seconds (REKEY_AFTER_TIME), and nothing shortens that.
    const LASTING: Duration = Duration::from_secs(130);
    if std::env::var(crate::SLOW).as_deref() != Ok("1") {
        stage::skip(&format!("it takes {LASTING:?}; {}=1 has it run", crate::SLOW));
    }
    let tunnel = Tunnel::start(Plan { our_peer: WE_KNOW, ..Plan::default() }).await?;
    let (mut client, mut server) = tunnel.connect().await?;
    let first = tunnel.theirs.latest_handshake();
    let (started, mut slowest, mut rounds) = (Instant::now(), Duration::ZERO, 0_u32);
    while started.elapsed() < LASTING {
        let sent = Instant::now();
        let bytes = rounds.to_be_bytes().repeat(1024);
        client.send(&bytes).await?;
        assert_eq!(server.receive(bytes.len()).await?, bytes);
        server.send(&bytes).await?;
        assert_eq!(client.receive(bytes.len()).await?, bytes);
        slowest = slowest.max(sent.elapsed());
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{rounds} rounds, the slowest in {slowest:?}");
    // The POP waits for its clients when it is stopped.
    drop((client, server));
    let second = tunnel.theirs.latest_handshake();
    assert!((115..=125).contains(&(second - first)), "handshakes at {first} and {second}");
    let ours = shown(&tunnel.pop).await?["peers"][0]["last_handshake_s"].as_f64();
    assert!(ours.is_some_and(|since| since < 15.0), "{ours:?}");
    println!("lost: {}", losses(&shown(&tunnel.pop).await?));
    tunnel.stop().await
}
