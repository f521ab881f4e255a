// A team of threads that runs one function together: the caller is worker 0, work is handed out by an atomic counter so that a
// late or slowed thread simply takes less, barriers spin briefly and then sleep on a futex.
#pragma once
#include <stdint.h>

namespace deepwell {

// Fields that different threads write lie on their own cache lines.
struct Team {
  int size;
  alignas(64) uint32_t arrived;
  alignas(64) uint32_t generation;
  alignas(64) int32_t next;
  alignas(64) uint32_t sleepers;
};

// Wait for all; the counter behind `team_next` restarts at 0.
void team_barrier(Team* team);
// Claim `count` consecutive work items; returns the first.
int team_next(Team* team, int count);
// Claim a share of what is left of `total`: large streams first, single items last. Returns the first, `total` when none is left.
int team_next_share(Team* team, int total, int* count);

using TeamFunction = void (*)(void* argument, Team* team, int tid);

// Run `function` on every thread of the pool, the caller included. One caller at a time.
void pool_run(TeamFunction function, void* argument);
void pool_set_threads(int threads);
int pool_threads();

}  // namespace deepwell
