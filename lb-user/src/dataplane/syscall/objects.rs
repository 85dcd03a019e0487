//! The kernel's objects: what it tells of maps, links and programs, pins, and
//! detaching.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Of `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The first members of `struct bpf_map_info` (linux/bpf.h); the kernel fills
/// as much as there is room for, of each of these.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// `struct bpf_link_info`, as far as links of interfaces go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    pub kind: u32,
    pub id: u32,
    pub program: u32,
    padding: u32,
    /// 0 once the interface is gone.
    pub interface: u32,
    pub attach_type: u32,
}

/// `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
}

/// What `fd`, which must be a map's, is.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut result = MapInfo::default();
    // SAFETY: no member of it is a pointer.
    unsafe { info(map, &mut result) }?;
    Ok(result)
}

/// What `fd`, which must be a link's, is.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut result = LinkInfo::default();
    // SAFETY: no member of it is a pointer.
    unsafe { info(link, &mut result) }?;
    Ok(result)
}

/// A loaded program's instructions, as the verifier has changed them.
pub fn instructions(program: BorrowedFd<'_>) -> io::Result<Vec<[u8; 8]>> {
    let mut result = ProgramInfo::default();
    // SAFETY: its pointers are null.
    unsafe { info(program, &mut result) }?;
    let mut instructions = vec![[0u8; 8]; result.translated_length as usize / 8];
    result = ProgramInfo {
        translated_length: result.translated_length,
        translated: instructions.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    // SAFETY: the length is that of the live buffer beside it.
    unsafe { info(program, &mut result) }?;
    Ok(instructions)
}

/// The `info` member of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// Fills `info`, and the buffers that it points to.
///
/// # Safety
/// `T` is the beginning of the kernel's struct for this kind of object; its
/// pointers are null or lead to buffers of the lengths beside them.
unsafe fn info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: core::ptr::from_mut(info) as u64,
    };
    // SAFETY: `info` is live, and what it points to is as the caller says; the
    // kernel keeps no pointer.
    unsafe { command(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// The member of `union bpf_attr` for pins.
#[repr(C)]
#[derive(Default)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object at a path where nothing is.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: `path` is a live string; the kernel keeps no pointer.
    unsafe { command(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What is pinned at a path.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        ..PinAttr::default()
    };
    // SAFETY: `path` is a live string; the kernel keeps no pointer.
    let fd = unsafe { command(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The `link_detach` member of `union bpf_attr`.
#[repr(C)]
struct DetachAttr {
    fd: u32,
}

/// Detaches a link, whoever else holds it. To let go of it may detach it too,
/// but some time later.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = DetachAttr {
        fd: link.as_raw_fd() as u32,
    };
    // SAFETY: there is no pointer in `attr`.
    unsafe { command(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Runs a command.
///
/// # Safety
/// `attr` is the command's member of `union bpf_attr`, and what its pointers
/// lead to is alive and as large as the command takes it for.
unsafe fn command<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: as the caller says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            core::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    match result {
        0.. => Ok(result as i32),
        _ => Err(io::Error::last_os_error()),
    }
}
