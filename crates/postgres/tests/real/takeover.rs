//! A write that had to wait while another server became the primary.

use edgeproxy_postgres::{PoolSettings, ReadPolicy, RegionPool, Statement};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::{LONG, eventually};

use crate::stage::{INSERT, contact, primary_is, reach, run, server, settings, until};

#[test]
fn a_write_that_waited_for_a_connection_goes_to_whoever_is_the_primary_by_then() {
    run(async {
        let first = ScratchPostgres::start("lhr").await?;
        let second = first.standby("syd").await?;
        let mut settings = settings(vec![server(&first), server(&second)], "lhr");
        settings.pool = PoolSettings { most_open: 1, wait: LONG, ..settings.pool };
        settings.patience = LONG;
        let pool = RegionPool::new(settings, &reach());
        until(&pool, "the first primary", primary_is(0)).await?;

        // The one connection there is busy, and a write waits for it; the old primary goes on as if nothing were.
        let busy = async { Ok(pool.read(ReadPolicy::Primary, "SELECT pg_sleep(60)").await) };
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let is_asleep = async || Ok((first.value(asleep).await? == "1").then_some(()));
        let parameters = contact(&"moved");
        let write = async {
            eventually("a busy connection", LONG, is_asleep).await?;
            Ok(pool.write(Statement::new(INSERT, &parameters)).await)
        };
        let moving = async {
            eventually("a busy connection", LONG, is_asleep).await?;
            second.promote().await?;
            until(&pool, "the second primary", primary_is(1)).await?;
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            first.sql(cancel).await
        };
        let (busy, written, _) = tokio::try_join!(busy, write, moving)?;
        assert_eq!(busy.unwrap_err().sqlstate(), Some("57014"));
        assert_eq!(written.unwrap().token.unwrap().timeline, 2);
        let moved = "SELECT count(*) FROM contacts WHERE name = 'moved'";
        assert_eq!((first.value(moved).await?, second.value(moved).await?), ("0".into(), "1".into()));
        Ok(())
    });
}
