use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::table::Table;

fn conn(slot: u32, generation: u32) -> ConnId {
    Key::new(slot, NonZeroU32::new(generation).unwrap()).into()
}

#[test]
fn a_value_is_found_by_its_own_id_only() {
    let mut map = PerConn::new();
    assert_eq!(map.insert(conn(3, 2), 'a'), None);
    assert_eq!(map.insert(conn(3, 2), 'b'), Some('a'));
    assert_eq!((map[conn(3, 2)], map.len()), ('b', 1));
    for other in [conn(3, 1), conn(3, 3), conn(2, 2), conn(4, 2)] {
        assert_eq!(map.get(other), None);
        assert_eq!(map.get_mut(other), None);
        assert_eq!(map.remove(other), None);
        assert!(!map.contains(other));
    }
    assert_eq!(map.remove(conn(3, 2)), Some('b'));
    assert_eq!((map.remove(conn(3, 2)), map.len()), (None, 0));
}

#[test]
fn a_forgotten_value_is_not_the_next_tenants_and_goes_when_that_comes() {
    let mut map = PerConn::new();
    let old = std::rc::Rc::new("old");
    map.insert(conn(0, 1), old.clone());
    assert_eq!(map.insert(conn(0, 2), "new".into()), None);
    assert_eq!((map.len(), *map[conn(0, 2)]), (1, "new"));
    assert_eq!(std::rc::Rc::strong_count(&old), 1);
    *map.get_or_default(conn(0, 3)).unwrap() = "newer".into();
    assert_eq!((map.len(), map.get(conn(0, 2))), (1, None));
}

#[test]
fn a_stale_id_does_not_take_the_place_of_a_newer_one() {
    let mut map = PerConn::new();
    map.insert(conn(0, 2), "new");
    assert_eq!(map.insert(conn(0, 1), "stale"), None);
    assert_eq!(map.get_or_default(conn(0, 1)), None);
    assert_eq!((map.get(conn(0, 1)), map.get(conn(0, 2)), map.len()), (None, Some(&"new"), 1));
}

#[test]
fn what_was_taken_out_can_be_put_back() {
    let mut map = PerConn::new();
    map.insert(conn(1, 1), vec![1]);
    let mut state = map.remove(conn(1, 1)).unwrap();
    state.push(2);
    assert_eq!(map.insert(conn(1, 1), state), None);
    assert_eq!(map[conn(1, 1)], [1, 2]);
    map[conn(1, 1)].clear();
    assert_eq!(map.get_or_insert_with(conn(1, 1), || vec![3]), Some(&mut vec![]));
}

#[test]
#[should_panic(expected = "no value of ConnId(7v2)")]
fn an_index_that_is_not_there_panics_and_names_it() {
    let _ = PerConn::<u8>::new()[conn(7, 2)];
}

#[test]
fn memory_returns_when_a_crowd_has_left() {
    let mut map = PerConn::new();
    for slot in 0..100_000 {
        map.insert(conn(slot, 1), [0u8; 64]);
    }
    for slot in (10..100_000).rev() {
        map.remove(conn(slot, 1));
    }
    // Those that are left come and go.
    for generation in 1..100_000 {
        map.remove(conn(9, generation));
        map.insert(conn(9, generation + 1), [0; 64]);
    }
    assert!(map.slots.capacity() <= 20, "{}", map.slots.capacity());
    assert_eq!(map.len(), 10);
}

#[test]
fn a_lone_high_slot_that_comes_and_goes_costs_no_growth_each_time() {
    let mut map = PerConn::new();
    for generation in 1..1000 {
        map.insert(conn(100_000, generation), 0u8);
        map.remove(conn(100_000, generation));
        assert_eq!(map.slots.len(), 100_001);
    }
}

#[test]
fn it_prints_and_iterates_by_slot() {
    let mut map = PerConn::new();
    map.insert(conn(2, 1), 'c');
    map.insert(conn(0, 5), 'a');
    assert_eq!(format!("{map:?}"), "{ConnId(0v5): 'a', ConnId(2v1): 'c'}");
    map.values_mut().for_each(|value| value.make_ascii_uppercase());
    assert_eq!(map.values().collect::<String>(), "AC");
    assert_eq!(map.ids().collect::<Vec<_>>(), [conn(0, 5), conn(2, 1)]);
    map.clear();
    assert!(map.is_empty() && map.iter().next().is_none());
}

proptest! {
    #[test]
    fn it_is_a_hash_map_for_every_id_that_lives(ops in proptest::collection::vec((0u8..8, 0usize..64), 1..300)) {
        let mut table: Table<ConnId, ()> = Table::new();
        let mut map = PerConn::new();
        let mut model: HashMap<ConnId, usize> = HashMap::new();
        let mut all: Vec<ConnId> = Vec::new();
        for (n, (op, pick)) in ops.into_iter().enumerate() {
            match (op, all.is_empty()) {
                (0..3, _) | (_, true) => all.push(table.insert_with(|_| ())),
                (3, _) => {
                    // Closed, and now and then the program forgets to remove.
                    let id = all[pick % all.len()];
                    table.remove(id);
                    if pick % 3 > 0 {
                        prop_assert_eq!(map.remove(id), model.remove(&id));
                    }
                }
                (4, _) => {
                    let id = all[pick % all.len()];
                    prop_assert_eq!(map.remove(id), model.remove(&id));
                }
                _ => {
                    // Any id, also a stale one: the latest tenant of a slot that has a value wins.
                    let id = all[pick % all.len()];
                    let newer = model.keys().any(|other| other.slot() == id.slot() && *other > id);
                    let old = map.get(id).copied();
                    match op {
                        5 => prop_assert_eq!(map.insert(id, n), old),
                        6 => prop_assert_eq!(map.get_or_default(id).map(|value| *value), (!newer).then(|| old.unwrap_or(0))),
                        _ => prop_assert_eq!(map.get_mut(id).map(|value| std::mem::replace(value, n)), old),
                    }
                    if !newer && (op < 7 || old.is_some()) {
                        model.retain(|other, _| other.slot() != id.slot() || *other == id);
                        let value = if op == 6 { old.unwrap_or(0) } else { n };
                        model.insert(id, value);
                    }
                }
            }
            prop_assert_eq!(map.len(), model.len());
            for id in &all {
                prop_assert_eq!(map.get(*id), model.get(id));
            }
            let mut expected: Vec<_> = model.iter().map(|(id, value)| (*id, *value)).collect();
            expected.sort();
            let found: Vec<_> = map.iter().map(|(id, value)| (id, *value)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
