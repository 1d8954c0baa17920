//! The whole chat server in the simulated network: its unit tests, single moments in virtual time, and
//! worlds drawn from seeds.
//!
//! `UNBROKEN_SEEDS=20000 cargo test --test chat_simulated` plays more worlds, `UNBROKEN_SEED=7` one.

#[path = "../../examples/chat/audience.rs"]
mod audience;
#[path = "../../examples/chat/between.rs"]
mod between;
#[path = "../../examples/chat/caps.rs"]
mod caps;
#[path = "../../examples/chat/channel.rs"]
mod channel;
#[path = "../../examples/chat/channels.rs"]
mod channels;
#[path = "../../examples/chat/clients.rs"]
mod clients;
#[path = "../../examples/chat/commands.rs"]
mod commands;
#[path = "../../examples/chat/crew.rs"]
mod crew;
#[path = "../../examples/chat/events.rs"]
mod events;
#[path = "../../examples/chat/far.rs"]
mod far;
#[path = "../../examples/chat/front.rs"]
mod front;
#[path = "../../examples/chat/history.rs"]
mod history;
#[path = "../../examples/chat/irc.rs"]
mod irc;
#[path = "../../examples/chat/labels.rs"]
mod labels;
#[path = "../../examples/chat/lists.rs"]
mod lists;
#[path = "../../examples/chat/mail.rs"]
mod mail;
#[path = "../../examples/chat/messages.rs"]
mod messages;
#[path = "../../examples/chat/metrics.rs"]
mod metrics;
#[path = "../../examples/chat/modes.rs"]
mod modes;
#[path = "../../examples/chat/monitor.rs"]
mod monitor;
#[path = "../../examples/chat/opers.rs"]
mod opers;
#[path = "../../examples/chat/options.rs"]
mod options;
#[path = "../../examples/chat/pace.rs"]
mod pace;
#[path = "../../examples/chat/pages.rs"]
mod pages;
#[allow(dead_code)]
#[path = "../../examples/chat/passwords.rs"]
mod passwords;
#[path = "../../examples/chat/people.rs"]
mod people;
#[path = "../../examples/chat/ports.rs"]
mod ports;
#[path = "../../examples/chat/registration.rs"]
mod registration;
#[allow(dead_code)]
#[path = "../../examples/chat/relay.rs"]
mod relay;
#[path = "../../examples/chat/remote.rs"]
mod remote;
#[path = "../../examples/chat/request.rs"]
mod request;
#[path = "../../examples/chat/sasl.rs"]
mod sasl;
#[path = "../../examples/chat/sending.rs"]
mod sending;
#[allow(dead_code)]
#[path = "../../examples/chat/server.rs"]
mod server;
#[path = "../../examples/chat/settings.rs"]
mod settings;
#[path = "../../examples/chat/stamp.rs"]
mod stamp;
#[path = "../../examples/chat/state.rs"]
mod state;
#[path = "../../examples/chat/state_tests.rs"]
mod state_tests;
#[path = "../../examples/chat/telling.rs"]
mod telling;
#[path = "../../examples/chat/users.rs"]
mod users;
#[path = "../../examples/chat/web.rs"]
mod web;
#[path = "../../examples/chat/websocket.rs"]
mod websocket;
#[path = "../../examples/chat/welcome.rs"]
mod welcome;
#[path = "../../examples/chat/whowas.rs"]
mod whowas;
#[path = "../../examples/chat/wire.rs"]
mod wire;

mod moments;
mod reactors;
mod redis;
mod splits;
mod union;
mod worlds;

use std::ops::Range;

pub const IRC: &str = "10.0.0.1:6667";
pub const WEB: &str = "10.0.0.1:8080";

/// A small generator of numbers (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }
}

/// The worlds to play: so many, or those that the environment names.
pub fn seeds(usual: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("UNBROKEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("UNBROKEN_SEEDS").unwrap_or(usual),
    }
}
