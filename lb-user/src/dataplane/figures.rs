//! What the programs cost: the verifier's own figures, and the kernel's of what
//! it made of them. For developers; the agent has no use for it.

mod stack;

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf, VerifierLogLevel,
    programs::{Program, ProgramError},
};

use lb_common::capture::Capture;

use super::{EGRESS, HANDOFF, INGRESS, Opening, error::LoadError, syscall};
use crate::config::Capacity;

/// One program's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    pub name: &'static str,
    /// Instructions that the verifier has walked through, every one as often
    /// as it met it in another state. The kernel allows a million.
    pub processed: u32,
    /// Bytes of stack of the program and of each of its functions, in the
    /// order in which they lie in it.
    pub stack: Vec<u32>,
    /// Bytes of stack of the deepest chain of calls, counted as the oldest
    /// supported kernel does. A kernel allows 512.
    pub deepest: u32,
    /// Instructions after the verifier's changes.
    pub instructions: usize,
    /// Bytes of machine code.
    pub jited: u32,
    pub maps: usize,
}

/// Loads every program, to tell what it costs, and lets go of it: the programs
/// as they are, or those that capture.
///
/// While it runs this whole process can't open a file.
///
/// # Errors
/// As [`super::Dataplane::load`].
pub fn figures(capacity: &Capacity, capture: Option<&Capture>) -> Result<Vec<Figures>, LoadError> {
    let mut ebpf = Opening {
        log: VerifierLogLevel::STATS,
        capture,
        ..Opening::new(capacity)
    }
    .open()?;
    [INGRESS, EGRESS, HANDOFF]
        .into_iter()
        .map(|name| of(&mut ebpf, name))
        .collect()
}

fn of(ebpf: &mut Ebpf, name: &'static str) -> Result<Figures, LoadError> {
    let program = ebpf
        .program_mut(name)
        .ok_or(LoadError::Incomplete { name })?;
    let log = statistics(program).map_err(|error| LoadError::from_program(name, error))?;
    let Some((processed, stack)) = parse(&log) else {
        return Err(LoadError::Statistics { name, log });
    };
    let failed = |error| LoadError::from_program(name, error);
    load(program).map_err(failed)?;
    let info = program.info().map_err(failed)?;
    let maps = info.map_ids().map_err(failed)?;
    let fd = program.fd().map_err(failed)?;
    let instructions =
        syscall::instructions(fd.as_fd()).map_err(|error| failed(ProgramError::IOError(error)))?;
    let deepest =
        stack::deepest(&instructions, &stack).ok_or_else(|| LoadError::Statistics { name, log })?;
    Ok(Figures {
        name,
        processed,
        stack,
        deepest,
        instructions: instructions.len(),
        jited: info.size_jitted(),
        maps: maps.map_or(0, |ids| ids.len()),
    })
}

/// The verifier's log of a program that it takes.
///
/// aya keeps the log of a failed load only, so this one fails once the
/// verifier is done: the kernel's last step gives the program a file
/// descriptor, and just then there is none.
fn statistics(program: &mut Program) -> Result<String, ProgramError> {
    let result = {
        let _limit = NoDescriptors::begin()?;
        load(program)
    };
    match result {
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) if io_error.raw_os_error() == Some(libc::EMFILE) => Ok(verifier_log.to_string()),
        Err(error) => Err(error),
        Ok(()) => Ok(String::new()),
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(xdp) => xdp.load(),
        Program::SchedClassifier(classifier) => classifier.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// This process's limit of open files, at zero until it is dropped. Files that
/// are open already stay so.
struct NoDescriptors(libc::rlimit);

impl NoDescriptors {
    fn begin() -> io::Result<Self> {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `before` is a live rlimit, which the call fills.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let none = libc::rlimit {
            rlim_cur: 0,
            ..before
        };
        set_limit(&none)?;
        Ok(Self(before))
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        // To raise the soft limit up to the hard one is always allowed.
        let _ = set_limit(&self.0);
    }
}

fn set_limit(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: `limit` is a live rlimit, which the call only reads.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Instructions processed and stack by function, from the verifier's
/// `processed 1234 insns (limit 1000000) …` and `stack depth 96+0+128`.
fn parse(log: &str) -> Option<(u32, Vec<u32>)> {
    let after = |words| log.lines().find_map(|line| line.strip_prefix(words));
    let processed = after("processed ")?.split(' ').next()?.parse().ok()?;
    let depths = after("stack depth ")?.trim().split('+');
    let depths: Result<_, _> = depths.map(str::parse).collect();
    Some((processed, depths.ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_verifiers_words() {
        let log = "verification time 302 usec\nstack depth 96+0+128\n\
                   processed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 3 \
                   peak_states 3 mark_read 1\n";
        assert_eq!(parse(log), Some((1234, vec![96, 0, 128])));
        assert_eq!(parse("stack depth 8\n"), None);
        assert_eq!(parse(""), None);
    }
}
