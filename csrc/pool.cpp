#include "pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace deepwell {
namespace {

// A barrier of two running threads takes 0.1 us: a short spin covers it. Then the thread yields, since the one it waits for may be
// queued on this very core (another process holds the other): spinning on, decode beside a busy process falls from 300 to 11
// tokens/s, yielding to 100. A pure spin barrier collapses in the same way on two-core hosts (llama.cpp #29258, #13079). Last it
// sleeps, so that an idle engine costs nothing.
constexpr int kSpins = 200;  // pauses, some 5 us
constexpr int kYields = 100;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void futex_wait(uint32_t* address, uint32_t expected) {
  syscall(SYS_futex, address, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(uint32_t* address) {
  syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

// Returns once *address differs from `seen`.
void wait_change(uint32_t* address, uint32_t seen, uint32_t* sleepers) {
  for (int i = 0; i < kSpins; i++) {
    if (__atomic_load_n(address, __ATOMIC_ACQUIRE) != seen) return;
    pause_cpu();
  }
  for (int i = 0; i < kYields; i++) {
    sched_yield();
    if (__atomic_load_n(address, __ATOMIC_ACQUIRE) != seen) return;
  }
  __atomic_fetch_add(sleepers, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(address, __ATOMIC_SEQ_CST) == seen) futex_wait(address, seen);
  __atomic_fetch_sub(sleepers, 1, __ATOMIC_SEQ_CST);
}

void announce_change(uint32_t* address, uint32_t* sleepers) {
  __atomic_fetch_add(address, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(sleepers, __ATOMIC_SEQ_CST) != 0) futex_wake_all(address);
}

class Pool {
 public:
  explicit Pool(int threads) {
    team_.size = threads;
    for (int tid = 1; tid < threads; tid++) workers_.emplace_back([this, tid] { work(tid); });
  }

  ~Pool() {
    function_ = nullptr;
    announce_change(&job_, &sleepers_);
    for (std::thread& worker : workers_) worker.join();
  }

  void run(TeamFunction function, void* argument) {
    function_ = function;
    argument_ = argument;
    team_.next = 0;
    team_.taken = 0;
    if (team_.size > 1) announce_change(&job_, &sleepers_);
    function(argument, &team_, 0);
    team_barrier(&team_);
  }

  int size() const { return team_.size; }

 private:
  void work(int tid) {
    uint32_t seen = 0;
    for (;;) {
      wait_change(&job_, seen, &sleepers_);
      seen++;
      if (function_ == nullptr) return;
      function_(argument_, &team_, tid);
      team_barrier(&team_);
    }
  }

  Team team_{};
  TeamFunction function_ = nullptr;
  void* argument_ = nullptr;
  alignas(64) uint32_t job_ = 0;
  alignas(64) uint32_t sleepers_ = 0;
  std::vector<std::thread> workers_;
};

std::mutex pool_mutex;
std::unique_ptr<Pool> pool;

}  // namespace

void team_barrier(Team* team) {
  if (team->size == 1) {
    team->next = 0;
    team->taken = 0;
    return;
  }
  uint32_t seen = __atomic_load_n(&team->generation, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == static_cast<uint32_t>(team->size)) {
    __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&team->next, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&team->taken, 0, __ATOMIC_RELAXED);
    announce_change(&team->generation, &team->sleepers);
  } else {
    wait_change(&team->generation, seen, &team->sleepers);
  }
}

int team_next(Team* team, int count) { return __atomic_fetch_add(&team->next, count, __ATOMIC_RELAXED); }

Claim team_claim(Team* team, int tid, int first, int end, int most) {
  uint64_t taken = __atomic_load_n(&team->taken, __ATOMIC_RELAXED);
  for (;;) {
    const int front = static_cast<int>(taken & 0xffffffff), back = static_cast<int>(taken >> 32);
    const int left = end - first - front - back;
    if (left <= 0) return {end, end};
    const int count = std::min(left, most ? most : std::max(1, left / (2 * team->size)));
    const uint64_t then = taken + (tid % 2 ? static_cast<uint64_t>(count) << 32 : static_cast<uint64_t>(count));
    if (__atomic_compare_exchange_n(&team->taken, &taken, then, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return tid % 2 ? Claim{end - back - count, end - back} : Claim{first + front, first + front + count};
  }
}

void pool_run(TeamFunction function, void* argument) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (!pool) pool = std::make_unique<Pool>(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  pool->run(function, argument);
}

void pool_set_threads(int threads) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (pool && pool->size() == threads) return;
  pool.reset();
  pool = std::make_unique<Pool>(threads);
}

int pool_threads() {
  std::lock_guard<std::mutex> lock(pool_mutex);
  return pool ? pool->size() : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace deepwell
