// Python classes of latent attention. Shapes and bounds are checked here, once.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "binding_types.h"
#include "cache_bindings.h"
#include "common.h"
#include "integers.h"

namespace deepwell {

constexpr int kMaxLatentHeads = 1024;
constexpr int kMaxLatentRank = 4096;

struct PyIndexer {
  PyIndexer(const PyMatrix& q_b, const PyMatrix& k, Vector k_norm, Vector k_shift, Floats weights, int heads, int head_dim, int top_k)
      : keep_q_b(q_b), keep_k(k), keep_k_norm(k_norm), keep_k_shift(k_shift), keep_weights(weights) {
    require(heads > 0 && heads <= kMaxLatentHeads && head_dim > 0 && head_dim <= kMaxHeadDim && top_k > 0 && top_k <= (1 << 24),
            "indexer: num_heads, head_dim or top_k out of range");
    require(q_b.matrix.rows == heads * head_dim && k.matrix.rows == head_dim, "indexer: q_b or k has the wrong shape");
    require(int(k_norm.size()) == head_dim && int(k_shift.size()) == head_dim, "indexer: k_norm or k_shift has the wrong size");
    require(int(weights.shape(0)) == heads && int(weights.shape(1)) == k.matrix.cols, "indexer: weights must be [num_heads, hidden]");
    layer = {q_b.matrix, k.matrix, k_norm.data(), k_shift.data(), weights.data(), heads, head_dim, top_k};
  }
  IndexerLayer layer;
  PyMatrix keep_q_b, keep_k;
  Vector keep_k_norm, keep_k_shift;
  Floats keep_weights;
};

struct PyLatentAttention {
  PyLatentAttention(Vector norm, const PyMatrix& a, std::optional<Vector> q_norm, const PyMatrix* q_b, Vector kv_norm,
                    const PyMatrix& k_up, const PyMatrix& k_absorb, const PyMatrix& v_up, const PyMatrix& o, int heads, int nope, int rope,
                    int value_dim, int rank, float scale, float eps, const PyIndexer* indexer)
      : keep_norm(norm), keep_kv_norm(kv_norm), keep_q_norm(q_norm), keep_a(a), keep_k_up(k_up), keep_k_absorb(k_absorb), keep_v_up(v_up),
        keep_o(o) {
    require(heads > 0 && heads <= kMaxLatentHeads, "latent attention: num_heads must be in 1..1024");
    require(nope > 0 && nope <= kMaxHeadDim && value_dim > 0 && value_dim <= kMaxHeadDim,
            "latent attention: qk_nope_head_dim and v_head_dim must be in 1..256");
    require(rope > 0 && rope % 2 == 0 && rope <= kMaxHeadDim, "latent attention: qk_rope_head_dim must be even and in 2..256");
    require(rank > 0 && rank <= kMaxLatentRank, "latent attention: kv_lora_rank must be in 1..4096");
    require(bool(q_norm) == (q_b != nullptr), "latent attention: q_norm and q_b come together");
    int hidden = a.matrix.cols, queries = heads * (nope + rope), q_rank = 0;
    if (q_b) {
      keep_q_b.emplace(*q_b);
      q_rank = q_b->matrix.cols;
      require(q_b->matrix.rows == queries, "latent attention: q_b rows do not match the heads");
      require(int(q_norm->size()) == q_rank, "latent attention: q_norm has the wrong size");
    }
    require(a.matrix.rows == (q_b ? q_rank : queries) + rank + rope, "latent attention: a rows do not match");
    require(int(norm.size()) == hidden && int(kv_norm.size()) == rank, "latent attention: norm or kv_norm has the wrong size");
    require(k_up.matrix.rows == heads * round_up(nope, kPanel) && k_up.matrix.cols == rank, "latent attention: k_up has the wrong shape");
    require(k_absorb.matrix.rows == heads * round_up(rank, kPanel) && k_absorb.matrix.cols == nope,
            "latent attention: k_absorb has the wrong shape");
    require(v_up.matrix.rows == heads * round_up(value_dim, kPanel) && v_up.matrix.cols == rank, "latent attention: v_up has the wrong shape");
    require(k_up.matrix.scheme == v_up.matrix.scheme, "latent attention: k_up and v_up differ in scheme");
    require(o.matrix.rows == hidden && o.matrix.cols == heads * value_dim, "latent attention: o has the wrong shape");
    layer = {norm.data(), a.matrix, q_b ? q_norm->data() : nullptr, q_b ? q_b->matrix : Matrix{}, kv_norm.data(), k_up.matrix,
             k_absorb.matrix, v_up.matrix, o.matrix, heads, nope, rope, value_dim, rank, q_rank, scale, eps, nullptr};
    if (!indexer) return;
    const IndexerLayer& x = indexer->layer;
    require(q_b && x.q_b.cols == q_rank && x.k.cols == hidden, "latent attention: the indexer does not fit q_b or the hidden size");
    require(x.head_dim >= rope, "latent attention: the indexer's head_dim is smaller than qk_rope_head_dim");
    keep_indexer.emplace(*indexer);
    layer.indexer = &keep_indexer->layer;
  }
  PyLatentAttention(const PyLatentAttention&) = delete;
  LatentLayer layer;
  Vector keep_norm, keep_kv_norm;
  std::optional<Vector> keep_q_norm;
  PyMatrix keep_a, keep_k_up, keep_k_absorb, keep_v_up, keep_o;
  std::optional<PyMatrix> keep_q_b;
  std::optional<PyIndexer> keep_indexer;
};

inline bool same_shape(const LatentLayer& a, const LatentLayer& b) {
  return a.heads == b.heads && a.nope == b.nope && a.rope == b.rope && a.value_dim == b.value_dim && a.rank == b.rank &&
         a.q_rank == b.q_rank && bool(a.indexer) == bool(b.indexer) &&
         (!a.indexer || (a.indexer->heads == b.indexer->heads && a.indexer->head_dim == b.indexer->head_dim &&
                         a.indexer->top_k == b.indexer->top_k)) &&
         a.k_up.scheme == b.k_up.scheme && a.k_absorb.scheme == b.k_absorb.scheme;
}

struct PyLatentCache : PyKVCache {
  PyLatentCache(int layers, int blocks, int rank, int rope, const std::string& dtype, int index_dim) {
    require(layers > 0 && blocks > 0 && rank > 0 && rank <= kMaxLatentRank && rope > 0 && rope <= kMaxHeadDim && index_dim >= 0 &&
                index_dim <= kMaxHeadDim,
            "latent_cache: bad shape");
    KVCache& c = cache;
    c.layers = layers, c.blocks = blocks, c.type = kv_type(dtype, "latent_cache");
    c.latent_rank = rank, c.latent_rope = rope, c.index_dim = index_dim;
    c.block_bytes = active_table->latent_block_bytes(c);
    c.layer_bytes = c.block_bytes * blocks;
    memory.reset(c.layer_bytes * layers);
    c.data = memory.data();
  }
};

inline void bind_latent(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<PyIndexer>(m, "Indexer")
      .def(nb::init<const PyMatrix&, const PyMatrix&, Vector, Vector, Floats, int, int, int>(), "q_b"_a, "k"_a, "k_norm"_a, "k_shift"_a,
           "weights"_a, "num_heads"_a, "head_dim"_a, "top_k"_a);
  nb::class_<PyLatentAttention>(m, "LatentAttention")
      .def(nb::init<Vector, const PyMatrix&, std::optional<Vector>, const PyMatrix*, Vector, const PyMatrix&, const PyMatrix&,
                    const PyMatrix&, const PyMatrix&, int, int, int, int, int, float, float, const PyIndexer*>(),
           "norm"_a, "a"_a, "q_norm"_a.none(), "q_b"_a.none(), "kv_norm"_a, "k_up"_a, "k_absorb"_a, "v_up"_a, "o"_a, "num_heads"_a,
           "qk_nope_head_dim"_a, "qk_rope_head_dim"_a, "v_head_dim"_a, "kv_lora_rank"_a, "scale"_a, "eps"_a,
           "indexer"_a.none());
  nb::class_<PyLatentCache, PyKVCache>(m, "LatentCache")
      .def(nb::init<int, int, int, int, const std::string&, int>(), "num_layers"_a, "num_blocks"_a, "kv_lora_rank"_a,
           "qk_rope_head_dim"_a, "dtype"_a, "index_head_dim"_a = 0);
}

}  // namespace deepwell
