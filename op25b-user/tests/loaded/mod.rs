//! What the kernel holds of one filter; it must not know how much is right.

use std::{collections::BTreeSet, fs};

use anyhow::Result;
use aya::{
    maps::{MapInfo, loaded_maps},
    programs::loaded_programs,
};

use crate::lab::Filter;

/// The kernel's numbers of programs that count into an instance's counters, and of the maps that these use.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
}

impl Loaded {
    /// Of a filter that is pinned.
    pub(crate) fn of(filter: &Filter<'_>) -> Result<Self> {
        let mut counters = BTreeSet::new();
        for directory in fs::read_dir(filter.pins().join("counters"))? {
            for pin in fs::read_dir(directory?.path())? {
                counters.insert(MapInfo::from_pin(pin?.path())?.id());
            }
        }
        let mut loaded = Self::default();
        for program in loaded_programs().filter_map(Result::ok) {
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            if maps.iter().any(|map| counters.contains(map)) {
                loaded.programs.insert(program.id());
                loaded.maps.extend(maps);
            }
        }
        Ok(loaded)
    }

    /// Those of them that are still there.
    pub(crate) fn left(&self) -> Self {
        Self {
            programs: loaded_programs()
                .filter_map(Result::ok)
                .map(|program| program.id())
                .filter(|id| self.programs.contains(id))
                .collect(),
            maps: loaded_maps()
                .filter_map(Result::ok)
                .map(|map| map.id())
                .filter(|id| self.maps.contains(id))
                .collect(),
        }
    }
}
