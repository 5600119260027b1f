//! The files a machine begins with: programs of this host, modules of its own kernel, in the archive that kernels take
//! (cpio, "newc").

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// Where modules are in the archive.
const MODULES: &str = "/modules";
/// What a module says of those it needs.
const NEEDS: &[u8] = b"depends=";

/// An archive that grows.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    number: usize,
    there: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Adds a file that can be run, and the folders it is in.
    pub(crate) fn add(&mut self, path: &str, contents: &[u8]) {
        let path = Path::new(path);
        if self.there.contains(path) {
            return;
        }
        self.add_folder(path.parent().unwrap());
        self.entry(path, PROGRAM, contents);
    }

    pub(crate) fn add_folder(&mut self, path: &Path) {
        let all: Vec<&Path> = path.ancestors().collect();
        for folder in all.into_iter().rev().filter(|folder| folder.parent().is_some()) {
            if !self.there.contains(folder) {
                self.entry(folder, FOLDER, b"");
            }
        }
    }

    /// Adds a program of this host, and the libraries it is linked with where the host has them.
    pub(crate) fn add_program(&mut self, path: &str, program: &Path) {
        self.add(path, &fs::read(program).unwrap_or_else(|error| panic!("{}: {error}", program.display())));
        // Of one that is linked with nothing it says only that.
        let said = Command::new("ldd").arg(program).output().unwrap().stdout;
        for line in String::from_utf8_lossy(&said).lines() {
            // "NAME => PATH (ADDRESS)", and for the loader "PATH (ADDRESS)".
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                self.add(library, &fs::read(library).unwrap());
            }
        }
    }

    /// Adds these modules and what they need, out of a folder of modules. Gives their paths in the order in which they
    /// have to be loaded.
    pub(crate) fn add_modules(&mut self, folder: &Path, wanted: &[&str]) -> Vec<String> {
        let mut files = Vec::new();
        walk(folder, &mut files);
        let mut order = Vec::new();
        for name in wanted {
            self.add_module(name, &files, &mut order);
        }
        order
    }

    fn add_module(&mut self, name: &str, files: &[PathBuf], order: &mut Vec<String>) {
        let file = files.iter().find(|file| module_name(file).as_deref() == Some(&name.replace('-', "_")));
        // Otherwise it is a part of the kernel itself.
        let Some(file) = file else { return };
        let path = format!("{MODULES}/{name}.ko");
        if order.contains(&path) {
            return;
        }
        let contents = match file.extension().is_some_and(|extension| extension == "xz") {
            false => fs::read(file).unwrap(),
            true => Command::new("xz").arg("-dc").arg(file).output().unwrap().stdout,
        };
        for needed in needs(&contents) {
            self.add_module(&needed, files, order);
        }
        self.add(&path, &contents);
        order.push(path);
    }

    /// All of it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("/TRAILER!!!"), 0, b"");
        self.bytes
    }

    fn entry(&mut self, path: &Path, mode: u32, contents: &[u8]) {
        self.there.insert(path.to_owned());
        self.number += 1;
        let name = path.strip_prefix("/").unwrap().to_str().unwrap();
        let (number, size, length) = (self.number, contents.len(), name.len() + 1);
        // Number, mode, owner, group, links, time, size, four of devices, length of the name, checksum (none).
        let head = format!(
            "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{length:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend(head.bytes());
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, files),
            false => files.push(path),
        }
    }
}

/// "libchacha" of ".../libchacha.ko" and ".../libchacha.ko.xz".
fn module_name(file: &Path) -> Option<String> {
    let (name, rest) = file.file_name()?.to_str()?.split_once('.')?;
    matches!(rest, "ko" | "ko.xz").then(|| name.replace('-', "_"))
}

/// The modules a module needs.
fn needs(module: &[u8]) -> Vec<String> {
    let at = module.windows(NEEDS.len()).position(|window| window == NEEDS);
    let words = at.map(|at| module[at + NEEDS.len()..].split(|byte| *byte == 0).next().unwrap_or_default());
    let words = words.map(String::from_utf8_lossy).unwrap_or_default();
    words.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
