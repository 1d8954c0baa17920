//! What Prometheus reads.

use std::fmt::Write as _;

use unbroken::{CloseReason, Net, Stats};

use crate::ports::Ports;
use crate::server::Chat;
use crate::wire::Form;

/// What one reactor counts.
pub struct Figures {
    stats: Stats,
    deliveries: u64,
}

impl Ports {
    pub fn count(&self, net: &Net) -> Figures {
        Figures { stats: net.stats().clone(), deliveries: self.deliveries }
    }
}

impl Chat {
    /// All figures, in Prometheus' text format, the sums of these reactors' among them.
    pub fn metrics(&self, reactors: &[Figures]) -> String {
        let sum = |value: fn(&Figures) -> u64| reactors.iter().map(value).sum::<u64>() as f64;
        let mut text = String::new();
        let mut put = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
            let _ = writeln!(text, "# HELP chat_{name} {help}\n# TYPE chat_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "chat_{name}{labels} {value}");
            }
        };
        let longest =
            reactors.iter().map(|each| each.stats.longest_turn).max().unwrap_or_default().as_secs_f64();
        let speaks = |wanted: fn(&Option<Form>) -> bool| {
            self.clients.values().filter(|client| wanted(&client.form)).count() as f64
        };
        put(
            "clients",
            "gauge",
            "Connected clients by protocol.",
            &[
                ("{protocol=\"irc\"}", speaks(|form| *form == Some(Form::Irc))),
                ("{protocol=\"websocket\"}", speaks(|form| form.is_some_and(|form| form != Form::Irc))),
                ("{protocol=\"http\"}", speaks(|form| form.is_none())),
            ],
        );
        put("users", "gauge", "Registered users of all servers.", &[("", self.state.user_count() as f64)]);
        put("channels", "gauge", "Channels.", &[("", self.state.channel_count() as f64)]);
        put(
            "connections",
            "gauge",
            "Connections of the engine.",
            &[("", sum(|each| each.stats.connections as u64))],
        );
        put("accepted_total", "counter", "Connections accepted.", &[("", sum(|each| each.stats.accepted))]);
        put(
            "refused_total",
            "counter",
            "Clients turned away at a limit.",
            &[("", self.counters.refused as f64)],
        );
        put(
            "messages_total",
            "counter",
            "Messages taken from users.",
            &[("", self.counters.messages as f64)],
        );
        put("deliveries_total", "counter", "Lines sent to users.", &[("", sum(|each| each.deliveries))]);
        put("received_bytes_total", "counter", "Bytes received.", &[("", sum(|each| each.stats.bytes_in))]);
        put(
            "sent_bytes_total",
            "counter",
            "Bytes handed to the kernel.",
            &[("", sum(|each| each.stats.bytes_out))],
        );
        put(
            "queued_bytes",
            "gauge",
            "Bytes queued for clients.",
            &[("", sum(|each| each.stats.queued as u64))],
        );
        put(
            "congested_clients",
            "gauge",
            "Clients at high water.",
            &[("", sum(|each| each.stats.congested as u64))],
        );
        put("longest_turn_seconds", "gauge", "Longest turn so far.", &[("", longest)]);
        let up = f64::from(u8::from(self.relay.is_up()));
        put("relay_up", "gauge", "Whether other servers can be reached through Redis.", &[("", up)]);
        put("relay_servers", "gauge", "Other servers.", &[("", self.relay.servers() as f64)]);
        let closes: Vec<(String, f64)> = CloseReason::ALL
            .iter()
            .map(|reason| {
                let count: u64 = reactors.iter().map(|each| each.stats.closed_by(*reason)).sum();
                (format!("{{reason=\"{}\"}}", reason.name()), count as f64)
            })
            .collect();
        let closes: Vec<(&str, f64)> = closes.iter().map(|(label, count)| (label.as_str(), *count)).collect();
        put("closes_total", "counter", "Connections ended, by reason.", &closes);
        text
    }
}
