//! Whole maps to and from the kernel with a system call for many entries: a million of them one by one take a second.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::{Pod, maps::MapData};
use aya_obj::generated::{
    bpf_attr__bindgen_ty_3,
    bpf_cmd::{BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH},
};
use nix::{errno::Errno, libc};

use crate::object::Wire;

/// Entries of one call: older kernels do not let others run in between.
const BATCH: usize = 1 << 16;
/// The same for reading; a bucket of a hash map is read as a whole, and none is nearly as long.
const READ: usize = 1 << 12;

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

/// Reads a hash map. What is written meanwhile may be in it or not.
///
/// # Errors
///
/// When the kernel refuses (hash maps: Linux 5.6), or the map has another layout.
pub fn read<K: Copy, V: Copy>(map: &MapData) -> Result<Vec<(K, V)>>
where
    Wire<K>: Pod,
    Wire<V>: Pod,
{
    let info = map.info()?;
    let sizes = (info.key_size() as usize, info.value_size() as usize);
    ensure!(
        sizes == (size_of::<K>(), size_of::<V>()),
        "an entry has {sizes:?} bytes, not {:?}",
        (size_of::<K>(), size_of::<V>())
    );
    let mut entries = Vec::new();
    let mut keys = vec![MaybeUninit::<K>::uninit(); READ];
    let mut values = vec![MaybeUninit::<V>::uninit(); READ];
    // Where the kernel goes on: of a size that it knows, at most that of a key and at least four bytes.
    let mut place = [0u64; 4];
    let mut first = true;
    loop {
        let mut batch = bpf_attr__bindgen_ty_3 {
            in_batch: if first { 0 } else { place.as_ptr() as u64 },
            out_batch: place.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: READ as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values of the sizes that were compared above, and a place
        // of four bytes, into buffers that hold as many and outlive the call.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of_val(&batch))
        };
        let end = match Errno::result(result) {
            Ok(_) => false,
            Err(Errno::ENOENT) => true,
            Err(error) => return Err(error).context("cannot read the map"),
        };
        let read = keys.iter().zip(&values).take(batch.count as usize);
        // SAFETY: the kernel has written as many as it says; `Wire` of both is `Pod`.
        entries.extend(read.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }));
        if end {
            return Ok(entries);
        }
        first = false;
    }
}
