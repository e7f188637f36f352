/*
 * The delay line of the benchmarks: a TCP proxy on loopback that adds a round trip and takes nothing from the bandwidth.
 * Linux, one thread.
 *
 *     line PORT ROUND_TRIP_MICROSECONDS [MAX_IN_FLIGHT_BYTES]
 *
 * It listens on a free port of 127.0.0.1, prints it, and connects to 127.0.0.1:PORT for each client. Octets arrive half
 * a round trip after they came, in order, each way. The end of stdin ends the process.
 *
 * Loopback connects at once, and TCP must not come for nothing: the server sees the connection one and a half round
 * trips after the client was accepted (SYN, SYN-ACK, ACK), and what the client says in the first round trip counts as
 * said at its end. A greeting is then with the client two round trips after its connect, as on a real line.
 *
 * What is on its way is bounded, for each connection and direction: with more than MAX_IN_FLIGHT_BYTES, by default
 * 64 MiB, nothing is read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 262144,
    MAX_EVENTS = 256,
    BACKLOG = 4096,
};

struct block {
    struct block *next;
    int64_t due;      /* nanoseconds */
    size_t length;    /* 0: the end */
    size_t written;
    char data[];
};

enum { CLIENT, SERVER };

/* One of the two sockets of a connection, and what is on its way to it. */
struct end {
    struct pair *pair;
    int fd;           /* -1: not yet connected */
    uint32_t events;  /* that epoll watches */
    struct block *first, *last;
    size_t queued;
    bool is_ended;    /* nothing more comes from it */
    bool is_full;     /* it takes no more now */
    bool is_told;     /* that the other side has ended */
};

struct pair {
    struct end ends[2];
    int64_t established_at;
    unsigned alarms;  /* in the heap */
    bool is_dead;
};

/* When something is due: to connect to the server (target < 0), or octets to one of the two ends. */
struct alarm {
    int64_t due;
    uint64_t number;  /* among those of the same moment, the order in which they were set */
    struct pair *pair;
    int target;
};

static struct alarm *heap;
static size_t heap_length, heap_room;
static uint64_t alarm_numbers;
static int epoll = -1, timer = -1;
static int64_t half_ns;
static size_t max_in_flight = 64 << 20;
static struct sockaddr_in server;
static char input[READ_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* --- the heap of alarms ------------------------------------------------------------------------------------------- */

static bool is_before(const struct alarm *a, const struct alarm *b)
{
    return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void swap(size_t a, size_t b)
{
    struct alarm other = heap[a];
    heap[a] = heap[b];
    heap[b] = other;
}

static void set_alarm(struct pair *pair, int target, int64_t due)
{
    if (heap_length == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        heap = realloc(heap, heap_room * sizeof *heap);
        if (heap == NULL)
            fail("realloc");
    }
    size_t at = heap_length++;
    heap[at] = (struct alarm){due, alarm_numbers++, pair, target};
    pair->alarms++;
    while (at > 0 && is_before(&heap[at], &heap[(at - 1) / 2])) {
        swap(at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
}

static struct alarm take_alarm(void)
{
    struct alarm top = heap[0];
    heap[0] = heap[--heap_length];
    for (size_t at = 0;;) {
        size_t child = 2 * at + 1;
        if (child >= heap_length)
            break;
        if (child + 1 < heap_length && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (is_before(&heap[at], &heap[child]))
            break;
        swap(at, child);
        at = child;
    }
    top.pair->alarms--;
    return top;
}

/* --- connections -------------------------------------------------------------------------------------------------- */

static struct end *other(struct end *end)
{
    return &end->pair->ends[end == &end->pair->ends[CLIENT] ? SERVER : CLIENT];
}

static void watch(struct end *end)
{
    uint32_t events = 0;
    if (!end->is_ended && other(end)->queued < max_in_flight)
        events |= EPOLLIN;
    if (end->is_full)
        events |= EPOLLOUT;
    if (end->fd < 0 || events == end->events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = end};
    int operation = end->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll, operation, end->fd, &event) < 0)
        fail("epoll_ctl");
    end->events = events; /* 0 is not even told of errors: nothing would be done with them */
}

/* Closes both sockets; the memory goes with the last alarm, and after the events that were already fetched. */
static void kill_pair(struct pair *pair)
{
    if (pair->is_dead)
        return;
    pair->is_dead = true;
    for (int i = 0; i < 2; i++) {
        struct end *end = &pair->ends[i];
        if (end->fd >= 0)
            close(end->fd);
        while (end->first != NULL) {
            struct block *block = end->first;
            end->first = block->next;
            free(block);
        }
    }
    set_alarm(pair, CLIENT, now_ns());
}

/* Gives an end what is due to it. */
static void deliver(struct end *end)
{
    int64_t now = now_ns();
    end->is_full = false;
    while (end->first != NULL && end->first->due <= now && end->fd >= 0) {
        struct block *block = end->first;
        if (block->length == 0) {
            end->is_told = true;
            shutdown(end->fd, SHUT_WR);
        }
        while (block->written < block->length) {
            ssize_t written = send(end->fd, block->data + block->written, block->length - block->written, MSG_NOSIGNAL);
            if (written < 0 && errno == EAGAIN) {
                end->is_full = true;
                watch(end);
                watch(other(end));
                return;
            }
            if (written < 0) {
                kill_pair(end->pair);
                return;
            }
            block->written += (size_t)written;
        }
        end->queued -= block->length;
        end->first = block->next;
        free(block);
    }
    if (end->is_told && other(end)->is_told) {
        kill_pair(end->pair);
        return;
    }
    watch(end);
    watch(other(end)); /* there may be room again for what it says */
}

static void on_readable(struct end *end)
{
    struct end *to = other(end);
    ssize_t length = recv(end->fd, input, sizeof input, 0);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) { /* a reset counts as an end */
        end->is_ended = true;
        length = 0;
    }
    int64_t left_at = now_ns();
    if (left_at < end->pair->established_at)
        left_at = end->pair->established_at;
    struct block *block = malloc(sizeof *block + (size_t)length);
    if (block == NULL)
        fail("malloc");
    *block = (struct block){.due = left_at + half_ns, .length = (size_t)length};
    memcpy(block->data, input, (size_t)length);
    if (to->first == NULL)
        to->first = block;
    else
        to->last->next = block;
    to->last = block;
    to->queued += (size_t)length;
    set_alarm(end->pair, to == &end->pair->ends[CLIENT] ? CLIENT : SERVER, block->due);
    watch(end);
}

static void on_connection(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct pair *pair = calloc(1, sizeof *pair);
        if (pair == NULL)
            fail("calloc");
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        pair->established_at = now_ns() + 2 * half_ns;
        pair->ends[CLIENT] = (struct end){.pair = pair, .fd = fd};
        pair->ends[SERVER] = (struct end){.pair = pair, .fd = -1};
        watch(&pair->ends[CLIENT]);
        set_alarm(pair, -1, pair->established_at + half_ns);
    }
}

static void connect_server(struct pair *pair)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* Loopback: this does not block. */
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        if (fd >= 0)
            close(fd);
        kill_pair(pair);
        return;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    pair->ends[SERVER].fd = fd;
    deliver(&pair->ends[SERVER]);
}

/* Does what is due, and sets the timer for what is next. */
static void on_time(void)
{
    while (heap_length > 0 && heap[0].due <= now_ns()) {
        struct alarm alarm = take_alarm();
        struct pair *pair = alarm.pair;
        if (pair->is_dead) {
            if (pair->alarms == 0)
                free(pair);
        } else if (alarm.target < 0) {
            connect_server(pair);
        } else {
            deliver(&pair->ends[alarm.target]);
        }
    }
    struct itimerspec next = {0};
    if (heap_length > 0) {
        next.it_value.tv_sec = heap[0].due / 1000000000;
        next.it_value.tv_nsec = heap[0].due % 1000000000;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &next, NULL);
}

/* --- the process -------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: line PORT ROUND_TRIP_MICROSECONDS [MAX_IN_FLIGHT_BYTES]\n");
        return 2;
    }
    server = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)atoi(argv[1]))};
    half_ns = (int64_t)atol(argv[2]) * 500;
    if (argc == 4)
        max_in_flight = (size_t)atol(argv[3]);

    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, BACKLOG) < 0 || getsockname(listener, (struct sockaddr *)&address, &address_length) < 0)
        fail("listen");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int input_fd = STDIN_FILENO;
    int *specials[] = {&listener, &timer, &input_fd};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = specials[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, *specials[i], &event) < 0)
            fail("epoll_ctl");
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int count = epoll_wait(epoll, events, MAX_EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            void *who = events[i].data.ptr;
            if (who == specials[0]) {
                on_connection(listener);
            } else if (who == specials[1]) {
                uint64_t expirations;
                if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                    fail("read");
            } else if (who == specials[2]) {
                char ignored[64];
                if (read(STDIN_FILENO, ignored, sizeof ignored) <= 0)
                    return 0; /* our parent has ended, or wants us to */
            } else {
                struct end *end = who;
                /* A pair that died in this batch is freed by its alarm, which is not before on_time. */
                if (!end->pair->is_dead && end->is_full)
                    deliver(end);
                if (!end->pair->is_dead && !end->is_ended && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                    on_readable(end);
            }
        }
        on_time();
    }
}
