/* libuv: a read buffer for all, a write tried at once, the rest of it queued.
 *
 * libuv ROLE [UPSTREAM], with the roles and the first line of race-peer (main.rs). */

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { FRAME = 64, CAP = 1 << 20, READ_SIZE = 64 << 10 };
enum role { ROLE_ECHO, ROLE_FANOUT, ROLE_PROXY };

struct conn {
    uv_tcp_t tcp;
    struct conn *partner;      /* proxy: the other side */
    struct conn *prev, *next;  /* fan-out: the list of subscribers */
    int subscribed, closing, saw_end, paused;
    uv_shutdown_t shutdown;
    uv_connect_t connect;
    size_t rest; /* bytes of a frame that is not whole yet */
    char frame[FRAME];
};

struct write {
    uv_write_t request;
    struct conn *conn;
    char data[];
};

static uv_loop_t *loop;
static enum role role;
static struct sockaddr_in upstream;
static struct conn subscribers = {.prev = &subscribers, .next = &subscribers};
static char scratch[READ_SIZE];

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf);

static void on_closed(uv_handle_t *handle) { free(handle); }

static void unsubscribe(struct conn *conn) {
    if (conn->subscribed) {
        conn->prev->next = conn->next;
        conn->next->prev = conn->prev;
        conn->subscribed = 0;
    }
}

static void drop(struct conn *conn) {
    if (conn->closing)
        return;
    conn->closing = 1;
    unsubscribe(conn);
    if (conn->partner) {
        struct conn *partner = conn->partner;
        conn->partner = partner->partner = NULL;
        drop(partner);
    }
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *buf) {
    (void)handle, (void)wanted;
    *buf = uv_buf_init(scratch, READ_SIZE);
}

static void resume(struct conn *conn) {
    if (conn->paused && !conn->closing) {
        conn->paused = 0;
        uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    }
}

static void on_written(uv_write_t *request, int status) {
    struct write *write = (struct write *)request;
    struct conn *conn = write->conn;
    if (status < 0)
        drop(conn);
    else if (conn->partner && conn->tcp.write_queue_size == 0)
        resume(conn->partner);
    free(write);
}

/* In the proxy no more is read while a write is queued, so that with the EOF all has been written.
 * Writes what the kernel takes at once, and queues the rest. Returns whether all was taken. */
static int send_to(struct conn *conn, const char *data, size_t len) {
    if (conn->closing)
        return 1;
    if (conn->tcp.write_queue_size == 0) {
        uv_buf_t buf = uv_buf_init((char *)data, len);
        int sent = uv_try_write((uv_stream_t *)&conn->tcp, &buf, 1);
        if (sent < 0 && sent != UV_EAGAIN) {
            drop(conn);
            return 1;
        }
        if (sent > 0)
            data += sent, len -= sent;
        if (len == 0)
            return 1;
    }
    struct write *write = malloc(sizeof *write + len);
    write->conn = conn;
    memcpy(write->data, data, len);
    uv_buf_t buf = uv_buf_init(write->data, len);
    if (uv_write(&write->request, (uv_stream_t *)&conn->tcp, &buf, 1, on_written) < 0) {
        free(write);
        drop(conn);
    }
    return 0;
}

static void take_frame(struct conn *conn, const char *frame) {
    if (frame[0] == 'S') {
        if (!conn->subscribed && !conn->closing) {
            conn->subscribed = 1;
            conn->next = &subscribers;
            conn->prev = subscribers.prev;
            subscribers.prev->next = conn;
            subscribers.prev = conn;
        }
        send_to(conn, frame, FRAME);
        return;
    }
    for (struct conn *to = subscribers.next, *next; to != &subscribers; to = next) {
        next = to->next;
        send_to(to, frame, FRAME);
        if (to->tcp.write_queue_size > CAP)
            drop(to);
    }
}

static void take_frames(struct conn *conn, const char *data, size_t len) {
    while (len > 0) {
        if (conn->rest == 0 && len >= FRAME) {
            take_frame(conn, data);
            data += FRAME, len -= FRAME;
            continue;
        }
        size_t part = FRAME - conn->rest < len ? FRAME - conn->rest : len;
        memcpy(conn->frame + conn->rest, data, part);
        conn->rest += part, data += part, len -= part;
        if (conn->rest == FRAME) {
            conn->rest = 0;
            take_frame(conn, conn->frame);
        }
    }
}

static void on_shutdown(uv_shutdown_t *request, int status) {
    (void)status;
    struct conn *conn = request->data;
    if (role != ROLE_PROXY || conn->saw_end)
        drop(conn);
}

static void end(struct conn *conn) {
    conn->shutdown.data = conn;
    if (uv_shutdown(&conn->shutdown, (uv_stream_t *)&conn->tcp, on_shutdown) < 0)
        drop(conn);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf) {
    struct conn *conn = (struct conn *)stream;
    if (count == UV_EOF) {
        conn->saw_end = 1;
        unsubscribe(conn);
        end(role == ROLE_PROXY ? conn->partner : conn);
    } else if (count < 0) {
        drop(conn);
    } else if (count == 0) {
        return; /* nothing to read after all */
    } else if (role == ROLE_FANOUT) {
        take_frames(conn, buf->base, count);
    } else if (role == ROLE_ECHO) {
        send_to(conn, buf->base, count);
    } else if (!send_to(conn->partner, buf->base, count)) {
        conn->paused = 1;
        uv_read_stop(stream);
    }
}

static struct conn *add(void) {
    struct conn *conn = calloc(1, sizeof *conn);
    uv_tcp_init(loop, &conn->tcp);
    return conn;
}

static void on_connected(uv_connect_t *request, int status) {
    struct conn *conn = request->data;
    if (status < 0) {
        drop(conn);
        return;
    }
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    uv_read_start((uv_stream_t *)&conn->partner->tcp, on_alloc, on_read);
}

static void on_client(uv_stream_t *listener, int status) {
    if (status < 0)
        return; /* out of descriptors: the library closes who waits, and goes on accepting */
    struct conn *conn = add();
    if (uv_accept(listener, (uv_stream_t *)&conn->tcp) < 0) {
        drop(conn);
        return;
    }
    uv_tcp_nodelay(&conn->tcp, 1);
    if (role == ROLE_PROXY) {
        /* The client is read from once its partner is connected. */
        struct conn *partner = add();
        conn->partner = partner;
        partner->partner = conn;
        partner->connect.data = partner;
        if (uv_tcp_connect(&partner->connect, &partner->tcp, (struct sockaddr *)&upstream, on_connected) < 0)
            drop(conn);
        return;
    }
    uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    role = !strcmp(argv[1], "fanout") ? ROLE_FANOUT : !strcmp(argv[1], "proxy") ? ROLE_PROXY : ROLE_ECHO;
    if (role == ROLE_PROXY) {
        char *colon = argc > 2 ? strrchr(argv[2], ':') : NULL;
        if (!colon)
            return 2;
        *colon = 0;
        if (uv_ip4_addr(argv[2], atoi(colon + 1), &upstream))
            return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    loop = uv_default_loop();
    uv_tcp_t listener;
    uv_tcp_init(loop, &listener);
    struct sockaddr_in addr;
    uv_ip4_addr("127.0.0.1", 0, &addr);
    uv_tcp_bind(&listener, (struct sockaddr *)&addr, 0);
    if (uv_listen((uv_stream_t *)&listener, 4096, on_client))
        return 1;
    int len = sizeof addr;
    uv_tcp_getsockname(&listener, (struct sockaddr *)&addr, &len);
    printf("listening on 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    return uv_run(loop, UV_RUN_DEFAULT);
}
