//! Configurations as files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

/// A folder of its own, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let name = format!("xlb-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, bytes).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_that_are_none() {
    let folder = Folder::new("config");
    let error = |file: &Path| load(file).map(|_| ()).unwrap_err().to_string();
    let file = folder.write("x.toml", [b'a', 0xFF]);
    assert!(error(&file).contains("byte 1 is not UTF-8"));
    folder.write("x.toml", vec![b' '; 5 << 20]);
    assert!(error(&file).contains("too large"));
    let endless = error(Path::new("/dev/zero"));
    assert!(endless.contains("too large"), "{endless}");
    drop(folder);
    assert!(error(&file).contains("could not be read"));
}

/// As large as a file may be, and nothing in it makes sense: that takes no time
/// to speak of, and few words.
#[test]
fn noise() {
    let keys: String = (0..100_000)
        .map(|n| format!("k{n} = \"what is this?\"\n"))
        .collect();
    let one_line: String = (0..400_000).map(|n| format!("#!$={n},")).collect();
    let tables: String = (0..150_000)
        .map(|n| format!("[[a{n}]]\nx = [{n}]\n"))
        .collect();
    for text in [keys, one_line.replace('#', ""), tables] {
        assert!(
            text.len() > 2 << 20 && text.len() <= 4 << 20,
            "{}",
            text.len()
        );
        let error = parse(&text, "x.toml").unwrap_err();
        assert!(error.has_errors());
        let shown = error.to_string();
        assert!(shown.len() < 64 << 10, "{} bytes", shown.len());
        assert!(error.lines().len() <= 50);
    }
}
