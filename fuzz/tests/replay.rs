//! Every committed input through its target, and a bounded exploration around them. Needs no fuzzer and no nightly
//! compiler.
//!
//! `EDGEPROXY_FUZZ_SEED` and `EDGEPROXY_FUZZ_CASES` (inputs a target, 0: only the corpus) change the exploration. A
//! failure prints the input and leaves it in `fuzz/artifacts/<target>/`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use edgeproxy_fuzz::TARGETS;

/// Inputs explored for each target.
const CASES: u64 = 20_000;
const SEED: u64 = 0x0ed9_e9f0_c5ee_d001;
/// Longest input explored, in bytes: past what any corpus file has, short enough to be quick.
const LONGEST: usize = 8 * 1024;

/// Pieces that the formats are made of.
const DICTIONARY: &[&[u8]] = &[
    b"PROXY ",
    b"PROXY TCP4 ",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\x00\x0c",
    b"\x0f\xf0",
    b"\x10\x00",
    b"HTTP/1.1 ",
    b"\xab\xcd\xefMaxMind.com",
    b"[[listener]]\n",
    b"[[check]]\n",
    b"[proxy]\n",
    b"region = \"fra\"\n",
    b"\0EDGEPROXY_",
    b" = \"\"\"\n",
    b"id,app,region,wg_ip,port\n",
    b"\"\"",
    b"\"items\":[",
    b"null",
    b"1e309",
    b"-9223372036854775809",
    b"::ffff:0.0.0.0",
    b"\xef\xbb\xbf",
    b"\r\n",
    b",",
    b"=",
    b"get=1\n\n",
    b"set=1\n",
    b"public_key=0101010101010101010101010101010101010101010101010101010101010101\n",
    b"allowed_ip=-",
    b"[Peer]\n",
    b"AllowedIPs = ",
    b"\x45\0\0\x1c",
    b"\x60\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\0\x03\0\0user\0",
];

#[test]
fn proxy_header() {
    replay("proxy_header");
}

#[test]
fn http_status() {
    replay("http_status");
}

#[test]
fn mmdb() {
    replay("mmdb");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn backend_row() {
    replay("backend_row");
}

#[test]
fn import() {
    replay("import");
}

#[test]
fn admin_request() {
    replay("admin_request");
}

#[test]
fn route_sequence() {
    replay("route_sequence");
}

#[test]
fn uapi() {
    replay("uapi");
}

#[test]
fn wg_quick() {
    replay("wg_quick");
}

#[test]
fn datagram() {
    replay("datagram");
}

#[test]
fn packet() {
    replay("packet");
}

#[test]
fn pg_first() {
    replay("pg_first");
}

#[test]
fn every_target_has_a_corpus_and_an_entry_point() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<String> = entries.map(|entry| stem(entry.unwrap())).collect();
        names.sort();
        names
    };
    let mut targets: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    targets.sort();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "no corpus for {name}");
    for (path, input) in &corpus {
        run(name, *target, input, &path.display().to_string());
    }

    let cases = number("EDGEPROXY_FUZZ_CASES", CASES);
    let seed = number("EDGEPROXY_FUZZ_SEED", SEED);
    let started = Instant::now();
    let mut slowest = (Duration::ZERO, 0);
    for case in 0..cases {
        let mut dice = Dice(seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let input = mutated(&corpus, &mut dice);
        let began = Instant::now();
        run(name, *target, &input, &format!("EDGEPROXY_FUZZ_SEED={seed} case {case}"));
        slowest = slowest.max((began.elapsed(), case));
    }
    println!(
        "{name}: {} corpus files, {cases} inputs from seed {seed} in {:.1?}, the slowest {slowest:?}",
        corpus.len(),
        started.elapsed()
    );
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The order of a folder is no order: the same seed must give the same inputs everywhere.
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn run(name: &str, target: fn(&[u8]), input: &[u8], origin: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    let path = folder.join("replay-failure");
    let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, input));
    println!("{name} fails for {origin}:\n\"{}\"\nkept in {}: {kept:?}", input.escape_ascii(), path.display());
    resume_unwind(panic)
}

fn mutated(corpus: &[(PathBuf, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let any = |dice: &mut Dice| corpus[dice.below(corpus.len())].1.clone();
    let mut input = if dice.below(20) == 0 { dice.bytes(300) } else { any(dice) };
    for _ in 0..=dice.below(6) {
        let at = dice.below(input.len() + 1);
        let end = (at + dice.below(17)).min(input.len());
        match dice.below(9) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.byte(),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, dice.bytes(9))),
            4 => drop(input.splice(at..at, input[at..end].to_vec())),
            5 => input.truncate(at),
            6 => {
                let other = any(dice);
                input.truncate(at);
                input.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
            7 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            _ => drop(input.splice(at..end, DICTIONARY[dice.below(DICTIONARY.len())].iter().copied())),
        }
    }
    input.truncate(LONGEST);
    input
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where there is none.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.byte()).collect()
    }
}
