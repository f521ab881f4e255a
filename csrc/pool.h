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
  uint64_t taken;  // of `team_claim`: items from the front, and in the upper half from the back
  alignas(64) uint32_t sleepers;
};

// Wait for all; the counters behind `team_next` and `team_claim` restart at 0.
void team_barrier(Team* team);
// Claim `count` consecutive work items; returns the first.
int team_next(Team* team, int count);
// Claim consecutive items of [first, end): from the front if the thread's number is even, from the back else, so that it finds the rows or
// columns that it has computed in its own cache when it claims in the next phase. `most` items or, with 0, a share of those that are left:
// large streams first, single items last. Empty when none is left.
struct Claim {
  int first, end;
};
Claim team_claim(Team* team, int tid, int first, int end, int most);

using TeamFunction = void (*)(void* argument, Team* team, int tid);

// Run `function` on every thread of the pool, the caller included. One caller at a time.
void pool_run(TeamFunction function, void* argument);
void pool_set_threads(int threads);
int pool_threads();

}  // namespace deepwell
