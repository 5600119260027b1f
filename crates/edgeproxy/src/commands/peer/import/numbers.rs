//! The greatest number a peer has. Numbers grow and are never given twice: whatever peer has a greater one is new.

use serde::Deserialize;
use serde_json::Value;

use crate::admin_client::AdminClient;
use crate::commands::Failure;
use crate::commands::peer::get;

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
}

/// 0 where there is no peer. Asks twice for each bit of the number.
pub(super) fn last(client: &AdminClient) -> Result<u64, Failure> {
    greatest(|number| {
        // A cursor is the number that a page begins behind.
        let page: Page = get(client, &format!("/api/v1/peers?limit=1&cursor={number:016x}"))?;
        Ok(!page.items.is_empty())
    })
}

/// The greatest number, by whether there is one above another.
fn greatest<E>(mut has_above: impl FnMut(u64) -> Result<bool, E>) -> Result<u64, E> {
    let (mut low, mut high) = (0, 1);
    if !has_above(0)? {
        return Ok(0);
    }
    while high < 1 << 62 && has_above(high)? {
        (low, high) = (high, 2 * high);
    }
    // There is one above `low`, and none above `high`.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        *(if has_above(middle)? { &mut low } else { &mut high }) = middle;
    }
    Ok(high)
}

#[cfg(test)]
mod tests {
    use super::greatest;

    #[test]
    fn the_greatest_is_found_in_few_steps() {
        for there in (0..70).chain([1_000_000, 1_048_576, (1 << 62) - 1, 1 << 62]) {
            let mut steps = 0;
            let found = greatest(|number| {
                steps += 1;
                Ok::<_, ()>(there > number)
            });
            assert_eq!(found, Ok(there));
            assert!(steps <= 2 + 2 * (64 - u64::leading_zeros(there)), "{there}: {steps}");
        }
    }
}
