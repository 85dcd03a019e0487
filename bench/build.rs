//! Builds the harness (bench/ebpf) for the BPF target. The object lands in
//! `OUT_DIR` as `xlb-harness`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bpf_build::build("bench-ebpf", "bench/ebpf")
}
