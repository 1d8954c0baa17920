//! What the engine must reach as connections become many, and as the load grows.

use crate::latency::QUANTILES;
use crate::peers::ENGINE;
use crate::targets::Target;
use crate::{latency, scale};

/// Of the reference's processor time, at every point.
const LEVEL: f64 = 1.15;
/// Of the least memory for a connection, at the last point: what is needed once for all weighs less as
/// they become more.
const FLAT: f64 = 1.10;
/// Of the reference's latency.
const TAIL: f64 = 1.10;

pub fn scale(scale: &scale::Outcome, targets: &mut Vec<Target>) {
    for point in &scale.points {
        for busy in &point.busy {
            targets.push(Target {
                what: format!(
                    "{} connections, {} % of them busy: processor time ÷ raw epoll",
                    point.connections, busy.percent
                ),
                measured: busy.ratio.show_interval(),
                must: format!("interval touches ≤ {LEVEL:.2}"),
                met: busy.ratio.interval().0 <= LEVEL,
            });
        }
    }
    let memory: Vec<f64> = scale.points.iter().filter_map(|point| Some(point.memory?[1])).collect();
    let least = memory.iter().copied().fold(f64::MAX, f64::min);
    if let [_, .., last] = memory[..] {
        targets.push(Target {
            what: "memory of a connection when they are most".to_owned(),
            measured: format!("{last:.0} B"),
            must: format!("≤ {FLAT:.2} × the least, {least:.0} B"),
            met: last <= FLAT * least,
        });
    }
}

pub fn latency(latency: &latency::Outcome, targets: &mut Vec<Target>) {
    for load in &latency.loads {
        let Some((_, Ok(tails))) = load.peers.iter().find(|(peer, _)| *peer == ENGINE) else { continue };
        for ((quantile, _), tail) in QUANTILES.iter().zip(tails) {
            targets.push(Target {
                what: format!("{quantile} at {} % of raw epoll's capacity ÷ raw epoll", load.percent),
                measured: tail.ratio.show_interval(),
                must: format!("interval touches ≤ {TAIL:.2}"),
                met: tail.ratio.interval().0 <= TAIL,
            });
        }
    }
}
