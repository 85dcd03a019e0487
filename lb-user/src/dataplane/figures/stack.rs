//! The deepest chain of calls, which the verifier keeps to itself: it tells the
//! stack of each function, and the kernel's instructions tell who calls whom.

use std::collections::BTreeSet;

/// Instructions of the longest program whose calls' distances are known.
const REACH: usize = 1 << 16;

/// An instruction: opcode, registers, offset (2), immediate (4).
pub(in crate::dataplane) type Instruction = [u8; 8];

/// `BPF_JMP | BPF_CALL`, of a function of the program's own.
const CALL: (u8, u8) = (0x85, 1);
/// `BPF_LD | BPF_IMM | BPF_DW`, of the address of such a function; for
/// `bpf_loop`, which calls it.
const ADDRESS: (u8, u8) = (0x18, 4);

/// A frame's size is rounded up to this before it is counted (16 since Linux
/// 6.8, where there is a JIT).
const ROUNDED: u32 = 32;

/// Bytes of stack of the deepest chain of calls. `frames` has each function's,
/// in the order in which they lie in the program. `None` if the two don't fit
/// together.
pub(super) fn deepest(instructions: &[Instruction], frames: &[u32]) -> Option<u32> {
    if instructions.len() > REACH {
        return None;
    }
    let calls: Vec<(usize, usize)> = instructions
        .iter()
        .enumerate()
        .filter_map(|(index, instruction)| Some((index, called(index, instruction)?)))
        .collect();
    // A function begins where it is called, the program itself at zero.
    let starts: BTreeSet<usize> = calls.iter().map(|&(_, start)| start).chain([0]).collect();
    if starts.len() != frames.len() {
        return None;
    }
    let mut graph = vec![BTreeSet::new(); frames.len()];
    for (index, start) in calls {
        let caller = starts.range(..=index).count() - 1;
        graph[caller].insert(starts.range(..start).count());
    }
    Some(chain(0, &graph, frames, &mut vec![None; frames.len()]))
}

/// Where the function begins that an instruction calls.
fn called(index: usize, instruction: &Instruction) -> Option<usize> {
    let [code, registers, low, high, immediate @ ..] = *instruction;
    match (code, registers >> 4) {
        // The kernel has moved a call's distance from the immediate to the
        // offset, which has only its lower half.
        CALL => Some((index + 1 + usize::from(u16::from_le_bytes([low, high]))) % REACH),
        ADDRESS => index.checked_add_signed(i32::from_le_bytes(immediate) as isize + 1),
        _ => None,
    }
}

/// The deepest chain from a function on. The verifier allows no recursion.
fn chain(
    function: usize,
    graph: &[BTreeSet<usize>],
    frames: &[u32],
    known: &mut Vec<Option<u32>>,
) -> u32 {
    if let Some(known) = known[function] {
        return known;
    }
    let own = frames[function].max(1).next_multiple_of(ROUNDED);
    let below = graph[function].iter();
    let below = below.map(|&callee| chain(callee, graph, frames, known));
    let sum = own + below.max().unwrap_or(0);
    known[function] = Some(sum);
    sum
}

#[cfg(test)]
mod tests {
    use super::{Instruction, called, deepest};

    const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

    const fn call(distance: i32) -> Instruction {
        let [low, high, ..] = distance.to_le_bytes();
        [0x85, 0x10, low, high, 0, 0, 0, 0]
    }

    const fn address(distance: i32) -> Instruction {
        let [a, b, c, d] = distance.to_le_bytes();
        [0x18, 0x42, 0, 0, a, b, c, d]
    }

    #[test]
    fn where_a_call_leads() {
        assert_eq!(called(10, &call(4)), Some(15));
        assert_eq!(called(10, &call(-11)), Some(0));
        assert_eq!(called(10, &call(40_000)), Some(40_011));
        assert_eq!(called(40_010, &call(-40_000)), Some(11));
        assert_eq!(called(10, &address(70_000)), Some(70_011));
        // A helper's call, and a map's address.
        assert_eq!(called(10, &[0x85, 0, 4, 0, 0, 0, 0, 0]), None);
        assert_eq!(called(10, &[0x18, 0x11, 0, 0, 4, 0, 0, 0]), None);
    }

    #[test]
    fn the_deepest_chain() {
        // The program calls the functions at 3 and 5, and that at 3 hands the
        // one at 5 to a helper.
        let program = [call(2), call(3), EXIT, address(1), EXIT, EXIT];
        assert_eq!(deepest(&program, &[8, 40, 100]), Some(32 + 64 + 128));
        assert_eq!(deepest(&program, &[8, 0, 500]), Some(32 + 32 + 512));
        assert_eq!(deepest(&program, &[8, 40]), None);
        assert_eq!(deepest(&[EXIT], &[0]), Some(32));
    }
}
