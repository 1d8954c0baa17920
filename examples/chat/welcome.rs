//! What a client is told once it has registered: what the server can do, how many there are, the
//! message of the day.

use unbroken::{ConnId, Net};

use crate::channels::{MOST_CHANNELS, TEXT_LENGTH};
use crate::clients::Client;
use crate::commands::MOST_TARGETS;
use crate::irc;
use crate::server::Chat;
use crate::state::UserId;

impl Chat {
    pub fn welcome(&self, net: &mut Net, conn: ConnId, id: UserId) {
        let Some(user) = self.state.user(id) else { return };
        let (server, network, version) =
            (&self.options.name, &self.options.network, env!("CARGO_PKG_VERSION"));
        self.numeric(net, conn, 1, &format!(":Welcome to the {network} network, {}", user.source()));
        self.numeric(net, conn, 2, &format!(":Your host is {server}, running version unbroken-{version}"));
        self.numeric(net, conn, 3, ":This server was created by the example `chat`");
        self.numeric(net, conn, 4, &format!("{server} unbroken-{version} i not o"));
        self.numeric(
            net,
            conn,
            5,
            &format!(
                "CASEMAPPING=ascii CHANLIMIT=#:{} CHANMODES=,,,nt CHANNELLEN={} CHANTYPES=# NETWORK={network} \
                 NICKLEN={} PREFIX=(o)@ :are supported by this server",
                self.options.max_channels_per_client,
                irc::CHANNEL_LENGTH,
                self.options.nick_length,
            ),
        );
        self.numeric(
            net,
            conn,
            5,
            &format!(
                "KICKLEN={TEXT_LENGTH} LINELEN={} MODES=4 STATUSMSG= TARGMAX=JOIN:,KICK:,NAMES:{MOST_CHANNELS},\
                 NOTICE:{MOST_TARGETS},PART:,PRIVMSG:{MOST_TARGETS},WHOIS:1 TOPICLEN={TEXT_LENGTH} UTF8ONLY \
                 :are supported by this server",
                self.options.max_line,
            ),
        );
        self.lusers(net, conn);
        self.motd(net, conn);
    }

    pub fn motd(&self, net: &mut Net, conn: ConnId) {
        self.numeric(net, conn, 375, &format!(":- {} Message of the day -", self.options.name));
        for line in self.options.motd.lines() {
            self.numeric(net, conn, 372, &format!(":- {line}"));
        }
        self.numeric(net, conn, 376, ":End of /MOTD command");
    }

    pub fn lusers(&self, net: &mut Net, conn: ConnId) {
        let (here, all) = (self.conns.len(), self.state.user_count());
        let invisible = self.state.users().filter(|(_, user)| user.invisible).count();
        let waiting = |client: &&Client| client.user.is_none() && !client.leaving && client.form().is_some();
        let unknown = self.clients.values().filter(waiting).count();
        let (servers, most, most_all) = (1 + self.relay.servers(), self.most_users, self.most_all);
        let visible = all - invisible;
        let text = format!(":There are {visible} users and {invisible} invisible on {servers} servers");
        self.numeric(net, conn, 251, &text);
        self.numeric(net, conn, 252, "0 :operator(s) online");
        self.numeric(net, conn, 253, &format!("{unknown} :unknown connection(s)"));
        self.numeric(net, conn, 254, &format!("{} :channels formed", self.state.channel_count()));
        self.numeric(net, conn, 255, &format!(":I have {here} clients and {} servers", servers - 1));
        self.numeric(net, conn, 265, &format!("{here} {most} :Current local users {here}, max {most}"));
        self.numeric(
            net,
            conn,
            266,
            &format!("{all} {most_all} :Current global users {all}, max {most_all}"),
        );
    }
}
