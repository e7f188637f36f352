/*
 * The server of the benchmarks: takes every message, keeps none, and counts. Linux, one thread, loopback alone.
 *
 *     sink [--settle MILLISECONDS] [--refuse PREFIX] KEYWORD...
 *
 * It listens on a free port of 127.0.0.1 and prints the port. Each KEYWORD is a line of the EHLO reply: PIPELINING,
 * CHUNKING, "SIZE 268435456". BDAT is known only with CHUNKING; what it refuses, it swallows first. Recipients whose
 * local part begins with PREFIX are refused.
 *
 * With --settle, replies wait until the client has been silent for that long. Then a flight is what the client writes
 * before it waits for us, however many reads that takes here: the number of flights is the number of round trips.
 *
 * Each line on stdin is answered with the counts as one line of JSON; the line "reset" then sets them to 0. The end of
 * stdin ends the process; SIGTERM does too, and prints the counts.
 *
 *     messages, recipients, octets    taken; octets of content, doubled dots counted once
 *     flights                         how often the client made itself wait: reads that came after all was answered
 *     session_flights                 those of them that began with EHLO, HELO or QUIT
 *     connections, most_connections   accepted; open at the same time
 *     commands, resets, refused_bdat  lines read; RSETs; chunks that were swallowed and refused
 *     violations, violation           what a client may not do, and the first of it in words
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 262144,
    MAX_LINE_BYTES = 4096,
    MAX_EVENTS = 256,
    BACKLOG = 4096,
    MAX_MESSAGE_RECIPIENTS = 100000,
};

enum mode { COMMAND, CONTENT, CHUNK };

/* Where in a line of content the next octet stands. */
enum place { LINE_START, TEXT, DOT, DOT_CR };

struct conn {
    int fd;
    struct conn *next, *previous;
    enum mode mode;
    enum place place;
    bool has_cr;          /* the octet before, in TEXT, was a CR */
    bool has_mail;
    bool has_chunk;       /* a BDAT of this transaction was taken */
    bool is_last;         /* of a chunk: LAST */
    bool is_refused;      /* of a chunk: it is swallowed only */
    bool has_begun;       /* of CONTENT: an octet has come */
    bool owes_nothing;    /* all that was read is answered, and the answers are written */
    bool is_new_flight;
    bool is_closing;
    bool is_watching_out; /* for room to write; reading waits meanwhile */
    unsigned recipients;
    uint64_t chunk_left;
    uint64_t octets;
    int64_t flush_at;     /* milliseconds; 0: nothing waits */
    size_t line_length;
    char line[MAX_LINE_BYTES];
    char *out;
    size_t out_length, out_written, out_room;
};

static struct {
    uint64_t messages, recipients, octets, flights, session_flights, connections, most_connections;
    uint64_t commands, resets, refused_bdat, violations;
    char violation[128];
} counts;

static struct conn *connections;
static uint64_t open_connections;
static int epoll = -1;
static int settle_ms;
static const char *refused_prefix;
static char ehlo_reply[4096];
static bool offers_pipelining, offers_chunking;
static char input[READ_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void violation(const char *what)
{
    if (!counts.violations++)
        snprintf(counts.violation, sizeof counts.violation, "%s", what);
}

static void print_counts(void)
{
    printf("{\"messages\": %lu, \"recipients\": %lu, \"octets\": %lu, \"flights\": %lu, \"session_flights\": %lu, "
           "\"connections\": %lu, \"most_connections\": %lu, \"commands\": %lu, \"resets\": %lu, "
           "\"refused_bdat\": %lu, \"violations\": %lu, \"violation\": \"%s\"}\n",
           counts.messages, counts.recipients, counts.octets, counts.flights, counts.session_flights,
           counts.connections, counts.most_connections, counts.commands, counts.resets,
           counts.refused_bdat, counts.violations, counts.violation);
    fflush(stdout);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static void say(struct conn *conn, const char *text)
{
    size_t length = strlen(text);
    if (conn->out_length + length > conn->out_room) {
        conn->out_room = (conn->out_length + length) * 2;
        conn->out = realloc(conn->out, conn->out_room);
        if (conn->out == NULL)
            fail("realloc");
    }
    memcpy(conn->out + conn->out_length, text, length);
    conn->out_length += length;
}

static void watch(struct conn *conn, bool is_watching_out)
{
    if (conn->is_watching_out == is_watching_out)
        return;
    conn->is_watching_out = is_watching_out;
    struct epoll_event event = {.events = is_watching_out ? EPOLLOUT : EPOLLIN, .data.ptr = conn};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, conn->fd, &event) < 0)
        fail("epoll_ctl");
}

static void hang_up(struct conn *conn)
{
    close(conn->fd);
    if (conn->previous != NULL)
        conn->previous->next = conn->next;
    else
        connections = conn->next;
    if (conn->next != NULL)
        conn->next->previous = conn->previous;
    open_connections--;
    free(conn->out);
    free(conn);
}

/* Writes what is to be said. False: the connection is gone. */
static bool flush_out(struct conn *conn)
{
    conn->flush_at = 0;
    while (conn->out_written < conn->out_length) {
        ssize_t written = send(conn->fd, conn->out + conn->out_written, conn->out_length - conn->out_written,
                               MSG_NOSIGNAL);
        if (written < 0) {
            if (errno == EAGAIN) {
                watch(conn, true);
                return true;
            }
            hang_up(conn);
            return false;
        }
        conn->out_written += (size_t)written;
    }
    if (conn->out_length > 0) {
        conn->owes_nothing =
            (conn->mode == COMMAND && conn->line_length == 0) || (conn->mode == CONTENT && !conn->has_begun);
        conn->out_length = conn->out_written = 0;
    }
    if (conn->is_closing) {
        hang_up(conn);
        return false;
    }
    watch(conn, false);
    return true;
}

/* --- what the client says ----------------------------------------------------------------------------------------- */

static void end_transaction(struct conn *conn)
{
    conn->has_mail = conn->has_chunk = false;
    conn->recipients = 0;
    conn->octets = 0;
}

static void take_message(struct conn *conn)
{
    counts.messages++;
    counts.recipients += conn->recipients;
    counts.octets += conn->octets;
    end_transaction(conn);
    say(conn, "250 2.0.0 Ok: queued as 4bXyZ12345z9QQ\r\n");
}

static bool begins_with(const char *line, const char *verb)
{
    size_t length = strlen(verb);
    return strncasecmp(line, verb, length) == 0 && (line[length] == '\0' || line[length] == ' ' || line[length] == ':');
}

static void bdat(struct conn *conn, const char *arguments)
{
    char *end;
    errno = 0;
    unsigned long long length = strtoull(arguments, &end, 10);
    bool is_last = strcasecmp(end, " LAST") == 0;
    if (end == arguments || arguments[0] == '-' || errno != 0 || (*end != '\0' && !is_last)) {
        violation("BDAT without a length");
        say(conn, "501 5.5.4 Syntax: BDAT length [LAST]\r\n");
        return;
    }
    conn->mode = CHUNK;
    conn->chunk_left = length;
    conn->is_last = is_last;
    conn->is_refused = conn->recipients == 0;
}

static void end_of_chunk(struct conn *conn)
{
    conn->mode = COMMAND;
    if (conn->is_refused) {
        counts.refused_bdat++;
        conn->octets = 0;
        say(conn, "503 5.5.1 Error: need RCPT command\r\n");
    } else if (conn->is_last) {
        take_message(conn);
    } else {
        conn->has_chunk = true;
        say(conn, "250 2.0.0 Ok: chunk taken\r\n");
    }
}

/* Answers one line, which ends in NUL in place of CRLF. `is_followed`: more octets were read with it. */
static void command(struct conn *conn, const char *line, bool is_followed)
{
    counts.commands++;
    bool is_session = begins_with(line, "EHLO") || begins_with(line, "HELO") || begins_with(line, "QUIT");
    if (conn->is_new_flight && is_session)
        counts.session_flights++;
    conn->is_new_flight = false;
    if (is_followed && !begins_with(line, "BDAT")) {
        if (!offers_pipelining)
            violation("pipelining, which was not offered");
        else if (is_session || begins_with(line, "DATA"))
            violation("more behind a command that ends its group");
    }
    if (begins_with(line, "MAIL")) {
        if (conn->has_mail) {
            violation("MAIL within a transaction");
            say(conn, "503 5.5.1 Error: nested MAIL command\r\n");
        } else {
            conn->has_mail = true;
            say(conn, "250 2.1.0 Ok\r\n");
        }
    } else if (begins_with(line, "RCPT")) {
        const char *path = strchr(line, '<');
        if (!conn->has_mail || conn->has_chunk) {
            violation("RCPT outside of a transaction");
            say(conn, "503 5.5.1 Error: need MAIL command\r\n");
        } else if (refused_prefix != NULL && path != NULL &&
                   strncmp(path + 1, refused_prefix, strlen(refused_prefix)) == 0) {
            say(conn, "550 5.1.1 No such mailbox\r\n");
        } else if (conn->recipients >= MAX_MESSAGE_RECIPIENTS) {
            say(conn, "452 4.5.3 Too many recipients\r\n");
        } else {
            conn->recipients++;
            say(conn, "250 2.1.5 Ok\r\n");
        }
    } else if (begins_with(line, "DATA")) {
        if (conn->recipients == 0 || conn->has_chunk) {
            say(conn, "503 5.5.1 Error: need RCPT command\r\n");
        } else {
            conn->mode = CONTENT;
            conn->place = LINE_START;
            conn->has_begun = false;
            conn->octets = 0;
            say(conn, "354 End data with <CR><LF>.<CR><LF>\r\n");
        }
    } else if (begins_with(line, "BDAT") && offers_chunking) {
        bdat(conn, line[4] == ' ' ? line + 5 : "");
        if (conn->mode == CHUNK && conn->chunk_left == 0)
            end_of_chunk(conn);
    } else if (begins_with(line, "RSET")) {
        counts.resets++;
        end_transaction(conn);
        say(conn, "250 2.0.0 Ok\r\n");
    } else if (begins_with(line, "EHLO")) {
        end_transaction(conn);
        say(conn, ehlo_reply);
    } else if (begins_with(line, "HELO")) {
        end_transaction(conn);
        say(conn, "250 sink.example.com\r\n");
    } else if (begins_with(line, "NOOP")) {
        say(conn, "250 2.0.0 Ok\r\n");
    } else if (begins_with(line, "QUIT")) {
        say(conn, "221 2.0.0 Bye\r\n");
        conn->is_closing = true;
    } else {
        violation("an unknown command");
        say(conn, "500 5.5.2 Error: command not recognized\r\n");
    }
}

/* Takes octets up to the end of a command's line, or all; returns where it stopped. */
static const char *take_line(struct conn *conn, const char *at, const char *end)
{
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    const char *stop = newline == NULL ? end : newline + 1;
    size_t length = (size_t)(stop - at);
    if (conn->line_length + length > sizeof conn->line) {
        violation("a command without an end");
        say(conn, "500 5.5.2 Error: line too long\r\n");
        conn->line_length = 0;
        conn->is_closing = true;
        return end;
    }
    memcpy(conn->line + conn->line_length, at, length);
    conn->line_length += length;
    if (newline == NULL)
        return end;
    length = conn->line_length;
    conn->line_length = 0;
    if (length < 2 || conn->line[length - 2] != '\r') {
        violation("a bare LF behind a command");
        say(conn, "500 5.5.2 Error: bare LF\r\n");
        return stop;
    }
    conn->line[length - 2] = '\0';
    command(conn, conn->line, stop < end);
    return stop;
}

static const char *take_content(struct conn *conn, const char *at, const char *end)
{
    if (conn->is_new_flight)
        conn->is_new_flight = false;
    conn->has_begun = true;
    while (at < end) {
        switch (conn->place) {
        case LINE_START:
            conn->has_cr = false;
            if (*at == '.') {
                conn->place = DOT;
                at++;
            } else {
                conn->place = TEXT;
            }
            break;
        case TEXT: {
            const char *newline = memchr(at, '\n', (size_t)(end - at));
            if (newline == NULL) {
                conn->octets += (uint64_t)(end - at);
                conn->has_cr = end[-1] == '\r';
                return end;
            }
            bool is_end_of_line = newline > at ? newline[-1] == '\r' : conn->has_cr;
            conn->octets += (uint64_t)(newline + 1 - at);
            at = newline + 1;
            if (is_end_of_line) {
                conn->place = LINE_START;
            } else {
                conn->has_cr = false;
                violation("a bare LF in content");
            }
            break;
        }
        case DOT: /* not counted: it was put there for transparency, or it is the end */
            if (*at == '\r') {
                conn->place = DOT_CR;
                at++;
            } else {
                if (*at != '.')
                    violation("a line of content opens with a single dot");
                conn->place = TEXT;
            }
            break;
        case DOT_CR:
            if (*at == '\n') {
                conn->mode = COMMAND;
                take_message(conn);
                return at + 1;
            }
            conn->octets++;
            conn->has_cr = true;
            conn->place = TEXT;
            break;
        }
    }
    return at;
}

static const char *take_chunk(struct conn *conn, const char *at, const char *end)
{
    uint64_t length = (uint64_t)(end - at);
    if (length > conn->chunk_left)
        length = conn->chunk_left;
    conn->octets += length;
    conn->chunk_left -= length;
    if (conn->chunk_left == 0)
        end_of_chunk(conn);
    return at + length;
}

static void take(struct conn *conn, const char *at, const char *end)
{
    while (at < end && !conn->is_closing) {
        switch (conn->mode) {
        case COMMAND:
            at = take_line(conn, at, end);
            break;
        case CONTENT:
            at = take_content(conn, at, end);
            break;
        case CHUNK:
            at = take_chunk(conn, at, end);
            break;
        }
    }
}

static void on_readable(struct conn *conn)
{
    ssize_t length = recv(conn->fd, input, sizeof input, 0);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) {
        hang_up(conn);
        return;
    }
    if (conn->owes_nothing) {
        conn->owes_nothing = false;
        conn->is_new_flight = true;
        counts.flights++;
    }
    take(conn, input, input + length);
    if (settle_ms == 0)
        flush_out(conn);
    else if (conn->out_length > 0)
        conn->flush_at = now_ms() + settle_ms;
}

static void on_connection(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *conn = calloc(1, sizeof *conn);
        if (conn == NULL)
            fail("calloc");
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn->fd = fd;
        conn->next = connections;
        if (connections != NULL)
            connections->previous = conn;
        connections = conn;
        counts.connections++;
        if (++open_connections > counts.most_connections)
            counts.most_connections = open_connections;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            fail("epoll_ctl");
        say(conn, "220 sink.example.com ESMTP\r\n");
        flush_out(conn);
    }
}

/* Flushes what has waited long enough; returns the milliseconds until the next, or -1. */
static int flush_settled(void)
{
    int64_t now = now_ms(), first = -1;
    struct conn *next;
    for (struct conn *conn = connections; conn != NULL; conn = next) {
        next = conn->next;
        if (conn->flush_at == 0)
            continue;
        if (conn->flush_at <= now)
            flush_out(conn);
        else if (first < 0 || conn->flush_at < first)
            first = conn->flush_at;
    }
    return first < 0 ? -1 : (int)(first - now);
}

static void on_control(void)
{
    static char line[256];
    static size_t length;
    ssize_t got = read(STDIN_FILENO, line + length, sizeof line - length);
    if (got <= 0)
        exit(0); /* our parent has ended, or wants us to */
    length += (size_t)got;
    char *newline;
    while ((newline = memchr(line, '\n', length)) != NULL) {
        *newline = '\0';
        print_counts();
        if (strcmp(line, "reset") == 0) {
            memset(&counts, 0, sizeof counts);
            counts.most_connections = open_connections;
        }
        length -= (size_t)(newline + 1 - line);
        memmove(line, newline + 1, length);
    }
    if (length == sizeof line)
        length = 0;
}

/* --- the process -------------------------------------------------------------------------------------------------- */

static void compose_ehlo(char **keywords, int count)
{
    size_t length = 0;
    for (int i = -1; i < count; i++) {
        const char *text = i < 0 ? "sink.example.com" : keywords[i];
        if (i >= 0) {
            offers_pipelining |= strcasecmp(text, "PIPELINING") == 0;
            offers_chunking |= strcasecmp(text, "CHUNKING") == 0;
        }
        if (length + strlen(text) + 7 > sizeof ehlo_reply) {
            fprintf(stderr, "sink: too many keywords\n");
            exit(2);
        }
        length += (size_t)sprintf(ehlo_reply + length, "250%c%s\r\n", i == count - 1 ? ' ' : '-', text);
    }
}

int main(int argc, char **argv)
{
    int first = 1;
    for (; first + 1 < argc && strncmp(argv[first], "--", 2) == 0; first += 2) {
        if (strcmp(argv[first], "--settle") == 0) {
            settle_ms = atoi(argv[first + 1]);
        } else if (strcmp(argv[first], "--refuse") == 0) {
            refused_prefix = argv[first + 1];
        } else {
            fprintf(stderr, "sink: no such option: %s\n", argv[first]);
            return 2;
        }
    }
    compose_ehlo(argv + first, argc - first);

    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int terminated = signalfd(-1, &signals, SFD_CLOEXEC);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, BACKLOG) < 0 || getsockname(listener, (struct sockaddr *)&address, &address_length) < 0)
        fail("listen");

    epoll = epoll_create1(EPOLL_CLOEXEC);
    /* Three addresses that no connection has. */
    int *specials[] = {&listener, &terminated, &(int){STDIN_FILENO}};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = specials[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, *specials[i], &event) < 0)
            fail("epoll_ctl");
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event events[MAX_EVENTS];
    int wait_ms = -1;
    for (;;) {
        int count = epoll_wait(epoll, events, MAX_EVENTS, wait_ms);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            void *who = events[i].data.ptr;
            if (who == specials[0]) {
                on_connection(listener);
            } else if (who == specials[1]) {
                print_counts();
                return 0;
            } else if (who == specials[2]) {
                on_control();
            } else {
                struct conn *conn = who;
                if (conn->is_watching_out)
                    flush_out(conn);
                else
                    on_readable(conn);
            }
        }
        if (settle_ms > 0)
            wait_ms = flush_settled();
    }
}
