//! What a global function answers: a number, for it may answer nothing else.
//!
//! Such a function is a program of its own to the verifier, which walks it once
//! for any arguments and not for each state in which it may be called. It is
//! named `xlb_…`, public and not mangled, and its pointers may be null.

use lb_common::counters::DropReason;

const DONE: u32 = 0;

#[inline(always)]
pub fn pack(result: Result<(), DropReason>) -> u32 {
    match result {
        Ok(()) => DONE,
        Err(reason) => reason as u32 + 1,
    }
}

#[inline(always)]
pub fn unpack(number: u32) -> Result<(), DropReason> {
    match number {
        DONE => Ok(()),
        reason => Err(DropReason::from_number(reason - 1)),
    }
}
