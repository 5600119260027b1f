//! Latencies as an HdrHistogram log, which its own tools and others read and merge.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::fleet::Run;
use crate::sample::Sample;

/// Digits that are kept.
const DIGITS: u8 = 3;
/// Latencies are in ns there, and their largest is told in ms.
const NANOS_OF_MILLISECOND: f64 = 1_000_000.0;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("latencies cannot be written as a histogram: {0}")]
pub struct LogError(String);

/// One line per site and operation, tagged `<site>.<operation>`, in ns.
pub(super) fn log(run: &Run) -> Result<Vec<u8>, LogError> {
    let failed = |error: &dyn std::fmt::Debug| LogError(format!("{error:?}"));
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment(&format!("edgeproxy bench db, {}, {}", run.started, run.asked))
        .with_max_value_divisor(NANOS_OF_MILLISECOND)
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| failed(&error))?;
    for row in &run.rows {
        for (operation, sample) in row.measured().into_iter().flat_map(|measured| &measured.samples) {
            let name = format!("{}.{}", row.site.name, operation.name()).replace([',', ' ', '\n', '\r'], "_");
            let Some(tag) = Tag::new(&name) else { return Err(LogError(format!("{name:?} is no tag"))) };
            let histogram = histogram(sample)?;
            let took = Duration::try_from_secs_f64(sample.0.iter().sum::<f64>() / 1000.0);
            let took = took.map_err(|error| LogError(format!("{name}: {error}")))?;
            writer.write_histogram(&histogram, Duration::ZERO, took, Some(tag)).map_err(|error| failed(&error))?;
        }
    }
    Ok(bytes)
}

/// In ns; can be merged with others.
pub(super) fn histogram(sample: &Sample) -> Result<Histogram<u64>, LogError> {
    let mut histogram = Histogram::new(DIGITS).map_err(|error| LogError(error.to_string()))?;
    for value in &sample.0 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let nanos = (value * NANOS_OF_MILLISECOND).round() as u64;
        histogram.record(nanos).map_err(|error| LogError(error.to_string()))?;
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::report::published::tests::example;

    #[test]
    fn what_is_no_time_is_an_error() {
        for odd in [-1.0, 1e300, f64::NAN] {
            let mut run = example();
            let Some(crate::fleet::Outcome::Measured(measured)) = run.rows.get_mut(0).map(|row| &mut row.outcome)
            else {
                panic!("it is measured");
            };
            measured.samples.insert(crate::db::Operation::Read, Sample(vec![odd]));
            assert!(log(&run).is_err(), "{odd}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        use base64ct::{Base64, Encoding};
        let bytes = log(&example()).unwrap();
        let mut count = 0;
        for entry in IntervalLogIterator::new(&bytes) {
            let LogEntry::Interval(interval) = entry.unwrap() else { continue };
            let packed = Base64::decode_vec(interval.encoded_histogram()).unwrap();
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut packed.as_slice()).unwrap();
            if interval.tag().is_some_and(|tag| tag.as_str() == "lhr.probe") {
                let median = histogram.value_at_quantile(0.5);
                assert!(histogram.len() == 3 && median.abs_diff(50_000_000) <= 50_000, "{median}");
                count += 1;
            }
        }
        assert_eq!(count, 1);
    }
}
