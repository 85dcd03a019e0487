//! Damage to a frame.

use super::{packet, random::Random};

/// The shortest frame that the kernel lets in.
const SHORTEST: usize = 14;
/// Of several buffers.
const LONGEST: usize = 9_514;

pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        match random.below(8) {
            0 => truncate(bytes, random),
            1 => grow(bytes, random),
            2 => header(bytes, random),
            3 => lie(bytes, random),
            4 => move_part(bytes, random),
            _ => flip(bytes, random),
        }
    }
    bytes.truncate(LONGEST);
}

/// One bit or byte, somewhere near the headers mostly.
pub fn flip(bytes: &mut [u8], random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let bound = if random.one_in(4) {
        bytes.len()
    } else {
        bytes.len().min(90)
    };
    let at = random.below(bound);
    if random.one_in(3) {
        let any = random.next() as u8;
        bytes[at] = *random.pick(&[0, 0xFF, any, 4, 6, 17, 44]);
    } else {
        bytes[at] ^= 1 << random.below(8);
    }
}

fn truncate(bytes: &mut Vec<u8>, random: &mut Random) {
    let length = SHORTEST + random.below(bytes.len() - SHORTEST + 1);
    bytes.truncate(length);
}

fn grow(bytes: &mut Vec<u8>, random: &mut Random) {
    let more = 1 + random.below(40);
    bytes.extend(std::iter::repeat_n(0, more));
}

/// The first bytes of the IP header, where what decides stands.
fn header(bytes: &mut [u8], random: &mut Random) {
    let at = SHORTEST + random.below(30);
    if at < bytes.len() {
        bytes[at] = random.next() as u8;
    }
}

/// A length a little beside the truth.
fn lie(bytes: &mut [u8], random: &mut Random) {
    let Ok(view) = packet::parse(bytes) else {
        return;
    };
    let field = match (random.below(3), view.is_v6()) {
        (0, false) => view.ip + 2,
        (0, true) => view.ip + 4,
        (1, _) => view.transport + 4,
        _ => view.transport + 12,
    };
    if field + 2 <= bytes.len() {
        let by = random.below(17) as u16;
        let length = packet::word(bytes, field).wrapping_add(by).wrapping_sub(8);
        bytes[field..field + 2].copy_from_slice(&length.to_be_bytes());
    }
}

/// A part of the frame again at another place.
fn move_part(bytes: &mut [u8], random: &mut Random) {
    let length = 1 + random.below(20.min(bytes.len()));
    let room = bytes.len() - length + 1;
    let (from, to) = (random.below(room), random.below(room));
    bytes.copy_within(from..from + length, to);
}
