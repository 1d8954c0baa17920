//! What a program knows of each connection, by slot and generation.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

use crate::id::{ChildId, ConnId, Key, ListenerId, TimerId, WatchId};

/// What a program knows of each connection. See [`PerId`].
pub type PerConn<T> = PerId<ConnId, T>;

/// What a program knows of each timer: whose it is, and what for. See [`PerId`].
pub type PerTimer<T> = PerId<TimerId, T>;

/// What a program knows of each listener, such as the protocol spoken there. See [`PerId`].
pub type PerListener<T> = PerId<ListenerId, T>;

/// The identifiers that a [`PerId`] is for: those of connections, listeners, timers, children and watches.
pub trait Id: Copy + Debug + sealed::Sealed {}

mod sealed {
    use std::num::NonZeroU32;

    pub trait Sealed {
        fn split(self) -> (usize, NonZeroU32);
        fn join(slot: usize, generation: NonZeroU32) -> Self;
    }
}

macro_rules! ids {
    ($($id:ty)*) => {$(
        impl Id for $id {}

        impl sealed::Sealed for $id {
            #[inline]
            fn split(self) -> (usize, NonZeroU32) {
                let key = Key::from(self);
                (key.slot() as usize, key.generation())
            }

            fn join(slot: usize, generation: NonZeroU32) -> Self {
                Key::new(slot as u32, generation).into()
            }
        }
    )*};
}

ids! { ConnId ListenerId TimerId ChildId WatchId }

/// A map from identifiers to values: [`PerConn`] for connections, [`PerTimer`] for timers,
/// [`PerListener`] for listeners.
///
/// An identifier is a slot and a generation, so a look-up is one load and one comparison, without
/// hashing. An identifier whose connection is gone finds nothing, also when its slot has a new tenant.
///
/// ```
/// use unbroken::{CloseReport, ConnId, Handler, Net, PerConn, Via};
///
/// #[derive(Default)]
/// struct Counter {
///     received: PerConn<usize>,
/// }
///
/// impl Handler for Counter {
///     fn on_open(&mut self, _: &mut Net, conn: ConnId, _: Via) {
///         self.received.insert(conn, 0);
///     }
///
///     fn on_data(&mut self, _: &mut Net, conn: ConnId, data: &[u8]) -> usize {
///         self.received[conn] += data.len();
///         data.len()
///     }
///
///     fn on_close(&mut self, _: &mut Net, conn: ConnId, _: &CloseReport) {
///         self.received.remove(conn);
///     }
/// }
/// ```
///
/// # What is not removed
///
/// Call [`remove`](Self::remove) in [`on_close`](crate::Handler::on_close), and for a timer in
/// [`on_timer`](crate::Handler::on_timer) and when it is cancelled. What was forgotten is still
/// there, to iterators as well, until the slot's next tenant is inserted: that drops it. The new
/// identifier never finds the old value, and there is one value for each slot at most.
///
/// # Memory
///
/// A slot takes the room of a `T`, used or not; put large values in a box. The room of slots at the
/// end that nobody uses any more is given back, at latest when as many values have been removed as
/// there are slots.
#[derive(Clone)]
pub struct PerId<I, T> {
    slots: Vec<Option<(NonZeroU32, T)>>,
    len: usize,
    /// Values removed since unused slots were last given back.
    removed: usize,
    _id: PhantomData<I>,
}

impl<I: Id, T> PerId<I, T> {
    /// An empty map. It owns no memory.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), len: 0, removed: 0, _id: PhantomData }
    }

    /// Puts a value in. Returns the one that was there under the same identifier.
    ///
    /// A value left by an earlier tenant of the slot is dropped. When the slot has a later tenant
    /// already, `id` is of something that is gone: nothing happens, and `value` is dropped.
    pub fn insert(&mut self, id: I, value: T) -> Option<T> {
        let (slot, generation) = id.split();
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let place = self.slots.get_mut(slot)?;
        match place {
            Some((tenant, _)) if *tenant > generation => None,
            Some((tenant, old)) if *tenant == generation => Some(std::mem::replace(old, value)),
            _ => {
                self.len += usize::from(place.is_none());
                *place = Some((generation, value));
                None
            }
        }
    }

    /// The value of `id`.
    #[inline]
    pub fn get(&self, id: I) -> Option<&T> {
        let (slot, generation) = id.split();
        match self.slots.get(slot)? {
            Some((tenant, value)) if *tenant == generation => Some(value),
            _ => None,
        }
    }

    /// The value of `id`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let (slot, generation) = id.split();
        match self.slots.get_mut(slot)? {
            Some((tenant, value)) if *tenant == generation => Some(value),
            _ => None,
        }
    }

    /// The value of `id`, put in now if there is none. `None` when the slot has a later tenant
    /// already, which does not happen in a callback that names `id`.
    pub fn get_or_insert_with(&mut self, id: I, value: impl FnOnce() -> T) -> Option<&mut T> {
        if !self.contains(id) {
            self.insert(id, value());
        }
        self.get_mut(id)
    }

    /// As [`get_or_insert_with`](Self::get_or_insert_with) the default value.
    pub fn get_or_default(&mut self, id: I) -> Option<&mut T>
    where
        T: Default,
    {
        self.get_or_insert_with(id, T::default)
    }

    /// Whether there is a value of `id`.
    pub fn contains(&self, id: I) -> bool {
        self.get(id).is_some()
    }

    /// Takes the value of `id` out.
    pub fn remove(&mut self, id: I) -> Option<T> {
        let (slot, generation) = id.split();
        let (_, value) = self.slots.get_mut(slot)?.take_if(|(tenant, _)| *tenant == generation)?;
        self.len -= 1;
        self.removed += 1;
        // Each slot looked at, and each that may have to be made anew, is paid for by a removal.
        if self.removed >= self.slots.len() {
            self.removed = 0;
            let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            self.slots.truncate(used);
            self.slots.shrink_to(2 * used);
        }
        Some(value)
    }

    /// Drops all values.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values with their identifiers, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let (generation, value) = place.as_ref()?;
            Some((I::join(slot, *generation), value))
        })
    }

    /// All values with their identifiers, by slot, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (I, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(slot, place)| {
            let (generation, value) = place.as_mut()?;
            Some((I::join(slot, *generation), value))
        })
    }

    /// The identifiers of all values, by slot.
    pub fn ids(&self) -> impl Iterator<Item = I> + '_ {
        self.iter().map(|(id, _)| id)
    }

    /// All values, by slot.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// All values, by slot, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.iter_mut().map(|(_, value)| value)
    }
}

impl<I: Id, T> Default for PerId<I, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Id, T: Debug> Debug for PerId<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// # Panics
///
/// When there is no value of `id`. It never panics in a callback for a connection whose value was
/// put in by `on_open` and is removed by `on_close`; use [`get`](PerId::get) for identifiers that
/// were kept.
impl<I: Id, T> Index<I> for PerId<I, T> {
    type Output = T;

    #[inline]
    #[track_caller]
    fn index(&self, id: I) -> &T {
        self.get(id).unwrap_or_else(|| missing(id))
    }
}

/// # Panics
///
/// When there is no value of `id`: see `Index`.
impl<I: Id, T> IndexMut<I> for PerId<I, T> {
    #[inline]
    #[track_caller]
    fn index_mut(&mut self, id: I) -> &mut T {
        self.get_mut(id).unwrap_or_else(|| missing(id))
    }
}

// An index that is not there panics, as that of a vector does: `get` is for who does not know.
#[allow(clippy::panic)]
#[cold]
#[track_caller]
fn missing(id: impl Id) -> ! {
    panic!("no value of {id:?}: it was never put in, or has been removed")
}

#[cfg(test)]
mod tests;
