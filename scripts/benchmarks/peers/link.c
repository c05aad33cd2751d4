/* Access links for a swarm on loopback.
 *
 * usage: link LISTEN TARGET ONE_WAY_MICROSECONDS BYTES_PER_SECOND [...]      addresses as IP:PORT, four words a link
 *
 * Whoever connects to LISTEN gets a connection to TARGET through a link: each direction is serialised at the rate, then
 * arrives the one-way delay later. Connections of one link share its rate. Delay costs no throughput: bytes under way
 * are held here with the time they are due. What waits in front of a link is bounded as a router's queue is (QUEUE_NS
 * of the rate); beyond that the sender's own buffer fills and it has to wait.
 *
 * A connection's first bytes start a round trip late: the kernel here answers the SYN at once, a far peer would not.
 * A uTP SYN gets a reset, so that whoever tries uTP first goes on with TCP after a round trip of loopback. Not
 * emulated: loss, slow start, jitter.
 *
 * Says {"ready":true}; to each line on standard input answers with the bytes carried so far; ends with standard input.
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
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TO_PEER, TO_CLIENT };
enum { SEGMENT = 16 * 1024, HELD_MAX = 64 << 20, LEAST_BUFFER = 8 * 1024 };
static const int64_t SECOND_NS = 1000000000, QUEUE_NS = 100000000;

struct segment {
    struct segment *next;
    int64_t due;
    size_t begin, end;
    unsigned char bytes[SEGMENT];
};

struct way { /* one direction of a connection */
    int from, to;
    struct segment *first, *last;
    size_t held;
    int64_t not_before;
    bool readable, writable, ended, closed;
};

struct link {
    int listener, datagrams;
    struct sockaddr_in target;
    int64_t delay_ns, rate, free_at[2];
    uint64_t carried[2];
};

struct watch {
    enum { COMMANDS, LISTENER, DATAGRAMS, END } what;
    struct link *link;
    struct connection *connection;
    int side; /* of an END: TO_PEER is the client's socket, whose bytes go to the peer */
};

struct connection {
    struct connection *next;
    struct link *link;
    struct way ways[2];
    struct watch watches[2];
    bool broken;
};

static int events;
static struct connection *connections;
static struct segment *spare;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND_NS + time.tv_nsec;
}

static void watch(int descriptor, uint32_t mask, struct watch *watch) {
    struct epoll_event event = {.events = mask, .data.ptr = watch};
    if (epoll_ctl(events, EPOLL_CTL_ADD, descriptor, &event)) fail("epoll_ctl");
}

static struct watch *new_watch(struct watch value) {
    struct watch *made = malloc(sizeof *made);
    if (!made) fail("malloc");
    *made = value;
    return made;
}

static struct segment *take_segment(void) {
    struct segment *segment = spare;
    if (segment) spare = segment->next;
    else if (!(segment = malloc(sizeof *segment))) fail("malloc");
    return segment;
}

static void give_back(struct segment *segment) {
    segment->next = spare;
    spare = segment;
}

/* When the link is ready for more, should its queue be full; else a time that has passed. */
static int64_t queue_opens(const struct link *link, int side) {
    return link->rate ? link->free_at[side] - QUEUE_NS : 0;
}

static void pull(struct connection *connection, int side) {
    struct way *way = &connection->ways[side];
    struct link *link = connection->link;
    while (way->readable && !way->ended && way->held < HELD_MAX && queue_opens(link, side) <= now_ns()) {
        struct segment *segment = take_segment();
        ssize_t got = read(way->from, segment->bytes, SEGMENT);
        if (got <= 0) {
            give_back(segment);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && errno == EAGAIN) way->readable = false;
            else way->ended = true;
            return;
        }
        int64_t starts = now_ns();
        if (starts < way->not_before) starts = way->not_before;
        if (link->rate) {
            if (starts < link->free_at[side]) starts = link->free_at[side];
            starts += got * SECOND_NS / link->rate;
            link->free_at[side] = starts;
        }
        segment->due = starts + link->delay_ns;
        segment->begin = 0;
        segment->end = (size_t)got;
        segment->next = NULL;
        if (way->last) way->last->next = segment;
        else way->first = segment;
        way->last = segment;
        way->held += (size_t)got;
    }
}

static void push(struct connection *connection, int side) {
    struct way *way = &connection->ways[side];
    while (way->writable && way->first && way->first->due <= now_ns()) {
        struct segment *segment = way->first;
        ssize_t sent = send(way->to, segment->bytes + segment->begin, segment->end - segment->begin, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) way->writable = false;
            else connection->broken = true;
            return;
        }
        connection->link->carried[side] += (uint64_t)sent;
        way->held -= (size_t)sent;
        segment->begin += (size_t)sent;
        if (segment->begin == segment->end) {
            way->first = segment->next;
            if (!way->first) way->last = NULL;
            give_back(segment);
        }
    }
    if (way->ended && !way->first && !way->closed) {
        way->closed = true;
        shutdown(way->to, SHUT_WR);
    }
}

static void end_connection(struct connection *connection) {
    for (int side = 0; side < 2; side++) {
        struct way *way = &connection->ways[side];
        while (way->first) {
            struct segment *segment = way->first;
            way->first = segment->next;
            give_back(segment);
        }
        close(way->from);
    }
    free(connection);
}

/* Moves what can be moved, buries what has ended: the time of the next work. */
static int64_t work(void) {
    int64_t next = now_ns() + SECOND_NS;
    for (struct connection **place = &connections; *place;) {
        struct connection *connection = *place;
        for (int side = 0; side < 2 && !connection->broken; side++) {
            struct way *way = &connection->ways[side];
            pull(connection, side);
            push(connection, side);
            if (way->first && way->writable && way->first->due < next) next = way->first->due;
            bool waits = way->readable && !way->ended && way->held < HELD_MAX;
            if (waits && queue_opens(connection->link, side) < next) next = queue_opens(connection->link, side);
        }
        if (connection->broken || (connection->ways[0].closed && connection->ways[1].closed)) {
            *place = connection->next;
            end_connection(connection);
        } else {
            place = &connection->next;
        }
    }
    return next;
}

static void accept_connection(struct link *link) {
    int client = accept4(link->listener, NULL, NULL, SOCK_NONBLOCK), one = 1;
    if (client < 0) return;
    int peer = socket(AF_INET, SOCK_STREAM, 0);
    if (peer < 0) fail("socket");
    if (link->rate) { /* 50 ms of the link; the rest stays with the sender */
        int buffer = link->rate / 20 > LEAST_BUFFER ? (int)(link->rate / 20) : LEAST_BUFFER;
        setsockopt(peer, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    }
    if (connect(peer, (struct sockaddr *)&link->target, sizeof link->target)) {
        close(client);
        close(peer);
        return;
    }
    fcntl(peer, F_SETFL, fcntl(peer, F_GETFL) | O_NONBLOCK);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) fail("calloc");
    connection->link = link;
    connection->ways[TO_PEER] = (struct way){.from = client, .to = peer, .not_before = now_ns() + 2 * link->delay_ns};
    connection->ways[TO_CLIENT] = (struct way){.from = peer, .to = client};
    connection->next = connections;
    connections = connection;
    for (int side = 0; side < 2; side++) {
        connection->watches[side] = (struct watch){END, link, connection, side};
        watch(connection->ways[side].from, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &connection->watches[side]);
    }
}

/* BEP 29: type in the upper half of the first byte, version 1 in the lower; connection id at 2, sequence number at 16. */
static void refuse_utp(int datagrams) {
    unsigned char packet[2048], reset[20] = {0x31};
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t got;
    while ((got = recvfrom(datagrams, packet, sizeof packet, 0, (struct sockaddr *)&from, &length)) > 0) {
        if (got < 20 || packet[0] != 0x41) continue;
        memcpy(reset + 2, packet + 2, 2);
        memcpy(reset + 18, packet + 16, 2);
        sendto(datagrams, reset, sizeof reset, 0, (struct sockaddr *)&from, length);
    }
}

static struct sockaddr_in address(const char *text) {
    struct sockaddr_in parsed = {.sin_family = AF_INET};
    char ip[INET_ADDRSTRLEN] = "";
    unsigned port;
    if (sscanf(text, "%15[0-9.]:%u", ip, &port) != 2 || inet_pton(AF_INET, ip, &parsed.sin_addr) != 1 || port > 65535) {
        fprintf(stderr, "not an address: %s\n", text);
        exit(2);
    }
    parsed.sin_port = htons((uint16_t)port);
    return parsed;
}

static int bound(struct sockaddr_in here, int type) {
    int descriptor = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;
    if (descriptor < 0) fail("socket");
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(descriptor, (struct sockaddr *)&here, sizeof here)) fail("bind");
    return descriptor;
}

static void open_link(struct link *link, char **words) {
    struct sockaddr_in here = address(words[0]);
    link->target = address(words[1]);
    link->delay_ns = atoll(words[2]) * 1000;
    link->rate = atoll(words[3]);
    link->listener = bound(here, SOCK_STREAM);
    if (listen(link->listener, 64)) fail("listen");
    link->datagrams = bound(here, SOCK_DGRAM);
    watch(link->listener, EPOLLIN, new_watch((struct watch){LISTENER, link, NULL, 0}));
    watch(link->datagrams, EPOLLIN, new_watch((struct watch){DATAGRAMS, link, NULL, 0}));
}

static void answer_commands(const struct link *links, int count) {
    char text[512];
    ssize_t got = read(STDIN_FILENO, text, sizeof text);
    if (got <= 0) exit(0);
    for (ssize_t at = 0; at < got; at++) {
        if (text[at] != '\n') continue;
        uint64_t carried[2] = {0, 0};
        for (int i = 0; i < count; i++)
            for (int side = 0; side < 2; side++) carried[side] += links[i].carried[side];
        printf("{\"to_client\": %llu, \"to_peers\": %llu}\n", (unsigned long long)carried[TO_CLIENT],
               (unsigned long long)carried[TO_PEER]);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    int count = (argc - 1) / 4;
    if (argc < 5 || (argc - 1) % 4) {
        fprintf(stderr, "usage: link LISTEN TARGET ONE_WAY_MICROSECONDS BYTES_PER_SECOND [...]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if ((events = epoll_create1(0)) < 0) fail("epoll_create1");
    struct link *links = calloc((size_t)count, sizeof *links);
    if (!links) fail("calloc");
    for (int i = 0; i < count; i++) open_link(&links[i], argv + 1 + 4 * i);
    watch(STDIN_FILENO, EPOLLIN, new_watch((struct watch){COMMANDS, NULL, NULL, 0}));
    puts("{\"ready\": true}");
    fflush(stdout);
    for (;;) {
        int64_t wait = work() - now_ns();
        if (wait < 0) wait = 0;
        struct timespec timeout = {wait / SECOND_NS, wait % SECOND_NS};
        struct epoll_event happened[64];
        int number = epoll_pwait2(events, happened, 64, &timeout, NULL);
        for (int i = 0; i < number; i++) {
            struct watch *of = happened[i].data.ptr;
            if (of->what == COMMANDS) answer_commands(links, count);
            else if (of->what == LISTENER) accept_connection(of->link);
            else if (of->what == DATAGRAMS) refuse_utp(of->link->datagrams);
            else { /* connections end in work() only, so this one is there */
                struct way *inwards = &of->connection->ways[of->side], *outwards = &of->connection->ways[!of->side];
                if (happened[i].events & EPOLLOUT) outwards->writable = true;
                if (happened[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) inwards->readable = true;
                if (happened[i].events & EPOLLERR) of->connection->broken = true;
            }
        }
    }
}
