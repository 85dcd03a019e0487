//! What the programs cost the kernel's verifier, and how far they are from its
//! limits. `cargo xtask build --stats` shows what this prints. It needs root.
//!
//! A process of its own: for a moment it may not open files.

use lb_common::capture::{
    Capture, DESTINATION, HOSTS, Host, MAX_SNAP, PORTS, Port, SOURCE, TARGETS,
};
use lb_user::{
    config::Capacity,
    dataplane::{Figures, figures},
};
use xlb_tests::require_root;

/// Of the verifier's million: a program may grow to twice this before a kernel
/// refuses it, and kernels differ.
const PROCESSED: u32 = 500_000;
/// Bytes of stack of the deepest chain of calls: what any kernel allows. One
/// since 6.8 counts less, and would load what an older one refuses.
const STACK: u32 = 512;

/// Sizes of maps are nothing to the verifier.
const CAPACITY: Capacity = Capacity {
    listeners: 16,
    targets: 16,
    flows: 1_000,
    half_open_flows: 1_000,
};

/// A filter with all that there may be in one.
const CAPTURE: Capture = Capture {
    on: 1,
    snap: MAX_SNAP,
    protocol: 1,
    listener: 1,
    reasons: 0xFFF,
    targets: TARGETS as u32,
    hosts: HOSTS as u32,
    ports: PORTS as u32,
    host: [Host {
        address: [1, 2, 3, 4],
        mask: [u32::MAX; 4],
        family: 2,
        ends: SOURCE | DESTINATION,
    }; HOSTS],
    port: [Port {
        port: 80,
        ends: SOURCE | DESTINATION,
    }; PORTS],
    ..Capture::OFF
};

/// One after the other: while figures are taken no file can be opened.
#[test]
fn programs_stay_far_from_the_verifiers_limits() {
    require_root().unwrap();
    check(&figures(&CAPACITY, None).unwrap());
    println!("\nWhile they capture:");
    check(&figures(&CAPACITY, Some(&CAPTURE)).unwrap());
}

fn check(programs: &[Figures]) {
    print(programs);
    for program in programs {
        let Figures {
            name, processed, ..
        } = program;
        assert!(
            *processed <= PROCESSED,
            "{name}: the verifier walks {processed} instructions, more than {PROCESSED}"
        );
        assert!(
            program.deepest <= STACK,
            "{name}: a chain of calls takes {} bytes of stack, more than {STACK}",
            program.deepest
        );
    }
}

/// A table, to be read and to be copied to ARCHITECTURE.md.
fn print(programs: &[Figures]) {
    println!(
        "| program | processed | instructions | translated | machine code | functions \
         | largest frame | deepest chain | maps |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for program in programs {
        println!(
            "| `{}` | {} | {} | {} B | {} B | {} | {} B | {} B | {} |",
            program.name,
            program.processed,
            program.instructions,
            program.instructions * 8,
            program.jited,
            program.stack.len(),
            program.stack.iter().max().copied().unwrap_or_default(),
            program.deepest,
            program.maps
        );
    }
}
