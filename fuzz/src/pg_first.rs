//! The first bytes of a client of PostgreSQL.
//!
//! - No message is longer than the input, nor than what is looked at.
//! - What was told of a beginning is told of it whatever follows, and every strict prefix of a message asks for more.
//! - Asking for more ends: no input as long as what is looked at is incomplete.
//! - A refusal is one message, whose length is right and whose texts hold no end of a text.

use arbitrary::{Arbitrary, Unstructured};
use edgeproxy_postgres::wire::{First, LOOKED_AT, error_response, first};

/// A login as some client would write it.
#[derive(Arbitrary, Debug)]
struct Written {
    user: String,
    others: Vec<(String, String)>,
}

/// Whatever bytes: see the head of this module.
pub fn pg_first(data: &[u8]) {
    let looked_at = &data[..data.len().min(LOOKED_AT)];
    let told = first(looked_at);
    match told {
        First::SslRequest(length)
        | First::GssEncRequest(length)
        | First::Startup(length)
        | First::Cancel { length, .. } => {
            assert!((8..=looked_at.len()).contains(&length), "{length} of {} bytes", looked_at.len());
            for shorter in (0..length).filter(|at| *at < 64 || at % 97 == 0) {
                assert_eq!(first(&looked_at[..shorter]), First::Incomplete, "{shorter} of {length} bytes");
            }
            assert_eq!(first(&[&looked_at[..length], b"\x16\x03".as_slice()].concat()), told);
        }
        First::Incomplete => {
            let full = [looked_at, &vec![0; LOOKED_AT - looked_at.len()]].concat();
            assert_ne!(first(&full), First::Incomplete, "waits for a byte that is never looked at");
        }
        First::DirectTls | First::Other => {
            assert_eq!(first(&[looked_at, &[0; 16]].concat()), told);
        }
    }

    let text = String::from_utf8_lossy(data);
    let answer = error_response("57P03", &text);
    let length = u32::from_be_bytes(answer[1..5].try_into().expect("four bytes"));
    assert_eq!(answer.len(), 1 + usize::try_from(length).expect("small"));
    // Four texts, each ended once, and the end of all.
    assert_eq!(answer[5..].iter().filter(|byte| **byte == 0).count(), 5);

    if let Ok(written) = Written::arbitrary(&mut Unstructured::new(data)) {
        let bytes = written.bytes();
        let expected = if bytes.len() > LOOKED_AT { First::Other } else { First::Startup(bytes.len()) };
        assert_eq!(first(&bytes), expected, "{written:?}");
    }
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        let word = |text: &str| [text.replace('\0', " ").as_bytes(), b"\0"].concat();
        let mut body = [vec![0, 3, 0, 0], word("user"), word(&self.user)].concat();
        for (name, value) in self.others.iter().filter(|(name, _)| !name.is_empty()) {
            body.extend([word(name), word(value)].concat());
        }
        body.push(0);
        let length = u32::try_from(4 + body.len()).expect("as long as the input at most");
        [length.to_be_bytes().as_slice(), &body].concat()
    }
}
