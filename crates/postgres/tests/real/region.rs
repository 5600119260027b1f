//! The pool over regions: who is asked, and what happens when that was wrong.

use std::time::Duration;

use edgeproxy_postgres::tokio_postgres::types::Type;
use edgeproxy_postgres::{
    Limits, Lsn, Primary, ReadPolicy, RegionPool, Retry, Session, Side, Standing, Statement, Token,
};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{Link, Wan};
use edgeproxy_world::{LONG, eventually, within};

use crate::stage::{INSERT, contact, pair, primary_is, reach, run, server, settings, superuser, until, until_fresh};

const COUNT: &str = "SELECT count(*) FROM contacts";

#[test]
fn a_session_reads_what_it_wrote_wherever_that_is() {
    run(async {
        let (primary, standby, pool) = pair(|_| {}).await?;

        let mut session = Session::new(pool.clone(), None);
        let count = async |session: &Session| {
            let read = session.read(COUNT).await.unwrap();
            (read.server, read.rows[0].get::<_, i64>(0))
        };
        assert_eq!(count(&session).await, (1, 0));
        // The replica stands still: whoever has a token goes to the primary, whoever has none does not.
        standby.pause_replay().await?;
        for written in 1..=3 {
            session.write(Statement::new(INSERT, &contact(&"mine"))).await.unwrap();
            assert_eq!(count(&session).await, (0, written));
            // In another process, a request later.
            let token: Token = session.token().unwrap().to_string().parse().unwrap();
            assert_eq!(count(&Session::new(pool.clone(), Some(token))).await, (0, written));
            assert_eq!(count(&Session::new(pool.clone(), None)).await, (1, 0));
        }
        standby.resume_replay().await?;
        standby.catch_up(&primary).await?;
        assert_eq!(count(&session).await, (1, 3));

        // Somebody else's transaction is open: the token is within reach all the same.
        let other = primary.sql("BEGIN; INSERT INTO contacts (name) VALUES ('open'); SELECT pg_sleep(0.5); COMMIT");
        let mine = async {
            for written in 4..=6 {
                session.write(Statement::new(INSERT, &contact(&"mine"))).await.unwrap();
                standby.catch_up(&primary).await?;
                let (asked, seen) = count(&session).await;
                assert!(asked == 1 && seen >= written, "{asked} {seen}");
            }
            std::io::Result::Ok(())
        };
        tokio::try_join!(other, mine)?;
        Ok(())
    });
}

#[test]
fn a_bound_on_lag_is_kept_whatever_the_limits_are() {
    run(async {
        let (primary, standby, pool) = pair(|settings| {
            settings.limits = Limits { lag_bytes: u64::MAX, lag_time: Duration::from_secs(3600) };
        })
        .await?;
        let bound = ReadPolicy::MaxLag(Duration::from_secs(1));
        let asked = async |policy| pool.read(policy, COUNT).await.unwrap().server;
        eventually("the replica within its bound", LONG, async || Ok((asked(bound).await == 1).then_some(()))).await?;

        standby.pause_replay().await?;
        primary.sql("INSERT INTO contacts (name) VALUES ('unseen')").await?;
        eventually("the primary, as the replica is beyond it", LONG, async || {
            Ok((asked(bound).await == 0).then_some(()))
        })
        .await?;
        // From now on every answer has the row.
        for _ in 0..50 {
            let read = pool.read(bound, COUNT).await.unwrap();
            assert_eq!((read.server, read.rows[0].get::<_, i64>(0)), (0, 1));
        }
        assert_eq!(asked(ReadPolicy::Any).await, 1);
        Ok(())
    });
}

#[test]
fn a_token_of_an_older_timeline_is_for_the_primary() {
    run(async {
        let mut primary = ScratchPostgres::start("lhr").await?;
        let (near, far) = (primary.standby("syd").await?, primary.standby("fra").await?);
        let servers = vec![superuser(&primary), superuser(&near), superuser(&far)];
        let pool = RegionPool::new(settings(servers, "fra"), &reach());
        until(&pool, "the first primary", primary_is(0)).await?;
        let mut session = Session::new(pool.clone(), None);
        session.write(Statement::new(INSERT, &contact(&"before"))).await.unwrap();
        let old = session.token().unwrap();
        assert_eq!(old.timeline, 1);
        near.catch_up(&primary).await?;
        far.catch_up(&primary).await?;

        primary.kill().await?;
        near.promote().await?;
        until(&pool, "the second primary", primary_is(1)).await?;
        let read = Session::new(pool.clone(), Some(old)).read(COUNT).await.unwrap();
        assert_eq!((read.server, read.rows[0].get::<_, i64>(0)), (1, 1));

        // A replica that has not followed yet has an old history, however far that goes.
        session.write(Statement::new(INSERT, &contact(&"after"))).await.unwrap();
        let new = session.token().unwrap();
        assert_eq!(new.timeline, 2);
        assert_eq!(session.read(COUNT).await.unwrap().server, 1);
        far.follow(&near).await?;
        far.catch_up(&near).await?;
        eventually("a read from the replica", LONG, async || {
            let read = session.read(COUNT).await.unwrap();
            assert_eq!(read.rows[0].get::<_, i64>(0), 2);
            Ok((read.server == 2).then_some(()))
        })
        .await?;

        // What was primary once and comes back is no primary.
        primary.restart().await?;
        until(&pool, "the old one", |verdict| verdict.standings[0] == Standing::FormerPrimary).await?;
        for _ in 0..10 {
            session.write(Statement::new(INSERT, &contact(&"after"))).await.unwrap();
        }
        assert_eq!(primary.value("SELECT count(*) FROM contacts WHERE name = 'after'").await?, "0");

        // Somebody made this up.
        let mut settings = settings(vec![server(&near)], "syd");
        settings.patience = Duration::from_millis(300);
        let pool = RegionPool::new(settings, &reach());
        until(&pool, "the primary", primary_is(0)).await?;
        let forged = Token { timeline: 9, lsn: Lsn(1) };
        let error = pool.read(ReadPolicy::AtLeast(forged), COUNT).await.unwrap_err();
        assert_eq!((error.kind(), error.side()), ("not_reached", Side::Server));
        assert_eq!(pool.read(ReadPolicy::Primary, COUNT).await.unwrap().server, 0);
        Ok(())
    });
}

#[test]
fn a_write_that_was_refused_as_read_only_goes_to_the_real_primary_once() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let standby = primary.standby("syd").await?;
        let mut settings = settings(vec![server(&primary), server(&standby)], "lhr");
        // Between two looks.
        settings.monitor.interval = Duration::from_secs(4);
        let pool = RegionPool::new(settings, &reach());
        until(&pool, "the first primary", primary_is(0)).await?;

        // It is the primary, and writes nothing: that is said as it is.
        primary.sql("ALTER SYSTEM SET default_transaction_read_only = on").await?;
        primary.sql("SELECT pg_reload_conf()").await?;
        let refused = async || pool.write(Statement::new(INSERT, &contact(&"refused"))).await.err();
        let error = eventually("a refusal", LONG, async || Ok(refused().await)).await?;
        assert!(
            error.is_read_only() && error.sqlstate() == Some("25006") && error.retry() == Retry::Elsewhere,
            "{error}"
        );

        // Now it is not, and nobody has looked.
        standby.promote().await?;
        let written = pool.write(Statement::new(INSERT, &contact(&"moved"))).await.unwrap();
        assert_eq!(written.token.unwrap().timeline, 2);
        assert_eq!(standby.value("SELECT count(*) FROM contacts WHERE name = 'moved'").await?, "1");
        Ok(())
    });
}

#[test]
fn a_write_whose_answer_is_lost_is_not_sent_again() {
    run(async {
        let wan = Wan::start(1)?;
        let primary = ScratchPostgres::start("lhr").await?;
        let path = wan.tcp(primary.address(), Link::half_of(Duration::from_millis(2)))?;
        let through = server(&primary).at_port(path.address().port());
        let mut settings = settings(vec![through], "lhr");
        settings.statement = Duration::from_millis(200);
        let pool = RegionPool::new(settings, &reach());
        until(&pool, "the primary", primary_is(0)).await?;
        let mut session = Session::new(pool.clone(), None);
        session.write(Statement::new(INSERT, &contact(&"first"))).await.unwrap();

        let locked = "BEGIN; LOCK TABLE contacts IN EXCLUSIVE MODE; SELECT pg_sleep(0.5); COMMIT";
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        for cut in [false, true] {
            // It waits, until it takes too long, or until the connection is lost.
            let write = async {
                eventually("the lock", LONG, async || {
                    let held = primary.value("SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND relation = 'contacts'::regclass");
                    Ok((held.await? == "1").then_some(()))
                })
                .await?;
                Ok(session.write(Statement::new(INSERT, &contact(&"lost"))).await.unwrap_err())
            };
            let cutting = async {
                if cut {
                    eventually("a write", LONG, async || Ok((primary.value(waiting).await? == "1").then_some(())))
                        .await?;
                    path.reset();
                }
                Ok(())
            };
            let (_, error, ()) = tokio::try_join!(primary.sql(locked), write, cutting)?;
            assert_eq!((error.kind(), error.retry()), ("may_have_committed", Retry::MayHaveCommitted), "{error}");
            assert_eq!(error.side(), Side::Network);
            let done = if cut { "2" } else { "1" };
            let lost = "SELECT count(*) FROM contacts WHERE name = 'lost'";
            eventually("what was lost", LONG, async || Ok((primary.value(lost).await? == done).then_some(()))).await?;
        }
        session.write(Statement::new(INSERT, &contact(&"later"))).await.unwrap();
        assert_eq!(primary.value("SELECT count(*) FROM contacts WHERE name = 'lost'").await?, "2");
        // An error of the statement is one, and nothing of it is done.
        let parameters = contact(&"wrong");
        let wrong = [Statement::new(INSERT, &parameters), Statement::from("SELECT 1/0")];
        let error = pool.transaction(&wrong).await.unwrap_err();
        assert_eq!((error.sqlstate(), error.retry(), error.side()), (Some("22012"), Retry::No, Side::Us));
        assert_eq!(primary.value("SELECT count(*) FROM contacts WHERE name = 'wrong'").await?, "0");
        // One that is never sent, since its parameter is no number, takes the others with it.
        let unsendable = [(&"text" as _, Type::INT4)];
        let wrong = [Statement::new(INSERT, &parameters), Statement::new("SELECT $1", &unsendable)];
        let error = pool.transaction(&wrong).await.unwrap_err();
        assert_eq!((error.sqlstate(), error.retry(), error.side()), (None, Retry::No, Side::Us));
        assert_eq!(primary.value("SELECT count(*) FROM contacts WHERE name = 'wrong'").await?, "0");
        Ok(())
    });
}

#[test]
fn without_a_primary_or_with_two_nothing_is_written() {
    run(async {
        let mut primary = ScratchPostgres::start("lhr").await?;
        let standby = primary.standby("syd").await?;
        let patience = Duration::from_millis(300);
        let mut plan = settings(vec![server(&primary), server(&standby)], "lhr");
        plan.patience = patience;
        let pool = RegionPool::new(plan, &reach());
        until(&pool, "the primary", primary_is(0)).await?;
        primary.kill().await?;
        let kind =
            async |pool: &RegionPool| pool.write(Statement::new(INSERT, &contact(&"x"))).await.unwrap_err().kind();
        eventually("no primary", LONG, async || Ok((kind(&pool).await == "no_primary").then_some(()))).await?;
        // Reads that do not mind go on.
        assert_eq!(pool.read(ReadPolicy::Any, COUNT).await.unwrap().server, 1);
        let error = pool.read(ReadPolicy::Primary, COUNT).await.unwrap_err();
        assert_eq!(error.kind(), "no_primary");

        primary.restart().await?;
        let other = ScratchPostgres::start("fra").await?;
        let mut plan = settings(vec![server(&primary), server(&other)], "lhr");
        plan.patience = patience;
        let pool = RegionPool::new(plan, &reach());
        until(&pool, "a dispute", |verdict| verdict.primary == Primary::Disputed(vec![0, 1])).await?;
        assert_eq!(kind(&pool).await, "disputed");
        assert_eq!(pool.read(ReadPolicy::Primary, COUNT).await.unwrap_err().kind(), "disputed");
        Ok(())
    });
}

#[test]
fn a_reader_does_not_wait_for_a_region_that_has_gone_silent() {
    run(async {
        let wan = Wan::start(1)?;
        let primary = ScratchPostgres::start("lhr").await?;
        let standby = primary.standby("syd").await?;
        let link = Link::half_of(Duration::from_millis(2));
        let path = wan.tcp(standby.address(), link)?;
        let near = server(&standby).at_port(path.address().port());
        let mut settings = settings(vec![server(&primary), near], "syd");
        settings.monitor.deadline = Duration::from_millis(500);
        let pool = RegionPool::new(settings, &reach());
        until_fresh(&pool).await?;
        assert_eq!(pool.read(ReadPolicy::Any, COUNT).await.unwrap().server, 1);

        // Nobody says that it is gone: nothing comes any more. A statement may take 30 s, and a read does not.
        path.set(Link { up: false, ..link });
        let read = within("a read", LONG, async { Ok(pool.read(ReadPolicy::Any, COUNT).await) }).await?;
        assert_eq!(read.unwrap().server, 0);
        path.set(link);
        path.reset();
        until_fresh(&pool).await?;
        assert_eq!(pool.read(ReadPolicy::Any, COUNT).await.unwrap().server, 1);
        Ok(())
    });
}
