//! All figures for other programs.

use serde_json::{json, Map, Value};

use crate::load::Latencies;
use crate::measure::Data;
use crate::rounds::Rounds;
use crate::{targets, Results, Special};

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

pub fn render(results: &Results) -> String {
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
            })).collect::<Vec<_>>(),
            "cpu_us_per_request": redis.cpu.iter().map(|(depth, ours, theirs)| json!({
                "pipeline": depth, "ours": rounds(ours), "redis": rounds(theirs),
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
    let value = json!({
        "machine": results.machine,
        "quick": results.plan.quick,
        "seconds": results.took.as_secs(),
        "scenarios": scenarios,
        "idle": special(&results.idle, |idle| json!({
            "connections": results.plan.idle,
            "bytes_fresh": idle.fresh,
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
            "bytes_fresh": idle.fresh, "bytes_used": idle.used,
        })),
        "tls_storm": special(&results.tls_storm, |storm| json!({
            "alone_us": percentiles(&storm.calm), "beside_us": percentiles(&storm.stormy),
            "p99_ratio": rounds(&storm.ratio), "lasted_ms": storm.lasted.as_secs_f64() * 1e3,
        })),
        "tls_bare_us": results.tls_bare.as_ref().and_then(|bare| bare.as_ref().ok()).map(rounds),
        "redis": redis,
        "chat": chat,
        "http": http,
        "targets": targets,
    });
    format!("{value:#}\n")
}
