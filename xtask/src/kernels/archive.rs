//! Writes a cpio archive, the form in which Linux takes its first file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{collections::BTreeSet, path::Path};

/// Types of a file's mode, of stat(2).
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// Entries begin, and their contents begin and end, at a multiple of this.
const ALIGNMENT: usize = 4;
const LAST: &str = "TRAILER!!!";

#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    /// What is in it; libraries are given once for each program.
    names: BTreeSet<String>,
}

impl Archive {
    pub fn folder(&mut self, name: &str) {
        self.add(name, FOLDER, &[]);
    }

    pub fn file(&mut self, name: &str, contents: &[u8]) {
        self.add(name, FILE, contents);
    }

    pub fn program(&mut self, name: &str, contents: &[u8]) {
        self.add(name, PROGRAM, contents);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(LAST, 0, &[]);
        self.bytes
    }

    /// Adds an entry and before it the folders that it lies in.
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let parent = Path::new(name).parent().and_then(Path::to_str);
        if let Some(parent) = parent.filter(|parent| !parent.is_empty()) {
            self.add(parent, FOLDER, &[]);
        }
        self.entry(name, mode, contents);
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let number = self.names.len() as u32;
        let (links, device) = (1, 0);
        let size = contents.len() as u32;
        let fields = [
            number,
            mode,
            0, // user
            0, // group
            links,
            0, // time of change
            size,
            device,
            device,
            device,
            device,
            name.len() as u32 + 1,
            0, // checksum, of another format
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    /// Inode numbers must differ, else Linux takes files for links to another.
    #[test]
    fn an_archive() {
        let mut archive = Archive::default();
        archive.program("bin/a", b"hello");
        archive.program("bin/a", b"again");
        archive.file("b", b"");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<_> = text.split("070701").skip(1).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names[0].starts_with("00000002000041ED"), "{}", names[0]);
        assert!(names[1].contains("bin/a\0") && names[1].ends_with("hello\0\0\0"));
        assert!(names[2].starts_with("00000003000081A4"), "{}", names[2]);
        assert!(names[3].contains("TRAILER!!!"));
        assert_eq!(text.len() % 4, 0);
    }
}
