/* A C program that embeds the engine and leaves SIGPIPE at its default: to be killed by it.
 *
 * It is its own client, over plain sockets. Each connection breaks while the engine writes to it;
 * the program must live. That it would not without the engine's care, a child shows first. */

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
int engine_turn(unsigned millis);
int engine_reports(void);
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
    pid_t child = fork();
    if (child == 0) {
        close(pair[1]);
        if (write(pair[0], "x", 1) < 0)
            _exit(2);
        _exit(3);
    }
    close(pair[0]);
    close(pair[1]);
    waitpid(child, &status, 0);
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

int main(void) {
    expect_default_sigpipe("SIGPIPE is not at its default at the start");
    show_the_trap();
    int port = engine_start();
    if (port < 0)
        fail("engine_start");
    const char *kinds[] = {"p", "g"};
    int ended = 0;
    for (int round = 0; round < 20; round++) {
        int fd = client(port);
        if (send(fd, kinds[round % 2], 1, MSG_NOSIGNAL) != 1)
            fail("send");
        /* With its answer unread or not, the client goes away. */
        if (round % 4 >= 2 && engine_turn(20) != 0)
            fail("engine_turn");
        close(fd);
        ended++;
        for (int turn = 0; turn < 500 && engine_reports() < ended; turn++)
            if (engine_turn(10) != 0)
                fail("engine_turn");
        if (engine_reports() != ended)
            fail("no report");
        if (engine_errno() != EPIPE && engine_errno() != ECONNRESET)
            fail("the report tells of no broken pipe");
    }
    expect_default_sigpipe("the engine changed what SIGPIPE does");
    printf("alive after %d broken pipes\n", ended);
    return 0;
}
