/* A C program that embeds the engine and leaves SIGPIPE at its default: to be killed by it.
 *
 * It is its own client, over plain sockets and pipes. Each connection is broken before the engine writes
 * to it; the program must live. That it would not without the engine's care, a child shows first. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int engine_start(void);
int engine_pipe(int fd);
void engine_send(int gathered);
void engine_read(void);
int engine_turn(unsigned millis);
int engine_count(int ended);
int engine_errno(void);

static void fail(const char *what) {
    printf("FAILED: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static void expect_default_sigpipe(const char *when) {
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) != 0 || action.sa_handler != SIG_DFL)
        fail(when);
}

/* A plain write to a broken socket kills: otherwise this test would prove nothing. */
static void show_the_trap(void) {
    int pair[2], status;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        fail("socketpair");
    /* Before the fork: while either process holds this end, the pipe is not broken. */
    close(pair[1]);
    pid_t child = fork();
    if (child == 0) {
        if (write(pair[0], "x", 1) < 0)
            _exit(2);
        _exit(3);
    }
    close(pair[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        fail("fork");
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGPIPE)
        fail("a plain write to a broken pipe does not kill here");
}

static int client(int port) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0)
        fail("connect");
    return fd;
}

static void turn(unsigned millis) {
    if (engine_turn(millis) != 0)
        fail("engine_turn");
}

static void wait_for_count(int ended, int count) {
    for (int turns = 0; turns < 1000 && engine_count(ended) < count; turns++)
        turn(10);
    if (engine_count(ended) != count)
        fail(ended ? "no report" : "no connection");
}

/* The peer of a socket of this process; its port, or 0 where it has none. */
static in_port_t peer_of(int fd) {
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    return getpeername(fd, (struct sockaddr *)&addr, &len) == 0 ? addr.sin_port : 0;
}

/* The engine's end of a client's connection. */
static int engines_end(int fd) {
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0)
        fail("getsockname");
    for (int other = 3; other < 1024; other++)
        if (other != fd && peer_of(other) == addr.sin_port)
            return other;
    fail("the engine's end of the connection is not found");
    return -1;
}

/* A reset has come in: the socket has no peer any more. */
static void wait_for_reset(int fd) {
    for (int turns = 0; turns < 1000 && peer_of(fd) != 0; turns++)
        turn(10);
    if (peer_of(fd) != 0)
        fail("no reset");
}

/* Has the engine write, and looks at the report. */
static void write_to_broken(int gathered, int count, int expected) {
    engine_send(gathered);
    /* A timer of no length is due in the next turn, and so is what it sends. */
    turn(0);
    turn(0);
    engine_read();
    wait_for_count(1, count);
    if (engine_errno() != expected) {
        printf("connection %d: %d\n", count, engine_errno());
        fail("the report is not that of a failed write");
    }
}

int main(void) {
    expect_default_sigpipe("SIGPIPE is not at its default at the start");
    show_the_trap();
    int port = engine_start();
    if (port < 0)
        fail("engine_start");
    for (int round = 0; round < 20; round++) {
        int gathered = round % 2, resets = round % 4 >= 2;
        int fd = client(port);
        wait_for_count(0, round + 1);
        int ours = engines_end(fd);
        if (resets) {
            struct linger at_once = {.l_onoff = 1, .l_linger = 0};
            if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) != 0)
                fail("SO_LINGER");
            close(fd);
        } else {
            /* It ends its stream and is gone: what is sent to it now comes back as a reset. */
            close(fd);
            engine_send(0);
        }
        wait_for_reset(ours);
        write_to_broken(gathered, round + 1, resets ? ECONNRESET : EPIPE);
    }
    for (int round = 20; round < 40; round++) {
        int ends[2];
        if (pipe(ends) != 0 || engine_pipe(ends[1]) != 0)
            fail("pipe");
        wait_for_count(0, round + 1);
        close(ends[0]);
        write_to_broken(round % 2, round + 1, EPIPE);
    }
    expect_default_sigpipe("the engine changed what SIGPIPE does");
    printf("alive after 20 broken sockets and 20 broken pipes\n");
    return 0;
}
