// An IRC client for a browser: one line of IRC per WebSocket message (IRCv3's `text.ircv3.net`).
// What others wrote reaches the page as text nodes only, and everything that grows has a bound.
'use strict';

const LINES = 1000, BUFFERS = 200, SENT = 100; // kept per conversation; conversations; lines of input history
const ROOM = 510; // bytes of a line without its CR LF
const ASK = 20, DEAD = 30; // seconds of silence before we ask the server, and before we give it up
const BURST = 8; // messages sent at once; then one per second, for the server cuts off who floods it
const TRAFFIC = 5; // names, and kinds of coming and going, that are told in one line
const SERVER = 'Server';
const CAPS = ['server-time', 'echo-message', 'multi-prefix'];

const $ = (id) => document.getElementById(id);
const el = (tag, props, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const bytes = (text) => new TextEncoder().encode(text).length;
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const day = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
// A reload of the tab comes back to where it was; a new tab is offered what the last one used.
const store = {
  get: (key) => { try { return JSON.parse(sessionStorage[key] ?? localStorage[key]); } catch { return null; } },
  set: (key, value) => { try { sessionStorage[key] = localStorage[key] = JSON.stringify(value); } catch { /* private */ } },
};

const input = $('input');
const buffers = new Map(); // folded name → conversation, in the order of the list
let current; // the conversation that is shown
let nick = '', wish = ''; // what the server calls us, and what the user wants to be called
let socket = null, state = 'offline', registered = false;
let reason = ''; // the server's last ERROR
let caps = new Set(), casemap = 'rfc1459', refusals = 0, impossible = false;
let wait = 0, attempt = 0; // seconds to the next try, and how many have failed
let silence = 0, uptime = 0, tokens = BURST; // in seconds, in seconds, in messages
let queue = [], unechoed = []; // messages not sent yet, and those that the server has not sent back yet
let when = new Date(); // the time of the message that is being handled
let focusOn = '', asked = new Set(); // the channel to show once joined; those whose names were asked for
let sent = [], recall = 0, draft = '', completion = null;

const fold = (name = '') => {
  const folded = name.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return casemap === 'ascii' ? folded : folded.replace(/[[\]\\~]/g, (char) => '{}|^'['[]\\~'.indexOf(char)]);
};
const same = (a, b) => fold(a) === fold(b);
const isMe = (name) => same(name, nick);
const isChannel = (name) => /^[#&]/.test(name);
const find = (name) => buffers.get(fold(name));
const server = () => buffers.get(SERVER);
const channels = () => [...buffers.values()].filter((buffer) => isChannel(buffer.name));

// ---- Conversations -------------------------------------------------------------------------------

/** The conversation of that name, made if need be; the server's when there are too many already. */
function open(name) {
  const key = name === SERVER ? SERVER : fold(name);
  if (buffers.has(key) || buffers.size >= BUFFERS) return buffers.get(key) ?? server();
  const log = el('div', { className: 'log', role: 'log', tabIndex: 0, ariaLabel: `Messages in ${name}` });
  const label = el('span'), badge = el('span', { className: 'badge' });
  const go = el('button', { type: 'button', onclick: () => { show(buffer); compose(); } }, label, badge);
  const close = el('button', { type: 'button', className: 'close', textContent: '×', onclick: () => drop(buffer) });
  const item = el('li', {}, go, ...(name === SERVER ? [] : [close]));
  const buffer = { name, log, label, badge, go, close, item, users: new Map(), joined: !isChannel(name), stay: true,
    topic: '', draft: '', unread: 0, hit: false, pinned: true, top: 0, day: '', run: '', marker: null, traffic: null };
  log.onscroll = () => {
    const below = log.scrollHeight - log.scrollTop - log.clientHeight;
    buffer.pinned = below < 40 || (buffer.pinned && log.scrollTop >= buffer.top);
    buffer.top = log.scrollTop;
    render();
  };
  buffers.set(key, buffer);
  $('buffers').append(item);
  return buffer;
}

function show(buffer) {
  if (current) current.draft = input.value;
  current = buffer;
  input.value = buffer.draft;
  recall = sent.length;
  $('logs').replaceChildren(buffer.log);
  if (!buffer.pinned) buffer.log.scrollTop = buffer.top;
  // Written so that it reads back the same: a percent sign is a letter of a channel's name as well.
  if (isChannel(buffer.name)) history.replaceState(null, '', `#${encodeURIComponent(buffer.name.slice(1))}`);
  buffer.item.scrollIntoView({ block: 'nearest' });
  drawer(null);
  seen();
  draw();
}

function seen() {
  if (current && !document.hidden) Object.assign(current, { unread: 0, hit: false });
  render();
}

/** Closes a conversation, which for a channel is to leave it. */
function drop(buffer, why = '') {
  if (buffer === server()) return;
  if (isChannel(buffer.name) && buffer.joined) send(`PART ${buffer.name}${why && ` :${why}`}`);
  const all = [...buffers.values()], at = all.indexOf(buffer);
  buffers.delete(fold(buffer.name));
  buffer.item.remove();
  if (current === buffer) show(all[at + 1] ?? all[at - 1]);
  remember();
  compose();
}

const remember = () => store.set('channels', channels().map((buffer) => buffer.name));

/** Text as nodes: web addresses become links, and so do channels in the server's list. */
function rich(text, list) {
  const nodes = [];
  let last = 0;
  for (const match of text.matchAll(list ? /^#[^\s,]+/g : /\bhttps?:\/\/[^\s<>"]*[^\s<>"'.,;:!?)\]}]/g)) {
    nodes.push(text.slice(last, match.index), list
      ? el('button', { type: 'button', className: 'link', textContent: match[0], onclick: () => join(match[0]) })
      : el('a', { href: match[0], target: '_blank', rel: 'noopener noreferrer', textContent: match[0] }));
    last = match.index + match[0].length;
  }
  return [...nodes, text.slice(last)];
}

function coloured(name) {
  let hash = 0;
  for (const char of fold(name)) hash = (hash * 31 + char.codePointAt(0)) % 3600;
  const node = el('span', { className: 'nick', textContent: name });
  node.style.setProperty('--hue', (hash * 137) % 360);
  return node;
}

/** Adds a line. Kinds: said, action and notice, which count as unread; event, info, list and error. */
function add(buffer, kind, text, who = '') {
  const { log } = buffer, said = /said|action|notice/.test(kind) && !isMe(who);
  const words = text.replace(/\x03(\d{1,2}(,\d{1,2})?)?|\x04[0-9a-f]{6}|[\x00-\x1f\x7f]/gi, ''); // colours and controls
  const named = said && fold(words).split(/[^\p{L}\p{N}_[\]\\`^{}|-]+/u).includes(fold(nick));
  if (buffer.day !== when.toDateString()) {
    buffer.day = when.toDateString();
    log.append(el('div', { className: 'rule', role: 'separator', textContent: day.format(when) }));
  }
  if (said && (buffer !== current || document.hidden)) {
    if (!buffer.unread++) {
      buffer.marker?.remove();
      log.append(buffer.marker = el('div', { className: 'rule new', role: 'separator', textContent: 'new' }));
      buffer.run = '';
    }
    buffer.hit ||= named || (buffer !== server() && !isChannel(buffer.name));
  }
  buffer.traffic = null;
  const run = kind === 'said' ? `${fold(who)} ${Math.floor(when / 300000)}` : ''; // five minutes of one person
  const classes = `line ${kind}${run && run === buffer.run ? ' same' : ''}${named ? ' mention' : ''}`;
  buffer.run = run;
  log.append(el('div', { className: classes }, coloured(who),
    el('span', { className: 'text', dir: 'auto' }, ...rich(words, kind === 'list')),
    el('time', { dateTime: when.toISOString(), title: when.toLocaleString(), textContent: clock.format(when) })));
  // Whoever reads further up does not lose the line under their eyes at once.
  while (log.childElementCount > (buffer.pinned ? LINES : 2 * LINES)) log.firstElementChild.remove();
  render();
}

/** Adds to the line of those who come and go, a new one behind whatever else happened. */
function traffic(buffer, who, how, why = '') {
  if (!buffer.traffic || buffer.day !== when.toDateString() || buffer.traffic.count >= 200) {
    add(buffer, 'event', '');
    buffer.traffic = { line: buffer.log.lastElementChild, groups: [], count: 0 };
  }
  buffer.traffic.count++;
  const { line, groups } = buffer.traffic, last = groups.at(-1);
  if (last?.how === how && !last.why && !why) last.names.push(who);
  else groups.push({ names: [who], how, why });
  const tell = ({ names, how, why }, most) => {
    const shown = names.length > most ? `${names.slice(0, most).join(', ')} and ${names.length - most} more` : names.join(', ');
    return `${shown} ${how}${why && `: ${why}`}`;
  };
  const more = groups.length - TRAFFIC;
  const text = line.querySelector('.text');
  text.textContent = groups.slice(0, TRAFFIC).map((group) => tell(group, TRAFFIC)).join(' · ') + (more > 0 ? ` · and ${more} more` : '');
  text.title = groups.map((group) => tell(group, LINES)).join('\n');
  render();
}
const info = (text) => add(current, 'info', text);
const fail = (text, buffer = current) => add(buffer, 'error', text);
const everywhere = (kind, text) => { for (const buffer of buffers.values()) add(buffer, kind, text); };

// ---- What stands around the messages -------------------------------------------------------------

let drawing = 0;
let listed = null; // the conversation whose people are listed as they are now
const render = () => { drawing ||= setTimeout(draw, 20); }; // not a frame: the title counts in hidden tabs too

function draw() {
  clearTimeout(drawing);
  drawing = 0;
  if (!current) return;
  let unread = 0, hits = 0;
  for (const buffer of buffers.values()) {
    const { go, badge, close, name } = buffer;
    buffer.label.textContent = name;
    badge.textContent = Math.min(buffer.unread, 999);
    badge.hidden = !buffer.unread;
    go.className = `go ${buffer.unread ? 'unread' : ''} ${buffer.hit ? 'hit' : ''} ${buffer.joined ? '' : 'out'}`;
    go.ariaLabel = name + (buffer.unread ? `, ${buffer.unread} unread` : '') + (buffer.joined ? '' : ', not joined');
    go.ariaCurrent = buffer === current ? 'true' : null;
    close.ariaLabel = `${isChannel(name) ? 'Leave' : 'Close'} ${name}`;
    unread += buffer.unread;
    hits += buffer.hit;
  }
  $('menu').classList.toggle('dot', unread > 0);
  document.title = `${hits ? `(${hits}) ` : unread ? '• ' : ''}${current.name} · unbroken chat`;
  $('title').textContent = current.name;
  $('topic').hidden = !isChannel(current.name);
  $('topic').disabled = !current.joined;
  if (document.activeElement !== $('topic')) $('topic').value = $('topic').title = current.topic;
  $('me').replaceChildren(coloured(nick || wish));
  input.placeholder = current === server() ? 'A command, such as /help' : `Message ${current.name}`;
  $('latest').hidden = current.pinned;
  if (current.pinned) current.log.scrollTop = current.log.scrollHeight;

  if ($('state').textContent !== state) $('state').textContent = state; // read aloud, so only when it changes
  $('status').className = state;
  $('countdown').textContent = state === 'offline' && wait ? `: retry in ${wait} s` : '';
  $('now').hidden = state !== 'offline';
  $('now').textContent = wait ? 'now' : 'connect';

  $('people').hidden = $('who').hidden = !isChannel(current.name);
  if (listed === current) return;
  listed = current;
  const focused = document.activeElement, order = { '@': 0, '+': 1, '': 2 };
  const users = [...current.users].sort(([a, x], [b, y]) => order[x.rank] - order[y.rank] || (a < b ? -1 : 1));
  $('names').replaceChildren(...users.map(([, user]) => person(user)));
  if (focused !== document.activeElement && $('names').contains(focused)) focused.focus({ preventScroll: true });
  $('count').textContent = users.length;
}

/** A row of the names, kept from one drawing to the next: it may have the focus. */
function person(user) {
  const button = (user.item ??= el('li', {}, el('button', { type: 'button' }))).firstChild;
  if (user.shown !== user.rank) {
    user.shown = user.rank;
    button.replaceChildren(el('span', { className: 'rank', textContent: user.rank }), coloured(user.nick));
    button.ariaLabel = user.nick + ({ '@': ', operator', '+': ', voiced' }[user.rank] ?? '');
    button.onclick = () => { show(open(user.nick)); compose(); };
  }
  return user.item;
}

/** Opens one of the drawers that a narrow window has at its sides, or closes both. */
function drawer(id) {
  for (const [panel, button] of [['side', 'menu'], ['people', 'who']]) {
    const { classList } = $(panel), inside = $(panel).contains(document.activeElement);
    if (classList.contains('open') && panel !== id && inside) $(button).focus();
    classList.toggle('open', panel === id);
    $(button).ariaExpanded = panel === id;
    if (panel === id) ($(panel).querySelector('[aria-current]') ?? $(panel).querySelector('button'))?.focus();
  }
  $('shade').hidden = !id;
}

/** To the message box, except where that would bring up a keyboard on the screen. */
const compose = () => { if (matchMedia('(pointer: fine)').matches) input.focus(); };

// ---- The connection ------------------------------------------------------------------------------

function connect() {
  wait = silence = uptime = refusals = 0;
  impossible = false;
  reason = '';
  state = 'connecting';
  caps.clear();
  const ws = socket = new WebSocket(`${location.protocol.replace('http', 'ws')}//${location.host}/irc`, 'text.ircv3.net');
  let opened = false;
  ws.onopen = () => {
    opened = true;
    send('CAP LS 302');
    send(`NICK ${nick = wish}`);
    send(`USER ${wish.replace(/[^a-z0-9]/gi, '').slice(0, 9) || 'web'} 0 * :${wish}`);
  };
  ws.onmessage = ({ data }) => {
    if (ws !== socket || typeof data !== 'string') return;
    silence = 0;
    receive(data.replace(/[\r\n]+$/, ''));
    when = new Date();
  };
  ws.onclose = (event) => {
    if (ws === socket) lost(reason || event.reason || (opened ? 'the connection broke' : 'the server cannot be reached'));
  };
  render();
}

/** The connection is gone, or given up: says what may not have arrived, and when the next try is. */
function lost(why, again = true) {
  const old = socket, everyone = registered;
  socket = null; // from here on its events are nobody's
  old?.close();
  state = 'offline';
  registered = false;
  wait = again ? Math.max(1, Math.round(Math.min(60, 2 << attempt) * (0.5 + Math.random()))) : 0;
  attempt = Math.min(attempt + 1, 8);
  everyone ? everywhere('error', `Offline: ${why}`) : fail(`Offline: ${why}`, reason ? current : server());
  for (const { target, text } of unechoed.splice(0)) fail(`Perhaps not delivered: ${text}`, find(target) ?? server());
  for (const { target, text } of queue.splice(0)) fail(`Not sent: ${text}`, find(target) ?? server());
  for (const buffer of channels()) { buffer.joined = false; buffer.users.clear(); }
  listed = null;
  render();
}

// Silence is counted in ticks, not by the clock: a laptop that slept does not find its server dead.
setInterval(() => {
  when = new Date();
  if (socket) {
    tokens = Math.min(BURST, tokens + 1);
    flush();
    if (registered && ++uptime === 30) attempt = 0;
    if (++silence === ASK && registered) send('PING :still-there');
    if (silence >= DEAD) lost('the server does not answer');
  } else if (wait && --wait === 0) {
    connect();
  }
  if (state === 'offline') render();
}, 1000);

/** Cuts a text at the borders of characters, and of words where it can, into pieces of so many bytes. */
function split(text, room) {
  const pieces = [];
  let piece = '', size = 0;
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    for (const part of bytes(segment) > room ? segment : [segment]) {
      if (size + bytes(part) > room) {
        const space = piece.lastIndexOf(' ') + 1, end = space > piece.length / 2 ? space : piece.length;
        pieces.push(piece.slice(0, end));
        piece = piece.slice(end);
        size = bytes(piece);
      }
      piece += part;
      size += bytes(part);
    }
  }
  return piece ? [...pieces, piece] : pieces;
}

/** Sends a line, cut to what a line may have. False when there is no connection. */
function send(line) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(split(line.replace(/[\r\n\0]+/g, ' '), ROOM)[0] ?? '');
  return true;
}

/** Says something to a channel or a nick, in as many messages as it needs. */
function say(target, text, action = false) {
  // What others receive starts with our nick, user and host; 80 bytes do for the latter two.
  const room = ROOM - bytes(`:${nick} PRIVMSG ${target} :\x01ACTION \x01`) - 80;
  for (const piece of split(text, room)) queue.push({ target, text: piece, action });
  flush();
}

function flush() {
  for (; registered && queue.length && tokens > 0; tokens--) {
    const message = queue.shift(), { target, text, action } = message;
    send(`PRIVMSG ${target} :${action ? `\x01ACTION ${text}\x01` : text}`);
    if (!caps.has('echo-message')) add(open(target), action ? 'action' : 'said', text, nick);
    else if (unechoed.push(message) > LINES) unechoed.shift();
  }
}

function join(names, key = '') {
  const list = names.split(',').filter(Boolean).map((name) => (isChannel(name) ? name : `#${name}`));
  if (!list.length) return;
  focusOn = fold(list[0]);
  if (find(list[0])?.joined) show(find(list[0]));
  if (!send(`JOIN ${list.join(',')} ${key}`.trim())) fail('Not connected: try again once you are online.');
}

// ---- What the server says ------------------------------------------------------------------------

function receive(line) {
  const [, tags = '', source = '', name = '', rest = ''] = /^(?:@(\S+) +)?(?::(\S+) +)?(\S+)(.*)$/s.exec(line) ?? [];
  const colon = rest.indexOf(' :'), params = (colon < 0 ? rest : rest.slice(0, colon)).split(' ').filter(Boolean);
  if (colon >= 0) params.push(rest.slice(colon + 2));
  when = new Date(/(?:^|;)time=([^;]+)/.exec(tags)?.[1] ?? Date.now());
  if (Number.isNaN(when.getTime())) when = new Date();
  const command = name.toUpperCase(), handler = handlers.get(command) ?? other;
  if (name) handler({ command, params, who: source.split('!')[0], text: params.at(-1) ?? '', user: source.includes('!') });
}

/** Whatever has no handler of its own is shown, as an error where its number says so. */
function other({ command, params, text }) {
  const error = /^[45]\d\d$/.test(command) && command !== '422';
  const before = params.slice(/^\d/.test(command) ? 1 : 0, -1).join(' ');
  if (error) unechoed = unechoed.filter(({ target }) => !same(target, params[1] ?? ''));
  const answer = error || /^3[0134]\d$/.test(command); // to something the user asked for, here
  add(find(params[1] ?? '') ?? (answer && command !== '372' ? current : server()), error ? 'error' : 'info',
    before ? `${before}${error ? ':' : ''} ${text}` : text);
}

/** The nick is not to be had: takes another one. */
function refused(message) {
  if (registered) wish = nick; // a /nick that failed: we stay who we are
  if (registered) return other(message);
  impossible ||= message.command === '432';
  if (++refusals > 8) return lost('no nick is free', false);
  const base = message.command === '432' ? 'guest' : wish.slice(0, 12);
  nick = refusals === 1 && base !== 'guest' ? `${base}_` : base + Math.floor(Math.random() * 10000);
  add(server(), 'info', `${message.params[1] ?? wish}: ${message.text}. Trying ${nick}.`);
  send(`NICK ${nick}`);
}

function said({ command, params: [target = ''], who, user, text }) {
  const [, ctcp, rest] = /^\x01(\S+) ?(.*?)\x01?$/s.exec(text) ?? [], words = ctcp ? rest : text;
  if (ctcp && ctcp !== 'ACTION') return add(server(), 'info', `CTCP ${ctcp} from ${who}`);
  const mine = user && isMe(who), name = target.replace(/^[@+]+/, ''); // to a channel's operators only: @#channel
  const at = mine ? unechoed.findIndex((message) => same(message.target, target) && message.text === words) : -1;
  if (at >= 0) unechoed.splice(at, 1);
  const home = isChannel(name) || mine ? name : who;
  const buffer = find(home) ?? (user && command === 'PRIVMSG' && !isChannel(home) ? open(home) : server());
  add(buffer, command === 'NOTICE' ? 'notice' : ctcp ? 'action' : 'said', words, who || SERVER);
}

/** Somebody is in a channel no more. */
function gone(buffer, who, how, why) {
  if (!buffer) return;
  listed = null;
  buffer.users.delete(fold(who));
  if (isMe(who)) { buffer.joined = false; buffer.users.clear(); }
  traffic(buffer, who, how, why);
}

const handlers = new Map(Object.entries({
  PING: ({ text }) => send(`PONG :${text}`),
  ERROR: ({ text }) => { reason = text; },
  CAP: ({ params: [, verb, more], text }) => {
    const names = text.split(' ').map((cap) => cap.split('=')[0]);
    if (verb === 'LS') {
      for (const cap of names) if (CAPS.includes(cap)) caps.add(cap);
      if (more !== '*') send(caps.size ? `CAP REQ :${[...caps].join(' ')}` : 'CAP END');
    } else if ((verb === 'ACK' || verb === 'NAK') && !registered) {
      if (verb === 'NAK') caps.clear();
      send('CAP END');
    }
  },
  '001': ({ params, text }) => {
    nick = params[0] ?? nick;
    registered = true;
    state = 'online';
    add(server(), 'info', text);
    const why = impossible ? 'cannot be had: letters, digits and []\\`_^{|}- are possible' : 'is in use';
    if (!isMe(wish)) everywhere('info', `The nick ${wish} ${why}; you are ${nick} for now.`);
    const again = channels().filter((buffer) => buffer.stay).map((buffer) => buffer.name).join(', ');
    for (const names of split(again, ROOM - 10)) send(`JOIN ${names.replaceAll(' ', '').replace(/,$/, '')}`);
  },
  '005': ({ params }) => { casemap = params.find((token) => token.startsWith('CASEMAPPING='))?.slice(12) ?? casemap; },
  432: refused, 433: refused, 436: refused, 437: refused,
  JOIN: ({ params: [channel], who }) => {
    const buffer = isMe(who) && channel ? open(channel) : find(channel);
    if (!buffer || buffer === server()) return;
    if (isMe(who)) {
      buffer.users.clear();
      buffer.joined = buffer.stay = true;
      remember();
      if (focusOn === fold(channel)) { focusOn = ''; show(buffer); compose(); }
    }
    buffer.users.set(fold(who), { nick: who, rank: '' });
    listed = null;
    traffic(buffer, who, 'joined');
  },
  PART: ({ params: [channel, why], who }) => gone(find(channel), who, 'left', why),
  KICK: ({ params: [channel, target, why], who }) => {
    if (isMe(target) && find(channel)) find(channel).stay = false; // not back in without being told to
    gone(find(channel), target, `was kicked by ${who}`, why);
  },
  QUIT: ({ text, who }) => {
    for (const buffer of buffers.values()) if (buffer.users.has(fold(who))) gone(buffer, who, 'quit', text.replace(/^Quit: /, ''));
    if (same(who, wish) && !isMe(who)) send(`NICK ${wish}`); // most likely our own former connection
  },
  NICK: ({ params: [name], who }) => {
    if (!name) return;
    if (isMe(who)) add(server(), 'event', `You are ${nick = name} now`);
    if (isMe(wish)) store.set('nick', wish);
    listed = null;
    for (const buffer of buffers.values()) {
      const user = buffer.users.get(fold(who));
      if (!user) continue;
      buffer.users.delete(fold(who));
      buffer.users.set(fold(name), { nick: name, rank: user.rank });
      add(buffer, 'event', `${who} is ${name} now`);
    }
    const talk = find(who);
    if (!talk || find(name)) return;
    buffers.delete(fold(who));
    buffers.set(fold(talk.name = name), talk);
  },
  TOPIC: ({ params: [channel], text, who }) => {
    if (find(channel)) find(channel).topic = text;
    add(find(channel) ?? server(), 'event', text ? `${who} set the topic: ${text}` : `${who} cleared the topic`);
  },
  332: ({ params: [, channel], text }) => {
    if (find(channel)) find(channel).topic = text;
    add(find(channel) ?? current, 'info', `Topic: ${text}`);
  },
  353: ({ params: [, , channel = ''], text }) => {
    const buffer = find(channel);
    listed = null;
    for (const entry of buffer?.joined ? text.split(' ').filter(Boolean) : []) {
      const [, prefix, name] = /^([~&@%+]*)(.*)$/.exec(entry);
      buffer.users.set(fold(name), { nick: name, rank: /[~&@%]/.test(prefix) ? '@' : prefix && '+' });
    }
    asked.has(fold(channel)) ? add(buffer ?? current, 'info', `In ${channel}: ${text}`) : render();
  },
  366: ({ params: [, channel = ''] }) => asked.delete(fold(channel)),
  MODE: ({ params: [target, modes = '', ...args], who }) => {
    const buffer = find(target) ?? server();
    add(buffer, 'event', `${who} set mode ${[modes, ...args].join(' ')}`);
    let on = true;
    listed = null;
    for (const mode of modes) {
      if (mode === '+' || mode === '-') on = mode === '+';
      const user = /[ovbk]/.test(mode) || (mode === 'l' && on) ? buffer.users.get(fold(args.shift() ?? '')) : null;
      if (user && (mode === 'o' || mode === 'v')) user.rank = on ? { o: '@', v: '+' }[mode] : '';
    }
  },
  INVITE: ({ params: [, channel = ''], who }) => add(current, 'list', `${channel} is where ${who} invites you to`),
  341: ({ params: [, who, channel] }) => add(find(channel) ?? current, 'info', `${who} is invited to ${channel}`),
  301: ({ params: [, who], text }) => add(find(who) ?? current, 'info', `${who} is away: ${text}`),
  324: ({ params: [, channel, ...modes] }) => add(find(channel) ?? current, 'info', `Modes: ${modes.join(' ')}`),
  367: ({ params: [, channel, mask, by] }) => add(find(channel) ?? current, 'info', `${mask} is banned, by ${by.split('!')[0]}`),
  PRIVMSG: said, NOTICE: said,
  321: () => show(server()),
  322: ({ params: [, channel, count], text }) =>
    add(server(), 'list', `${channel} has ${count} ${count === '1' ? 'user' : 'users'}${text && `: ${text}`}`),
  311: ({ params: p }) => info(`${p[1]} is ${p[2]}@${p[3]}, ${p.at(-1)}`),
  312: ({ params: p }) => info(`${p[1]} uses the server ${p[2]}, ${p.at(-1)}`),
  317: ({ params: p }) => info(`${p[1]} has been idle for ${p[2]} s`),
  319: ({ params: p }) => info(`${p[1]} is in ${p.at(-1)}`),
}));
for (const quiet of ['PONG', '004', '315', '318', '323', '329', '333', '368', '375', '376']) handlers.set(quiet, () => {});

// ---- What the user says --------------------------------------------------------------------------

const HELP = `/join #channel [key]   /part [reason]   /topic [text]   /names   /invite nick   /list
/msg nick text   /me does something   /whois nick   /nick name   /away [reason]   /quit [reason]   /raw line
For operators: /op nick   /deop nick   /voice nick   /devoice nick   /kick nick [reason]   /ban nick   /unban mask   /mode +i
Enter sends, Shift+Enter starts a new line, Tab completes a nick, Alt+Up and Alt+Down switch conversations.
Up and Down bring back what you sent. A message that starts with two slashes is sent with one.`;
const here = () => (isChannel(current.name) ? current.name : '');
/** A channel that stands first, or the one that is shown; and the rest. */
const channelFirst = (rest) => {
  const [, name = here(), text] = /^([#&]\S+)? *(.*)$/s.exec(rest);
  return [name, text];
};
/** The same change for several, as many at once as the server takes. */
const rank = (mode, rest) => {
  const [name, text] = channelFirst(rest), names = text.split(/[ ,]+/).filter(Boolean);
  for (let n = 0; n < names.length; n += 4) {
    const some = names.slice(n, n + 4);
    send(`MODE ${name} ${mode[0]}${mode[1].repeat(some.length)} ${some.join(' ')}`);
  }
};
const commands = {
  join: (rest) => join(...rest.split(/ +/)),
  part: (rest) => {
    const [, name, why] = /^([#&]\S*)? *(.*)$/s.exec(rest), buffer = name ? find(name) : current;
    buffer ? drop(buffer, why) : fail(`You are not in ${name}.`);
  },
  nick: (rest) => {
    [wish] = rest.split(' ');
    send(`NICK ${wish}`);
    render();
  },
  msg: (rest) => {
    const [, target, text] = /^(\S+) *(.*)$/s.exec(rest);
    if (!isChannel(target)) show(open(target));
    if (text) say(target, text);
  },
  me: (rest) => (current === server() ? fail('Nobody hears you here.') : say(current.name, rest, true)),
  topic: (rest) => { const [name, text] = channelFirst(rest); send(`TOPIC ${name}${text && ` :${text}`}`); },
  kick: (rest) => { const [name, text] = channelFirst(rest); send(`KICK ${name} ${text.replace(/^(\S+) +/, '$1 :')}`); },
  invite: (rest) => { const [who, name = here()] = rest.split(/ +/); send(`INVITE ${who} ${name}`); },
  away: (rest) => send(`AWAY${rest && ` :${rest}`}`),
  mode: (rest) => send(`MODE ${/^[^+-]/.test(rest) ? rest : `${here() || nick} ${rest}`}`.trim()),
  op: (rest) => rank('+o', rest), deop: (rest) => rank('-o', rest),
  voice: (rest) => rank('+v', rest), devoice: (rest) => rank('-v', rest),
  ban: (rest) => rank('+b', rest), unban: (rest) => rank('-b', rest),
  names: (rest) => { asked.add(fold(rest || here())); send(`NAMES ${rest || here()}`); },
  list: (rest) => send(`LIST ${rest}`.trim()),
  whois: (rest) => send(`WHOIS ${rest || nick}`),
  quit: (rest) => {
    send(`QUIT :${rest || 'Leaving'}`);
    lost('you left', false);
    try { sessionStorage.clear(); } catch { /* private */ }
  },
  raw: (rest) => send(rest),
  help: () => { for (const line of HELP.split('\n')) info(line); },
};
const NEED = ['nick', 'msg', 'me', 'kick', 'raw', 'join', 'invite', 'op', 'deop', 'voice', 'devoice', 'ban', 'unban']; // something after the command

/** Obeys one line of input. False when it could not be: it stays in the box then. */
function obey(line) {
  const [, name, rest] = /^\/(?!\/)(\S*) *(.*)$/s.exec(line.trimEnd()) ?? [], command = name?.toLowerCase();
  const no = (why) => { fail(why); return false; };
  if (name !== undefined && !Object.hasOwn(commands, command)) return no(`/${name}: no such command; /help lists them.`);
  if (NEED.includes(command) && !rest) return no(`/${command} needs something more; /help says what.`);
  if (!registered && !['help', 'quit', 'nick'].includes(command)) return no('Not connected. Your text stays in the box.');
  if (name !== undefined) commands[command](rest);
  else if (current === server()) return no('Nobody hears you here: commands start with a slash, /help lists them.');
  else if (!current.joined) return no(`You are not in ${current.name}: /join ${current.name}`);
  else say(current.name, line.replace(/^\/\//, '/'));
  return true;
}

function submit() {
  const text = input.value.trimEnd(), box = current, lines = text.split('\n').filter((line) => line.trim());
  const count = lines.length;
  while (lines.length && obey(lines[0])) lines.shift();
  if (lines.length < count && sent.push(text) > SENT) sent.shift();
  box.draft = lines.join('\n');
  if (box === current) input.value = box.draft;
  recall = sent.length;
  current.pinned = true;
  render();
}

/** Completes the word before the cursor; once more takes the next candidate. False when there is none. */
function complete() {
  if (completion?.found.length === 1) return false;
  if (!completion) {
    const before = input.value.slice(0, input.selectionStart), word = /\S*$/.exec(before)[0];
    const start = before.length - word.length;
    const pool = word[0] === '/' ? Object.keys(commands).map((name) => `/${name}`)
      : isChannel(word) ? channels().map((buffer) => buffer.name)
      : [...current.users.values()].map((user) => user.nick).filter((name) => !isMe(name));
    const found = pool.filter((name) => fold(name).startsWith(fold(word))).sort();
    if (!word || !found.length) return false;
    completion = { start, end: before.length, found, next: 0, after: start || /^[/#&]/.test(word) ? ' ' : ': ' };
  }
  const text = completion.found[completion.next++ % completion.found.length] + completion.after;
  input.setRangeText(text, completion.start, completion.end, 'end');
  completion.end = completion.start + text.length;
  return true;
}

/** Brings back what was sent earlier, or later, and at last what was being typed. */
function remind(step) {
  if (recall === sent.length) draft = input.value;
  recall = Math.min(sent.length, Math.max(0, recall + step));
  input.value = sent[recall] ?? draft;
}

input.onkeydown = (event) => {
  if (event.isComposing || event.shiftKey || event.ctrlKey || event.altKey || event.metaKey) return;
  const keys = { Tab: complete, Enter: submit };
  if (!input.value.includes('\n') || recall < sent.length) {
    if (sent.length) keys.ArrowUp = () => remind(-1);
    if (recall < sent.length) keys.ArrowDown = () => remind(1);
  }
  if (event.key !== 'Tab') completion = null;
  if (keys[event.key] && keys[event.key]() !== false) event.preventDefault();
};
document.onkeydown = (event) => {
  if (event.key === 'Escape') drawer(null);
  if (!current || !event.altKey || event.ctrlKey || !/^Arrow(Up|Down)$/.test(event.key)) return;
  event.preventDefault();
  const all = [...buffers.values()];
  show(all.at((all.indexOf(current) + (event.key === 'ArrowUp' ? -1 : 1)) % all.length));
  input.focus();
};
const onSubmit = (id, act) => { $(id).onsubmit = (event) => { event.preventDefault(); act(); }; };
onSubmit('composer', () => { submit(); compose(); });
onSubmit('join', () => { join($('join-name').value.trim()); $('join-name').value = ''; });
onSubmit('enter', () => {
  store.set('nick', $('nick').value);
  store.set('channels', $('channel').value.split(/[\s,]+/).filter(Boolean));
  enter(store.get('channels'));
});
$('topic').onkeydown = (event) => {
  if (event.key === 'Enter') { send(`TOPIC ${current.name} :${event.target.value}`); event.preventDefault(); }
  if (event.key === 'Enter' || event.key === 'Escape') input.focus();
};
$('topic').onblur = render;
$('browse').onclick = () => obey('/list');
$('me').onclick = () => { drawer(null); input.value = '/nick '; input.focus(); };
$('menu').onclick = () => drawer('side');
$('who').onclick = () => drawer('people');
$('shade').onclick = () => drawer(null);
$('now').onclick = () => { connect(); compose(); };
$('latest').onclick = () => { current.pinned = true; render(); compose(); };
$('skip').onclick = (event) => { event.preventDefault(); input.focus(); };
const wake = () => { if (wait && !document.hidden) connect(); };
document.onvisibilitychange = () => { seen(); wake(); };
window.ononline = wake;
new ResizeObserver(render).observe($('logs'));

// ---- The start -----------------------------------------------------------------------------------

const inHash = () => {
  let hash = location.hash;
  try { hash = decodeURIComponent(hash); } catch { /* then it is meant as it stands */ }
  return hash.split(',').filter((name) => /^#[^\s\x07]+$/.test(name));
};

/** From the first page into the chat, to these channels, one of which is shown. */
function enter(list, first = list[0]) {
  wish = store.get('nick');
  $('welcome').hidden = true;
  $('app').hidden = false;
  show(open(SERVER));
  const whole = (name) => (isChannel(name) ? name : `#${name}`), names = list.map(whole);
  for (const name of names.slice(0, BUFFERS / 2)) open(name);
  if (names.length) show(find(whole(first)) ?? find(names[0]));
  connect();
  input.focus();
}

window.onhashchange = () => { if (current) join(inHash().join(',')); };
$('nick').value = store.get('nick') ?? `guest${Math.floor(1000 + Math.random() * 9000)}`;
$('channel').value = inHash().join(',') || '#lobby';
let reloaded = false;
try { reloaded = Boolean(sessionStorage.nick); } catch { /* private */ }
$('welcome').hidden = false;
// A reload keeps the order, and what was shown.
reloaded ? enter([...store.get('channels') ?? [], ...inHash()], inHash()[0]) : $('nick').select();
