//! What no real server can be brought to do when it is wanted: to fail at BEGIN alone.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_postgres::{Config, NoTls};

use super::*;

const READY: &[u8] = b"Z\0\0\0\x05I";
const DONE: &[u8] = b"1\0\0\0\x042\0\0\0\x04n\0\0\0\x04C\0\0\0\x07OK\0";
const CANCELLED: &[u8] = b"E\0\0\0\x20SERROR\0VERROR\0C57014\0Mgone\0\0";

/// Answers the first request with an error, and all others as if they were done.
async fn cancelled_at_once(mut stream: DuplexStream) -> std::io::Result<()> {
    let length = stream.read_u32().await? as usize;
    stream.read_exact(&mut vec![0; length - 4]).await?;
    stream.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat()).await?;
    let mut answer = CANCELLED;
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await? as usize;
        stream.read_exact(&mut vec![0; length - 4]).await?;
        if kind == b'S' {
            stream.write_all(&[answer, READY].concat()).await?;
            answer = DONE;
        }
    }
}

#[tokio::test]
async fn statements_behind_a_begin_that_failed_are_not_taken_for_undone() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(cancelled_at_once(theirs));
    let (client, session) = Config::new().user("app").connect_raw(ours, NoTls).await.unwrap();
    tokio::spawn(session);
    match run_transaction(&client, &["INSERT".into()]).await {
        Ok(Flight::NotBegun(error)) => assert_eq!(error.code().unwrap().code(), "57014"),
        Ok(Flight::Done(..)) => panic!("done"),
        Err(error) => panic!("{error}"),
    }
}
