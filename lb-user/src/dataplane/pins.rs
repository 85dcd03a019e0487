//! Where an instance's maps and links are pinned, so that both outlive the
//! agent: a folder of the BPF filesystem.
//!
//! `maps/` has every map but those that hold nothing worth keeping, and in
//! `LAYOUT` what they are. That comes last: maps without it are what a start
//! has left that got no further, and nothing is attached yet. `links/` has a
//! link for each hook of each interface, see [`Hook`].

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use aya::maps::{Array, IterableMap as _, Map, MapData};
use lb_common::layout;
use tracing::info;

use super::{bpffs, error::PinError, syscall};

const LAYOUT: &str = "LAYOUT";
/// A map on its way to another name.
const UNFINISHED: &str = "unfinished";

/// An instance's folder.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

/// A place of an interface where a program is attached. Names the link's pin:
/// `2-xdp-native`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    XdpNative,
    XdpGeneric,
    TcxIngress,
    TcxEgress,
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::TcxIngress => "tcx-ingress",
            Self::TcxEgress => "tcx-egress",
        }
    }
}

/// What the pinned maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    version: u64,
    /// The network namespace of the interfaces that `links/` is about.
    network: u64,
}

impl Pins {
    /// The folder of `instance` in the BPF filesystem at `root`, which is
    /// mounted, and the folder made, if it isn't there.
    ///
    /// # Errors
    /// If that can't be done.
    pub fn open(root: &Path, instance: &str) -> Result<Self, PinError> {
        bpffs::mount(root)?;
        let pins = Self::of(root, instance);
        for folder in [pins.maps(), pins.links()] {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&folder).map_err(failed("create", &folder))?;
        }
        Ok(pins)
    }

    /// The folder of `instance`, if there is one.
    #[must_use]
    pub fn find(root: &Path, instance: &str) -> Option<Self> {
        let pins = Self::of(root, instance);
        (bpffs::is_bpffs(root) && pins.folder.is_dir()).then_some(pins)
    }

    fn of(root: &Path, instance: &str) -> Self {
        Self {
            folder: root.join("xlb").join(instance),
        }
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn maps(&self) -> PathBuf {
        self.folder.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn link(&self, interface: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{interface}-{}", hook.name()))
    }

    /// Whether there are maps to adopt.
    ///
    /// # Errors
    /// If they are of another layout, or of interfaces in another network
    /// namespace.
    pub(super) fn has_maps(&self) -> Result<bool, PinError> {
        let path = self.map(LAYOUT);
        if !path.exists() {
            return Ok(false);
        }
        let layout = read_layout(&path)?;
        let present = Layout::present()?;
        let folder = self.folder.clone();
        if layout.version != present.version {
            return Err(PinError::Layout {
                folder,
                found: layout.version,
                expected: present.version,
            });
        }
        if layout.network != present.network && !self.interfaces()?.is_empty() {
            return Err(PinError::OtherNetwork { folder });
        }
        Ok(true)
    }

    /// The pinned maps, by name.
    pub(super) fn map_names(&self) -> Result<Vec<String>, PinError> {
        let mut names = names(&self.maps())?;
        names.retain(|name| name != LAYOUT);
        Ok(names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    /// Pins maps that aren't yet, and lets go of those that there are none of
    /// any more.
    pub(super) fn pin_maps<'a>(
        &self,
        maps: impl Iterator<Item = (&'a str, &'a Map)>,
    ) -> Result<(), PinError> {
        let before = self.map_names()?;
        let mut kept = Vec::new();
        for (name, map) in maps {
            kept.push(name.to_owned());
            if !before.iter().any(|other| other == name) {
                pin(map, &self.map(name))?;
            }
        }
        for name in before.iter().filter(|name| !kept.contains(name)) {
            let path = self.map(name);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        self.write_layout()
    }

    fn write_layout(&self) -> Result<(), PinError> {
        let path = self.map(LAYOUT);
        let layout = Layout::present()?;
        if path.exists() {
            return Ok(());
        }
        let wrong = |source| PinError::Map {
            path: path.clone(),
            source,
        };
        let mut map = Array::<MapData, [u64; 2]>::create(1, 0).map_err(wrong)?;
        map.set(0, [layout.version, layout.network], 0)
            .map_err(wrong)?;
        syscall::pin(map.map().fd().as_fd(), &path).map_err(failed("pin", &path))
    }

    /// The interfaces that links are attached to; those that are gone aren't
    /// there.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn interfaces(&self) -> Result<Vec<u32>, PinError> {
        let mut interfaces = Vec::new();
        for name in names(&self.links())? {
            let path = self.links().join(name);
            interfaces.extend(attached_to(&path));
        }
        interfaces.sort_unstable();
        interfaces.dedup();
        Ok(interfaces)
    }

    /// Whether a link of an interface is pinned and still attached to it.
    pub(super) fn holds(&self, interface: u32, hook: Hook) -> bool {
        attached_to(&self.link(interface, hook)) == Some(interface)
    }

    /// Whether the ingress program is attached to an interface.
    pub(super) fn has_xdp(&self, interface: u32) -> bool {
        [Hook::XdpNative, Hook::XdpGeneric]
            .iter()
            .any(|&hook| self.holds(interface, hook))
    }

    /// Whether the tc programs are the instance's own here: it was attached to
    /// this network namespace's interfaces.
    ///
    /// # Errors
    /// If the record can't be read.
    pub fn is_of_this_network(&self) -> Result<bool, PinError> {
        let path = self.map(LAYOUT);
        if !path.exists() {
            return Ok(true);
        }
        Ok(read_layout(&path)?.network == Layout::present()?.network)
    }

    /// Detaches what is pinned for a hook of an interface, if anything is.
    pub(super) fn detach_hook(&self, interface: u32, hook: Hook) -> Result<(), PinError> {
        let path = self.link(interface, hook);
        match path.exists() {
            true => detach(&path),
            false => Ok(()),
        }
    }

    /// Detaches all that is pinned of interfaces which aren't among `kept`, or
    /// are gone.
    pub(super) fn detach_others(&self, kept: &[u32]) -> Result<(), PinError> {
        for name in names(&self.links())? {
            let path = self.links().join(name);
            if !attached_to(&path).is_some_and(|interface| kept.contains(&interface)) {
                detach(&path)?;
            }
        }
        Ok(())
    }

    /// Detaches every link and lets go of every map; the first failure is
    /// returned after all have been tried.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&self) -> Result<(), PinError> {
        let mut result = Ok(());
        let mut links = names(&self.links())?;
        // What XDP hands off must find its program at tc.
        links.sort_by_key(|name| !name.to_string_lossy().contains("-xdp-"));
        for name in links {
            result = result.and(detach(&self.links().join(name)));
        }
        // The record of what they are first, as it came last.
        let mut maps = names(&self.maps())?;
        maps.sort_by_key(|name| name != LAYOUT);
        for name in maps {
            let path = self.maps().join(name);
            result = result.and(fs::remove_file(&path).map_err(failed("remove", &path)));
        }
        for folder in [self.links(), self.maps(), self.folder.clone()] {
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    result = result.and(Err(failed("remove", &folder)(error)));
                }
                _ => {}
            }
        }
        // Another instance's may be there.
        if let Some(parent) = self.folder.parent() {
            let _ = fs::remove_dir(parent);
        }
        result
    }

    pub(super) fn misshapen(&self, name: String, found: String, expected: String) -> PinError {
        PinError::Shape {
            folder: self.folder.clone(),
            name,
            found,
            expected,
        }
    }

    pub(super) fn open_map(&self, name: &str) -> Result<OwnedFd, PinError> {
        let path = self.map(name);
        syscall::pinned(&path).map_err(failed("open", &path))
    }

    /// Pins a map in the place of another.
    pub(super) fn replace_map(&self, name: &str, map: BorrowedFd<'_>) -> Result<(), PinError> {
        let (path, unfinished) = (self.map(name), self.map(UNFINISHED));
        syscall::pin(map, &unfinished).map_err(failed("pin", &unfinished))?;
        fs::rename(&unfinished, &path).map_err(failed("replace", &path))
    }

    /// Lets go of maps that a start has left which got no further.
    pub(super) fn clear_unfinished(&self) -> Result<(), PinError> {
        for name in self.map_names()? {
            let path = self.map(&name);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(())
    }
}

impl Layout {
    /// This program's, here.
    fn present() -> Result<Self, PinError> {
        let path = Path::new("/proc/self/ns/net");
        let network = fs::metadata(path).map_err(failed("look at", path))?.ino();
        Ok(Self {
            version: layout::VERSION,
            network,
        })
    }
}

fn read_layout(path: &Path) -> Result<Layout, PinError> {
    let wrong = |source| PinError::Map {
        path: path.to_owned(),
        source,
    };
    let map = Map::Array(MapData::from_pin(path).map_err(wrong)?);
    let map = Array::<MapData, [u64; 2]>::try_from(map).map_err(wrong)?;
    let [version, network] = map.get(&0, 0).map_err(wrong)?;
    Ok(Layout { version, network })
}

/// A map's data; `None` if it is of a type that has nothing which a restart must
/// keep.
pub(super) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(map)
        | Map::ArrayOfMaps(map)
        | Map::HashMap(map)
        | Map::LpmTrie(map)
        | Map::LruHashMap(map)
        | Map::PerCpuArray(map)
        | Map::PerCpuHashMap(map)
        | Map::PerCpuLruHashMap(map)
        | Map::RingBuf(map) => Some(map),
        _ => None,
    }
}

fn pin(map: &Map, path: &Path) -> Result<(), PinError> {
    let Some(map) = data(map) else {
        return Ok(());
    };
    syscall::pin(map.fd().as_fd(), path).map_err(failed("pin", path))
}

/// The interface of a pinned link; `None` if it is gone.
fn attached_to(path: &Path) -> Option<u32> {
    let link = syscall::pinned(path).ok()?;
    let info = syscall::link_info(link.as_fd()).ok()?;
    (info.interface != 0).then_some(info.interface)
}

/// Detaches a pinned link, and removes the pin.
pub(super) fn detach(path: &Path) -> Result<(), PinError> {
    let link = syscall::pinned(path).map_err(failed("open", path))?;
    if let Err(error) = syscall::detach_link(link.as_fd()) {
        // Its interface may be gone.
        info!(link = %path.display(), %error, "nothing to detach any more");
    }
    fs::remove_file(path).map_err(failed("remove", path))
}

fn names(folder: &Path) -> Result<Vec<OsString>, PinError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", folder))?,
    };
    entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()
        .map_err(failed("read", folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    move |source| PinError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
