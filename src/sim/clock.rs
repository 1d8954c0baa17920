//! Virtual time in the hands of a handler under test.

use std::time::Duration;

use crate::simnet::{Kernel, MICRO};

/// The clock of a simulation, for a handler that takes its time.
///
/// A handler that computes for a while, or waits for a disk, keeps everybody else waiting. In a
/// simulation nothing takes time unless it is said to: [`advance`](Self::advance) lets it pass, inside
/// a callback as well. The network goes on meanwhile, and what comes waits in the kernel.
///
/// ```
/// use std::time::Duration;
/// use unbroken::sim::{Clock, Script, Sim};
/// use unbroken::{Config, ConnId, Handler, Net};
///
/// /// Thinks for a second about whatever it is told.
/// struct Thinker(Option<Clock>);
///
/// impl Handler for Thinker {
///     fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
///         if let Some(clock) = &self.0 {
///             clock.advance(Duration::from_secs(1));
///         }
///         net.send(conn, b"yes").map_or(0, |_| data.len())
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut sim = Sim::new(1, Config::default(), Thinker(None))?;
/// sim.handler().0 = Some(sim.clock());
/// sim.net().listen("10.0.0.1:7")?;
/// let peer = sim.client("10.0.0.1:7", Script::new().send("sure?").half_close());
/// sim.run()?;
/// assert_eq!(sim.received(peer), b"yes");
/// assert!(sim.now() > Duration::from_secs(1));
/// # sim.finish()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Clock(pub(super) Kernel);

impl Clock {
    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.world().now)
    }

    /// Lets time pass in which the reactor serves nobody.
    pub fn advance(&self, time: Duration) {
        let world = &mut *self.0.world();
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let from = world.now;
        world.note(|_| format!("{} µs go by", nanos / MICRO));
        world.pass(nanos);
        match world.witness.in_turn {
            true => world.witness.was_away(from, world.now),
            false => world.witness.was_away_outside(from, world.now),
        }
    }
}
