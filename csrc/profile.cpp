#include "profile.h"

#include <string.h>
#include <time.h>

#include <mutex>

namespace deepwell {

Profile profile;

namespace {
std::mutex profile_mutex;
thread_local uint32_t my_ended;  // phases of this step that this thread has passed

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}
}  // namespace

void profile_begin_step(int tid, bool decode, int seqs) {
  my_ended = 0;
  if (tid != 0) return;  // the others' first phase ends in a barrier, so behind this
  int kind = decode;
  if (decode && seqs < profile.seqs) kind = 2;
  if (decode && seqs > profile.seqs) {  // while sequences join, steps are not yet those that are asked about
    profile.seqs = seqs;
    profile.steps[1] = 0;
    memset(profile.ns[1], 0, sizeof profile.ns[1]);
    profile.last_ns = 0;
  }
  profile.ended = 0;
  uint64_t now = now_ns();
  if (profile.last_ns != 0 && profile.kind == kind) profile.ns[kind][kPhaseBetween] += now - profile.last_ns;
  profile.steps[kind]++;
  profile.kind = kind;
  profile.last_ns = now;
}

void profile_end_phase(Phase phase) {
  std::lock_guard<std::mutex> lock(profile_mutex);
  if (my_ended++ < profile.ended) return;
  profile.ended++;
  uint64_t now = now_ns();
  profile.ns[profile.kind][phase] += now - profile.last_ns;
  profile.last_ns = now;
}

}  // namespace deepwell
