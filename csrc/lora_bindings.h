// The Python class of an adapter, and the names by which it says what it changes.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "binding_types.h"
#include "common.h"
#include "integers.h"
#include "memory.h"

namespace deepwell {

// A matrix that adapters may change; a stacked one has a place for each of its experts.
struct LoraTarget {
  std::string name;  // "3.qkv": qkv of block 3
  const Matrix* matrix;
  int experts;
};

// The matrices of a model that adapters may change, in the order of their places. A block is an attention layer and what follows it
// up to the next; where two layers of a block have a name in common, no adapter may use it.
class LoraTargets {
 public:
  // The places of a layer's matrices: they follow those of the layers before it, in the order in which a step reads them.
  LoraPlaces bind(const Layer& layer, int block) {
    auto place = [&](const char* name, const Matrix& matrix, int experts = 1) {
      all_.push_back({std::to_string(block) + "." + name, &matrix, experts});
      places_ += experts;
      return places_ - experts;
    };
    LoraPlaces p{};
    if (const AttentionLayer* a = layer.attention) p.qkv = place("qkv", a->qkv), p.o = place("o", a->o);
    if (const MlpLayer* m = layer.mlp) p.gate_up = place("gate_up", m->gate_up), p.down = place("down", m->down);
    if (const LatentLayer* a = layer.latent) {
      p.a = place("a", a->a);
      if (a->q_rank) p.q_b = place("q_b", a->q_b);
      p.o = place("o", a->o);
    }
    if (const CompressedLayer* a = layer.compressed) p.a = place("a", a->a), p.q_b = place("q_b", a->q_b), p.o = place("o_b", a->o_b);
    if (const MoeLayer* e = layer.moe) {
      p.experts_gate_up = place("experts_gate_up", e->gate_up, e->experts);
      p.experts_down = place("experts_down", e->down, e->experts);
      if (e->shared) {
        p.shared_gate_up = place("shared_gate_up", e->shared_gate_up);
        p.shared_down = place("shared_down", e->shared_down);
      }
    }
    return p;
  }

  const std::vector<LoraTarget>& all() const { return all_; }

 private:
  std::vector<LoraTarget> all_;
  int places_ = 0;
};

// One adapter, packed for the matrices of one model. Checked here: the kernels trust offsets and shapes.
struct PyAdapter {
  // `parts`: by name what is added to a matrix; to a stacked one a list with an entry, maybe None, for each expert.
  PyAdapter(const void* model, nb::dict parts, const LoraTargets& targets, const std::string& dtype) : model(model) {
    require(dtype == "int8" || dtype == "bf16" || dtype == "fp32", "adapter: dtype must be int8, bf16 or fp32");
    dtype_ = dtype == "int8" ? kLoraInt8 : dtype == "bf16" ? kLoraBf16 : kLoraFp32;
    adapter.most_ranks = 2;
    size_t bytes = 0;
    std::set<std::string> found;
    std::vector<nb::object> each;
    for (const LoraTarget& target : targets.all()) {
      const Matrix& w = *target.matrix;
      bool named = parts.contains(target.name.c_str());
      nb::object given = named ? nb::borrow(parts[target.name.c_str()]) : nb::none();
      if (named) require(found.insert(target.name).second, "adapter: two layers of a block have a matrix of that name");
      if (target.experts == 1) {
        bytes += add(given, w.cols, w.panels);
        each.push_back(given);
        continue;
      }
      require(given.is_none() || int(nb::len(given)) == target.experts, "adapter: one part an expert is needed");
      for (int e = 0; e < target.experts; e++) {
        nb::object part = given.is_none() ? nb::none() : nb::borrow(given[e]);
        bytes += add(part, w.cols, w.panels / target.experts);
        each.push_back(part);
      }
    }
    require(found.size() == nb::len(parts), "adapter: it names a matrix that the model does not have");
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
  LoraDtype dtype_;
  // Check and note what is added to one matrix, or to one expert's part of it; the bytes it will take.
  size_t add(nb::handle part, int cols, int panels) {
    if (part.is_none()) {
      matrices.push_back({});
      return 0;
    }
    auto [a, b, runs] = nb::cast<Part>(part);
    int padded = round_up(cols, 16);
    LoraMatrix m = {a.data(), b.data(), reinterpret_cast<const LoraRun*>(runs.data()), 0, cols, padded, dtype_};
    const bool bytes = dtype_ == kLoraInt8;
    const int step = bytes ? 16 : 2;  // ranks that lie together in A
    const size_t lanes = dtype_ == kLoraBf16 ? 64 : 128;  // bytes of 16 columns, or outputs, of two ranks
    const size_t of_step = bytes ? ceil_div(cols, kLoraGroup) * (16 * sizeof(float) + 16 * kLoraGroup) : padded / 16 * lanes;
    require(a.size() > 0 && a.size() % of_step == 0 && a.size() < (size_t{1} << 40), "adapter: A has a wrong size");
    m.ranks = step * int(a.size() / of_step);
    require(!bytes || m.ranks <= kMaxLoraRanks, "adapter: too many ranks");
    require(int(runs.shape(0)) == panels * kPanel / 16, "adapter: a run for each 16 rows is needed");
    const size_t scales = bytes ? round_up(runs.shape(0) * 32, 64) : 0;
    require(b.size() >= scales, "adapter: B has a wrong size");
    for (size_t r = 0; r < runs.shape(0); r++) {
      const LoraRun& run = m.runs[r];
      const int unit = bytes ? 4 : 2;
      const size_t need = bytes ? size_t(run.ranks) * 16 : size_t(run.ranks) / 2 * lanes;
      require(run.first_rank >= 0 && run.ranks >= 0 && run.first_rank % unit == 0 && run.ranks % unit == 0 &&
                  run.first_rank <= m.ranks - run.ranks && run.offset >= 0 && run.offset % 64 == 0 &&
                  (run.ranks == 0 || size_t(run.offset) >= scales) && size_t(run.offset) + need <= b.size(),
              "adapter: a run lies outside of its data");
    }
    adapter.most_ranks = max_of(adapter.most_ranks, m.ranks);
    matrices.push_back(m);
    return round_up(a.size(), 64) + round_up(b.size(), 64) + round_up(runs.nbytes(), 64);
  }
};

}  // namespace deepwell
