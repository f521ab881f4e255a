#include "profile.h"

#include <time.h>

namespace deepwell {

Profile profile;

namespace {
uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}
}  // namespace

void profile_begin_step() {
  profile.steps++;
  profile.last_ns = now_ns();
}

void profile_end_phase(Phase phase) {
  uint64_t now = now_ns();
  profile.ns[phase] += now - profile.last_ns;
  profile.last_ns = now;
}

}  // namespace deepwell
