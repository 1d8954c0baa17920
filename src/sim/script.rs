//! Scripts drawn from a seed.

use std::time::Duration;

use crate::simnet::{Reading, Rng, Script};

/// Bytes whose value tells their place.
fn text(rng: &mut Rng, most: usize) -> Vec<u8> {
    let len = match rng.below(4) {
        0 => rng.between(1, 10),
        1 | 2 => rng.between(1, most.min(3000)),
        _ => rng.between(1, most),
    };
    let first = rng.below(251);
    (0..len).map(|place| ((first + place * 7) % 251) as u8).collect()
}

/// Up to so many milliseconds.
fn millis(rng: &mut Rng, most: usize) -> Duration {
    Duration::from_micros(rng.between(1, most * 1000) as u64)
}

impl Script {
    /// Anything a peer may do, drawn from a seed: sends at once or in drips, reads fast, slowly or
    /// not at all, ends its stream, closes, resets, vanishes and comes back, in any order.
    pub fn random(seed: u64) -> Self {
        let mut odd = Rng::new(seed, u64::from_be_bytes(*b".chatter"));
        if odd.chance(80) {
            // Says a little now and then, and never listens.
            let (first, rest) = (text(&mut odd, 60_000), text(&mut odd, 3000));
            let every = millis(&mut odd, 200);
            return Self::new().read(Reading::Never).send(first).send_slowly(rest, 10, every);
        }
        if odd.chance(60) {
            // Says all it has to say before it listens.
            let all = text(&mut odd, 400_000);
            return Self::new().read(Reading::Never).send(all).read(Reading::Eager).half_close();
        }
        if odd.chance(60) {
            // Beats like a heart, and does nothing else.
            let (beats, every) = (text(&mut odd, 40), millis(&mut odd, 900));
            return Self::new().send_slowly(beats, 1, every).half_close();
        }
        let mut rng = Rng::new(seed, u64::from_be_bytes(*b"..script"));
        let rng = &mut rng;
        let mut script = Self::new();
        if rng.chance(300) {
            script = script.read(match rng.below(3) {
                0 => Reading::Never,
                _ => Reading::Slow { bytes: rng.between(1, 2000), every: millis(rng, 5) },
            });
        }
        for _ in 0..rng.between(1, 8) {
            script = match rng.below(16) {
                0..=4 => script.send(text(rng, 60_000)),
                5 => {
                    let data = text(rng, 200);
                    script.send_slowly(data, rng.between(1, 10), millis(rng, 3))
                }
                6 => script.wait(millis(rng, 2000)),
                7 => script.wait(millis(rng, 5)),
                8 => script.await_bytes(rng.between(1, 2000)),
                9 => script.half_close(),
                10 => script.half_close().await_end(),
                11 if rng.chance(400) => script.close(),
                12 if rng.chance(400) => script.reset(),
                13 if rng.chance(300) => {
                    let script = script.vanish().wait(millis(rng, 8000));
                    match rng.below(3) {
                        0 => script.reboot(),
                        _ => script.come_back(),
                    }
                }
                14 => script.read(Reading::Eager),
                15 if rng.chance(300) => script.read(Reading::Never),
                _ => script.wait(millis(rng, 1)),
            };
        }
        match rng.below(5) {
            0 => script.close(),
            1 => script.half_close().reset(),
            2 => script.reset(),
            3 => script.half_close(),
            _ => script,
        }
    }

    /// The same, of a peer that speaks the simulator's own session: mostly as it should be done.
    #[cfg(feature = "tls")]
    pub fn random_secured(seed: u64) -> Self {
        let mut rng = Rng::new(seed, u64::from_be_bytes(*b"..secure"));
        let mut script =
            if rng.chance(800) { Self::new().secure() } else { Self::new().secure_without_end() };
        script.steps.extend(Self::random(seed).steps);
        script
    }
}
