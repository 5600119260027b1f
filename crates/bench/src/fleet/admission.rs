//! What a service answers and a fleet file says is somebody else's: figures that cannot be are refused, and text is made
//! fit to be shown.

use super::http::AskError;
use crate::service::Answer;

/// Longest latency, in ms, that a service is believed: an hour.
const LONGEST_MS: f64 = 3_600_000.0;
/// Largest number of failures, or of rows, of an answer.
const COUNT_MOST: u64 = 1_000_000_000;
/// Characters of a text that are kept: an error of a database is shorter.
const TEXT_MOST: usize = 500;

/// The answer, if its figures can be true.
pub(super) fn admitted(mut answer: Answer) -> Result<Answer, AskError> {
    if let Some(odd) = odd_latency(&answer) {
        return Err(AskError::Broken(format!("{odd} ms is no latency")));
    }
    if let Some(odd) = odd_count(&answer) {
        return Err(AskError::Broken(format!("{odd} is no count of failures or rows")));
    }
    for text in [&mut answer.region, &mut answer.db_host, &mut answer.timestamp, &mut answer.run] {
        *text = plain(text);
    }
    let reason = answer.cleanup.as_mut().and_then(|cleanup| cleanup.error.as_mut());
    let optional = [&mut answer.error, &mut answer.message, &mut answer.read_db, &mut answer.ended_early];
    for text in optional.into_iter().flatten().chain(reason) {
        *text = plain(text);
    }
    answer.errors = answer.errors.into_iter().map(|(kind, count)| (plain(&kind), count)).collect();
    Ok(answer)
}

fn odd_latency(answer: &Answer) -> Option<f64> {
    let phases = answer.phases.map(|phases| [phases.dns_ms, phases.tcp_ms, phases.tls_ms, phases.login_ms]);
    let samples = answer.latencies.values().chain([&answer.read_latencies, &answer.insert_latencies]);
    let single = answer.connect_ms.into_iter().chain(answer.first_ms).chain(phases.into_iter().flatten());
    samples.flat_map(|sample| sample.0.iter().copied()).chain(single).find(|ms| !(0.0..=LONGEST_MS).contains(ms))
}

fn odd_count(answer: &Answer) -> Option<u64> {
    let failures = answer.errors.values().copied().chain([answer.timeouts]);
    let removed = answer.cleanup.iter().flat_map(|cleanup| [cleanup.deleted, cleanup.leftovers]);
    let mut counts = failures.map(|count| u64::try_from(count).unwrap_or(u64::MAX)).chain(removed);
    counts.find(|count| *count > COUNT_MOST)
}

/// Fit for a terminal and for a line of a table: without control characters, and not too long.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(TEXT_MOST).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &str) -> Result<Answer, AskError> {
        admitted(serde_json::from_str(&format!("{{\"region\":\"lhr\",\"db_host\":\"h\",{fields}}}")).unwrap())
    }

    #[test]
    fn figures_that_cannot_be_are_refused() {
        for odd in [
            "\"read_latencies\":[1.0,-0.5]",
            "\"insert_latencies\":[1e300]",
            "\"latencies\":{\"probe\":[3600001]}",
            "\"connect_ms\":-1",
            "\"phases\":{\"dns_ms\":0,\"tcp_ms\":0,\"tls_ms\":0,\"login_ms\":1e30}",
            "\"errors\":{\"x\":18446744073709551615}",
        ] {
            assert!(matches!(answer(odd), Err(AskError::Broken(_))), "{odd}");
        }
        answer("\"read_latencies\":[0.0,3600000]").unwrap();
    }

    #[test]
    fn text_is_of_one_line_and_does_not_steer_a_terminal() {
        let answer = answer("\"ended_early\":\"\\u001b[2Ja\\nb\",\"errors\":{\"k\\r\":1}").unwrap();
        assert_eq!(answer.ended_early.as_deref(), Some(" [2Ja b"));
        assert_eq!(answer.errors.into_keys().collect::<Vec<_>>(), ["k "]);
        assert_eq!(plain(&"x".repeat(9999)).len(), TEXT_MOST);
    }
}
