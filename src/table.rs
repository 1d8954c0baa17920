//! A slab whose slots know their generation.

use std::marker::PhantomData;
use std::num::NonZeroU32;

use slab::Slab;

use crate::id::{slot_of, token_matches, ConnId, Key};

/// Who lives in a slot, and what it is known by, beside it: a look-up goes to one place.
#[derive(Debug)]
struct Tenant<T> {
    key: Key,
    /// `None` when the slot has used up its generations and is retired for good.
    thing: Option<T>,
}

/// Things of type `T`, each named by an identifier `I` that is never handed out again.
#[derive(Debug)]
pub(crate) struct Table<I, T> {
    slots: Slab<Tenant<T>>,
    /// The generation of each slot's present or next tenant.
    generations: Vec<NonZeroU32>,
    retired: usize,
    _id: PhantomData<I>,
}

impl<I, T> Table<I, T>
where
    I: From<Key> + Into<Key> + Copy,
{
    pub(crate) fn new() -> Self {
        Self { slots: Slab::new(), generations: Vec::new(), retired: 0, _id: PhantomData }
    }

    /// How many things live here.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.retired
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in what `make` builds for its new identifier.
    #[inline]
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(I) -> T) -> I {
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        if self.generations.len() <= slot {
            self.generations.resize(slot + 1, NonZeroU32::MIN);
        }
        let generation = self.generations.get(slot).copied().unwrap_or(NonZeroU32::MIN);
        let key = Key::new(slot as u32, generation);
        entry.insert(Tenant { key, thing: Some(make(key.into())) });
        key.into()
    }

    #[inline]
    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let key = id.into();
        match self.slots.get(key.slot() as usize) {
            Some(Tenant { key: present, thing: Some(thing) }) if *present == key => Some(thing),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let key = id.into();
        match self.slots.get_mut(key.slot() as usize) {
            Some(Tenant { key: present, thing: Some(thing) }) if *present == key => Some(thing),
            _ => None,
        }
    }

    /// The thing that a token of the poll was made for, unless it is gone.
    #[inline]
    pub(crate) fn find(&mut self, slot: u32, generation: usize) -> Option<(I, &mut T)> {
        let tenant = self.slots.get_mut(slot as usize)?;
        if !token_matches(tenant.key, slot, generation) {
            return None;
        }
        Some((tenant.key.into(), tenant.thing.as_mut()?))
    }

    /// Frees the slot. Its next tenant gets the next generation; a slot whose generations are
    /// used up gets no next tenant, so that no identifier ever comes round again.
    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        self.get(id)?;
        let key = id.into();
        let slot = key.slot() as usize;
        match (self.generations.get_mut(slot), key.generation().checked_add(1)) {
            (Some(generation), Some(next)) => {
                *generation = next;
                self.slots.try_remove(slot)?.thing
            }
            _ => {
                self.retired += 1;
                self.slots.get_mut(slot)?.thing.take()
            }
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = I> + '_ {
        self.iter().map(|(id, _)| id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (I, &T)> + '_ {
        self.slots.iter().filter_map(|(_, tenant)| Some((tenant.key.into(), tenant.thing.as_ref()?)))
    }
}

impl<T> Table<ConnId, T> {
    /// The connection that a token of the poll was made for, if it was made for one that is not gone: the
    /// usual case, of which no more of the token need be read.
    #[inline]
    pub(crate) fn find_connection(&mut self, token: usize) -> Option<(ConnId, &mut T)> {
        match self.slots.get_mut(slot_of(token) as usize) {
            Some(Tenant { key, thing: Some(thing) }) if ConnId(*key).token() == token => {
                Some((ConnId(*key), thing))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_slot_is_used_again_and_its_old_id_finds_nothing() {
        let mut table: Table<ConnId, &str> = Table::new();
        let old = table.insert_with(|_| "old");
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert_with(|_| "new");
        assert_eq!(old.slot(), new.slot());
        assert_eq!(table.get(old), None);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&"new"));
    }

    // T4
    #[test]
    fn a_slot_that_has_used_up_its_generations_is_never_used_again() {
        let mut table: Table<ConnId, u8> = Table::new();
        let first = table.insert_with(|_| 1);
        assert_eq!(table.remove(first), Some(1));
        table.generations[0] = NonZeroU32::MAX;
        let last = table.insert_with(|_| 2);
        assert_eq!(last.slot(), 0);
        assert_eq!(table.remove(last), Some(2));
        assert_eq!(table.len(), 0);
        let next = table.insert_with(|_| 3);
        assert_eq!(next.slot(), 1);
        assert_eq!(table.get(first), None);
        assert_eq!(table.get(last), None);
        assert_eq!(table.ids().collect::<Vec<_>>(), [next]);
        let token = crate::id::Source::from_token(last.token());
        let Some(crate::id::Source::Connection { slot, generation }) = token else {
            panic!("not a connection");
        };
        assert!(table.find(slot, generation).is_none());
        assert!(table.find_connection(last.token()).is_none());
    }

    proptest! {
        // T3
        #[test]
        fn no_id_ever_finds_another_tenant(ops in proptest::collection::vec(0usize..64, 1..400)) {
            let mut table: Table<ConnId, usize> = Table::new();
            let mut alive: HashMap<ConnId, usize> = HashMap::new();
            let mut all: Vec<ConnId> = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                if op % 2 == 0 || all.is_empty() {
                    let id = table.insert_with(|_| n);
                    prop_assert!(alive.insert(id, n).is_none());
                    all.push(id);
                } else {
                    let id = all[op % all.len()];
                    prop_assert_eq!(table.remove(id), alive.remove(&id));
                }
                prop_assert_eq!(table.len(), alive.len());
                for id in &all {
                    prop_assert_eq!(table.get(*id), alive.get(id));
                }
            }
        }
    }
}
