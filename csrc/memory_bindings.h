// The Python class of a sequence's low-rank memory: segments that grow in number up to a limit, then the oldest is written anew.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "binding_types.h"
#include "cache_bindings.h"
#include "common.h"
#include "integers.h"
#include "memory.h"

namespace deepwell {

class PyMemory {
 public:
  PyMemory(const PyKVCache& kv, int tokens, int first, int key_rank, int value_rank, int floor, int most)
      : cache_(kv.cache), most_(most) {
    const KVCache& c = kv.cache;
    require(c.index_dim == 0, "memory: the keys of an indexer are not kept as factors");
    require(tokens > 0 && tokens % kBlockTokens == 0 && first >= 0 && most > 0, "memory: segments must be whole blocks");
    if (c.latent_rank) key_rank = min_of(key_rank, round_up(c.latent_rope, kBlockTokens));
    int dims = round_up(c.latent_rank ? c.latent_rank : c.head_dim, kBlockTokens);
    for (int rank : {key_rank, value_rank})
      require(rank > 0 && rank % kBlockTokens == 0 && rank <= dims,
              "memory: a rank must be a multiple of 16, up to head_dim or kv_lora_rank");
    if (c.latent_rank) key_rank += value_rank;
    memory_ = {nullptr, 0, tokens, first, key_rank, value_rank, floor, 0, 0};
    memory_.head_bytes = active_table->factor_bytes(memory_, c);
    memory_.layer_bytes = memory_.head_bytes * (c.latent_rank ? 1 : c.kv_heads);
  }

  PyMemory(const PyMemory&) = delete;

  // Room for one more segment, and the memory as it is with it.
  uint8_t* extend() {
    if (int(segments_.size()) == most_) {
      std::rotate(segments_.begin(), segments_.begin() + 1, segments_.end());
    } else {
      size_t place = segments_.size() % kChunk;
      if (place == 0) chunks_.push_back(std::make_unique<HugeBuffer>(segment_bytes() * min_of(kChunk, most_ - int(segments_.size()))));
      segments_.push_back(chunks_.back()->data() + place * segment_bytes());
    }
    memory_.segments = segments_.data();
    memory_.count = int(segments_.size());
    return segments_.back();
  }

  void forget() {
    segments_.clear();
    chunks_.clear();
    memory_.segments = nullptr, memory_.count = 0;
  }

  bool fits(const KVCache& c) const {
    return c.layers == cache_.layers && c.kv_heads == cache_.kv_heads && c.head_dim == cache_.head_dim &&
           c.latent_rank == cache_.latent_rank && c.latent_rope == cache_.latent_rope && c.index_dim == cache_.index_dim;
  }
  const Memory& memory() const { return memory_; }
  size_t segment_bytes() const { return memory_.layer_bytes * cache_.layers; }
  size_t bytes() const { return segment_bytes() * segments_.size(); }
  size_t tokens() const { return segments_.size() * size_t(memory_.tokens); }

 private:
  static constexpr int kChunk = 8;  // segments of one mapping, so that most pages are huge ones
  KVCache cache_;  // the shape of its pages
  int most_;
  Memory memory_{};
  std::vector<uint8_t*> segments_;
  std::vector<std::unique_ptr<HugeBuffer>> chunks_;
};

inline void bind_memory(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<PyMemory>(m, "Memory")
      .def(nb::init<const PyKVCache&, int, int, int, int, int, int>(), "cache"_a, "tokens"_a, "first"_a, "key_rank"_a,
           "value_rank"_a, "floor"_a, "most"_a)
      .def("forget", &PyMemory::forget)
      .def_prop_ro("tokens", &PyMemory::tokens)
      .def_prop_ro("nbytes", &PyMemory::bytes);
}

}  // namespace deepwell
