//! The harness program (bench/ebpf): repeats a program on a frame that is the
//! same each time, or of another flow each time.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use bytemuck::{Pod, Zeroable};

use super::frame::Varies;

/// Bytes of a frame that are restored before each repeat.
const RESTORED: usize = 96;

/// As bench/ebpf has it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Frame {
    length: u32,
    vary: u32,
    bytes: [u8; RESTORED],
}

// SAFETY: it is `Pod`: any bits are valid, and no byte is padding.
unsafe impl aya::Pod for Frame {}

/// What came out of the last repeat, and how long one took.
#[derive(Clone, Debug)]
pub struct Output {
    pub action: u32,
    pub frame: Vec<u8>,
    /// Nanoseconds a repeat.
    pub time: f64,
}

pub struct Harness {
    ebpf: Ebpf,
    /// The interface that frames seem to come in by.
    interface: u32,
}

impl Harness {
    /// With room for so many entries in the tables that prices are measured by.
    pub fn load(interface: u32, entries: u32) -> Result<Self> {
        static OBJECT: &[u8] =
            aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xlb-harness"));
        let mut loader = EbpfLoader::new();
        let loader = loader
            .map_max_entries("FLOWS", entries)
            .map_max_entries("ESTABLISHED", entries);
        let mut ebpf = loader.load(OBJECT).context("the harness")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program
                .load()
                .with_context(|| format!("the harness's program {name}"))?;
        }
        Ok(Self { ebpf, interface })
    }

    /// A program of the harness's own is to be measured.
    pub fn use_own(&mut self, name: &str) -> Result<()> {
        let program: &Xdp = self
            .ebpf
            .program(name)
            .with_context(|| format!("the harness has no {name}"))?
            .try_into()?;
        let program = program.fd()?.try_clone()?;
        self.use_program(&program)
    }

    pub fn use_program(&mut self, program: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut("UNDER_TEST").context("UNDER_TEST")?;
        let mut under_test = ProgramArray::try_from(map)?;
        // The kernel refuses programs that differ from the harness in type or
        // in what frames they take.
        under_test
            .set(0, program, 0)
            .context("the harness can't call the program")
    }

    /// The next varying frame is of the flow with this number.
    pub fn start_at(&mut self, flow: u64) -> Result<()> {
        let map = self.ebpf.map_mut("COUNTER").context("COUNTER")?;
        Ok(Array::<_, u64>::try_from(map)?.set(0, flow, 0)?)
    }

    /// Runs the program so often.
    pub fn run(&mut self, frame: &[u8], varies: Varies, repeats: u32) -> Result<Output> {
        ensure!(frame.len() >= RESTORED, "a frame of {} bytes", frame.len());
        let mut first = Frame {
            length: frame.len() as u32,
            vary: varies as u32,
            bytes: [0; RESTORED],
        };
        first.bytes.copy_from_slice(&frame[..RESTORED]);
        let map = self.ebpf.map_mut("FRAME").context("FRAME")?;
        Array::<_, Frame>::try_from(map)?.set(0, first, 0)?;

        let program: &mut Xdp = self
            .ebpf
            .program_mut("harness")
            .context("the harness has no harness")?
            .try_into()?;
        let mut output = vec![0; frame.len() + 256];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
        let context = [0, frame.len() as u32, 0, self.interface, 0, 0];
        let begin = Instant::now();
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            repeat: repeats,
            ..TestRunOptions::default()
        })?;
        let time = begin.elapsed().as_nanos() as f64 / f64::from(repeats);
        output.truncate(result.data_size_out as usize);
        Ok(Output {
            action: result.return_value,
            frame: output,
            time,
        })
    }
}
