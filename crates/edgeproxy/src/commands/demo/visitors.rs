//! Who comes, and where each of them should be served.

/// A client from this country.
pub(super) struct Visitor {
    pub(super) country: &'static str,
    pub(super) expected: Expected,
}

/// Where a client should be served: written down by hand, not asked of the router.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// In one of these regions; of several backends in one's own country any is right.
    In(&'static [&'static str]),
    /// In the region of the POP: there is no backend in this part of the world.
    AtThePop,
}

impl Expected {
    /// The regions that are right, for a POP in this one.
    pub(super) fn regions(self, pop: &str) -> Vec<String> {
        match self {
            Self::In(regions) => regions.iter().map(|region| (*region).to_owned()).collect(),
            Self::AtThePop => vec![pop.to_owned()],
        }
    }

    pub(super) fn in_words(self, pop: &str) -> String {
        match self {
            Self::In([most @ .., last]) if !most.is_empty() => format!("{} or {last}", most.join(", ")),
            Self::In(_) => self.regions(pop).concat(),
            Self::AtThePop => format!("{pop} (POP)"),
        }
    }
}

const fn from(country: &'static str, expected: &'static [&'static str]) -> Visitor {
    Visitor { country, expected: Expected::In(expected) }
}

const AMERICAN: &[&str] = &["iad", "ord", "lax"];

/// First those with a backend in their country, then those that have to go abroad.
pub(super) const VISITORS: [Visitor; 20] = [
    from("BR", &["gru"]),
    from("US", AMERICAN),
    from("US", AMERICAN),
    from("US", AMERICAN),
    from("GB", &["lhr"]),
    from("DE", &["fra"]),
    from("FR", &["cdg"]),
    from("JP", &["nrt"]),
    from("SG", &["sin"]),
    from("AU", &["syd"]),
    from("AR", &["gru"]),
    from("CA", &["iad"]),
    from("IE", &["lhr"]),
    from("PT", &["cdg"]),
    from("PL", &["fra"]),
    from("IN", &["sin"]),
    from("KR", &["nrt"]),
    from("NZ", &["syd"]),
    Visitor { country: "KE", expected: Expected::AtThePop },
    Visitor { country: "EG", expected: Expected::AtThePop },
];
