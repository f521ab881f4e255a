// Counts what was checked, runs one function of a table on all threads, and names the tests.
#pragma once
#include <cstdio>
#include <string>
#include <vector>

#include "common.h"
#include "memory.h"
#include "pool.h"

namespace deepwell::tests {

struct Counts {
  int checks = 0, failed = 0;
};
inline Counts counts;

// Notes a check of `table`; prints it where it fails.
inline bool check(bool holds, const KernelTable& table, const std::string& what) {
  counts.checks++;
  if (holds) return true;
  if (counts.failed++ < 20) std::printf("FAIL %s: %s\n", table.name, what.c_str());
  return false;
}

// Calls function(team, tid) on every thread of the pool.
template <class Function>
void on_every_thread(const Function& function) {
  pool_run([](void* argument, Team* team, int tid) { (*static_cast<const Function*>(argument))(team, tid); },
           const_cast<Function*>(&function));
}

// y = x W^T: [m, cols] -> [m, rows].
inline std::vector<float> matmul(const KernelTable& table, const Matrix& w, const float* x, int m) {
  std::vector<float> y(static_cast<size_t>(m) * w.rows);
  Scratch scratch;
  Workspace workspace = scratch.reserve(table.matmul_workspace_bytes(w, m));
  on_every_thread([&](Team* team, int tid) { table.matmul(w, x, m, y.data(), workspace, team, tid); });
  return y;
}

// Tests of one table; `generic` is the table that every processor has.
void test_products(const KernelTable& table, const KernelTable& generic);
void test_steps(const KernelTable& table, const KernelTable& generic);
// Prints the next `count` tokens that a model chooses, as a line of JSON; returns the exit status. `path`:
// see greedy.cpp.
int decode_greedily(const KernelTable& table, const char* path, int count, std::vector<int32_t> tokens);

}  // namespace deepwell::tests
