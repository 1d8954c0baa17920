//! What Prometheus reads.

use std::fmt::Write as _;

use unbroken::{CloseReason, Net};

use crate::clients::Protocol;
use crate::server::Chat;

impl Chat {
    /// All figures, in Prometheus' text format.
    pub fn metrics(&self, net: &Net) -> String {
        let stats = net.stats();
        let mut text = String::new();
        let mut put = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
            let _ = writeln!(text, "# HELP chat_{name} {help}\n# TYPE chat_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "chat_{name}{labels} {value}");
            }
        };
        let speaks = |wanted: fn(&Protocol) -> bool| {
            self.clients.values().filter(|client| wanted(&client.protocol)).count() as f64
        };
        put(
            "clients",
            "gauge",
            "Connected clients by protocol.",
            &[
                ("{protocol=\"irc\"}", speaks(|protocol| matches!(protocol, Protocol::Irc))),
                ("{protocol=\"websocket\"}", speaks(|protocol| matches!(protocol, Protocol::WebSocket(_)))),
                ("{protocol=\"http\"}", speaks(|protocol| matches!(protocol, Protocol::Http))),
            ],
        );
        put("users", "gauge", "Registered users of all servers.", &[("", self.state.user_count() as f64)]);
        put("channels", "gauge", "Channels.", &[("", self.state.channel_count() as f64)]);
        put("connections", "gauge", "Connections of the engine.", &[("", stats.connections as f64)]);
        put("accepted_total", "counter", "Connections accepted.", &[("", stats.accepted as f64)]);
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
        put("deliveries_total", "counter", "Lines sent to users.", &[("", self.counters.deliveries as f64)]);
        put("received_bytes_total", "counter", "Bytes received.", &[("", stats.bytes_in as f64)]);
        put("sent_bytes_total", "counter", "Bytes handed to the kernel.", &[("", stats.bytes_out as f64)]);
        put("queued_bytes", "gauge", "Bytes queued for clients.", &[("", stats.queued as f64)]);
        put("congested_clients", "gauge", "Clients at high water.", &[("", stats.congested as f64)]);
        put(
            "longest_turn_seconds",
            "gauge",
            "Longest turn so far.",
            &[("", stats.longest_turn.as_secs_f64())],
        );
        let up = f64::from(u8::from(self.relay.is_up()));
        put("relay_up", "gauge", "Whether other servers can be reached through Redis.", &[("", up)]);
        put("relay_servers", "gauge", "Other servers.", &[("", self.relay.servers() as f64)]);
        let closes: Vec<(String, f64)> = CloseReason::ALL
            .iter()
            .map(|reason| (format!("{{reason=\"{}\"}}", reason.name()), stats.closed_by(*reason) as f64))
            .collect();
        let closes: Vec<(&str, f64)> = closes.iter().map(|(label, count)| (label.as_str(), *count)).collect();
        put("closes_total", "counter", "Connections ended, by reason.", &closes);
        text
    }
}
