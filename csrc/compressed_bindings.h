// Python classes of DeepSeek-V4: residual streams, attention over compressed entries, its cache. Shapes and bounds are checked here, once.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "binding_types.h"
#include "cache_bindings.h"
#include "common.h"
#include "integers.h"

namespace deepwell {

constexpr int kMaxCompressedHeads = 1024;
constexpr int kMaxVectorDim = 1024;
constexpr int kMaxEntryRate = 1 << 16;

struct PyHyper {
  PyHyper(Floats weights, Vector base, Vector scale, int streams, int rounds, float eps, float norm_eps)
      : keep_weights(weights), keep_base(base), keep_scale(scale) {
    require(streams > 0 && streams <= kMaxStreams && rounds > 0 && rounds <= 1000, "hyper: streams must be in 1..8, rounds in 1..1000");
    int outputs = (2 + streams) * streams;
    require(int(weights.shape(0)) == outputs && int(weights.shape(1)) % streams == 0 && int(base.size()) == outputs && scale.size() == 3,
            "hyper: weights, base or scale has the wrong shape");
    layer = {weights.data(), base.data(), scale.data(), streams, rounds, eps, norm_eps};
  }
  int hidden() const { return int(keep_weights.shape(1)) / layer.streams; }
  HyperLayer layer;
  Floats keep_weights;
  Vector keep_base, keep_scale;
};

struct PyHyperHead {
  PyHyperHead(Floats weights, Vector base, Vector scale, int streams, float eps, float norm_eps)
      : keep_weights(weights), keep_base(base), keep_scale(scale) {
    require(streams > 0 && streams <= kMaxStreams, "hyper head: streams must be in 1..8");
    require(int(weights.shape(0)) == streams && int(weights.shape(1)) % streams == 0 && int(base.size()) == streams && scale.size() == 1,
            "hyper head: weights, base or scale has the wrong shape");
    layer = {weights.data(), base.data(), scale.data(), streams, eps, norm_eps};
  }
  int hidden() const { return int(keep_weights.shape(1)) / layer.streams; }
  HyperHead layer;
  Floats keep_weights;
  Vector keep_base, keep_scale;
};

inline bool entries_fit_blocks(int rate) { return rate > 0 && rate <= kMaxEntryRate && (kBlockTokens % rate == 0 || rate % kBlockTokens == 0); }

struct PyCompressor {
  PyCompressor(Floats bias, Vector norm, int rate, bool overlap) : keep_bias(bias), keep_norm(norm) {
    int width = int(norm.size());
    require(entries_fit_blocks(rate), "compressor: rate must divide 16, or be a multiple of it");
    require(width > 0 && width <= kMaxVectorDim, "compressor: width must be in 1..1024");
    require(int(bias.shape(0)) == rate && int(bias.shape(1)) == width * (overlap ? 2 : 1), "compressor: bias has the wrong shape");
    compressor = {{rate, width, overlap, 0, 0}, bias.data(), norm.data()};
  }
  int rows() const { return 2 * compressor.page.width * (compressor.page.overlap ? 2 : 1); }
  Compressor compressor;
  Floats keep_bias;
  Vector keep_norm;
};

struct PyCompressedAttention {
  PyCompressedAttention(Vector norm, const PyMatrix& a, Vector q_norm, const PyMatrix& q_b, Vector kv_norm, const PyMatrix& o_a,
                        const PyMatrix& o_b, Vector sinks, Floats cos, Floats sin, const PyHyper& hyper, int heads, int head_dim, int o_groups,
                        int window, float eps, const PyCompressor* entries, const PyCompressor* index, const PyMatrix* index_q,
                        std::optional<Floats> index_weights, int top_k)
      : keep_norm(norm), keep_q_norm(q_norm), keep_kv_norm(kv_norm), keep_sinks(sinks), keep_cos(cos), keep_sin(sin), keep_a(a), keep_q_b(q_b),
        keep_o_a(o_a), keep_o_b(o_b), keep_hyper(hyper) {
    require(heads > 0 && heads <= kMaxCompressedHeads && o_groups > 0 && heads % o_groups == 0,
            "compressed attention: num_heads must be in 1..1024 and a multiple of o_groups");
    require(head_dim > 0 && head_dim <= kMaxVectorDim && window > 0 && window <= (1 << 24), "compressed attention: head_dim or window out of range");
    int hidden = a.matrix.cols, rank = q_b.matrix.cols, rope = 2 * int(cos.shape(1)), rows = rank + head_dim;
    require(rope > 0 && rope <= head_dim && sin.shape(0) == cos.shape(0) && sin.shape(1) == cos.shape(1),
            "compressed attention: cos and sin must be [max_positions, rope / 2]");
    require(int(norm.size()) == hidden && int(q_norm.size()) == rank && int(kv_norm.size()) == head_dim && int(sinks.size()) == heads,
            "compressed attention: a norm or the sinks have the wrong size");
    require(hyper.hidden() == hidden, "compressed attention: the streams have another hidden size");
    require(q_b.matrix.rows == heads * head_dim, "compressed attention: q_b rows do not match the heads");
    require(o_a.matrix.cols == heads / o_groups * head_dim && o_b.matrix.cols % o_groups == 0 && o_b.matrix.rows == hidden &&
                o_a.matrix.rows == o_groups * round_up(o_b.matrix.cols / o_groups, kPanel),
            "compressed attention: o_a or o_b has the wrong shape");
    require(!index || entries, "compressed attention: an indexer needs entries");
    require(!entries || entries->compressor.page.width == head_dim, "compressed attention: entries are not as wide as vectors");
    require(!index || index->compressor.page.overlap == entries->compressor.page.overlap,
            "compressed attention: entries of the indexer overlap otherwise");
    require(bool(index) == bool(index_q) && bool(index) == bool(index_weights), "compressed attention: the indexer's parts come together");
    layer = {};
    if (entries) layer.has_entries = true, layer.entries = entries->compressor, rows += entries->rows(), keep_entries.emplace(*entries);
    if (index) {
      int width = index->compressor.page.width, count = int(index_weights->shape(0));
      require(index->compressor.page.rate == entries->compressor.page.rate, "compressed attention: the indexer has another rate");
      require(width >= rope && width <= kMaxHeadDim && count > 0 && count <= kMaxCompressedHeads && top_k > 0 && top_k <= (1 << 24), "compressed attention: indexer out of range");
      require(index_q->matrix.rows == count * width && index_q->matrix.cols == rank && index_q->matrix.scheme == q_b.matrix.scheme,
              "compressed attention: index_q has the wrong shape");
      require(int(index_weights->shape(1)) == hidden, "compressed attention: index_weights must be [heads, hidden]");
      layer.has_index = true, layer.index = index->compressor, rows += index->rows();
      keep_index.emplace(*index), keep_index_q.emplace(*index_q), keep_index_weights = index_weights;
      layer.index_q = index_q->matrix, layer.index_weights = index_weights->data(), layer.index_heads = count, layer.top_k = top_k;
    }
    require(a.matrix.rows == rows, "compressed attention: a rows do not match");
    layer.norm = norm.data(), layer.a = a.matrix, layer.q_norm = q_norm.data(), layer.q_b = q_b.matrix, layer.kv_norm = kv_norm.data();
    layer.o_a = o_a.matrix, layer.o_b = o_b.matrix, layer.sinks = sinks.data(), layer.cos = cos.data(), layer.sin = sin.data();
    layer.hyper = hyper.layer, layer.heads = heads, layer.head_dim = head_dim, layer.rope = rope, layer.q_rank = rank;
    layer.o_groups = o_groups, layer.window = window, layer.eps = eps;
  }
  PyCompressedAttention(const PyCompressedAttention&) = delete;
  int max_positions() const { return int(keep_cos.shape(0)); }
  // Tokens before a row that it reads one by one: its window, and those that its entry and the one before are made of.
  int horizon() const {
    int entry = layer.has_entries ? layer.entries.page.rate * (layer.entries.page.overlap ? 2 : 1) : 0;
    return max_of(layer.window, entry) - 1;
  }
  CompressedLayer layer;
  Vector keep_norm, keep_q_norm, keep_kv_norm, keep_sinks;
  Floats keep_cos, keep_sin;
  PyMatrix keep_a, keep_q_b, keep_o_a, keep_o_b;
  PyHyper keep_hyper;
  std::optional<PyCompressor> keep_entries, keep_index;
  std::optional<PyMatrix> keep_index_q;
  std::optional<Floats> keep_index_weights;
};

// Whether the pages of a cache are those of a layer.
inline bool fits_page(const CompressedLayer& a, const CompressedPage& p) {
  auto same = [](const CompressorPage& x, const CompressorPage& y) { return x.rate == y.rate && x.width == y.width && x.overlap == y.overlap; };
  return p.head_dim == a.head_dim && p.count == int(a.has_entries) + int(a.has_index) && (!a.has_entries || same(p.made[0], a.entries.page)) &&
         (!a.has_index || same(p.made[1], a.index.page));
}

struct PyCompressedCache : PyKVCache {
  using Made = std::tuple<int, int, bool>;  // rate, width, overlap
  // `shapes`: of each layer the width of its vectors, and what it makes entries of. `slots`: of each block, read anew in every step.
  PyCompressedCache(const std::vector<std::tuple<int, std::vector<Made>>>& shapes, int blocks, const std::string& dtype, Ints slots, int num_slots)
      : keep_slots(slots) {
    KVCache& c = cache;
    c.layers = int(shapes.size()), c.blocks = blocks, c.type = kv_type(dtype, "compressed_cache");
    c.slots = slots.data(), c.num_slots = num_slots;
    require(c.layers > 0 && blocks > 0 && num_slots > 0 && int(slots.size()) == blocks, "compressed_cache: bad shape");
    require(c.type != kKvInt8, "compressed_cache: dtype must be fp32 or bf16");
    size_t element = c.type == kKvFp32 ? 4 : 2, at = 0;
    for (const auto& [head_dim, made] : shapes) {
      require(head_dim > 0 && head_dim <= kMaxVectorDim && made.size() <= 2, "compressed_cache: bad shape");
      CompressedPage page = {head_dim, int(made.size()), {}, at, 0, 0, 0};
      size_t bytes = 0, recent = round_up(size_t{kBlockTokens} * round_up(head_dim, 16) * element, 64);
      for (size_t i = 0; i < made.size(); i++) {
        auto [rate, width, overlap] = made[i];
        require(entries_fit_blocks(rate) && width > 0 && width <= kMaxVectorDim, "compressed_cache: bad shape");
        size_t wide = round_up(width, 16);
        page.made[i] = {rate, width, overlap, bytes, 0};
        bytes += round_up(size_t(max_of(1, kBlockTokens / rate)) * wide * element, 64);
        page.made[i].parts_at = recent;
        recent += size_t{kBlockTokens} * 2 * wide * (overlap ? 2 : 1) * sizeof(float);
      }
      page.block_bytes = round_up(bytes, 64), page.recent_bytes = round_up(recent, 64);
      page.recent_at = at + page.block_bytes * blocks;
      at = page.recent_at + page.recent_bytes * num_slots;
      pages.push_back(page);
    }
    memory.reset(at);
    c.data = memory.data();
    c.pages = pages.data();
  }
  std::vector<CompressedPage> pages;
  Ints keep_slots;
};

inline void bind_compressed(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<PyHyper>(m, "Hyper").def(nb::init<Floats, Vector, Vector, int, int, float, float>(), "weights"_a, "base"_a, "scale"_a,
                                      "streams"_a, "rounds"_a, "eps"_a, "norm_eps"_a);
  nb::class_<PyHyperHead>(m, "HyperHead").def(nb::init<Floats, Vector, Vector, int, float, float>(), "weights"_a, "base"_a, "scale"_a,
                                              "streams"_a, "eps"_a, "norm_eps"_a);
  nb::class_<PyCompressor>(m, "Compressor").def(nb::init<Floats, Vector, int, bool>(), "bias"_a, "norm"_a, "rate"_a, "overlap"_a);
  nb::class_<PyCompressedAttention>(m, "CompressedAttention")
      .def(nb::init<Vector, const PyMatrix&, Vector, const PyMatrix&, Vector, const PyMatrix&, const PyMatrix&, Vector, Floats, Floats,
                    const PyHyper&, int, int, int, int, float, const PyCompressor*, const PyCompressor*, const PyMatrix*, std::optional<Floats>,
                    int>(),
           "norm"_a, "a"_a, "q_norm"_a, "q_b"_a, "kv_norm"_a, "o_a"_a, "o_b"_a, "sinks"_a, "cos"_a, "sin"_a, "hyper"_a, "num_heads"_a,
           "head_dim"_a, "o_groups"_a, "window"_a, "eps"_a, "entries"_a.none(), "index"_a.none(), "index_q"_a.none(), "index_weights"_a.none(),
           "top_k"_a);
  nb::class_<PyCompressedCache, PyKVCache>(m, "CompressedCache")
      .def(nb::init<const std::vector<std::tuple<int, std::vector<PyCompressedCache::Made>>>&, int, const std::string&, Ints, int>(), "shapes"_a,
           "num_blocks"_a, "dtype"_a, "slots"_a, "num_slots"_a);
}

}  // namespace deepwell
