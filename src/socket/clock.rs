//! The clock, in two grades: an exact one, and one so cheap that it can be asked behind every callback
//! whether the exact one is worth being read.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::Clock;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use portable::Clock;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::cell::Cell;

    use crate::timers::Time;

    /// A cheap clock that moves in longer steps, in nanoseconds, says too little.
    const LONGEST_STEP: u64 = 4_000_000;

    #[derive(Debug)]
    pub(crate) struct Clock {
        started: u64,
        /// Whether the cheap clock is of use here, and what it last said.
        has_coarse: bool,
        seen: Cell<u64>,
    }

    /// Asks the kernel, by a call that stays in user space, for nanoseconds. Both clocks have always been
    /// there, and are never negative, for they began with the machine.
    #[inline]
    #[allow(unsafe_code)]
    fn ask(
        call: unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int,
        clock: libc::clockid_t,
    ) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls that are passed in write a `timespec` to where they are told.
        let status = unsafe { call(clock, &mut time) };
        debug_assert_eq!(status, 0);
        (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
    }

    impl Clock {
        pub(crate) fn new() -> Self {
            let step = ask(libc::clock_getres, libc::CLOCK_MONOTONIC_COARSE);
            Self {
                started: ask(libc::clock_gettime, libc::CLOCK_MONOTONIC),
                has_coarse: (1..=LONGEST_STEP).contains(&step),
                seen: Cell::new(0),
            }
        }

        /// The time since it began.
        #[inline]
        pub(crate) fn now(&self) -> Time {
            let now = ask(libc::clock_gettime, libc::CLOCK_MONOTONIC);
            Time::from_nanos(now.saturating_sub(self.started))
        }

        /// Whether as much as a step of the cheap clock may have passed since this was last asked.
        #[inline]
        pub(crate) fn has_moved(&self) -> bool {
            if !self.has_coarse {
                return true;
            }
            let now = ask(libc::clock_gettime, libc::CLOCK_MONOTONIC_COARSE);
            now != self.seen.replace(now)
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod portable {
    use std::time::Instant;

    use crate::timers::Time;

    #[derive(Debug)]
    pub(crate) struct Clock(Instant);

    impl Clock {
        pub(crate) fn new() -> Self {
            Self(Instant::now())
        }

        /// The time since it began.
        pub(crate) fn now(&self) -> Time {
            Time::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
        }

        /// Whether any time may have passed since this was last asked.
        pub(crate) fn has_moved(&self) -> bool {
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::Clock;

    #[test]
    fn it_runs_as_the_system_s_does() {
        let (began, clock) = (Instant::now(), Clock::new());
        thread::sleep(Duration::from_millis(30));
        let (told, most) = (clock.now(), began.elapsed());
        assert!(told.since(Default::default()) >= Duration::from_millis(30));
        assert!(told.since(Default::default()) <= most);
    }

    #[test]
    fn what_takes_ten_milliseconds_is_noticed() {
        let clock = Clock::new();
        clock.has_moved();
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(10));
            assert!(clock.has_moved());
        }
    }
}
