//! Capture files: pcap and pcapng, plain or gzipped, read frame by frame; and pcapng, written.

use std::{
    fs::File,
    io::{BufReader, BufWriter, ErrorKind, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use op25b_ebpf::abi::Link;
use pcap_file::{
    DataLink, PcapError, TsResolution,
    pcap::PcapReader,
    pcapng::{
        Block, PcapNgReader, PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use crate::commands::No;

/// A frame of a capture.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it starts with; none where op25b does not know the link type.
    pub link: Option<Link>,
    /// The link type's number in the file.
    pub link_type: DataLink,
    /// When it was captured, since 1970.
    pub time: Duration,
    /// The bytes that were captured.
    pub bytes: Vec<u8>,
    /// How long it was on the wire.
    pub length: u32,
}

impl Frame {
    /// Whether the capture holds less than was on the wire.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.bytes.len() < self.length as usize
    }
}

/// A file that is no capture, or stops being one.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be opened or read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is empty, or starts like nothing known.
    #[error("{path}: {what}; a pcap or pcapng file is wanted, plain or gzipped")]
    Format {
        /// Which.
        path: String,
        /// What it is instead.
        what: &'static str,
    },
    /// A frame cannot be read.
    #[error("{path}: damaged behind frame {frame}: {what}")]
    Damaged {
        /// Which.
        path: String,
        /// The last good frame, from 1; 0 where there is none.
        frame: u64,
        /// What is wrong.
        what: String,
    },
}

/// A capture file being read.
pub struct Capture {
    path: String,
    format: Format,
    frames: u64,
}

type Source = BufReader<Box<dyn Read>>;

enum Format {
    Pcap(PcapReader<Source>),
    PcapNg(Box<PcapNgReader<Source>>),
}

impl Capture {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is no capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let failed = |source| CaptureError::File { path: name.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let mut source: Box<dyn Read> = Box::new(BufReader::new(file));
        let mut magic = start(&mut source).map_err(failed)?;
        source = Box::new(std::io::Cursor::new(magic.clone()).chain(source));
        if magic.starts_with(&[0x1f, 0x8b]) {
            source = Box::new(MultiGzDecoder::new(source));
            magic = start(&mut source).map_err(failed)?;
            source = Box::new(std::io::Cursor::new(magic.clone()).chain(source));
        }
        let refused = |what| CaptureError::Format { path: name.clone(), what };
        let source = BufReader::with_capacity(1 << 16, source);
        let format = match magic.as_slice() {
            [] => return Err(refused("empty")),
            // The section header block reads alike in both byte orders.
            [0x0a, 0x0d, 0x0d, 0x0a] => Format::PcapNg(Box::new(
                PcapNgReader::new(source).map_err(|_| refused("a damaged pcapng header"))?,
            )),
            // Micro- and nanoseconds, both byte orders.
            [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0xc3, 0xd4]
            | [0x4d, 0x3c, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d] => {
                Format::Pcap(PcapReader::new(source).map_err(|_| refused("a damaged pcap header"))?)
            }
            _ => return Err(refused("no capture file")),
        };
        Ok(Self { path: name, format, frames: 0 })
    }

    fn next_frame(&mut self) -> Option<Result<Frame, PcapError>> {
        match &mut self.format {
            Format::Pcap(reader) => {
                let link_type = reader.header().datalink;
                // Not `next_packet`: that refuses frames above the file's snapshot length, which many files lie about.
                let packet = match reader.next_raw_packet()? {
                    Ok(packet) => packet.into_owned(),
                    Err(error) => return Some(Err(error)),
                };
                let nanoseconds = match reader.header().ts_resolution {
                    TsResolution::MicroSecond => packet.ts_frac.saturating_mul(1000),
                    TsResolution::NanoSecond => packet.ts_frac,
                };
                Some(Ok(Frame {
                    link: link(link_type),
                    link_type,
                    time: Duration::new(u64::from(packet.ts_sec), nanoseconds.min(999_999_999)),
                    length: packet.orig_len,
                    bytes: packet.data.into_owned(),
                }))
            }
            Format::PcapNg(reader) => loop {
                let (interface, time, length, bytes) = match reader.next_block()? {
                    Ok(Block::EnhancedPacket(packet)) => {
                        (packet.interface_id, packet.timestamp, packet.original_len, packet.data.into_owned())
                    }
                    Ok(Block::SimplePacket(packet)) => {
                        let mut bytes = packet.data.into_owned();
                        // The block is padded to four bytes and does not say where the frame ends.
                        bytes.truncate(packet.original_len as usize);
                        (0, Duration::ZERO, packet.original_len, bytes)
                    }
                    Ok(_) => continue,
                    Err(error) => return Some(Err(error)),
                };
                let Some(description) = reader.interfaces().get(interface as usize) else {
                    return Some(Err(PcapError::InvalidInterfaceId(interface)));
                };
                let link_type = description.linktype;
                // The reader takes every timestamp for nanoseconds.
                let time = nanoseconds(description).map_or(time, |unit| time.saturating_mul(unit));
                return Some(Ok(Frame { link: link(link_type), link_type, time, bytes, length }));
            },
        }
    }
}

impl Iterator for Capture {
    type Item = Result<Frame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_frame()? {
            Ok(frame) => {
                self.frames += 1;
                Some(Ok(frame))
            }
            Err(error) => Some(Err(CaptureError::Damaged {
                path: self.path.clone(),
                frame: self.frames,
                what: match error {
                    PcapError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        "the file ends inside a frame".to_owned()
                    }
                    PcapError::IoError(error) => error.to_string(),
                    other => other.to_string(),
                },
            })),
        }
    }
}

/// Nanoseconds that a timestamp of an interface counts: powers of ten, microseconds unless it says otherwise.
fn nanoseconds(interface: &InterfaceDescriptionBlock<'_>) -> Option<u32> {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    10_u32.checked_pow(9_u32.checked_sub(u32::from(resolution.unwrap_or(6)))?)
}

/// The first four bytes, fewer where the file ends.
fn start(source: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(4).read_to_end(&mut bytes)?;
    Ok(bytes)
}

const fn link(link_type: DataLink) -> Option<Link> {
    match link_type {
        DataLink::ETHERNET => Some(Link::Ethernet),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Some(Link::Ip),
        _ => None,
    }
}

/// A pcapng file being written.
pub struct Writer {
    writer: PcapNgWriter<BufWriter<File>>,
    /// Interfaces written so far, by link type: a file can have several.
    links: Vec<DataLink>,
}

impl Writer {
    /// Begins a new file that is its owner's alone: one that is there may be the only copy of something.
    ///
    /// # Errors
    ///
    /// When it is there, or cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        // Headers of customers' frames, and with --payload their mail.
        let mut options = File::options();
        let file =
            options.write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
                match error.kind() {
                    ErrorKind::AlreadyExists => {
                        No::Input(format!("{} is there; write to another file", path.display()))
                    }
                    _ => No::Input(format!("cannot write {}: {error}", path.display())),
                }
            })?;
        Ok(Self { writer: PcapNgWriter::new(BufWriter::new(file))?, links: Vec::new() })
    }

    /// Adds a frame.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn add(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let known = self.links.iter().position(|link| *link == frame.link_type);
        let interface = match known {
            Some(interface) => interface,
            None => {
                self.writer.write_pcapng_block(InterfaceDescriptionBlock {
                    linktype: frame.link_type,
                    snaplen: 0,
                    // Timestamps are nanoseconds here; a reader takes them for microseconds unless it is told.
                    options: vec![InterfaceDescriptionOption::IfTsResol(9)],
                })?;
                self.links.push(frame.link_type);
                self.links.len() - 1
            }
        };
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: u32::try_from(interface)?,
            timestamp: frame.time,
            original_len: frame.length,
            data: frame.bytes.as_slice().into(),
            options: Vec::new(),
        })?;
        Ok(())
    }

    /// Makes what was added so far whole on the disk's side.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.writer.get_mut().flush()?)
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn finish(self) -> anyhow::Result<()> {
        Ok(self.writer.into_inner().flush()?)
    }
}
