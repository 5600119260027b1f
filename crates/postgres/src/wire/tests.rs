use super::*;

fn message(code: [u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + body.len()).unwrap().to_be_bytes();
    [&length, &code, body].concat()
}

const V3: [u8; 4] = [0, 3, 0, 0];
const V32: [u8; 4] = [0, 3, 0, 2];
const LOGIN: &[u8] = b"user\0app\0database\0contacts\0\0";

fn whole() -> Vec<(Vec<u8>, First)> {
    let ssl = message([4, 210, 22, 47], b"");
    let gss = message([4, 210, 22, 48], b"");
    let cancel = message([4, 210, 22, 46], &[0, 0, 1, 2, 9, 9, 9, 9]);
    let long_cancel = message([4, 210, 22, 46], &[[0, 0, 1, 2].as_slice(), &[7; 256]].concat());
    let startup = message(V3, LOGIN);
    let newer = message(V32, LOGIN);
    let longest = message(V3, &[b"user\0".as_slice(), &[b'x'; LOOKED_AT - 15], b"\0\0"].concat());
    assert_eq!(longest.len(), LOOKED_AT);
    vec![
        (ssl, First::SslRequest(8)),
        (gss, First::GssEncRequest(8)),
        (cancel, First::Cancel { length: 16, process: 0x102 }),
        (long_cancel, First::Cancel { length: 268, process: 0x102 }),
        (startup.clone(), First::Startup(startup.len())),
        (newer.clone(), First::Startup(newer.len())),
        (longest, First::Startup(LOOKED_AT)),
        (vec![0x16, 0x03], First::DirectTls),
    ]
}

#[test]
fn each_kind_is_told_as_soon_as_it_is_whole_and_not_before() {
    for (bytes, expected) in whole() {
        for length in 0..bytes.len() {
            assert_eq!(first(&bytes[..length]), First::Incomplete, "{length} of {expected:?}");
        }
        for tail in [b"".as_slice(), b"\0", b"\x16\x03\x01", &[0xff; 20]] {
            assert_eq!(first(&[&bytes, tail].concat()), expected, "followed by {tail:?}");
        }
    }
}

#[test]
fn what_is_something_else_is_told_at_once() {
    for bytes in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"\x16\x02",
        b"\0\x01",
        b"\0\0\0\x07",
        &[0, 0, 0x27, 0x11],
        &message([4, 210, 22, 47], b"x"),
        &message([4, 210, 22, 46], b"short"),
        &message([4, 210, 22, 50], b""),
        &message([0, 2, 0, 0], LOGIN),
        &message(V3, b""),
        &message(V3, b"\0"),
        &message(V3, b"user\0app\0"),
        &message(V3, b"user\0app"),
        &message(V3, b"database\0contacts\0\0"),
        &message(V3, b"\0app\0user\0a\0\0"),
        &message(V3, b"user\0app\0database\0\0\0x"),
    ] {
        assert_eq!(first(bytes), First::Other, "{bytes:?}");
    }
}

#[test]
fn an_answer_holds_what_clients_look_for() {
    let bytes = error_response("57P03", "no primary\0at the moment");
    assert_eq!(bytes, b"E\0\0\0\x34SFATAL\0VFATAL\0C57P03\0Mno primary at the moment\0\0");
    let long = error_response("08006", &"\u{e4}".repeat(700));
    assert_eq!(usize::try_from(u32::from_be_bytes(long[1..5].try_into().unwrap())).unwrap(), long.len() - 1);
    assert!(long.len() < 1100 && String::from_utf8(long[5..].to_vec()).is_ok());
}

#[test]
fn no_bytes_are_too_much_for_it() {
    let samples: Vec<Vec<u8>> = whole().into_iter().map(|(bytes, _)| bytes).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 32).unwrap()
    };
    for _ in 0..20_000 {
        let mut bytes = samples[next() % samples.len()].clone();
        for _ in 0..=next() % 4 {
            let at = next() % bytes.len();
            match next() % 3 {
                0 => bytes[at] = next().to_le_bytes()[0],
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, 0),
            }
        }
        match first(&bytes) {
            First::Incomplete => {
                bytes.resize(LOOKED_AT, 0);
                assert_ne!(first(&bytes), First::Incomplete, "waits for what never comes");
            }
            First::SslRequest(length)
            | First::GssEncRequest(length)
            | First::Startup(length)
            | First::Cancel { length, .. } => assert!(length <= bytes.len()),
            First::DirectTls | First::Other => {}
        }
    }
}
