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
