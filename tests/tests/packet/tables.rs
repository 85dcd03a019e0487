//! Maglev tables as the agent writes them, element by element.

use std::fs;

use aya::maps::{Array, Map, MapData};
use lb_common::limits::{MIN_TABLE_SIZE, NO_TARGET, SLOTS_PER_ELEMENT};
use lb_user::{
    config::Capacity,
    dataplane::Dataplane,
    reconcile::{Change, Element},
};
use xlb_tests::require_root;

const ELEMENT: usize = SLOTS_PER_ELEMENT as usize;

/// Sizes that no other test has, so that the tables are found by them: the
/// last element full, and not.
const SIZES: [u32; 2] = [501 * SLOTS_PER_ELEMENT, 65_537];

#[test]
fn every_slot_is_written() {
    require_root().unwrap();
    let mut dataplane = Dataplane::load(&Capacity {
        listeners: 1,
        targets: 1,
        flows: 1,
        half_open_flows: 1,
    })
    .unwrap();
    let slots = |size: u32| {
        let mut slots: Vec<u16> = (0..size as u16).collect();
        slots.resize(size as usize, 7);
        slots
    };
    let tables = (0..).zip(SIZES).map(|(group, size)| Change::CreateTable {
        group,
        slots: slots(size).into(),
    });
    dataplane.apply_run(&tables.collect::<Vec<_>>()).unwrap();
    for (group, size) in (0..).zip(SIZES) {
        let mut slots = slots(size);
        assert_eq!(table(size), filled(&slots), "{size} slots");

        let elements: Vec<(u32, Element)> = vec![
            (0, std::array::from_fn(|slot| slot as u16)),
            (size / SLOTS_PER_ELEMENT / 2, [9; ELEMENT]),
            (size / SLOTS_PER_ELEMENT - 1, [5; ELEMENT]),
        ];
        for (index, element) in &elements {
            let first = *index as usize * ELEMENT;
            slots[first..first + ELEMENT].copy_from_slice(element);
        }
        let set = |elements| Change::SetSlots {
            group,
            slots: slots[..].into(),
            elements,
        };
        dataplane.apply(&set(elements)).unwrap();
        assert_eq!(table(size), filled(&slots), "{size} slots, some changed");
        dataplane.apply(&set(Vec::new())).unwrap();
    }
    let beyond = Change::SetSlots {
        group: 0,
        slots: slots(SIZES[0]).into(),
        elements: vec![(MIN_TABLE_SIZE * SLOTS_PER_ELEMENT, [0; ELEMENT])],
    };
    let error = dataplane.apply(&beyond).unwrap_err().to_string();
    assert!(error.contains("MAGLEV"), "{error}");
}

fn filled(slots: &[u16]) -> Vec<u16> {
    let mut filled = slots.to_vec();
    filled.resize(slots.len().next_multiple_of(ELEMENT), NO_TARGET);
    filled
}

/// The slots of this process's table of so many, as the kernel has them.
fn table(size: u32) -> Vec<u16> {
    let elements = size.div_ceil(SLOTS_PER_ELEMENT);
    let ids = fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|fd| {
        // Another thread may have closed it by now.
        let text = fs::read_to_string(fd.ok()?.path()).ok()?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line[name.len()..].trim().parse::<u32>().ok()
        };
        let is_table = field("map_type:") == Some(2) && field("max_entries:") == Some(elements);
        is_table.then(|| field("map_id:"))?
    });
    let [id] = ids.collect::<Vec<u32>>()[..] else {
        panic!("not one table of {elements} elements");
    };
    let map = Map::from_map_data(MapData::from_id(id).unwrap()).unwrap();
    let array: Array<MapData, Element> = map.try_into().unwrap();
    array.iter().flat_map(Result::unwrap).collect()
}
