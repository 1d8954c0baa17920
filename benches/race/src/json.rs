//! All figures for other programs, and for the README, which is made of nothing else.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{json, Map, Value};

use crate::cores::Goal;
use crate::load::Latencies;
use crate::measure::Data;
use crate::peers::{ENGINE, REFERENCE};
use crate::rounds::Rounds;
use crate::scenarios::SCENARIOS;
use crate::{latency, scale, targets, Results, Special};

fn rounds(values: &Rounds) -> Value {
    let (low, high) = values.interval();
    json!({
        "median": values.median(), "min": values.min(), "max": values.max(), "rounds": values.len(),
        "interval_95": [low, high],
    })
}

fn percentiles(latencies: &Latencies) -> Value {
    let at = |share| latencies.value_at_quantile(share) as f64 / 1000.0;
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99_9": at(0.999), "count": latencies.len() })
}

fn cell(data: &Data) -> Value {
    json!({
        "units_per_second": rounds(&data.rate),
        "cpu_us_per_unit": rounds(&data.cpu),
        "cpu_ratio": rounds(&data.ratio),
        "user_share": data.user_share,
        "latency_us": percentiles(&data.latencies),
        "resident_bytes": data.resident,
        "system_calls_per_unit": data.calls.as_ref().map(|calls| json!({
            "total": calls.per_unit, "tool": calls.tool, "detail": calls.detail,
        })),
        "instructions_per_unit": data.instructions,
    })
}

fn special<T>(results: &Special<T>, render: impl Fn(&T) -> Value) -> Value {
    let each = results.iter().map(|(peer, outcome)| {
        let value = match outcome {
            Ok(figure) => render(figure),
            Err(why) => json!({ "absent": why }),
        };
        ((*peer).to_owned(), value)
    });
    Value::Object(each.collect())
}

pub fn render(results: &Results) -> Value {
    let mut scenarios = Map::new();
    for (scenario, cells) in &results.scenarios {
        let mut peers = Map::new();
        for entry in cells {
            let value = match &entry.outcome {
                Ok(data) => cell(data),
                Err(why) => json!({ "absent": why }),
            };
            peers.insert(entry.peer.to_owned(), value);
        }
        let value = json!({ "title": scenario.title, "unit": scenario.unit, "reference": scenario.reference(), "peers": peers });
        scenarios.insert(scenario.id.to_owned(), value);
    }
    let redis = match &results.redis {
        None => Value::Null,
        Some(Err(why)) => json!({ "absent": why }),
        Some(Ok(redis)) => json!({
            "rows": redis.rows.iter().map(|row| json!({
                "command": row.command, "pipeline": row.depth, "ours_per_second": rounds(&row.ours),
                "redis_per_second": rounds(&row.theirs), "ratio": rounds(&row.ratio),
                "ours_cpu_us": rounds(&row.our_cpu), "redis_cpu_us": rounds(&row.their_cpu),
                "cpu_ratio": rounds(&row.cpu_ratio),
            })).collect::<Vec<_>>(),
        }),
    };
    let chat = match &results.chat {
        None => Value::Null,
        Some(Err(why)) => json!({ "absent": why }),
        Some(Ok(chat)) => json!({
            "deliveries": chat.deliveries.iter().map(|delivery| json!({
                "in_flight": delivery.in_flight, "cpu_us": rounds(&delivery.chat),
                "bare_engine_us": rounds(&delivery.bare), "ratio": rounds(&delivery.ratio),
            })).collect::<Vec<_>>(),
            "bytes_per_idle_client": chat.idle, "idle_clients": chat.clients,
        }),
    };
    let http = match &results.http {
        None => Value::Null,
        Some(Err(why)) => json!({ "absent": why }),
        Some(Ok(http)) => json!({
            "connections": crate::http::CONNECTIONS, "ours_cpu_us": rounds(&http.ours),
            "hyper_cpu_us": rounds(&http.theirs), "cpu_ratio": rounds(&http.ratio),
            "ours_per_second": rounds(&http.our_rate), "hyper_per_second": rounds(&http.their_rate),
        }),
    };
    let targets: Vec<Value> = targets::judge(results)
        .into_iter()
        .map(|target| {
            json!({
                "what": target.what, "measured": target.measured, "must": target.must, "met": target.met,
            })
        })
        .collect();
    json!({
        "machine": results.machine,
        "quick": results.plan.quick,
        "rounds": results.plan.rounds,
        "peers": results.peers,
        "seconds": results.took.as_secs(),
        "scenarios": scenarios,
        "idle": special(&results.idle, |idle| json!({
            "connections": idle.connections, "bytes_fresh": idle.fresh,
            "bytes_used": idle.used,
            "echo_cpu_us": idle.cpu,
            "echo_latency_us": percentiles(&idle.latencies),
        })),
        "greedy": special(&results.greedy, |greedy| json!({
            "messages_per_second": rounds(&greedy.rate),
            "ratio_to_without": rounds(&greedy.ratio),
            "growth_bytes": greedy.growth,
        })),
        "emfile": special(&results.emfile, |famine| json!({
            "busy": famine.busy,
            "recovery_ms": famine.recovery.as_secs_f64() * 1e3,
        })),
        "tls_idle": special(&results.tls_idle, |idle| json!({
            "connections": idle.connections, "bytes_fresh": idle.fresh, "bytes_used": idle.used,
        })),
        "tls_storm": special(&results.tls_storm, |storm| json!({
            "alone_us": percentiles(&storm.calm), "beside_us": percentiles(&storm.stormy),
            "p99_ratio": rounds(&storm.ratio), "lasted_ms": storm.lasted.as_secs_f64() * 1e3,
        })),
        "tls_bare_us": results.tls_bare.as_ref().and_then(|bare| bare.as_ref().ok()).map(rounds),
        "redis": redis,
        "chat": chat,
        "http": http,
        "cores": match &results.cores {
            None => Value::Null,
            Some(Err(why)) => json!({ "absent": why }),
            Some(Ok(verdicts)) => verdicts.iter().map(|verdict| json!({
                "what": verdict.what, "ratio": rounds(&verdict.ratio),
                "compared": (verdict.goal == Goal::None).then(|| verdict.ratio.show_interval()),
            })).collect(),
        },
        "scale": match &results.scale {
            None => Value::Null,
            Some(Err(why)) => json!({ "absent": why }),
            Some(Ok(outcome)) => scale(outcome),
        },
        "latency": match &results.latency {
            None => Value::Null,
            Some(Err(why)) => json!({ "absent": why }),
            Some(Ok(outcome)) => latency(outcome),
        },
        "targets": targets,
    })
}

fn scale(scale: &scale::Outcome) -> Value {
    let points = scale.points.iter().map(|point| {
        json!({
            "connections": point.connections,
            "bytes_each": point.memory.map(|[theirs, ours]| json!({ REFERENCE: theirs, ENGINE: ours })),
            "kernel_bytes_each_end": point.kernel,
            "busy": point.busy.iter().map(|busy| json!({
                "percent": busy.percent,
                "cpu_us": { REFERENCE: rounds(&busy.cpu[0]), ENGINE: rounds(&busy.cpu[1]) },
                "ratio": rounds(&busy.ratio),
            })).collect::<Vec<_>>(),
        })
    });
    let broadcasts = scale.broadcasts.iter().map(|cast| {
        let cost = |cost: &scale::CastCost| {
            json!({
                "last_ms": rounds(&cost.last), "wait_ms": rounds(&cost.wait),
                "cpu_us_each": rounds(&cost.cpu),
            })
        };
        json!({
            "receivers": cast.receivers,
            REFERENCE: cost(&cast.servers[0]), ENGINE: cost(&cast.servers[1]),
            "longest_turn_ms": cast.longest_turn.as_secs_f64() * 1e3,
        })
    });
    json!({ "points": points.collect::<Vec<_>>(), "broadcasts": broadcasts.collect::<Vec<_>>() })
}

fn latency(latency: &latency::Outcome) -> Value {
    let loads = latency.loads.iter().map(|load| {
        let peers = load.peers.iter().map(|(peer, outcome)| {
            let value = match outcome {
                Err(why) => json!({ "absent": why }),
                Ok(tails) => latency::QUANTILES
                    .iter()
                    .zip(tails)
                    .map(|((name, _), tail)| {
                        let figures = json!({ "us": rounds(&tail.micros), "ratio": rounds(&tail.ratio) });
                        ((*name).to_owned(), figures)
                    })
                    .collect::<Map<_, _>>()
                    .into(),
            };
            ((*peer).to_owned(), value)
        });
        json!({ "percent": load.percent, "peers": Value::Object(peers.collect()) })
    });
    json!({ "capacity_per_second": rounds(&latency.capacity), "loads": loads.collect::<Vec<_>>() })
}

pub fn load(file: &Path) -> io::Result<Value> {
    let text = fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// Fills `new` up with what only `old` has. What both have is the new one's.
pub fn merge(new: &mut Value, old: Value) {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return };
    for (key, old) in old {
        match (key.as_str(), new.get_mut(&key)) {
            ("seconds", Some(seconds)) => {
                *seconds = json!(seconds.as_u64().unwrap_or(0) + old.as_u64().unwrap_or(0));
            }
            ("quick", Some(quick)) => *quick = json!(*quick == json!(true) || old == json!(true)),
            ("rounds" | "machine", Some(_)) => {}
            ("peers", Some(Value::Array(peers))) => {
                let missing = old.as_array().into_iter().flatten().filter(|peer| !peers.contains(peer));
                let missing: Vec<Value> = missing.cloned().collect();
                peers.extend(missing);
            }
            ("scenarios", Some(Value::Object(scenarios))) => {
                for (id, scenario) in old.as_object().into_iter().flatten() {
                    scenarios.entry(id.clone()).or_insert_with(|| scenario.clone());
                }
                sort_scenarios(scenarios);
            }
            ("targets", Some(Value::Array(targets))) => {
                let newer = std::mem::take(targets);
                let same = |a: &Value, b: &Value| a["what"] == b["what"] && a["must"] == b["must"];
                for old in old.as_array().into_iter().flatten() {
                    targets.push(newer.iter().find(|new| same(new, old)).unwrap_or(old).clone());
                }
                let added = newer.iter().filter(|new| !targets.iter().any(|target| same(new, target)));
                let added: Vec<Value> = added.cloned().collect();
                targets.extend(added);
            }
            (_, Some(value)) if !is_nothing(value) => {}
            _ => {
                new.insert(key, old);
            }
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// As the race has them.
fn sort_scenarios(scenarios: &mut Map<String, Value>) {
    let place = |id: &str| SCENARIOS.iter().position(|scenario| scenario.id == id);
    let mut list: Vec<(String, Value)> = std::mem::take(scenarios).into_iter().collect();
    list.sort_by_key(|(id, _)| place(id));
    scenarios.extend(list);
}
