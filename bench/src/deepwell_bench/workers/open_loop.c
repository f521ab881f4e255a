/* Open-loop load: one request every 1/RATE s, whatever the server does; times to the first token, one a line, in ms.
 *
 *   open_loop PORT RATE SECONDS BODY_FILE PATH MARKER [KEY]
 *
 * A request is timed from the moment it was due, so a client that falls behind counts against the server, until the
 * bytes MARKER are in its answer. Connections are kept and reused. The last line has the number of failed requests. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, KEPT = 96 };

typedef struct {
  int fd, busy, first;
  double due;
  char tail[KEPT + 1]; /* the end of what came before: markers may be cut */
  int kept;
} Connection;

static Connection connections[MAX_CONNECTIONS];
static int count, epoll, port;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static Connection *idle(void) {
  for (int i = 0; i < count; i++)
    if (connections[i].fd >= 0 && !connections[i].busy) return &connections[i];
  Connection *c = NULL;
  for (int i = 0; i < count && !c; i++)
    if (connections[i].fd < 0) c = &connections[i];
  if (!c) {
    if (count == MAX_CONNECTIONS) return NULL;
    c = &connections[count++];
  }
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  memset(c, 0, sizeof *c);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
    close(c->fd);
    c->fd = -1;
    return NULL;
  }
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
  return c;
}

int main(int argc, char **argv) {
  if (argc != 7 && argc != 8) return 2;
  port = atoi(argv[1]);
  double rate = atof(argv[2]), seconds = atof(argv[3]);
  const char *marker = argv[6], *end = "\r\n0\r\n\r\n";
  static char body[65536], request[70000], in[65536 + KEPT + 1];
  FILE *file = fopen(argv[4], "rb");
  if (!file) return 2;
  int length = (int)fread(body, 1, sizeof body, file);
  int size = snprintf(request, sizeof request,
                      "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s%s%sContent-Length: %d\r\n\r\n",
                      argv[5], argc == 8 ? "Authorization: Bearer " : "", argc == 8 ? argv[7] : "", argc == 8 ? "\r\n" : "",
                      length);
  memcpy(request + size, body, length);
  size += length;

  epoll = epoll_create1(0);
  int timer = timerfd_create(CLOCK_MONOTONIC, 0);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &e);
  long total = (long)(rate * seconds), sent = 0, done = 0, failed = 0;
  double begin = now() + 0.1, stop = begin + seconds + 30;
  while (done + failed < total && now() < stop) {
    double next = begin + sent / rate;
    if (sent < total) {
      double wait = next - now();
      if (wait < 1e-6) wait = 1e-6;
      struct itimerspec at = {.it_value = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)}};
      timerfd_settime(timer, 0, &at, NULL);
    }
    struct epoll_event ready[64];
    int n = epoll_wait(epoll, ready, 64, 1000);
    double at = now();
    for (int i = 0; i < n; i++) {
      Connection *c = ready[i].data.ptr;
      if (!c) {
        unsigned long long ticks;
        if (read(timer, &ticks, sizeof ticks) < 0) continue;
        continue;
      }
      memcpy(in, c->tail, c->kept);
      ssize_t got = read(c->fd, in + c->kept, 65536);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) {
        if (c->busy) failed++;
        close(c->fd);
        c->fd = -1;
        c->busy = 0;
        continue;
      }
      int all = c->kept + (int)got;
      in[all] = 0;
      if (c->busy && !c->first && strstr(in, marker)) {
        c->first = 1;
        printf("%.4f\n", (at - c->due) * 1e3);
      }
      if (c->busy && strstr(in, end)) {
        if (c->first) done++;
        else failed++;
        c->busy = 0;
        c->kept = 0;
        continue;
      }
      c->kept = all < KEPT ? all : KEPT;
      memcpy(c->tail, in + all - c->kept, c->kept);
    }
    while (sent < total && (next = begin + sent / rate) <= now()) {
      Connection *c = idle();
      sent++;
      if (!c || write(c->fd, request, size) != size) {
        failed++;
        continue;
      }
      c->busy = 1;
      c->first = 0;
      c->kept = 0;
      c->due = next;
    }
  }
  printf("failed %ld\n", failed + (total - done - failed));
  return 0;
}
