// Tests the kernel tables of this processor without Python. Usage: kernel_tests TABLE [MODEL COUNT TOKEN...];
// without arguments it names the tables.
//
// Prints failures, then one line of JSON. With MODEL, a file that `deepwell bench arm` writes, it continues
// the tokens greedily instead.
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "check.h"
#include "common.h"
#include "dispatch.h"
#include "pool.h"

using namespace deepwell;

static const KernelTable* table_named(std::string_view name) {
  const KernelTable* tables[kMaxTables];
  int n = available_tables(tables);
  for (int i = 0; i < n; i++)
    if (name == tables[i]->name) return tables[i];
  return nullptr;
}

int main(int count, char** arguments) {
  if (count < 2) {
    const KernelTable* tables[kMaxTables];
    int n = available_tables(tables);
    for (int i = 0; i < n; i++) std::puts(tables[i]->name);
    return 0;
  }
  const KernelTable *table = table_named(arguments[1]), *generic = table_named("generic");
  if (!table) {
    std::fprintf(stderr, "this processor has no kernel table %s\n", arguments[1]);
    return 2;
  }
  pool_set_threads(1);
  if (count > 4) {
    std::vector<int32_t> tokens;
    for (int i = 4; i < count; i++) tokens.push_back(std::atoi(arguments[i]));
    return tests::decode_greedily(*table, arguments[2], std::atoi(arguments[3]), tokens);
  }
  tests::test_products(*table, *generic);
  tests::test_steps(*table, *generic);
  std::printf("{\"table\": \"%s\", \"checks\": %d, \"failed\": %d}\n", table->name, tests::counts.checks,
              tests::counts.failed);
  return tests::counts.failed != 0;
}
