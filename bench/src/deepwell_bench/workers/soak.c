/* Closed-loop load over keep-alive connections, for a given time.
 *
 *   soak PORT CLIENTS SECONDS REQUESTS_FILE PATH
 *
 * REQUESTS_FILE has one request a line: HANG_UP BODY, where a client leaves after HANG_UP events (0: it stays). Every
 * client takes the next line when it is done; after SECONDS no more are begun. One line is printed for each request:
 *
 *   INDEX OUTCOME BEGIN FIRST LAST EVENTS TOKENS
 *
 * OUTCOME: done, left (as told), failed (another status, an early end, no [DONE]), or stuck (nothing came for 60 s).
 * Times are seconds since the start; TOKENS is what the usage says. The last line: cpu SECONDS. It counts bytes and reads
 * no JSON, for on few cores its own work would slow the server that it measures. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 1024, MAX_REQUESTS = 1 << 20, KEPT = 64, STUCK_S = 60 };

typedef struct {
  int fd, busy, index, leave, events, ok, finished;
  long tokens;
  double begin, first, last, heard;
  char tail[KEPT + 1]; /* the end of what came before: markers may be cut */
  int kept;
} Client;

static Client clients[MAX_CLIENTS];
static char *lines[MAX_REQUESTS];
static int count, port, epoll, next_request;
static const char *path;
static double origin;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9 - origin;
}

static int dial(Client *c) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
    close(c->fd);
    c->fd = -1;
    return -1;
  }
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
  return 0;
}

static void hang_up(Client *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
}

static void report(Client *c, const char *outcome) {
  printf("%d %s %.6f %.6f %.6f %d %ld\n", c->index, outcome, c->begin, c->first, c->last, c->events, c->tokens);
  c->busy = 0;
}

static void begin(Client *c) {
  static char request[1 << 18];
  if (next_request == count) return;
  const char *line = lines[next_request];
  char *body;
  c->index = next_request++;
  c->leave = (int)strtol(line, &body, 10);
  body++;
  c->events = c->ok = c->finished = c->kept = 0;
  c->tokens = 0;
  c->first = c->last = 0;
  c->busy = 1;
  c->begin = c->heard = now();
  int size = snprintf(request, sizeof request,
                      "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                      path, strlen(body), body);
  if ((c->fd < 0 && dial(c)) || size >= (int)sizeof request || write(c->fd, request, size) != size) {
    hang_up(c);
    report(c, "failed");
  }
}

static int occurrences(const char *text, const char *marker) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, marker)); at++) n++;
  return n;
}

static void take(Client *c, double at) {
  static char in[(1 << 16) + KEPT + 1];
  memcpy(in, c->tail, c->kept);
  ssize_t got = read(c->fd, in + c->kept, 1 << 16);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    hang_up(c);
    if (c->busy) report(c, "failed");
    return;
  }
  if (!c->busy) return;
  int all = c->kept + (int)got;
  in[all] = 0;
  c->tail[c->kept] = 0;
  c->heard = at;
  if (!c->ok) {
    if (all >= 12 && strncmp(in + 9, "200", 3)) { /* an error: its body is of no use here */
      hang_up(c);
      report(c, "failed");
      return;
    }
    c->ok = all >= 12;
  }
  /* The tail is searched again, so what was whole in it does not count twice. */
  int events = occurrences(in, "\"content\":\"") - occurrences(c->tail, "\"content\":\"");
  if (events > 0) {
    if (!c->events) c->first = at;
    c->events += events;
    c->last = at;
  }
  char *usage = strstr(in, "\"completion_tokens\":");
  if (usage) c->tokens = atol(usage + 20);
  if (strstr(in, "data: [DONE]")) c->finished = 1;
  if (c->leave && c->events >= c->leave) {
    hang_up(c);
    report(c, "left");
    return;
  }
  if (strstr(in, "\r\n0\r\n\r\n")) {
    report(c, c->finished ? "done" : "failed");
    return;
  }
  c->kept = all < KEPT ? all : KEPT;
  memcpy(c->tail, in + all - c->kept, c->kept);
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  port = atoi(argv[1]);
  int wanted = atoi(argv[2]);
  double seconds = atof(argv[3]);
  path = argv[5];
  FILE *file = fopen(argv[4], "r");
  if (!file || wanted > MAX_CLIENTS) return 2;
  size_t room = 0;
  for (char *line = NULL; count < MAX_REQUESTS && getline(&line, &room, file) > 0; line = NULL, room = 0) {
    line[strcspn(line, "\n")] = 0;
    lines[count++] = line;
  }
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  origin = t.tv_sec + t.tv_nsec * 1e-9;
  epoll = epoll_create1(0);
  for (int i = 0; i < wanted; i++) {
    clients[i].fd = -1;
    begin(&clients[i]);
  }
  for (int busy = 1; busy;) {
    struct epoll_event ready[256];
    int n = epoll_wait(epoll, ready, 256, 1000);
    double at = now();
    for (int i = 0; i < n; i++) take(ready[i].data.ptr, at);
    busy = 0;
    for (int i = 0; i < wanted; i++) {
      Client *c = &clients[i];
      if (c->busy && at - c->heard > STUCK_S) {
        hang_up(c);
        report(c, "stuck");
      }
      if (!c->busy && at < seconds) begin(c);
      busy |= c->busy;
    }
  }
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  printf("cpu %.6f\n", used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6);
  return 0;
}
