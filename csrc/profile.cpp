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

void profile_begin_step(int kind) {
  uint64_t now = now_ns();
  if (profile.last_ns != 0 && profile.kind == kind) profile.ns[kind][kPhaseBetween] += now - profile.last_ns;
  profile.steps[kind]++;
  profile.kind = kind;
  profile.last_ns = now;
}

void profile_end_phase(Phase phase) {
  uint64_t now = now_ns();
  profile.ns[profile.kind][phase] += now - profile.last_ns;
  profile.last_ns = now;
}

}  // namespace deepwell
