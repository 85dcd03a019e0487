//! Builds the kernel programs (lb-ebpf) for the BPF target. The object lands
//! in `OUT_DIR` as `xlb-ebpf`, from where the agent embeds it.

use std::process::ExitCode;

fn main() -> ExitCode {
    bpf_build::build("lb-ebpf", "lb-ebpf")
}
