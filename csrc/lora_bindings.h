// The Python class of an adapter.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "binding_types.h"
#include "common.h"
#include "integers.h"
#include "memory.h"

namespace deepwell {

// One adapter, packed for the matrices of one model. Checked here: the kernels trust offsets and shapes.
struct PyAdapter {
  // A matrix that adapters may change; a stacked one counts as many as it has experts.
  struct Target {
    const Matrix* matrix;
    int experts;
  };

  PyAdapter(const void* model, nb::list parts, const std::vector<Target>& of, const std::string& dtype) : model(model) {
    require(dtype == "bf16" || dtype == "fp32", "adapter: dtype must be bf16 or fp32");
    require(nb::len(parts) == of.size(), "adapter: one part a matrix is needed");
    int bf16 = dtype == "bf16";
    adapter.most_ranks = 2;
    size_t bytes = 0;
    std::vector<nb::object> each;
    for (size_t i = 0; i < of.size(); i++) {
      const Matrix& w = *of[i].matrix;
      nb::object given = nb::borrow(parts[i]);
      if (of[i].experts == 1) {
        bytes += add(given, w.cols, w.panels, bf16);
        each.push_back(given);
        continue;
      }
      require(given.is_none() || int(nb::len(given)) == of[i].experts, "adapter: one part an expert is needed");
      for (int e = 0; e < of[i].experts; e++) {
        nb::object part = given.is_none() ? nb::none() : nb::borrow(given[e]);
        bytes += add(part, w.cols, w.panels / of[i].experts, bf16);
        each.push_back(part);
      }
    }
    // Everything of an adapter lies together on huge pages, in the order in which a step reads it.
    memory.reset(bytes);
    uint8_t* to = memory.data();
    auto place = [&](const auto& array) {
      auto* at = to;
      std::memcpy(at, array.data(), array.nbytes());
      to += round_up(array.nbytes(), 64);
      return at;
    };
    for (size_t i = 0; i < each.size(); i++) {
      if (!matrices[i].ranks) continue;
      auto [a, b, runs] = nb::cast<Part>(each[i]);
      matrices[i].a = place(a);
      matrices[i].b = place(b);
      matrices[i].runs = reinterpret_cast<const LoraRun*>(place(runs));
    }
    adapter.matrices = matrices.data();
  }
  using Part = std::tuple<Bytes, Bytes, Array<const int32_t, nb::shape<-1, 3>>>;
  PyAdapter(const PyAdapter&) = delete;
  const void* model;
  HugeBuffer memory;
  std::vector<LoraMatrix> matrices;
  Adapter adapter;

 private:
  // Check and note what is added to one matrix, or to one expert's part of it; the bytes it will take.
  size_t add(nb::handle part, int cols, int panels, int bf16) {
    if (part.is_none()) {
      matrices.push_back({});
      return 0;
    }
    size_t pair = bf16 ? 4 : 8;
    auto [a, b, runs] = nb::cast<Part>(part);
    int padded = round_up(cols, 16);
    LoraMatrix m = {a.data(), b.data(), reinterpret_cast<const LoraRun*>(runs.data()), 0, cols, padded, bf16};
    require(a.size() > 0 && a.size() % (pair * padded) == 0 && a.size() < (size_t{1} << 40), "adapter: A has a wrong size");
    m.ranks = 2 * int(a.size() / (pair * padded));
    require(int(runs.shape(0)) == panels * kPanel / 16, "adapter: a run for each 16 rows is needed");
    for (size_t r = 0; r < runs.shape(0); r++) {
      const LoraRun& run = m.runs[r];
      require(run.first_rank >= 0 && run.ranks >= 0 && run.first_rank % 2 == 0 && run.ranks % 2 == 0 &&
                  run.first_rank <= m.ranks - run.ranks && run.pair_offset >= 0 &&
                  (size_t(run.pair_offset) + run.ranks / 2) * 16 * pair <= b.size(),
              "adapter: a run lies outside of its data");
    }
    adapter.most_ranks = max_of(adapter.most_ranks, m.ranks);
    matrices.push_back(m);
    return round_up(a.size(), 64) + round_up(b.size(), 64) + round_up(runs.nbytes(), 64);
  }
};

}  // namespace deepwell
