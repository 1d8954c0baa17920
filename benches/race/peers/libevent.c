/* libevent: bufferevents, as its book teaches them.
 *
 * libevent ROLE [UPSTREAM | CERT KEY], with the roles and the first line of race-peer (main.rs). Under TLS
 * its filter over OpenSSL is used, straight on the socket. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <event2/util.h>
#ifdef WITH_TLS
#include <event2/bufferevent_ssl.h>
#include <openssl/ssl.h>
#endif

enum { FRAME = 64, CAP = 1 << 20, RELAY_HIGH = 256 << 10 };
enum role { ECHO, FANOUT, PROXY };

struct conn {
    struct bufferevent *bev;
    struct conn *partner;      /* proxy: the other side */
    struct conn *prev, *next;  /* fan-out: the list of subscribers */
    int subscribed;
    int paused, ended, shut;   /* proxy: not read from; its EOF came; an EOF was passed on to it */
};

static struct event_base *base;
static enum role role;
static struct sockaddr_in upstream;
static struct conn subscribers = {.prev = &subscribers, .next = &subscribers};

static size_t queued(struct conn *conn) {
    return evbuffer_get_length(bufferevent_get_output(conn->bev));
}

static void unsubscribe(struct conn *conn) {
    if (conn->subscribed) {
        conn->prev->next = conn->next;
        conn->next->prev = conn->prev;
        conn->subscribed = 0;
    }
}

static void drop(struct conn *conn) {
    unsubscribe(conn);
    bufferevent_free(conn->bev);
    free(conn);
}

static void drop_pair(struct conn *conn) {
    if (conn->partner)
        drop(conn->partner);
    drop(conn);
}

/* Returns whether the sender is still there: it may be the subscriber that is dropped. */
static int publish(struct conn *from, const unsigned char *frames, size_t len) {
    int alive = 1;
    for (struct conn *to = subscribers.next, *next; to != &subscribers; to = next) {
        next = to->next;
        bufferevent_write(to->bev, frames, len);
        if (queued(to) > CAP) {
            alive &= to != from;
            drop(to);
        }
    }
    return alive;
}

static void on_frames(struct bufferevent *bev, void *arg) {
    struct conn *conn = arg;
    struct evbuffer *input = bufferevent_get_input(bev);
    size_t whole = evbuffer_get_length(input) / FRAME * FRAME;
    const unsigned char *frames = evbuffer_pullup(input, whole);
    for (size_t at = 0, end; at < whole; at = end) {
        end = at + FRAME;
        if (frames[at] != 'S') {
            while (end < whole && frames[end] != 'S')
                end += FRAME;
            if (!publish(conn, frames + at, end - at))
                return;
            continue;
        }
        if (!conn->subscribed) {
            conn->subscribed = 1;
            conn->next = &subscribers;
            conn->prev = subscribers.prev;
            subscribers.prev->next = conn;
            subscribers.prev = conn;
        }
        bufferevent_write(bev, frames + at, FRAME);
    }
    evbuffer_drain(input, whole);
}

static void on_echo(struct bufferevent *bev, void *arg) {
    (void)arg;
    bufferevent_write_buffer(bev, bufferevent_get_input(bev));
}

/* Proxy: one side's EOF, passed on behind what was queued. The other direction goes on. */
static void pass_end(struct conn *to) {
    shutdown(bufferevent_getfd(to->bev), SHUT_WR);
    to->shut = 1;
    if (to->partner->shut)
        drop_pair(to);
}

/* Proxy: what the other side has not taken yet holds back the reading of this one. */
static void on_relay(struct bufferevent *bev, void *arg) {
    struct conn *conn = arg;
    bufferevent_write_buffer(conn->partner->bev, bufferevent_get_input(bev));
    if (queued(conn->partner) >= RELAY_HIGH) {
        conn->paused = 1;
        bufferevent_disable(bev, EV_READ);
    }
}

/* Proxy: the queue is down to the low watermark. */
static void on_drained(struct bufferevent *bev, void *arg) {
    (void)bev;
    struct conn *conn = arg, *from = conn->partner;
    if (from->paused) {
        from->paused = 0;
        bufferevent_enable(from->bev, EV_READ);
    } else if (from->ended && !conn->shut && queued(conn) == 0) {
        pass_end(conn);
    }
}

static void on_end_sent(struct bufferevent *bev, void *arg) {
    (void)bev;
    drop(arg);
}

static void start(struct conn *conn);

static void on_event(struct bufferevent *bev, short what, void *arg) {
    struct conn *conn = arg;
    if (what & BEV_EVENT_CONNECTED) {
        /* Without a partner it is a handshake that is done. */
        if (conn->partner)
            start(conn->partner);
    } else if (!(what & BEV_EVENT_EOF)) {
        drop_pair(conn);
    } else if (role == PROXY) {
        conn->ended = 1;
        if (queued(conn->partner) == 0)
            pass_end(conn->partner);
    } else if (queued(conn) == 0) {
        drop(conn);
    } else {
        unsubscribe(conn);
        bufferevent_setcb(bev, NULL, on_end_sent, on_event, conn);
    }
}

#ifdef WITH_TLS
static SSL_CTX *tls;

/* No tickets: every handshake is a full one. */
static int prepare_tls(const char *cert, const char *key) {
    tls = SSL_CTX_new(TLS_server_method());
    return tls && SSL_CTX_use_certificate_chain_file(tls, cert) == 1
        && SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) == 1 && SSL_CTX_set_num_tickets(tls, 0) == 1;
}
#else
static int prepare_tls(const char *cert, const char *key) {
    (void)cert, (void)key;
    return 0;
}
#endif

static struct conn *add(evutil_socket_t fd) {
    struct conn *conn = calloc(1, sizeof *conn);
#ifdef WITH_TLS
    if (tls) {
        conn->bev = bufferevent_openssl_socket_new(
            base, fd, SSL_new(tls), BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
        return conn;
    }
#endif
    conn->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    return conn;
}

static void start(struct conn *conn) {
    bufferevent_data_cb reader = role == ECHO ? on_echo : role == FANOUT ? on_frames : on_relay;
    bufferevent_setcb(conn->bev, reader, role == PROXY ? on_drained : NULL, on_event, conn);
    if (role == PROXY)
        bufferevent_setwatermark(conn->bev, EV_WRITE, RELAY_HIGH / 2, 0);
    bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *arg) {
    (void)l, (void)a, (void)n, (void)arg;
    struct conn *conn = add(fd), *partner;
    if (role != PROXY) {
        start(conn);
        return;
    }
    /* The client is read from once its partner is connected. */
    partner = conn->partner = add(-1);
    partner->partner = conn;
    if (bufferevent_socket_connect(partner->bev, (struct sockaddr *)&upstream, sizeof upstream) < 0) {
        drop_pair(conn);
        return;
    }
    int on = 1;
    setsockopt(bufferevent_getfd(partner->bev), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    start(partner);
}

/* Out of descriptors: tried again a moment later. */
static void again(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    evconnlistener_enable(arg);
}

static void on_accept_error(struct evconnlistener *listener, void *arg) {
    (void)arg;
    struct timeval soon = {0, 50000};
    evconnlistener_disable(listener);
    event_base_once(base, -1, EV_TIMEOUT, again, listener, &soon);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    if (!strncmp(argv[1], "tls-", 4)) {
        if (argc < 4 || !prepare_tls(argv[2], argv[3]))
            return 2;
        argv[1] += 4;
    }
    role = !strcmp(argv[1], "fanout") ? FANOUT : !strcmp(argv[1], "proxy") ? PROXY : ECHO;
    int len = sizeof upstream;
    if (role == PROXY && (argc < 3 || evutil_parse_sockaddr_port(argv[2], (struct sockaddr *)&upstream, &len)))
        return 2;
    signal(SIGPIPE, SIG_IGN);
    /* No descriptor is duplicated here, so that changes to epoll may be gathered. */
    struct event_config *config = event_config_new();
    event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
    base = event_base_new_with_config(config);
    event_config_free(config);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct evconnlistener *listener = evconnlistener_new_bind(
        base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE, 4096, (struct sockaddr *)&addr, sizeof addr);
    if (!listener)
        return 1;
    evconnlistener_set_error_cb(listener, on_accept_error);
    int fd = evconnlistener_get_fd(listener), on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited */
    socklen_t size = sizeof addr;
    getsockname(fd, (struct sockaddr *)&addr, &size);
    printf("listening on 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    return event_base_dispatch(base);
}
