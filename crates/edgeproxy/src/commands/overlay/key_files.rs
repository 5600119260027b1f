//! Files that hold keys: made all together or not at all, for their owner alone, and never in the place of others.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// For their owner alone.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A name in the folder, and the text of that file.
pub(super) type KeyFile = (String, Zeroizing<String>);

/// Puts the files into a folder, which is made if there is none. `Err`: a message; then the folder is as it was.
pub(super) fn put(folder: &Path, files: &[KeyFile]) -> Result<(), String> {
    let there: Vec<String> = files
        .iter()
        .map(|(name, _)| folder.join(name))
        // A link to nothing is something as well.
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| path.display().to_string())
        .collect();
    if !there.is_empty() {
        return Err(format!(
            "{}: already there, and keys are never overwritten, so nothing was written; move it away or name another folder \
             with --dir",
            there.join(", ")
        ));
    }
    Draft::write(folder, files)
        .and_then(|draft| draft.publish(files))
        .map_err(|(path, error)| format!("{}: cannot be written: {error}; nothing was left behind", path.display()))
}

/// What was about to be written, and why it could not be.
type Failed = (PathBuf, io::Error);

/// The files, complete and on disk, in a folder of their own from where each gets its name. Dropped before all have
/// theirs, it takes back what was done.
struct Draft {
    folder: PathBuf,
    /// Inside of it: links do not cross file systems.
    draft: Option<PathBuf>,
    named: Vec<PathBuf>,
    made_folder: bool,
    is_done: bool,
}

impl Draft {
    fn write(folder: &Path, files: &[KeyFile]) -> Result<Self, Failed> {
        let at_folder = |error| (folder.to_owned(), error);
        let made_folder = make_folder(folder).map_err(at_folder)?;
        let mut this = Self { folder: folder.to_owned(), draft: None, named: Vec::new(), made_folder, is_done: false };
        let draft = folder.join(draft_name().map_err(at_folder)?);
        DirBuilder::new().mode(FOLDER_MODE).create(&draft).map_err(at_folder)?;
        this.draft = Some(draft.clone());
        for (name, text) in files {
            write_file(&draft.join(name), text).map_err(|error| (folder.join(name), error))?;
        }
        Ok(this)
    }

    /// A link, unlike a rename, takes nobody's place.
    fn publish(mut self, files: &[KeyFile]) -> Result<(), Failed> {
        let draft = self.draft.clone().unwrap_or_default();
        for (name, _) in files {
            let path = self.folder.join(name);
            fs::hard_link(draft.join(name), &path).map_err(|error| (path.clone(), error))?;
            self.named.push(path);
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(|error| (self.folder.clone(), error))?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Whatever cannot be removed could not be made either, or somebody else has.
        let _ = self.draft.as_ref().map(fs::remove_dir_all);
        if self.is_done {
            return;
        }
        for path in &self.named {
            let _ = fs::remove_file(path);
        }
        if self.made_folder {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Whether there was none.
fn make_folder(folder: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// By lot, so that two at once do not meet.
fn draft_name() -> io::Result<String> {
    let mut lot = [0; 8];
    rand::fill(&mut lot).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(format!(".new-{:016x}", u64::from_ne_bytes(lot)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<KeyFile> {
        names.iter().map(|name| ((*name).to_owned(), Zeroizing::new(format!("text of {name}")))).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_appears_meanwhile_is_left_alone_and_nothing_beside_it() {
        let site = tempfile::tempdir().unwrap();
        let folder = site.path().join("overlay");
        let files = files(&["a", "b", "c"]);
        let draft = Draft::write(&folder, &files).unwrap();
        assert_eq!(names(&folder).len(), 1, "the draft alone");
        fs::write(folder.join("b"), "somebody else's").unwrap();
        let (path, error) = draft.publish(&files).unwrap_err();
        assert_eq!((path, error.kind()), (folder.join("b"), io::ErrorKind::AlreadyExists));
        assert_eq!(names(&folder), ["b"]);
        assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "somebody else's");
    }

    #[test]
    fn a_draft_that_is_not_published_was_never_there() {
        let site = tempfile::tempdir().unwrap();
        drop(Draft::write(&site.path().join("overlay"), &files(&["a"])).unwrap());
        assert_eq!(names(site.path()), [""; 0]);
        assert!(Draft::write(&site.path().join("overlay"), &files(&["a", "no/where"])).is_err());
        assert_eq!(names(site.path()), [""; 0]);
        put(site.path(), &files(&["a", "b"])).unwrap();
        assert_eq!(names(site.path()), ["a", "b"], "a folder that is there is used");
    }
}
