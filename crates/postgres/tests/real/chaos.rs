//! Everything at once: users who write and read while servers are paused, cut off, killed and promoted.
//!
//! Held at the end: what was acknowledged is there, once; what may have been committed is there at most once; nobody read
//! what was older than his own last write; every failure was an error that says what it was.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use edgeproxy_postgres::tokio_postgres::types::Type;
use edgeproxy_postgres::{RegionPool, Retry, Role, Session, Standing, Statement};
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{Link, Wan};
use edgeproxy_world::{LONG, eventually};

use crate::stage::{INSERT, contact, primary_is, reach, run, settings, superuser, synchronous, until};

const USERS: usize = 4;

#[derive(Default)]
struct Diary {
    acknowledged: Vec<String>,
    uncertain: Vec<String>,
    failed: u64,
    reads: u64,
    from_replicas: u64,
}

/// One user: writes, and reads what he has just written, until he is told to stop.
async fn user(pool: RegionPool, number: usize, stop: Arc<AtomicBool>, writes: Arc<AtomicU64>) -> Diary {
    let mut session = Session::new(pool, None);
    let mut diary = Diary::default();
    for nth in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("user {number} write {nth}");
        match session.write(Statement::new(INSERT, &contact(&name.as_str()))).await {
            Ok(written) => {
                assert_eq!(written.affected, 1);
                writes.fetch_add(1, Ordering::Relaxed);
                diary.acknowledged.push(name.clone());
                let look = [(&name as _, Type::VARCHAR)];
                let read = session.read(Statement::new("SELECT FROM contacts WHERE name = $1", &look)).await;
                match read {
                    Ok(read) => {
                        assert_eq!(read.rows.len(), 1, "{name} from {}: older than its token", read.server);
                        diary.reads += 1;
                        diary.from_replicas += u64::from(read.role == Role::Replica);
                    }
                    Err(error) => assert_eq!(error.retry(), Retry::Elsewhere, "{error:?}"),
                }
            }
            Err(error) => match error.retry() {
                Retry::MayHaveCommitted => diary.uncertain.push(name),
                Retry::Elsewhere => diary.failed += 1,
                Retry::No => panic!("{error:?}"),
            },
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    diary
}

#[test]
fn nothing_that_was_acknowledged_is_lost_and_nothing_is_read_too_old() {
    run(async {
        let wan = Wan::start(7)?;
        let mut primary = ScratchPostgres::start("lhr").await?;
        let link = Link::half_of(Duration::from_millis(2));
        let path = wan.tcp(primary.address(), link)?;
        let near = primary.standby("fra").await?;
        let far = primary.standby_through("syd", path.address()).await?;
        synchronous(&[&primary, &near, &far]).await?;
        let mut plan = settings(vec![superuser(&primary), superuser(&near), superuser(&far)], "syd");
        plan.patience = Duration::from_secs(1);
        plan.statement = Duration::from_secs(2);
        let pool = RegionPool::new(plan, &reach());
        until(&pool, "the first primary", primary_is(0)).await?;

        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let users: Vec<_> = (0..USERS)
            .map(|number| tokio::spawn(user(pool.clone(), number, Arc::clone(&stop), Arc::clone(&writes))))
            .collect();
        let go_on = async |count: u64| {
            let goal = writes.load(Ordering::Relaxed) + count;
            eventually("writes", LONG, async || Ok((writes.load(Ordering::Relaxed) >= goal).then_some(()))).await
        };
        go_on(50).await?;

        far.pause_replay().await?;
        go_on(50).await?;
        far.resume_replay().await?;
        go_on(20).await?;

        path.set(Link { up: false, ..link });
        path.reset();
        until(&pool, "the far one cut off", |verdict| matches!(verdict.standings[2], Standing::Stale(..))).await?;
        go_on(50).await?;
        path.set(link);
        path.reset();
        until(&pool, "the far one back", |verdict| matches!(verdict.standings[2], Standing::Fresh(_))).await?;
        go_on(20).await?;

        let began = Instant::now();
        primary.kill().await?;
        // Who has the most has all that was acknowledged.
        let received = async |of: &ScratchPostgres| {
            let lsn = of.value("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn").await?;
            lsn.parse::<u64>().map_err(io::Error::other)
        };
        let near_is_ahead = received(&near).await? >= received(&far).await?;
        let (new, other, index) = if near_is_ahead { (&near, &far, 1) } else { (&far, &near, 2) };
        new.promote().await?;
        other.follow(new).await?;
        let promoted = began.elapsed();
        until(&pool, "the second primary", primary_is(index)).await?;
        assert!(began.elapsed() - promoted < Duration::from_secs(2), "{:?} after {promoted:?}", began.elapsed());
        go_on(50).await?;

        // The dead come back, and nobody listens to them.
        primary.restart().await?;
        until(&pool, "the old one", |verdict| verdict.standings[0] == Standing::FormerPrimary).await?;
        let before = primary.value("SELECT count(*) FROM contacts").await?;
        go_on(50).await?;
        assert_eq!(primary.value("SELECT count(*) FROM contacts").await?, before);

        stop.store(true, Ordering::Relaxed);
        let mut diaries = Vec::new();
        for user in users {
            diaries.push(user.await?);
        }
        let rows = new.sql("SELECT name, count(*)::text FROM contacts GROUP BY name").await?;
        let there: std::collections::HashMap<String, String> =
            rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect();
        let (mut sum, mut known) = (Diary::default(), 0);
        for diary in &diaries {
            for name in &diary.acknowledged {
                assert_eq!(there.get(name).map(String::as_str), Some("1"), "{name} was acknowledged");
            }
            for name in &diary.uncertain {
                assert!(there.get(name).is_none_or(|count| count == "1"), "{name} was done twice");
            }
            known += diary.acknowledged.len() + diary.uncertain.len();
            sum.reads += diary.reads;
            sum.from_replicas += diary.from_replicas;
            sum.failed += diary.failed;
        }
        assert!(there.len() <= known, "{} rows of {known} writes: one was said to have failed", there.len());
        assert!(sum.from_replicas > 0 && sum.from_replicas < sum.reads);
        let uncertain: usize = diaries.iter().map(|diary| diary.uncertain.len()).sum();
        println!(
            "{known} writes, {uncertain} uncertain, {} failed, {} reads, {} of them from replicas; promoted in {promoted:?}",
            sum.failed, sum.reads, sum.from_replicas
        );
        Ok(())
    });
}
