//! Large transfers, and readers slower than their senders.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use edgeproxy_world::{
    Backend, Behaviour, Client, Ending, LONG, Pattern, Pop, Site, read_pattern, within, write_pattern,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod support;

const MIB: u64 = 1024 * 1024;

async fn pair() -> (Site, Backend, Pop, Client, Client) {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start("[[check]]\nkind = \"none\"\n").await.unwrap();
    let client = pop.connect().await.unwrap();
    let server = backend.next().await.unwrap();
    (site, backend, pop, client, server)
}

#[tokio::test]
async fn a_quarter_gigabyte_each_way_at_once_arrives_unchanged() {
    const BYTES: u64 = 256 * MIB;
    let (_site, _backend, pop, client, server) = pair().await;
    let (mut client_reads, mut client_writes) = client.stream.into_split();
    let (mut server_reads, mut server_writes) = server.stream.into_split();
    let started = Instant::now();
    let up = async {
        write_pattern(&mut client_writes, 1, BYTES).await?;
        client_writes.shutdown().await
    };
    let down = async {
        write_pattern(&mut server_writes, 2, BYTES).await?;
        server_writes.shutdown().await
    };
    let both =
        async { tokio::try_join!(up, down, read_pattern(&mut server_reads, 1), read_pattern(&mut client_reads, 2)) };
    let ((), (), up, down) = within("512 MiB", Duration::from_secs(60), both).await.unwrap();
    println!("512 MiB in {:?}", started.elapsed());
    assert_eq!((up, down), (BYTES, BYTES));
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(BYTES), Some(BYTES)));
    assert!(line["close"] == "client" || line["close"] == "backend", "{line}");
    let bytes = i64::try_from(BYTES).unwrap();
    assert_eq!(pop.count("edge_bytes_total", &[("direction", "in")]).await.unwrap(), bytes);
    assert_eq!(pop.count("edge_bytes_total", &[("direction", "out")]).await.unwrap(), bytes);
    let spliced = pop.count("edge_spliced_bytes_total", &[]).await.unwrap();
    println!("of {} bytes {spliced} were spliced", 2 * bytes);
    assert!(spliced > bytes && spliced <= 2 * bytes, "bulk goes by the zero-copy path");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// What the sockets on the way may hold by themselves: the kernel's buffers of both connections, and a pipe.
fn held_by_the_kernel() -> u64 {
    let largest = |name: &str| -> u64 {
        let sizes = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        sizes.split_whitespace().last().unwrap().parse().unwrap()
    };
    2 * (largest("tcp_rmem") + largest("tcp_wmem")) + 2 * MIB
}

/// Memory of the proxy in bytes.
async fn memory(pop: &Pop) -> i64 {
    pop.count("process_resident_memory_bytes", &[]).await.unwrap()
}

/// Sends until nothing has been taken for a while; gives the number of bytes taken.
async fn fill(sender: &mut Client, pattern: &mut Pattern, most: u64) -> u64 {
    let mut taken = 0;
    let mut piece = pattern.clone();
    while taken < most {
        let bytes = piece.take(64 * 1024);
        match tokio::time::timeout(Duration::from_millis(700), sender.stream.write(&bytes)).await {
            Err(_) => break,
            Ok(count) => {
                let count = count.unwrap();
                taken += count as u64;
                pattern.take(count);
                piece = pattern.clone();
            }
        }
    }
    taken
}

#[tokio::test]
async fn a_backend_that_does_not_read_holds_its_client_up() {
    let (_site, _backend, pop, mut client, mut server) = pair().await;
    let before = memory(&pop).await;
    let mut sent = Pattern::new(7);
    let most = held_by_the_kernel();
    let taken = fill(&mut client, &mut sent, most + 64 * MIB).await;
    let grown = memory(&pop).await - before;
    println!("{taken} bytes are on the way, the proxy has grown by {grown}");
    assert!(taken <= most, "{taken} bytes piled up");
    assert!(grown < 4 << 20, "{grown} bytes in the proxy");
    // The other direction is not held up by this one.
    server.send(b"meanwhile").await.unwrap();
    assert_eq!(client.receive(9).await.unwrap(), b"meanwhile");
    let rest = async {
        client.send(&sent.take(1 << 20)).await.unwrap();
        client.finish().await.unwrap();
    };
    let (total, ()) = tokio::join!(within("the rest", LONG, read_pattern(&mut server.stream, 7)), rest);
    assert_eq!(total.unwrap(), taken + MIB);
    drop(server);
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(taken + MIB), Some(9)));
    assert_eq!(line["close"], "client");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_backend_up() {
    let (_site, _backend, pop, mut client, mut server) = pair().await;
    let before = memory(&pop).await;
    let mut sent = Pattern::new(8);
    let most = held_by_the_kernel();
    let taken = fill(&mut server, &mut sent, most + 64 * MIB).await;
    let grown = memory(&pop).await - before;
    println!("{taken} bytes are on the way, the proxy has grown by {grown}");
    assert!(taken <= most, "{taken} bytes piled up");
    assert!(grown < 4 << 20, "{grown} bytes in the proxy");
    client.send(b"meanwhile").await.unwrap();
    assert_eq!(server.receive(9).await.unwrap(), b"meanwhile");
    let rest = async {
        server.send(&sent.take(1 << 20)).await.unwrap();
        server.finish().await.unwrap();
    };
    let (total, ()) = tokio::join!(within("the rest", LONG, read_pattern(&mut client.stream, 8)), rest);
    assert_eq!(total.unwrap(), taken + MIB);
    drop(client);
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(9), Some(taken + MIB)));
    assert_eq!(line["close"], "backend");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_transfer_is_passed_on() {
    let (_site, _backend, pop, mut client, mut server) = pair().await;
    let mut sent = Pattern::new(9);
    fill(&mut client, &mut sent, 64 * MIB).await;
    client.abort().unwrap();
    let (received, ending) = server.ending().await.unwrap();
    assert_eq!(ending, Ending::Reset, "a part must not pass for the whole");
    assert_eq!(Pattern::new(9).check(&received), None);
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!(line["close"], "client_reset");
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_backend_that_resets_in_the_middle_of_a_transfer_resets_the_client() {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::ResetAfter(MIB)).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start("[[check]]\nkind = \"none\"\n").await.unwrap();
    let mut client = pop.connect().await.unwrap();
    let error = within("a reset", LONG, write_pattern(&mut client.stream, 1, 1 << 40)).await.unwrap_err();
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!(line["close"], "backend_reset");
    assert!(line["bytes_in"].as_u64().unwrap() >= MIB);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// As an HTTP server does that refuses an upload: it answers at once and closes, with most of the request unread. The
/// system resets such a connection, and yet whoever asks directly has the answer before the reset.
#[tokio::test]
async fn an_answer_given_before_the_request_was_heard_out_reaches_the_client() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n";
    let (_site, backend, pop, first, first_server) = pair().await;
    drop((first, first_server));
    let mut answered = [0, 0];
    const ROUNDS: usize = 200;
    for (number, address) in [backend.address(), pop.address()].into_iter().enumerate() {
        for _ in 0..ROUNDS {
            let client = Client::connect(address).await.unwrap();
            let mut server = backend.next().await.unwrap();
            let (mut reads, mut writes) = client.stream.into_split();
            let uploading = tokio::spawn(async move { write_pattern(&mut writes, 1, 64 * MIB).await });
            server.receive(1000).await.unwrap();
            server.send(ANSWER).await.unwrap();
            drop(server);
            let mut answer = vec![0; ANSWER.len()];
            let heard = within("an answer", LONG, reads.read_exact(&mut answer)).await;
            answered[number] += usize::from(heard.is_ok() && answer == ANSWER);
            uploading.abort();
        }
    }
    println!("of {ROUNDS} answers {} came directly, {} through the proxy", answered[0], answered[1]);
    assert_eq!(answered, [ROUNDS; 2]);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
