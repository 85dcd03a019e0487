//! A strict reader of pcapng (draft-ietf-opsawg-pcapng), written by the draft
//! and not by what xlb writes: whatever isn't as it must be is an error.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A file of one section.
#[derive(Clone, Debug, Default)]
pub struct File {
    pub application: String,
    /// Names of interfaces, in the order of their ids.
    pub interfaces: Vec<String>,
    pub frames: Vec<Frame>,
    /// Packets received and dropped, if the file says so.
    pub statistics: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Frame {
    /// The interface's name.
    pub interface: String,
    /// Since 1970.
    pub time: Duration,
    /// Of the frame on the wire.
    pub length: u32,
    pub bytes: Vec<u8>,
    pub comment: String,
    /// 1: it came in, 2: it goes out.
    pub direction: u32,
}

/// Reads a whole file.
///
/// # Errors
/// If something in it isn't as it must be.
pub fn read(mut bytes: &[u8]) -> Result<File> {
    let mut file = File::default();
    let mut snaps = Vec::new();
    let mut is_first = true;
    while !bytes.is_empty() {
        let kind = word(bytes, 0)?;
        let length = word(bytes, 4)? as usize;
        ensure!(
            length >= 12 && length.is_multiple_of(4),
            "a block of {length} bytes"
        );
        let block = bytes.get(..length).context("the last block is cut off")?;
        ensure!(
            word(block, length - 4)? as usize == length,
            "its two lengths differ"
        );
        let body = &block[8..length - 4];
        ensure!(
            (kind == 0x0A0D_0D0A) == is_first,
            "a section begins where none should"
        );
        is_first = false;
        match kind {
            0x0A0D_0D0A => {
                ensure!(
                    word(body, 0)? == 0x1A2B_3C4D,
                    "not in this host's byte order"
                );
                ensure!(word(body, 4)? == 1, "not of version 1.0");
                file.application = text(&options(&body[16..])?, 4)?;
            }
            1 => {
                let options = options(&body[8..])?;
                ensure!(word(body, 0)? == 1, "not of Ethernet");
                ensure!(find(&options, 9)? == [9], "times aren't in nanoseconds");
                snaps.push(word(body, 4)?);
                file.interfaces.push(text(&options, 2)?);
            }
            6 => file.frames.push(frame(body, &file.interfaces, &snaps)?),
            5 => {
                let options = options(&body[12..])?;
                ensure!((word(body, 0)? as usize) < snaps.len(), "of no interface");
                file.statistics = Some((number(&options, 4)?, number(&options, 5)?));
            }
            other => bail!("a block of type {other}"),
        }
        bytes = &bytes[length..];
    }
    ensure!(!is_first, "there is nothing in it");
    Ok(file)
}

fn frame(body: &[u8], interfaces: &[String], snaps: &[u32]) -> Result<Frame> {
    let id = word(body, 0)? as usize;
    let interface = interfaces.get(id).context("a frame of no interface")?;
    let time = u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?);
    let (captured, length) = (word(body, 12)? as usize, word(body, 16)?);
    ensure!(
        captured <= snaps[id] as usize,
        "{captured} bytes were captured"
    );
    ensure!(captured <= length as usize, "more than there is");
    let padded = captured.next_multiple_of(4);
    let bytes = body.get(20..20 + captured).context("a frame is cut off")?;
    ensure!(
        body[20 + captured..20 + padded].iter().all(|&it| it == 0),
        "padding"
    );
    let options = options(&body[20 + padded..])?;
    Ok(Frame {
        interface: interface.clone(),
        time: Duration::from_nanos(time),
        length,
        bytes: bytes.to_vec(),
        comment: text(&options, 1)?,
        direction: u32::from_ne_bytes(find(&options, 2)?.try_into()?) & 3,
    })
}

type Options<'a> = Vec<(u16, &'a [u8])>;

/// Up to the end of them, with which the block ends too.
fn options(mut bytes: &[u8]) -> Result<Options<'_>> {
    let mut found = Vec::new();
    loop {
        let [a, b, c, d, ..] = bytes else {
            bail!("options without an end");
        };
        let code = u16::from_ne_bytes([*a, *b]);
        let length = usize::from(u16::from_ne_bytes([*c, *d]));
        let rest = &bytes[4..];
        if code == 0 {
            ensure!(
                length == 0 && rest.is_empty(),
                "something behind the options"
            );
            return Ok(found);
        }
        let value = rest.get(..length).context("an option is cut off")?;
        bytes = rest
            .get(length.next_multiple_of(4)..)
            .context("its padding")?;
        found.push((code, value));
    }
}

fn find<'a>(options: &Options<'a>, code: u16) -> Result<&'a [u8]> {
    let mut found = options.iter().filter(|(it, _)| *it == code);
    let (_, value) = found.next().with_context(|| format!("no option {code}"))?;
    ensure!(found.next().is_none(), "option {code} is there twice");
    Ok(value)
}

fn number(options: &Options<'_>, code: u16) -> Result<u64> {
    Ok(u64::from_ne_bytes(find(options, code)?.try_into()?))
}

fn text(options: &Options<'_>, code: u16) -> Result<String> {
    Ok(String::from_utf8(find(options, code)?.to_vec())?)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("a block is cut off")?;
    Ok(u32::from_ne_bytes(word.try_into()?))
}
