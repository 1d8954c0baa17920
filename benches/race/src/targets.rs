//! What the engine must reach, and whether it did.

use crate::cores::Goal;
use crate::measure::{Cell, Data};
use crate::peers::{ENGINE, REFERENCE};
use crate::scenarios::Scenario;
use crate::Results;

pub struct Target {
    pub what: String,
    pub measured: String,
    pub must: String,
    pub met: bool,
}

/// Peers that own their write buffers, as the engine does: it has to be ahead of them.
const OWN_BUFFERS: [&str; 4] = ["tokio tuned", "libevent", "libuv", "uvloop"];

fn of<'a>(cells: &'a [Cell], peer: &str) -> Option<&'a Data> {
    cells.iter().find(|cell| cell.peer == peer)?.outcome.as_ref().ok()
}

/// All targets of what was measured.
pub fn judge(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for (scenario, cells) in &results.scenarios {
        let Some(engine) = of(cells, ENGINE) else { continue };
        if scenario.tls {
            secured(results, scenario, cells, engine, &mut targets);
            continue;
        }
        processor_time(scenario, engine, &mut targets);
        if let Some(reference) = of(cells, REFERENCE) {
            system_calls(scenario, engine, reference, &mut targets);
        }
        ahead(scenario, cells, engine, &mut targets);
        match scenario.id {
            "echo_50" => own_share(cells, engine, &mut targets),
            "fanout_100_many" => instructions("a fan-out delivery", 35.0, engine, &mut targets),
            _ => {}
        }
        if let (true, Some(taught)) = (scenario.id.ends_with("_many"), of(cells, "tokio taught")) {
            let times = taught.cpu.median() / engine.cpu.median();
            targets.push(Target {
                what: format!("{}: less processor time than tokio as taught", scenario.title),
                measured: format!("{times:.1} ×"),
                must: "≥ 12 ×".to_owned(),
                met: times >= 12.0,
            });
        }
    }
    others(results, &mut targets);
    targets
}

/// Under TLS: what the engine has to be beside tokio-rustls and libevent, and the cryptography alone.
fn secured(results: &Results, scenario: &Scenario, cells: &[Cell], engine: &Data, targets: &mut Vec<Target>) {
    let mut push = |what: String, measured: String, must: String, met: bool| {
        targets.push(Target { what: format!("{}: {what}", scenario.title), measured, must, met });
    };
    if engine.ratio.len() > 0 {
        let limit = match scenario.id {
            "tls_echo" | "tls_fanout" => 0.95,
            _ => 1.0,
        };
        let (measured, must) = (engine.ratio.show_interval(), format!("median ≤ {limit:.2}"));
        let met = engine.ratio.median() <= limit;
        push("processor time ÷ tokio-rustls tuned".to_owned(), measured, must, met);
    }
    let taught = of(cells, "tokio taught").filter(|_| scenario.id == "tls_fanout");
    for (peer, data, limit) in [("tokio taught", taught, 0.5), ("libevent", of(cells, "libevent"), 1.0)] {
        let Some(data) = data else { continue };
        let ratio = engine.cpu.median() / data.cpu.median();
        let must = format!("≤ {limit:.2}");
        push(format!("processor time ÷ {peer}"), format!("{ratio:.2}"), must, ratio <= limit);
    }
    let plain = results.scenario("stream").and_then(|(_, cells)| of(cells, ENGINE));
    let bare = results.tls_bare.as_ref().and_then(|bare| bare.as_ref().ok());
    if let ("tls_stream", Some(plain), Some(bare)) = (scenario.id, plain, bare) {
        let floor = plain.cpu.median() + bare.median();
        let ratio = engine.cpu.median() / floor;
        let measured = format!("{ratio:.2} of {:.0} + {:.0} µs", plain.cpu.median(), bare.median());
        let what = "processor time ÷ (the plain row's + opening and sealing in memory)".to_owned();
        push(what, measured, "≤ 1.10".to_owned(), ratio <= 1.1);
    }
}

fn processor_time(scenario: &Scenario, engine: &Data, targets: &mut Vec<Target>) {
    let limit = match scenario.id {
        "echo_open" | "proxy" | "fanout_silent" => return,
        _ => 1.0,
    };
    targets.push(Target {
        what: format!("{}: processor time ÷ raw epoll", scenario.title),
        measured: engine.ratio.show_interval(),
        must: format!("interval touches ≤ {limit:.2}"),
        met: engine.ratio.interval().0 <= limit,
    });
}

fn system_calls(scenario: &Scenario, engine: &Data, reference: &Data, targets: &mut Vec<Target>) {
    let (Some(ours), Some(theirs)) = (&engine.calls, &reference.calls) else { return };
    let (limit, must) = match scenario.id {
        "echo_50" | "echo_1000" => (theirs.per_unit + 0.02, format!("≤ {:.3} + 0.02", theirs.per_unit)),
        "pipelined" => (0.13, "≤ 0.13".to_owned()),
        "fanout_100_many" | "fanout_1000_many" => (0.066, "≤ 0.066".to_owned()),
        "churn" => (12.0, "≤ 12".to_owned()),
        _ => return,
    };
    targets.push(Target {
        what: format!("{}: system calls per {}", scenario.title, scenario.unit),
        measured: format!("{:.3}", ours.per_unit),
        must,
        met: ours.per_unit <= limit + 0.0005,
    });
}

fn ahead(scenario: &Scenario, cells: &[Cell], engine: &Data, targets: &mut Vec<Target>) {
    if matches!(scenario.id, "echo_open" | "churn" | "proxy") {
        return;
    }
    let best = OWN_BUFFERS.iter().filter_map(|peer| Some((*peer, of(cells, peer)?)));
    let best = best.min_by(|a, b| a.1.ratio.median().total_cmp(&b.1.ratio.median()));
    let Some((peer, data)) = best else { return };
    targets.push(Target {
        what: format!("{}: ahead of the best that owns its write buffers", scenario.title),
        measured: format!("{:.2} to {:.2} ({peer})", engine.ratio.median(), data.ratio.median()),
        must: "interval touches less".to_owned(),
        met: engine.ratio.interval().0 <= data.ratio.median(),
    });
}

/// The engine's own share of an echo.
fn own_share(cells: &[Cell], engine: &Data, targets: &mut Vec<Target>) {
    if let Some(share) = engine.user_share {
        let user = engine.cpu.median() * share;
        targets.push(Target {
            what: "user time of an echo".to_owned(),
            measured: format!("{user:.2} µs"),
            must: "≤ 0.35 µs".to_owned(),
            met: user <= 0.35,
        });
    }
    instructions("an echo", 500.0, engine, targets);
    let Some(ours) = engine.instructions else { return };
    for peer in ["tokio taught", "tokio tuned", "smol", "libevent", "libuv", "raw mio"] {
        let Some(theirs) = of(cells, peer).and_then(|data| data.instructions) else { continue };
        let (limit, must) = match peer {
            "raw mio" => (2.0 * theirs, format!("≤ 2 × {theirs:.0} ({peer})")),
            _ => (theirs, format!("< {theirs:.0} ({peer})")),
        };
        let (what, measured) = ("instructions of an echo, beside others".to_owned(), format!("{ours:.0}"));
        targets.push(Target { what, measured, must, met: ours < limit });
    }
}

fn instructions(of: &str, limit: f64, engine: &Data, targets: &mut Vec<Target>) {
    let Some(ours) = engine.instructions else { return };
    targets.push(Target {
        what: format!("instructions of {of}"),
        measured: format!("{ours:.0}"),
        must: format!("≤ {limit:.0}"),
        met: ours <= limit,
    });
}

fn others(results: &Results, targets: &mut Vec<Target>) {
    let mut push = |what: &str, measured: String, must: &str, met: bool| {
        targets.push(Target { what: what.to_owned(), measured, must: must.to_owned(), met });
    };
    if let Some((_, Ok(idle))) = results.idle.iter().find(|(peer, _)| *peer == ENGINE) {
        let most = idle.fresh.max(idle.used);
        push("memory of an idle connection, fresh or used", format!("{most:.0} B"), "≤ 256 B", most <= 256.0);
    }
    if let Some((_, Ok(greedy))) = results.greedy.iter().find(|(peer, _)| *peer == ENGINE) {
        let ratio = greedy.ratio.median();
        push("healthy throughput beside 10 that never read", format!("{ratio:.3}"), "≥ 0.98", ratio >= 0.98);
        // High water and one read of 64 KiB each.
        let allowed = 10 * ((64 << 10) + (64 << 10));
        let growth = greedy.growth;
        push(
            "memory for them",
            format!("{} KiB", growth >> 10),
            "≤ 10 × (high water + one read) = 1,280 KiB",
            growth <= allowed,
        );
    }
    if let Some((_, Ok(idle))) = results.tls_idle.iter().find(|(peer, _)| *peer == ENGINE) {
        let most = idle.fresh.max(idle.used);
        let measured = format!("{most:.0} B");
        push("TLS: memory of an idle connection, fresh or used", measured, "≤ 8,192 B", most <= 8192.0);
    }
    if let Some((_, Ok(storm))) = results.tls_storm.iter().find(|(peer, _)| *peer == ENGINE) {
        push(
            "TLS: p99 of an echo of 50 beside 1,000 handshakes ÷ without them",
            storm.ratio.show_interval(),
            "median ≤ 3.00",
            storm.ratio.median() <= 3.0,
        );
    }
    for verdict in results.cores.iter().flatten().flatten() {
        let median = verdict.ratio.median();
        let (must, met) = match verdict.goal {
            Goal::AtLeast(limit) => (format!("median ≥ {limit:.2}"), median >= limit),
            Goal::AtMost(limit) => (format!("median ≤ {limit:.2}"), median <= limit),
            Goal::None => continue,
        };
        push(verdict.what, verdict.ratio.show_interval(), &must, met);
    }
    if let Some(Ok(chat)) = &results.chat {
        for delivery in &chat.deliveries {
            push(
                &format!(
                    "chat, delivery to 1,000 members, {} at a time: processor time ÷ the bare fan-out in as many pieces",
                    delivery.in_flight
                ),
                delivery.ratio.show_interval(),
                "interval touches ≤ 1.10",
                delivery.ratio.interval().0 <= 1.10,
            );
        }
        push(
            &format!("chat, memory of each of {} idle clients", chat.clients),
            format!("{:.0} B", chat.idle),
            "≤ 2,048 B",
            chat.idle <= 2048.0,
        );
    }
    if let Some(Ok(http)) = &results.http {
        push(
            &format!("http, wrk -c {}: processor time for a request ÷ hyper", crate::http::CONNECTIONS),
            http.ratio.show_interval(),
            "median ≤ 0.90",
            http.ratio.median() <= 0.9,
        );
    }
    if let Some(Ok(redis)) = &results.redis {
        for row in &redis.rows {
            let what = format!("redis-benchmark {}, -P {}", row.command, row.depth);
            push(
                &format!("{what}: requests a second ÷ redis-server"),
                row.ratio.show_interval(),
                "interval touches ≥ 1.00",
                row.ratio.interval().1 >= 1.0,
            );
            push(
                &format!("{what}: processor time ÷ redis-server"),
                row.cpu_ratio.show_interval(),
                "median ≤ 0.80",
                row.cpu_ratio.median() <= 0.8,
            );
        }
    }
    if let Some(Ok(scale)) = &results.scale {
        crate::targets_under_load::scale(scale, targets);
    }
    if let Some(Ok(latency)) = &results.latency {
        crate::targets_under_load::latency(latency, targets);
    }
}
