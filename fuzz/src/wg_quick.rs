//! A wg-quick file.
//!
//! - It is refused with at least one mistake, in the order of the lines, each of one line and about a line that the file
//!   has; or written out again it is read as the same, and written out once more it is the same text.
//! - Notes are of one line as well, and no key is among them.

use edgeproxy_overlay::WgQuick;

/// Whatever bytes: see the head of this module.
pub fn wg_quick(data: &[u8]) {
    match WgQuick::parse("f", data) {
        Ok(config) => {
            config.notes.iter().for_each(|note| crate::assert_one_line(note));
            let private = config.interface.private_key.to_base64();
            assert!(!format!("{config:?}").contains(private.as_str()), "a private key is shown");
            let text = config.to_text();
            let again = WgQuick::parse("f", text.as_bytes()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
            assert_eq!(*again.to_text(), *text);
            let content = |config: &WgQuick| format!("{:?}{:?}", config.interface, config.peers);
            assert_eq!(content(&again), content(&config));
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a word");
            assert!(mistakes.is_sorted_by_key(|mistake| mistake.line), "{mistakes:?}");
            let lines = data.split(|byte| *byte == b'\n').count();
            for mistake in mistakes {
                assert!(mistake.line.is_none_or(|line| (1..=lines).contains(&line)), "{mistake} of {lines} lines");
                crate::assert_one_line(&mistake.to_string());
            }
        }
    }
}
