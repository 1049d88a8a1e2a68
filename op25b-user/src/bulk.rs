//! Whole maps to the kernel with a system call for many entries, and from it without one: a million of them one by one
//! take a second.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::{Pod, maps::MapData};
use aya_obj::generated::{bpf_attr__bindgen_ty_3, bpf_cmd::BPF_MAP_UPDATE_BATCH};
use memmap2::{MmapOptions, MmapRaw};
use nix::{errno::Errno, libc};

use crate::object::Wire;

/// Entries of one call: older kernels do not let others run in between.
const BATCH: usize = 1 << 12;

/// Writes `values` to an array map, from its first entry on.
///
/// # Errors
///
/// When the kernel refuses.
pub fn write<T: Copy>(map: &MapData, values: &[T]) -> Result<()>
where
    Wire<T>: Pod,
{
    let size = map.info()?.value_size();
    ensure!(size as usize == size_of::<T>(), "an entry has {size} bytes, not {}", size_of::<T>());
    let mut keys = Vec::with_capacity(values.len().min(BATCH));
    for (number, values) in values.chunks(BATCH).enumerate() {
        let first = (number * BATCH) as u32;
        keys.clear();
        keys.extend(first..first + values.len() as u32);
        // Not the whole `bpf_attr`: what is behind the member would have to be zero.
        let batch = bpf_attr__bindgen_ty_3 {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: values.len() as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `count` keys of an array map, which are `u32`, and as many values of the size
        // that was compared above; both outlive the call. Values are plain data: `Wire` of them is `Pod`.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw const batch, size_of_val(&batch))
        };
        Errno::result(result)?;
    }
    Ok(())
}

/// An array map as it is mapped into this process: what programs write is seen at once.
pub struct Mapped<T> {
    memory: MmapRaw,
    entries: PhantomData<T>,
}

impl<T: Copy> Mapped<T>
where
    Wire<T>: Pod,
{
    /// Maps a map that was created with `BPF_F_MMAPABLE` (Linux 5.5).
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the map has another layout.
    pub fn new(map: &MapData) -> Result<Self> {
        let info = map.info()?;
        let size = info.value_size() as usize;
        ensure!(size == size_of::<T>(), "an entry has {size} bytes, not {}", size_of::<T>());
        let length = size * info.max_entries() as usize;
        let memory = MmapOptions::new()
            .len(length)
            .map_raw_read_only(map.fd().as_fd().as_raw_fd())
            .context("cannot map the map")?;
        Ok(Self { memory, entries: PhantomData })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len() / size_of::<T>()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry as it is now; of one that is written meanwhile, some fields may be of before.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<T> {
        if number >= self.len() {
            return None;
        }
        // SAFETY: inside the mapping, which starts a page and holds whole entries; any bytes are a value, as `Wire` of it
        // is `Pod`. The kernel writes fields whole, and the copy is taken once.
        Some(unsafe { self.memory.as_ptr().cast::<T>().add(number).read_volatile() })
    }
}
