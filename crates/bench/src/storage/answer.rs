//! What stores answer, read with tolerance: with or without namespace, whatever the order, unknown elements passed over.

use quick_xml::Reader;
use quick_xml::events::Event;

/// An answer of a store's XML, flattened: the local names of elements, and their text.
///
/// Lists are elements that hold elements: `<Contents><Key>a</Key></Contents>` is an entry `Contents` with a field `Key`.
#[derive(Default, Debug)]
pub(super) struct Answer {
    root: String,
    fields: Vec<(String, String)>,
    entries: Vec<(String, Vec<(String, String)>)>,
}

/// More than any answer of a thousand keys.
const ELEMENTS_MOST: usize = 100_000;

impl Answer {
    /// What there is of it; an answer that is not XML is empty.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut answer = Self::default();
        let document = String::from_utf8_lossy(bytes);
        let mut reader = Reader::from_str(&document);
        let mut path: Vec<String> = Vec::new();
        let mut text = String::new();
        for _ in 0..ELEMENTS_MOST {
            match reader.read_event() {
                Ok(Event::Start(start)) => {
                    path.push(start.local_name().as_ref().to_owned());
                    text.clear();
                    answer.open(&path);
                }
                Ok(Event::Text(piece)) => text.push_str(&piece),
                Ok(Event::GeneralRef(name)) => text.push_str(&resolved(&name)),
                Ok(Event::CData(piece)) => text.push_str(&piece),
                Ok(Event::End(_)) => {
                    answer.close(&path, &std::mem::take(&mut text));
                    path.pop();
                }
                Ok(Event::Eof) | Err(_) => break,
                Ok(_) => {}
            }
        }
        answer
    }

    fn open(&mut self, path: &[String]) {
        match path {
            [root] if self.root.is_empty() => self.root.clone_from(root),
            [_, name] => self.entries.push((name.clone(), Vec::new())),
            _ => {}
        }
    }

    fn close(&mut self, path: &[String], text: &str) {
        match path {
            // Without fields of its own it was one itself.
            [_, name] if self.entries.last().is_some_and(|(_, fields)| fields.is_empty()) => {
                self.entries.pop();
                self.fields.push((name.clone(), text.trim().to_owned()));
            }
            [_, _, name] => {
                if let Some((_, fields)) = self.entries.last_mut() {
                    fields.push((name.clone(), text.trim().to_owned()));
                }
            }
            _ => {}
        }
    }

    /// The text of an element right below the root.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        value(&self.fields, name)
    }

    /// All entries of one name.
    pub(super) fn entries(&self, name: &str) -> impl Iterator<Item = Entry<'_>> {
        self.entries.iter().filter(move |(entry, _)| entry == name).map(|(_, fields)| Entry(fields))
    }

    /// Code and message, if it is an error document, whatever its status was.
    pub(super) fn error(&self) -> Option<(&str, &str)> {
        (self.root == "Error")
            .then(|| (self.field("Code").unwrap_or("Error"), self.field("Message").unwrap_or_default()))
    }
}

/// One of a list.
pub(super) struct Entry<'a>(&'a [(String, String)]);

impl Entry<'_> {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        value(self.0, name)
    }
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_str()).filter(|text| !text.is_empty())
}

/// ETags come quoted by entities.
fn resolved(name: &quick_xml::events::BytesRef<'_>) -> String {
    if let Ok(Some(character)) = name.resolve_char_ref() {
        return character.to_string();
    }
    quick_xml::escape::resolve_predefined_entity(name).unwrap_or_default().to_owned()
}

/// Text that goes between tags.
pub(super) fn escaped(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_may_be_there_or_not() {
        for root in
            ["<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">", "<a:X xmlns:a=\"u\">"]
        {
            let end = root.split([' ', '>']).next().unwrap().replacen('<', "</", 1);
            let text = format!("<?xml version=\"1.0\"?>\n{root}\n <UploadId> a&amp;b </UploadId>{end}>");
            assert_eq!(Answer::read(text.as_bytes()).field("UploadId"), Some("a&b"));
        }
    }

    #[test]
    fn an_error_is_seen_under_any_status_and_entries_are_told_apart() {
        let answer = Answer::read(b"<Error><Code>SlowDown</Code><Message>less</Message><New><Er>1</Er></New></Error>");
        assert_eq!(answer.error(), Some(("SlowDown", "less")));
        let list = Answer::read(
            b"<L><IsTruncated>false</IsTruncated><Upload><Key>k</Key><Initiator><ID>1</ID></Initiator><UploadId>1</UploadId></Upload>\
              <Upload><Key>l</Key></Upload><Contents/></L>",
        );
        let keys: Vec<_> = list.entries("Upload").map(|entry| entry.field("Key").map(str::to_owned)).collect();
        assert_eq!(keys, [Some("k".to_owned()), Some("l".to_owned())]);
        assert_eq!(list.field("IsTruncated"), Some("false"));
        assert_eq!(list.error(), None);
    }

    #[test]
    fn rubbish_is_no_answer() {
        for text in ["", "<", "hello", "{\"a\":1}", "<a><b", "<a></b></a>", "\u{0}\u{1}"] {
            assert!(Answer::read(text.as_bytes()).error().is_none());
        }
    }
}
