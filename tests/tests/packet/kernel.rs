//! What the agent says of the running kernel; for the kernels that
//! `cargo xtask test --kernels` boots.

use lb_user::dataplane::{Kernel, TcHook};

use super::lab::Lab;

#[test]
fn tcx_is_there_if_and_only_if_it_is_used() {
    let lab = Lab::new();
    let kernel = Kernel::probe(true);
    for (index, attached) in lab.dataplane.attached() {
        assert_eq!(
            kernel.tcx,
            attached.tc == TcHook::Tcx,
            "interface {index} on Linux {}",
            kernel.release
        );
    }
    let says = kernel.lacks().unwrap_or_default();
    assert_eq!(kernel.tcx, says.is_empty(), "{says}");
}
