//! A wg-quick file.
//!
//! - It is refused with at least one mistake, in the order of the lines, each of one line and about a line that the file
//!   has; or written out again it is read as the same, and written out once more it is the same text.
//! - Notes are of one line as well, and no key is among them.
//! - Read peer by peer, each is a peer or refused with a mistake of one line, every byte is read, and a file that is sound
//!   as a whole has the same peers.

use edgeproxy_overlay::{PeersOf, WgQuick};

/// Whatever bytes: see the head of this module.
pub fn wg_quick(data: &[u8]) {
    let mut alone = PeersOf::new("f", data);
    let mut peers = Vec::new();
    for found in alone.by_ref() {
        match found {
            Ok(found) => peers.push(found.peer),
            Err(mistakes) => mistakes.iter().for_each(|mistake| crate::assert_one_line(&mistake.to_string())),
        }
    }
    assert_eq!(alone.bytes(), data.len() as u64);
    match WgQuick::parse("f", data) {
        Ok(config) => {
            config.notes.iter().for_each(|note| crate::assert_one_line(note));
            assert_eq!(format!("{peers:?}"), format!("{:?}", config.peers), "one by one as all at once");
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
