//! The pool of one server: what it keeps, what it gives out, and what it does not take back.

use std::io;
use std::task::{Context, Waker};
use std::time::Duration;

use edgeproxy_postgres::{Phase, PoolSettings, Retry, ServerPool};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::{LONG, eventually};

use crate::stage::{INSERT, contact, reach, run, server};

const SETTINGS: PoolSettings =
    PoolSettings { most_open: 2, kept_idle: 2, lifetime: LONG, wait: Duration::from_millis(500) };

async fn pid(pool: &ServerPool) -> i32 {
    let connection = pool.get().await.unwrap();
    connection.query_typed_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

async fn sessions(of: &ScratchPostgres) -> io::Result<u64> {
    let count = of.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgeproxy'").await?;
    count.parse().map_err(io::Error::other)
}

async fn until_sessions(of: &ScratchPostgres, expected: u64) -> io::Result<()> {
    eventually(&format!("{expected} sessions"), LONG, async || Ok((sessions(of).await? == expected).then_some(())))
        .await
}

#[test]
fn it_opens_what_it_keeps_and_never_more_than_it_may() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let pool = ServerPool::new(server(&primary), reach(), SETTINGS);
        until_sessions(&primary, 2).await?;
        let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        let error = pool.get().await.unwrap_err();
        assert_eq!((error.kind(), error.phase(), error.retry()), ("pool_timeout", Phase::Checkout, Retry::Elsewhere));
        drop(first);
        drop(pool.get().await.unwrap());
        assert_eq!(sessions(&primary).await?, 2);
        drop(second);
        drop(pool);
        until_sessions(&primary, 0).await
    });
}

#[test]
fn what_is_ended_is_replaced_and_never_given_out() {
    run(async {
        let mut primary = ScratchPostgres::start("lhr").await?;
        let pool = ServerPool::new(server(&primary), reach(), SETTINGS);
        until_sessions(&primary, 2).await?;
        let before = pid(&pool).await;
        primary
            .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'edgeproxy'")
            .await?;
        until_sessions(&primary, 2).await?;
        assert_ne!(pid(&pool).await, before);

        let before = pid(&pool).await;
        pool.retire_all();
        assert_ne!(pid(&pool).await, before);
        until_sessions(&primary, 2).await?;

        let held = pool.get().await.unwrap();
        let before: i32 = held.query_typed_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        pool.retire_all();
        drop(held);
        let (one, other) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        for connection in [&one, &other] {
            let pid: i32 = connection.query_typed_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
            assert_ne!(pid, before);
        }
        drop((one, other));

        primary.kill().await?;
        let lost = |error: &edgeproxy_postgres::Error| error.kind() == "unreachable";
        eventually("a pool that knows", LONG, async || {
            Ok(pool.get().await.is_err_and(|error| lost(&error)).then_some(()))
        })
        .await?;
        // It finds back by itself.
        primary.restart().await?;
        eventually("a pool that works", LONG, async || Ok(pool.get().await.ok().map(drop))).await
    });
}

#[test]
fn a_connection_is_renewed_behind_the_back_of_those_who_use_the_pool() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let lifetime = Duration::from_millis(300);
        let settings = PoolSettings { most_open: 1, kept_idle: 1, lifetime, wait: LONG };
        let pool = ServerPool::new(server(&primary), reach(), settings);
        let before = pid(&pool).await;
        let renewed = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgeproxy' AND pid <> ";
        eventually("another session", LONG, async || {
            Ok((primary.value(&format!("{renewed}{before}")).await? == "1").then_some(()))
        })
        .await?;
        assert_eq!(sessions(&primary).await?, 1);
        Ok(())
    });
}

/// Whoever gets the connection next must not find himself in somebody else's transaction, nor wait for his statement.
#[test]
fn nothing_of_one_user_is_left_for_the_next() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let settings = PoolSettings { most_open: 1, kept_idle: 1, ..SETTINGS };
        let pool = ServerPool::new(server(&primary), reach(), PoolSettings { wait: LONG, ..settings });
        let fresh = async |what: &str| {
            let connection = pool.get().await.unwrap();
            let error = connection.batch_execute("SAVEPOINT here").await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "25P01", "{what}: in a transaction that began before");
            let row = connection.query_typed_one("SELECT count(*) FROM contacts", &[]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), 0, "{what}: a row that nobody committed");
        };
        for _ in 0..20 {
            // Left open, with a row in it.
            let connection = pool.get().await.unwrap();
            connection.batch_execute("BEGIN").await.unwrap();
            connection.execute_typed(INSERT, &contact(&"never")).await.unwrap();
            drop(connection);
            fresh("open").await;

            // Failed, and left.
            let connection = pool.get().await.unwrap();
            connection.batch_execute("BEGIN; SELECT 1/0").await.unwrap_err();
            drop(connection);
            fresh("failed").await;

            // Asked for, and most often the task that sends it had no turn yet.
            let connection = pool.get().await.unwrap();
            {
                let mut begin = std::pin::pin!(connection.batch_execute("BEGIN"));
                let mut context = Context::from_waker(Waker::noop());
                let _ = begin.as_mut().poll(&mut context);
            }
            drop(connection);
            fresh("unsent").await;

            // Sent, and nobody waits for the answer, unless it takes a busy machine as long to see the time pass.
            let connection = pool.get().await.unwrap();
            let waiting = connection.batch_execute("BEGIN; SELECT pg_sleep(0.01)");
            let _ = tokio::time::timeout(Duration::from_millis(2), waiting).await;
            drop(connection);
            fresh("cancelled").await;
        }
        // What does not end is not waited for.
        let connection = pool.get().await.unwrap();
        let stuck = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%sleep(60)' AND application_name = 'edgeproxy'";
        let stuck = tokio::select! {
            ended = connection.batch_execute("SELECT pg_sleep(60)") => panic!("{ended:?}"),
            stuck = eventually("a statement that runs", LONG, async || {
                Ok(Some(primary.value(stuck).await?).filter(|pid| !pid.is_empty()))
            }) => stuck?,
        };
        drop(connection);
        let other = pid(&pool).await;
        assert_ne!(other.to_string(), stuck);
        Ok(())
    });
}
