//! Raw `bpf(2)`, for what aya has no wrapper for: maps in batches (a million
//! flows in hundreds of calls instead of millions, a Maglev table in one) and
//! through handles that may be used off the agent's own task; and what the
//! kernel tells of its objects.

mod objects;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use bytemuck::Pod;

pub(super) use objects::{MapInfo, detach_link, instructions, link_info, map_info, pin, pinned};

/// Of `enum bpf_cmd` in linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The member of `union bpf_attr` (linux/bpf.h) for single elements.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The value of `key`, if it is there.
pub(super) fn look_up<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    value(BPF_MAP_LOOKUP_ELEM, map, key)
}

/// Removes `key` from a hash map and tells what its value was at that moment
/// (Linux 5.14).
pub(super) fn take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    value(BPF_MAP_LOOKUP_AND_DELETE_ELEM, map, key)
}

/// The value that a command finds, if the key is there.
fn value<K: Pod, V: Pod>(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: core::ptr::from_ref(key) as u64,
        value: &raw mut value as u64,
        ..ElementAttr::default()
    };
    Ok(element(command, &attr)?.then_some(value))
}

/// Writes the value of `key`.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: core::ptr::from_ref(key) as u64,
        value: core::ptr::from_ref(value) as u64,
        ..ElementAttr::default()
    };
    match element(BPF_MAP_UPDATE_ELEM, &attr)? {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

/// What becomes of an entry that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    IsReplaced,
    Stays,
}

/// Puts an entry into a hash map.
pub(super) fn insert<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    existing: Existing,
) -> io::Result<()> {
    /// Of linux/bpf.h.
    const BPF_NOEXIST: u64 = 1;
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: core::ptr::from_ref(key) as u64,
        value: core::ptr::from_ref(value) as u64,
        flags: match existing {
            Existing::IsReplaced => 0,
            Existing::Stays => BPF_NOEXIST,
        },
        ..ElementAttr::default()
    };
    match element(BPF_MAP_UPDATE_ELEM, &attr) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        inserted => inserted.map(drop),
    }
}

/// Removes `key`; false if it wasn't there.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: core::ptr::from_ref(key) as u64,
        ..ElementAttr::default()
    };
    element(BPF_MAP_DELETE_ELEM, &attr)
}

/// Runs a command on one element; false if there is no such element.
fn element(command: libc::c_long, attr: &ElementAttr) -> io::Result<bool> {
    // SAFETY: all callers point to live values of the types that the map was
    // made with; the kernel keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            core::ptr::from_ref(attr),
            size_of::<ElementAttr>(),
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        error => Err(error),
    }
}

/// Lets a descriptor stand for another file from now on: its number stays.
pub(super) fn replace(descriptor: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open. Whoever owns the first goes on owning its number,
    // and closes what it stands for then.
    let result = unsafe { libc::dup3(by.as_raw_fd(), descriptor.as_raw_fd(), libc::O_CLOEXEC) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The `batch` member of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Writes elements of an array map, each value at its index. Where the values
/// are maps, they are written as descriptors.
pub(super) fn update_all<V: Pod>(
    array: BorrowedFd<'_>,
    indices: &[u32],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(indices.len(), values.len(), "a value for each index");
    if indices.is_empty() {
        // The kernel takes a count of zero for a mistake.
        return Ok(());
    }
    let mut attr = BatchAttr {
        keys: indices.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(indices.len()).unwrap_or(u32::MAX),
        map_fd: array.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: the pointers are to `count` live indices and values, of the types
    // that the map was made with; the kernel only reads them, and keeps none.
    unsafe { batch(BPF_MAP_UPDATE_BATCH, &mut attr) }
}

/// Runs a batch command; the kernel writes to `attr` how far it came.
///
/// # Safety
/// The pointers in `attr` are zero or lead to what the command reads or writes
/// there: `count` keys and values of the map's sizes, and a position.
unsafe fn batch(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: `attr` is alive, and what it points to is as the caller says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            core::ptr::from_mut(attr),
            size_of::<BatchAttr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reads a hash map a batch at a time. Entries that come or go meanwhile may be
/// missed or met twice.
pub(super) struct Batches<'a, K, V> {
    map: BorrowedFd<'a>,
    position: Option<u32>,
    done: bool,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<'a, K: Pod, V: Pod> Batches<'a, K, V> {
    /// `size` entries are read at a time, more if one bucket holds more.
    pub(super) fn new(map: BorrowedFd<'a>, size: usize) -> Self {
        Self {
            map,
            position: None,
            done: false,
            keys: vec![K::zeroed(); size],
            values: vec![V::zeroed(); size],
        }
    }

    /// The next batch; `None` after the last one.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[K], &[V])>> {
        while !self.done {
            match self.look_up() {
                Ok(count) => {
                    return Ok(Some((&self.keys[..count], &self.values[..count])));
                }
                // A bucket is larger than the batch.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let size = self.keys.len() * 2;
                    self.keys.resize(size, K::zeroed());
                    self.values.resize(size, V::zeroed());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn look_up(&mut self) -> io::Result<usize> {
        let mut next_position = 0u32;
        let mut attr = BatchAttr {
            in_batch: self
                .position
                .as_ref()
                .map_or(0, |position| &raw const *position as u64),
            out_batch: &raw mut next_position as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map_fd: self.map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: the pointers are to live buffers with room for `count` keys
        // and values, whose types may have any bits (Pod) and have the sizes
        // that the map was made with; the kernel keeps none of them.
        if let Err(error) = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            // Not found says that this was the last batch, and is none.
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            self.done = true;
        }
        self.position = Some(next_position);
        Ok(attr.count as usize)
    }
}
