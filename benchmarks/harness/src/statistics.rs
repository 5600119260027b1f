//! Medians, percentiles and ratios of the rounds.

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// Distance of the extremes as a percentage of the median: how far the rounds disagree.
pub(crate) fn spread_percent(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (middle != 0.0).then(|| 100.0 * (highest - lowest) / middle)
}

/// The smallest value with at least `percent` of all values at or below it (nearest rank). `sorted` is ascending.
pub(crate) fn percentile(sorted: &[u64], percent: u32) -> Option<u64> {
    let rank = (sorted.len() * usize::try_from(percent).ok()?).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// The median of the ratios of rounds in which both sides have a value: `(round, value)` pairs, one per round.
pub(crate) fn ratio(of: &[(u32, f64)], to: &[(u32, f64)]) -> Option<f64> {
    let in_round = |&(round, value): &(u32, f64)| {
        let &(_, base) = to.iter().find(|&&(other, _)| other == round)?;
        (base > 0.0).then_some(value / base)
    };
    let ratios: Vec<f64> = of.iter().filter_map(in_round).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        let sorted: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&sorted, 50), Some(100));
        assert_eq!(percentile(&sorted, 99), Some(198));
        assert_eq!(percentile(&sorted, 100), Some(200));
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_ratio_pairs_values_of_the_same_round() {
        let of = [(1, 10.0), (2, 40.0), (3, 9.0)];
        let to = [(1, 10.0), (2, 20.0)];
        assert_eq!(ratio(&of, &to), Some(1.5));
        assert_eq!(ratio(&of, &[]), None);
        assert_eq!(ratio(&of, &[(1, 0.0)]), None);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(spread_percent(&[90.0, 100.0, 120.0]), Some(30.0));
        assert_eq!(spread_percent(&[0.0]), None);
    }
}
