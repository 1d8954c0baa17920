/* libevent: bufferevents, as its book teaches them.
 *
 * libevent ROLE [UPSTREAM], with the roles and the first line of race-peer (main.rs). */

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

enum { FRAME = 64, CAP = 1 << 20, RELAY_HIGH = 256 << 10 };
enum role { ECHO, FANOUT, PROXY };

struct conn {
    struct bufferevent *bev;
    struct conn *partner;      /* proxy: the other side */
    struct conn *prev, *next;  /* fan-out: the list of subscribers */
    int subscribed, ending;
};

static struct event_base *base;
static enum role role;
static struct sockaddr_in upstream;
static struct conn subscribers = {.prev = &subscribers, .next = &subscribers};

static void drop(struct conn *conn) {
    if (conn->subscribed) {
        conn->prev->next = conn->next;
        conn->next->prev = conn->prev;
    }
    bufferevent_free(conn->bev);
    free(conn);
}

static void drop_pair(struct conn *conn) {
    if (conn->partner)
        drop(conn->partner);
    drop(conn);
}

static void publish(const char *frame) {
    for (struct conn *to = subscribers.next, *next; to != &subscribers; to = next) {
        next = to->next;
        bufferevent_write(to->bev, frame, FRAME);
        if (evbuffer_get_length(bufferevent_get_output(to->bev)) > CAP)
            drop(to);
    }
}

static void on_frames(struct bufferevent *bev, void *arg) {
    struct conn *conn = arg;
    struct evbuffer *input = bufferevent_get_input(bev);
    char frame[FRAME];
    while (evbuffer_get_length(input) >= FRAME) {
        evbuffer_remove(input, frame, FRAME);
        if (frame[0] != 'S') {
            publish(frame);
            continue;
        }
        if (!conn->subscribed) {
            conn->subscribed = 1;
            conn->next = &subscribers;
            conn->prev = subscribers.prev;
            subscribers.prev->next = conn;
            subscribers.prev = conn;
        }
        bufferevent_write(bev, frame, FRAME);
    }
}

static void on_echo(struct bufferevent *bev, void *arg) {
    (void)arg;
    bufferevent_write_buffer(bev, bufferevent_get_input(bev));
}

/* Proxy: what the other side has not taken yet holds back the reading of this one. */
static void on_drained(struct bufferevent *bev, void *arg) {
    struct conn *conn = arg;
    if (evbuffer_get_length(bufferevent_get_output(bev)) > 0)
        return;
    if (conn->ending)
        shutdown(bufferevent_getfd(bev), SHUT_WR);
    bufferevent_setwatermark(bev, EV_WRITE, 0, 0);
    if (conn->partner)
        bufferevent_enable(conn->partner->bev, EV_READ);
}

static void on_relay(struct bufferevent *bev, void *arg) {
    struct conn *conn = arg;
    struct bufferevent *to = conn->partner->bev;
    bufferevent_write_buffer(to, bufferevent_get_input(bev));
    if (evbuffer_get_length(bufferevent_get_output(to)) >= RELAY_HIGH) {
        bufferevent_setwatermark(to, EV_WRITE, RELAY_HIGH / 2, 0);
        bufferevent_disable(bev, EV_READ);
    }
}

static void on_end_sent(struct bufferevent *bev, void *arg) {
    if (evbuffer_get_length(bufferevent_get_output(bev)) == 0)
        drop(arg);
}

static void on_event(struct bufferevent *bev, short what, void *arg) {
    struct conn *conn = arg;
    if (what & BEV_EVENT_CONNECTED)
        return;
    if (what & BEV_EVENT_ERROR) {
        drop_pair(conn);
    } else if (what & BEV_EVENT_EOF) {
        if (role == PROXY) {
            struct conn *to = conn->partner;
            int both = conn->ending;
            to->ending = 1;
            if (evbuffer_get_length(bufferevent_get_output(to->bev)) == 0) {
                shutdown(bufferevent_getfd(to->bev), SHUT_WR);
                if (both)
                    drop_pair(conn);
            }
        } else if (evbuffer_get_length(bufferevent_get_output(bev)) == 0) {
            drop(conn);
        } else {
            bufferevent_disable(bev, EV_READ);
            bufferevent_setcb(bev, NULL, on_end_sent, on_event, conn);
        }
    }
}

static struct conn *add(evutil_socket_t fd) {
    struct conn *conn = calloc(1, sizeof *conn);
    conn->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    return conn;
}

static void start(struct conn *conn) {
    bufferevent_data_cb reader = role == ECHO ? on_echo : role == FANOUT ? on_frames : on_relay;
    bufferevent_setcb(conn->bev, reader, role == PROXY ? on_drained : NULL, on_event, conn);
    bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *arg) {
    (void)l, (void)a, (void)n, (void)arg;
    struct conn *conn = add(fd);
    if (role == PROXY) {
        struct conn *partner = add(-1);
        conn->partner = partner;
        partner->partner = conn;
        start(partner);
        if (bufferevent_socket_connect(partner->bev, (struct sockaddr *)&upstream, sizeof upstream) < 0) {
            drop_pair(conn);
            return;
        }
    }
    start(conn);
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
    role = !strcmp(argv[1], "fanout") ? FANOUT : !strcmp(argv[1], "proxy") ? PROXY : ECHO;
    int len = sizeof upstream;
    if (role == PROXY && (argc < 3 || evutil_parse_sockaddr_port(argv[2], (struct sockaddr *)&upstream, &len)))
        return 2;
    signal(SIGPIPE, SIG_IGN);
    base = event_base_new();
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
