use super::*;
use crate::observation::Receiver;

/// A primary that started at `started`, seen `at` milliseconds.
struct Stage {
    zero: Instant,
    judge: Judge<usize>,
}

impl Stage {
    fn new() -> Self {
        let limits = Limits { lag_bytes: 1000, lag_time: Duration::from_secs(10) };
        Self { zero: Instant::now(), judge: Judge::new(limits) }
    }

    fn at(&self, millis: u64) -> Instant {
        self.zero + Duration::from_millis(millis)
    }

    fn primary(&self, at: u64, timeline: u32, flush: u64, started: i64) -> Observed {
        Observed::Up(Observation {
            role: Role::Primary,
            timeline,
            flush: Lsn(flush),
            replay: Lsn(flush),
            replayed_commit: None,
            receiver: Receiver::Absent,
            // Its clock is an hour off.
            clock: 3_600_000_000 + i64::try_from(at).unwrap() * 1000,
            started,
            round_trip: Duration::from_millis(1),
            at: self.at(at),
        })
    }

    fn replica(&self, at: u64, timeline: u32, replay: u64) -> Observed {
        Observed::Up(Observation {
            role: Role::Replica,
            receiver: Receiver::Heard { ago: Duration::ZERO, patience: Duration::from_secs(6) },
            ..*self.primary(at, timeline, replay, 99).up().unwrap()
        })
    }

    fn judge(&mut self, at: u64, servers: &[&Observed]) -> Verdict {
        let servers: Vec<_> = servers.iter().map(|observed| (*observed).clone()).enumerate().collect();
        let now = self.at(at);
        self.judge.judge(&servers, now)
    }
}

fn with(observed: &Observed, change: impl FnOnce(&mut Observation)) -> Observed {
    let mut observation = *observed.up().unwrap();
    change(&mut observation);
    Observed::Up(observation)
}

fn down() -> Observed {
    Observed::Down("".into())
}

fn lag(standing: Standing) -> (u64, u128) {
    match standing {
        Standing::Fresh(lag) | Standing::Stale(_, Some(lag)) => (lag.bytes, lag.time.as_millis()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_primary_is_the_one_of_the_highest_timeline_ever_seen() {
    let mut stage = Stage::new();
    let (old, new) = (stage.primary(0, 1, 500, 1), stage.primary(0, 2, 400, 2));
    assert_eq!(stage.judge(0, &[&old, &down()]).primary, Primary::One(0));
    let verdict = stage.judge(0, &[&old, &new]);
    assert_eq!(verdict.primary, Primary::One(1));
    assert_eq!(verdict.standings, [Standing::FormerPrimary, Standing::Primary]);
    // The new one is away for a moment: that makes the old one no primary again.
    let verdict = stage.judge(0, &[&old, &down()]);
    assert_eq!((verdict.primary, verdict.timeline), (Primary::None, 2));
    assert_eq!(verdict.standings, [Standing::FormerPrimary, Standing::Down]);
}

#[test]
fn a_replica_of_a_younger_timeline_is_evidence_too() {
    let mut stage = Stage::new();
    let (old, replica) = (stage.primary(0, 1, 500, 1), stage.replica(0, 2, 400));
    assert_eq!(stage.judge(0, &[&old, &replica]).primary, Primary::None);
    // It falls silent: it was seen all the same.
    assert_eq!(stage.judge(0, &[&old, &down()]).primary, Primary::None);
    assert_eq!(stage.judge.witnesses(), [1]);
    // Somebody takes it away: it was a mistake, and is none of ours any more.
    let verdict = stage.judge(0, &[&old]);
    assert_eq!((verdict.primary, verdict.timeline), (Primary::One(0), 1));
    assert_eq!(stage.judge.witnesses(), [0]);
}

#[test]
fn who_claimed_it_and_fell_silent_still_does() {
    let mut stage = Stage::new();
    let disputed = Primary::Disputed(vec![0, 1]);
    let (one, other) = (stage.primary(0, 3, 1, 7), stage.primary(0, 3, 2, 8));
    assert_eq!(stage.judge(0, &[&one, &other]).primary, disputed);
    let verdict = stage.judge(1000, &[&stage.primary(1000, 3, 1, 7), &down()]);
    assert_eq!(verdict.primary, disputed);
    assert_eq!(verdict.standings, [Standing::Claimant, Standing::Down]);
    // Seen as a replica, it claims nothing any more.
    let follows = stage.replica(2000, 3, 1);
    assert_eq!(stage.judge(2000, &[&stage.primary(2000, 3, 1, 7), &follows]).primary, Primary::One(0));
    assert_eq!(stage.judge(3000, &[&stage.primary(3000, 3, 1, 7), &down()]).primary, Primary::One(0));
    // The other way round, and it never comes back.
    assert_eq!(stage.judge(4000, &[&down(), &stage.primary(4000, 3, 1, 8)]).primary, disputed);
    assert_eq!(stage.judge(33_000, &[&down(), &stage.primary(33_000, 3, 1, 8)]).primary, disputed);
    assert_eq!(stage.judge(33_001, &[&down(), &stage.primary(33_001, 3, 1, 8)]).primary, Primary::One(1));
    // Taken away, or left behind by a promotion, it is out at once.
    assert_eq!(stage.judge(34_000, &[&stage.primary(34_000, 3, 1, 7), &down()]).primary, disputed);
    assert_eq!(stage.judge(34_001, &[&stage.primary(34_001, 3, 1, 7)]).primary, Primary::One(0));
    assert_eq!(stage.judge(35_000, &[&down(), &stage.primary(35_000, 4, 1, 8)]).primary, Primary::One(1));
}

#[test]
fn a_primary_that_restarts_does_not_dispute_with_itself() {
    let mut stage = Stage::new();
    let before = |stage: &Stage, at| stage.primary(at, 1, 500, 7);
    // By two addresses, of which one is not heard again.
    assert_eq!(stage.judge(0, &[&before(&stage, 0), &before(&stage, 0)]).primary, Primary::One(0));
    assert_eq!(stage.judge(500, &[&down(), &down()]).primary, Primary::None);
    let after = stage.primary(1000, 1, 500, 8);
    assert_eq!(stage.judge(1000, &[&down(), &after]).primary, Primary::One(1));
    assert_eq!(stage.judge(1001, &[&after, &after]).primary, Primary::One(0));
}

#[test]
fn two_on_one_timeline_are_a_dispute_and_two_addresses_of_one_are_not() {
    let mut stage = Stage::new();
    let (one, other) = (stage.primary(0, 3, 1, 7), stage.primary(0, 3, 2, 8));
    let verdict = stage.judge(0, &[&one, &down(), &other]);
    assert_eq!(verdict.primary, Primary::Disputed(vec![0, 2]));
    assert_eq!(verdict.standings, [Standing::Claimant, Standing::Down, Standing::Claimant]);
    let nearer = with(&one, |seen| seen.round_trip = Duration::from_micros(10));
    let verdict = stage.judge(0, &[&one, &nearer]);
    assert_eq!(verdict.primary, Primary::One(1));
    assert_eq!(verdict.standings, [Standing::Primary, Standing::Primary]);
}

#[test]
fn what_was_seen_too_long_ago_is_not_known() {
    let mut stage = Stage::new();
    let primary = stage.primary(0, 1, 500, 1);
    assert_eq!(stage.judge(5000, &[&primary]).primary, Primary::One(0));
    assert_eq!(stage.judge(5001, &[&primary]).standings, [Standing::Down]);
}

#[test]
fn an_idle_primary_leaves_its_replica_fresh() {
    let mut stage = Stage::new();
    for second in 0..100 {
        let at = second * 1000;
        let (primary, replica) = (stage.primary(at, 1, 500, 1), stage.replica(at + 1, 1, 500));
        // It replayed nothing since the beginning.
        let replica = with(&replica, |seen| seen.replayed_commit = Some(3_600_000_000));
        let verdict = stage.judge(at + 2, &[&primary, &replica]);
        assert_eq!(lag(verdict.standings[1]), (0, 0));
        let Standing::Fresh(lag) = verdict.standings[1] else { panic!("{verdict:?}") };
        assert_eq!(lag.staleness(stage.at(at + 2)), Duration::from_millis(2));
    }
}

#[test]
fn a_replica_that_stands_still_lags_by_the_time_since_it_had_all() {
    let mut stage = Stage::new();
    for second in 0..8 {
        let at = second * 1000;
        let (primary, replica) = (stage.primary(at, 1, 500 + second, 1), stage.replica(at + 5, 1, 500));
        let verdict = stage.judge(at + 6, &[&primary, &replica]);
        let expected = if second == 0 { 0 } else { u128::from(at + 5) };
        assert_eq!(lag(verdict.standings[1]), (second, expected));
    }
}

#[test]
fn commits_tell_more_precisely_than_positions_and_by_the_primarys_clock() {
    let mut stage = Stage::new();
    for second in 0..5 {
        let at = second * 1000;
        let (primary, replica) =
            (stage.primary(at, 1, 500 + 10 * second, 1), stage.replica(at + 900, 1, 501 + 10 * second));
        // The last commit it replayed is 300 ms old, and 600 ms younger than the last look at the primary.
        let commit = 3_600_000_000 + i64::try_from(at + 600).unwrap() * 1000;
        let replica = with(&replica, |seen| seen.replayed_commit = Some(commit));
        let verdict = stage.judge(at + 1000, &[&primary, &replica]);
        let Standing::Fresh(lag) = verdict.standings[1] else { panic!("{verdict:?}") };
        assert_eq!(lag.staleness(stage.at(at + 1000)), Duration::from_millis(400));
    }
    // A commit of the future, by a clock that jumped, is not believed beyond the question.
    let replica = with(&stage.replica(4950, 1, 541), |seen| seen.replayed_commit = Some(i64::MAX / 2));
    let primary = stage.primary(4000, 1, 540, 1);
    let verdict = stage.judge(5000, &[&primary, &replica]);
    let Standing::Fresh(lag) = verdict.standings[1] else { panic!("{verdict:?}") };
    assert_eq!(lag.staleness(stage.at(5000)), Duration::from_millis(50));
}

#[test]
fn a_commit_of_a_clock_that_was_ahead_does_not_hide_a_replica_that_stands_still() {
    let mut stage = Stage::new();
    for second in 0..5 {
        let at = second * 1000;
        let primary = stage.primary(at, 1, 500 + 10 * second, 1);
        // It has what the primary had after one second, and not what it had after two; the commit says it is of today.
        let commit = 3_600_000_000 + 3_600_000_000;
        let replica = with(&stage.replica(at, 1, 510), |seen| seen.replayed_commit = Some(commit));
        let verdict = stage.judge(at, &[&primary, &replica]);
        if second >= 2 {
            assert_eq!(lag(verdict.standings[1]).1, u128::from(at - 2000));
        }
    }
}

#[test]
fn a_dead_primary_makes_no_replica_look_better() {
    let mut stage = Stage::new();
    let (primary, replica) = (stage.primary(0, 1, 500, 1), stage.replica(1, 1, 500));
    assert!(matches!(stage.judge(2, &[&primary, &replica]).standings[1], Standing::Fresh(_)));
    // It says that it has replayed all that it received, and receives nothing.
    let severed = with(&stage.replica(1000, 1, 500), |seen| seen.receiver = Receiver::Absent);
    let verdict = stage.judge(1001, &[&down(), &severed]);
    assert!(matches!(verdict.standings[1], Standing::Stale(Why::Severed, Some(_))), "{verdict:?}");
    // Its receiver hears of somebody, we do not: it lags by the time since we last knew, until that is too much.
    let verdict = stage.judge(9001, &[&down(), &stage.replica(9000, 1, 500)]);
    assert_eq!(lag(verdict.standings[1]), (0, 9001));
    let verdict = stage.judge(10_001, &[&down(), &stage.replica(10_000, 1, 500)]);
    assert!(matches!(verdict.standings[1], Standing::Stale(Why::Behind, Some(_))), "{verdict:?}");
}

#[test]
fn a_receiver_that_was_not_heard_for_more_than_half_its_patience_is_dead() {
    let mut stage = Stage::new();
    let primary = stage.primary(0, 1, 500, 1);
    let heard = |ago| Receiver::Heard { ago: Duration::from_millis(ago), patience: Duration::from_secs(6) };
    let never = Receiver::Heard { ago: Duration::from_secs(99), patience: Duration::ZERO };
    for (receiver, fresh) in [(heard(4000), true), (heard(4001), false), (never, true), (Receiver::Present, true)] {
        let replica = with(&stage.replica(1, 1, 500), |seen| seen.receiver = receiver);
        let standing = stage.judge(2, &[&primary, &replica]).standings[1];
        assert_eq!(matches!(standing, Standing::Fresh(_)), fresh, "{receiver:?}: {standing:?}");
    }
}

#[test]
fn out_at_the_limit_and_in_again_at_half_of_it() {
    let mut stage = Stage::new();
    let mut is_fresh = |behind: u64| {
        let (primary, replica) = (stage.primary(0, 1, 5000, 1), stage.replica(1, 1, 5000 - behind));
        let earlier = stage.primary(0, 1, 0, 1);
        if stage.judge.positions.is_empty() {
            stage.judge(0, &[&with(&earlier, |seen| seen.at -= Duration::from_millis(10))]);
        }
        matches!(stage.judge(2, &[&primary, &replica]).standings[1], Standing::Fresh(_))
    };
    let told: Vec<bool> = [0, 1000, 1001, 1000, 501, 500, 1000].into_iter().map(&mut is_fresh).collect();
    assert_eq!(told, [true, true, false, false, false, true, true]);
}

#[test]
fn positions_of_another_timeline_say_nothing() {
    let mut stage = Stage::new();
    let primary = stage.primary(0, 2, 500, 1);
    let verdict = stage.judge(1, &[&primary, &stage.replica(0, 1, 900)]);
    assert_eq!(verdict.standings[1], Standing::Stale(Why::Timeline, None));
    let mut stage = Stage::new();
    let verdict = stage.judge(1, &[&down(), &stage.replica(0, 1, 900)]);
    assert_eq!(verdict.standings[1], Standing::Stale(Why::Unknown, None));
}

#[test]
fn a_lag_longer_than_memory_is_no_small_one() {
    let mut stage = Stage::new();
    for second in 0..700u64 {
        let primary = stage.primary(second * 1000, 1, 500 + second, 1);
        stage.judge(second * 1000, &[&primary]);
    }
    let primary = stage.primary(700_000, 1, 1300, 1);
    let verdict = stage.judge(700_000, &[&primary, &stage.replica(700_000, 1, 501)]);
    assert_eq!(verdict.standings[1], Standing::Stale(Why::Behind, None));
    assert!(stage.judge.positions.len() <= REMEMBERED);
}
