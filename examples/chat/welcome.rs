//! What a client is told once it has registered: what the server can do, how many there are, the
//! message of the day.

use unbroken::Net;

use crate::channels::TEXT_LENGTH;
use crate::clients::{Client, ClientId};
use crate::irc;
use crate::lists::MOST_CHANNELS;
use crate::messages::MOST_TARGETS;
use crate::modes::{KEY_LENGTH, LIST_LENGTH};
use crate::monitor::MOST_WATCHED;
use crate::server::Chat;
use crate::state::UserId;
use crate::users::AWAY_LENGTH;

impl Chat {
    pub fn welcome(&self, net: &mut Net, conn: ClientId, id: UserId) {
        let Some(user) = self.state.user(id) else { return };
        let (server, network, version) =
            (&self.options.name, &self.options.network, env!("CARGO_PKG_VERSION"));
        self.numeric(net, conn, 1, &format!(":Welcome to the {network} network, {}", user.source()));
        self.numeric(net, conn, 2, &format!(":Your host is {server}, running version unbroken-{version}"));
        self.numeric(net, conn, 3, ":This server was created by the example `chat`");
        self.numeric(net, conn, 4, &format!("{server} unbroken-{version} iow beiklmnostv beklov"));
        for tokens in self.features() {
            self.numeric(net, conn, 5, &format!("{tokens} :are supported by this server"));
        }
        self.lusers(net, conn);
        self.motd(net, conn);
    }

    /// What this server can do, a line's worth of tokens each.
    fn features(&self) -> Vec<String> {
        let options = &self.options;
        let mut features = vec![
            format!(
                "AWAYLEN={AWAY_LENGTH} CASEMAPPING=ascii CHANLIMIT=#:{} CHANMODES=be,k,l,imnst CHANNELLEN={} \
                 CHANTYPES=# ELIST=CMNTU EXCEPTS=e KEYLEN={KEY_LENGTH} NETWORK={} NICKLEN={}",
                options.max_channels_per_client,
                irc::CHANNEL_LENGTH,
                options.network,
                options.nick_length,
            ),
            format!(
                "KICKLEN={TEXT_LENGTH} LINELEN={} MAXLIST=be:{LIST_LENGTH} MODES=4 MONITOR={MOST_WATCHED} PREFIX=(ov)@+ \
                 STATUSMSG= TARGMAX=JOIN:,KICK:,NAMES:{MOST_CHANNELS},NOTICE:{MOST_TARGETS},PART:,\
                 PRIVMSG:{MOST_TARGETS},TAGMSG:{MOST_TARGETS},WHOIS:1,WHOWAS:4 TOPICLEN={TEXT_LENGTH} UTF8ONLY",
                options.max_line,
            ),
        ];
        if options.history > 0 {
            features.push(format!("CHATHISTORY={} MSGREFTYPES=timestamp,msgid", options.history));
        }
        features
    }

    pub fn version(&self, net: &mut Net, conn: ClientId) {
        let threads = match self.options.threads {
            1 => "one thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        let text = format!("unbroken-{} {} :{threads}", env!("CARGO_PKG_VERSION"), self.options.name);
        self.numeric(net, conn, 351, &text);
        for tokens in self.features() {
            self.numeric(net, conn, 5, &format!("{tokens} :are supported by this server"));
        }
    }

    pub fn info(&self, net: &mut Net, conn: ClientId) {
        let since = std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.started);
        for line in [
            format!("unbroken {}, the example `chat`", env!("CARGO_PKG_VERSION")),
            "One reactor, one thread, and nobody dies of a broken pipe.".to_owned(),
            format!("On-line since {}", httpdate::fmt_http_date(since)),
        ] {
            self.numeric(net, conn, 371, &format!(":{line}"));
        }
        self.numeric(net, conn, 374, ":End of INFO list");
    }

    pub fn time(&self, net: &mut Net, conn: ClientId) {
        let now = httpdate::fmt_http_date((self.clock)());
        self.numeric(net, conn, 391, &format!("{} :{now}", self.options.name));
    }

    pub fn motd(&self, net: &mut Net, conn: ClientId) {
        self.numeric(net, conn, 375, &format!(":- {} Message of the day -", self.options.name));
        for line in self.options.motd.lines() {
            self.numeric(net, conn, 372, &format!(":- {line}"));
        }
        self.numeric(net, conn, 376, ":End of /MOTD command");
    }

    pub fn lusers(&self, net: &mut Net, conn: ClientId) {
        let (here, all) = (self.conns.len(), self.state.user_count());
        let invisible = self.state.users().filter(|(_, user)| user.invisible).count();
        let waiting = |client: &&Client| client.user.is_none() && !client.leaving && client.form.is_some();
        let unknown = self.clients.values().filter(waiting).count();
        let (servers, most, most_all) = (1 + self.relay.servers(), self.most_users, self.most_all);
        let visible = all - invisible;
        let text = format!(":There are {visible} users and {invisible} invisible on {servers} servers");
        self.numeric(net, conn, 251, &text);
        let operators = self.state.users().filter(|(_, user)| user.operator).count();
        self.numeric(net, conn, 252, &format!("{operators} :operator(s) online"));
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
