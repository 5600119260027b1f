//! What is waited for, and what a token covers where a commit waits for nothing.

use std::time::{Duration, Instant};

use edgeproxy_postgres::{Lsn, ReadPolicy, RegionPool, Retry, Session, Statement};
use edgeproxy_world::LONG;
use edgeproxy_world::postgres::ScratchPostgres;

use crate::stage::{INSERT, contact, pair, primary_is, reach, run, server, settings, until};

/// At once on a primary.
const SLOW_ON_A_REPLICA: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_sleep(60)::text END";

#[test]
fn a_token_covers_a_commit_that_did_not_wait_for_the_disk_by_its_own_word() {
    run(async {
        let primary = ScratchPostgres::plan("lhr").setting("wal_writer_delay", "10s").start().await?;
        let pool = RegionPool::new(settings(vec![server(&primary)], "lhr"), &reach());
        until(&pool, "the primary", primary_is(0)).await?;
        let parameters = contact(&"unwaited");
        let statements = ["SET LOCAL synchronous_commit = off".into(), Statement::new(INSERT, &parameters)];
        for _ in 0..20 {
            let before: Lsn = primary.value("SELECT pg_current_wal_insert_lsn()").await?.parse().unwrap();
            let written = pool.transaction(&statements).await.unwrap();
            assert_eq!((written.answer.len(), written.answer[1].affected), (2, 1));
            assert!(written.token.unwrap().lsn > before);
        }
        Ok(())
    });
}

#[test]
fn a_replica_that_is_behind_is_not_waited_for() {
    run(async {
        let (_primary, standby, pool) = pair(|_| {}).await?;
        standby.pause_replay().await?;
        let mut session = Session::new(pool.clone(), None);
        session.write(Statement::new(INSERT, &contact(&"mine"))).await.unwrap();
        // The replica would answer in a minute, and its answer would not count.
        let began = Instant::now();
        assert_eq!(session.read(SLOW_ON_A_REPLICA).await.unwrap().server, 0);
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
        Ok(())
    });
}

#[test]
fn a_read_that_took_too_long_is_not_begun_again_elsewhere() {
    run(async {
        let (_primary, _standby, pool) = pair(|settings| {
            settings.statement = Duration::from_millis(300);
            settings.patience = LONG;
        })
        .await?;
        let error = pool.read(ReadPolicy::Any, SLOW_ON_A_REPLICA).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), ("timeout", Retry::Elsewhere));
        Ok(())
    });
}
