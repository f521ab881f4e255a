// Python classes around the kernel tables. Shapes, types and bounds are checked here, once; kernels trust their arguments.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding_types.h"
#include "cache_bindings.h"
#include "common.h"
#include "compressed_bindings.h"
#include "dispatch.h"
#include "encoder_bindings.h"
#include "integers.h"
#include "latent_bindings.h"
#include "lora_bindings.h"
#include "memory.h"
#include "memory_bindings.h"
#include "moe_bindings.h"
#include "pool.h"
#include "profile.h"
#include "text_bindings.h"

namespace nb = nanobind;
using namespace deepwell;

const KernelTable* deepwell::active_table = [] {
  const KernelTable* tables[kMaxTables];
  available_tables(tables);
  return tables[0];
}();

namespace {

struct PyAttention {
  PyAttention(Vector norm, const PyMatrix& qkv, std::optional<Vector> bias, const PyMatrix& o, int heads, int kv_heads,
              int head_dim, float eps, std::optional<Vector> q_norm, std::optional<Vector> k_norm)
      : keep_norm(norm), keep_bias(bias), keep_q_norm(q_norm), keep_k_norm(k_norm), keep_qkv(qkv), keep_o(o) {
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "attention: num_heads must be a multiple of num_kv_heads");
    require(heads / kv_heads <= kMaxGroup, "attention: at most 96 query heads a KV head");
    require(head_dim > 0 && head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "attention: head_dim must be even and <= 256");
    require(qkv.matrix.rows == (heads + 2 * kv_heads) * head_dim, "attention: qkv rows do not match the heads");
    require(o.matrix.cols == heads * head_dim && o.matrix.rows == qkv.matrix.cols, "attention: o has the wrong shape");
    require(int(norm.size()) == qkv.matrix.cols, "attention: norm has the wrong size");
    require(!bias || int(bias->size()) == qkv.matrix.rows, "attention: bias has the wrong size");
    require(bool(q_norm) == bool(k_norm), "attention: q_norm and k_norm come together");
    require(!q_norm || (int(q_norm->size()) == head_dim && int(k_norm->size()) == head_dim),
            "attention: q_norm or k_norm has the wrong size");
    layer = {norm.data(), qkv.matrix, bias ? bias->data() : nullptr, o.matrix, heads, kv_heads, head_dim, eps,
             q_norm ? q_norm->data() : nullptr, k_norm ? k_norm->data() : nullptr};
  }
  AttentionLayer layer;
  Vector keep_norm;
  std::optional<Vector> keep_bias, keep_q_norm, keep_k_norm;
  PyMatrix keep_qkv, keep_o;
};

struct PyMlp {
  PyMlp(Vector norm, const PyMatrix& gate_up, const PyMatrix& down, float eps)
      : keep_norm(norm), keep_gate_up(gate_up), keep_down(down) {
    require(gate_up.matrix.rows % kPanel == 0, "mlp: gate_up rows must be a multiple of 32");
    require(down.matrix.cols <= gate_up.matrix.rows / 2, "mlp: down is wider than gate and up");
    require(down.matrix.rows == gate_up.matrix.cols && int(norm.size()) == gate_up.matrix.cols, "mlp: shapes differ");
    layer = {norm.data(), gate_up.matrix, down.matrix, eps};
  }
  MlpLayer layer;
  Vector keep_norm;
  PyMatrix keep_gate_up, keep_down;
};

// Of a multi-token prediction layer: what its rows begin as.
struct PyJoin {
  PyJoin(Vector embed_norm, Vector state_norm, const PyMatrix& proj, const PyMatrix* state_proj)
      : keep_embed_norm(embed_norm), keep_state_norm(state_norm), keep_proj(proj) {
    const Matrix& w = proj.matrix;
    require(embed_norm.size() == state_norm.size() && int(embed_norm.size()) == w.rows, "join: a norm has the wrong size");
    require(state_proj ? w.cols == w.rows : w.cols == 2 * w.rows, "join: proj must be [hidden, 2 hidden], or [hidden, hidden] beside state_proj");
    layer = {embed_norm.data(), state_norm.data(), w, {}};
    if (!state_proj) return;
    const Matrix& other = state_proj->matrix;
    require(other.rows == w.rows && other.cols == w.cols && other.scheme == w.scheme, "join: state_proj must be as proj is");
    keep_state_proj.emplace(*state_proj), layer.state_proj = other;
  }
  PyJoin(const PyJoin&) = delete;
  JoinLayer layer;
  Vector keep_embed_norm, keep_state_norm;
  PyMatrix keep_proj;
  std::optional<PyMatrix> keep_state_proj;
};

class PyModel {
 public:
  PyModel(const PyMatrix& embed, nb::list layers, Vector norm, const PyMatrix& head, Floats cos, Floats sin, float eps,
          nb::object join, nb::object streams)
      : keep_layers_(layers), keep_norm_(norm), keep_cos_(cos), keep_sin_(sin), embed_(embed), head_(head) {
    int hidden = embed.matrix.cols;
    int head_dim = 0;
    for (nb::handle h : layers) {
      if (nb::isinstance<PyAttention>(h)) {
        const AttentionLayer& a = nb::cast<const PyAttention&>(h).layer;
        require(a.qkv.cols == hidden, "model: an attention layer has another hidden size");
        require(head_dim == 0 || head_dim == a.head_dim, "model: head_dim differs between layers");
        head_dim = a.head_dim;
        layers_.push_back({.attention = &a});
        attention_layers_++;
        kv_heads_ = a.kv_heads;
      } else if (nb::isinstance<PyLatentAttention>(h)) {
        const LatentLayer& a = nb::cast<const PyLatentAttention&>(h).layer;
        require(a.a.cols == hidden, "model: a latent attention layer has another hidden size");
        require(!latent_ || same_shape(*latent_, a), "model: latent attention layers differ in shape");
        latent_ = &a;
        layers_.push_back({.latent = &a});
        attention_layers_++;
      } else if (nb::isinstance<PyCompressedAttention>(h)) {
        const PyCompressedAttention& one = nb::cast<const PyCompressedAttention&>(h);
        require(one.layer.a.cols == hidden, "model: a compressed attention layer has another hidden size");
        require(one.max_positions() == int(cos.shape(0)), "model: cos and sin of a layer have other positions");
        compressed_.push_back(&one.layer);
        horizon_ = max_of(horizon_, one.horizon());
        layers_.push_back({.compressed = &one.layer});
        attention_layers_++;
      } else if (nb::isinstance<PyMlp>(h)) {
        const MlpLayer& p = nb::cast<const PyMlp&>(h).layer;
        require(p.gate_up.cols == hidden, "model: an MLP layer has another hidden size");
        layers_.push_back({.mlp = &p});
      } else if (nb::isinstance<PyMoe>(h)) {
        const MoeLayer& e = nb::cast<const PyMoe&>(h).layer;
        require(e.gate_up.cols == hidden, "model: a mixture has another hidden size");
        require(bool(e.hyper) != streams.is_none(), "model: a mixture has other residual streams");
        require(!e.token_experts || nb::cast<const PyMoe&>(h).vocab() == embed.matrix.rows,
                "model: a mixture has experts for another vocabulary");
        layers_.push_back({.moe = &e});
        moe_layers_.push_back(&nb::cast<const PyMoe&>(h));
      } else {
        fail("model: layers must be Attention, LatentAttention, CompressedAttention, Mlp or Moe");
      }
      layers_.back().lora = targets_.bind(layers_.back(), max_of(attention_layers_ - 1, 0));
    }
    require(attention_layers_ > 0, "model: no attention layer");
    require(!latent_ || head_dim == 0, "model: attention and latent attention do not mix");
    require(compressed_.empty() || int(compressed_.size()) == attention_layers_, "model: compressed attention does not mix with others");
    require(compressed_.empty() == streams.is_none(), "model: compressed attention and residual streams come together");
    int rotary_dim = latent_ ? latent_->rope : compressed_.empty() ? head_dim : compressed_[0]->rope;
    require(head.matrix.cols == hidden && int(norm.size()) == hidden, "model: head or norm has another hidden size");
    require(head.matrix.rows == embed.matrix.rows, "model: head and embedding differ in vocabulary");
    require(int(cos.shape(1)) == rotary_dim / 2 && int(sin.shape(1)) == rotary_dim / 2 && cos.shape(0) == sin.shape(0),
            "model: cos and sin must be [max_positions, rotary_dim / 2]");
    model_ = {embed.matrix, head.matrix,  layers_.data(), int(layers_.size()),   norm.data(),
              cos.data(),   sin.data(),   hidden,         embed.matrix.rows,     int(cos.shape(0)), eps, nullptr, nullptr};
    if (!streams.is_none()) {
      keep_layers_.append(streams);
      const PyHyperHead& head_of = nb::cast<const PyHyperHead&>(streams);
      require(head_of.hidden() == hidden, "model: the residual streams have another hidden size");
      for (const Layer& layer : layers_) {
        require(!layer.mlp, "model: a dense MLP knows one residual stream");
        const HyperLayer& hyper = layer.compressed ? layer.compressed->hyper : *layer.moe->hyper;
        require(hyper.streams == head_of.layer.streams, "model: layers differ in residual streams");
      }
      model_.streams = &head_of.layer;
    }
    if (!join.is_none()) {
      keep_layers_.append(join);
      const PyJoin& joined = nb::cast<const PyJoin&>(join);
      model_.join = &joined.layer;
      require(model_.join->proj.rows == hidden, "model: the join has another hidden size");
      require(joined.keep_state_proj.has_value() != streams.is_none(), "model: the join has other residual streams");
    }
    head_dim_ = head_dim;
  }

  int vocab() const { return model_.vocab; }
  int hidden() const { return model_.hidden; }
  int state() const { return model_.hidden * (model_.streams ? model_.streams->streams : 1); }

  PyAdapter* adapter(nb::dict parts, const std::string& dtype) const { return new PyAdapter(&model_, parts, targets_, dtype); }

  // (rows padded to whole panels, cols, scheme, experts that it stacks or 1) of the matrices that adapters may change, by name
  nb::dict lora_targets() const {
    nb::dict shapes;
    for (const LoraTarget& target : targets_.all()) {
      const Matrix& w = *target.matrix;
      const char* scheme = w.scheme == kInt8 ? "int8" : w.scheme == kInt4 ? "int4" : "fp32";
      shapes[target.name.c_str()] = nb::make_tuple(w.panels * kPanel, w.cols, scheme, target.experts);
    }
    return shapes;
  }

  void forward(Ints tokens, Ints positions, Ints seq_starts, Array<const int32_t, nb::ndim<2>> block_tables,
               Ints output_rows, const PyKVCache& kv, std::optional<Array<float, nb::ndim<2>>> logits,
               std::optional<Array<int32_t, nb::ndim<1>>> argmax, std::optional<Array<float, nb::ndim<2>>> hidden,
               std::optional<Ints> targets, std::optional<Array<float, nb::ndim<1>>> target_logprobs,
               std::optional<nb::sequence> adapters, std::optional<Ints> prompt_lengths, std::optional<Floats> previous,
               std::optional<Array<float, nb::ndim<2>>> states, std::optional<nb::sequence> memories,
               std::optional<Array<float, nb::ndim<2>>> output_states) {
    Batch b = {tokens.data(),      positions.data(),        seq_starts.data(),           block_tables.data(),
               output_rows.data(), int(tokens.size()),      int(seq_starts.size()) - 1,  int(block_tables.shape(1)),
               int(output_rows.size()), nullptr,                  nullptr,                     0,
               prompt_lengths ? prompt_lengths->data() : nullptr, previous ? previous->data() : nullptr, nullptr};
    require(bool(previous) == bool(model_.join), "forward: a model that joins states needs those of every row, others take none");
    require(!previous || (int(previous->shape(0)) == b.rows && int(previous->shape(1)) == state()), "forward: previous shape");
    require(!states || (int(states->shape(0)) == b.rows && int(states->shape(1)) == state()), "forward: states shape");
    require(!output_states || (int(output_states->shape(0)) == b.outputs && int(output_states->shape(1)) == state()),
            "forward: output_states shape");
    require(!prompt_lengths || int(prompt_lengths->size()) == b.seqs, "forward: one prompt length a sequence is needed");
    check(b, int(positions.size()), int(block_tables.shape(0)), kv.cache);
    size_t n = b.outputs;
    require(!logits || (logits->shape(0) == n && int(logits->shape(1)) == model_.vocab), "forward: logits shape");
    require(!argmax || argmax->size() == n, "forward: argmax shape");
    require(!hidden || (hidden->shape(0) == n && int(hidden->shape(1)) == model_.hidden), "forward: hidden shape");
    require(bool(targets) == bool(target_logprobs), "forward: targets and target_logprobs come together");
    require(!targets || (targets->size() == n && target_logprobs->size() == n), "forward: targets shape");
    if (targets)
      for (size_t i = 0; i < n; i++)
        require(targets->data()[i] >= 0 && targets->data()[i] < model_.vocab, "forward: target outside the vocabulary");
    Outputs out = {logits ? logits->data() : nullptr, argmax ? argmax->data() : nullptr,
                   hidden ? hidden->data() : nullptr, targets ? targets->data() : nullptr,
                   target_logprobs ? target_logprobs->data() : nullptr, states ? states->data() : nullptr,
                   output_states ? output_states->data() : nullptr};
    if (adapters) apply(*adapters, &b);
    if (memories) recall(*memories, kv.cache, &b);
    nb::gil_scoped_release released;
    const KernelTable* table = active_table;
    Workspace workspace = workspace_.reserve(table->workspace_bytes(model_, b, kv.cache, out, pool_threads()));
    struct Job {
      const KernelTable* table;
      const Model& model;
      const Batch& batch;
      const KVCache& cache;
      const Outputs& out;
      Workspace workspace;
    } job = {table, model_, b, kv.cache, out, workspace};
    pool_run(
        [](void* argument, Team* team, int tid) {
          const Job& j = *static_cast<Job*>(argument);
          j.table->forward(j.model, j.batch, j.cache, j.out, j.workspace, team, tid);
        },
        &job);
  }

  void shift_blocks(const PyKVCache& kv, Ints sources, Ints targets, int positions) const {
    const KVCache& cache = kv.cache;
    require(fits(cache), "shift_blocks: the cache belongs to another model");
    require(!cache.pages, "shift_blocks: entries cannot be turned back");
    require(sources.size() == targets.size(), "shift_blocks: sources and targets differ in length");
    require(positions > 0 && positions < model_.max_positions, "shift_blocks: positions beyond the rope table");
    for (size_t i = 0; i < sources.size(); i++)
      for (int block : {sources.data()[i], targets.data()[i]})
        require(block >= 0 && block < cache.blocks, "shift_blocks: block outside the cache");
    int half = (latent_ ? latent_->rope : head_dim_) / 2;
    std::vector<float> cos(half), sin(half);
    for (int i = 0; i < half; i++) {
      // Yarn's attention factor is in both tables, and in every key already; the cosine of position 0 is the factor alone.
      cos[i] = model_.cos[size_t(positions) * half + i] / model_.cos[i];
      sin[i] = -model_.sin[size_t(positions) * half + i] / model_.cos[i];
    }
    nb::gil_scoped_release released;
    struct Job {
      const KernelTable* table;
      const KVCache& cache;
      BlockShift shift;
    } job = {active_table, cache, {sources.data(), targets.data(), int(sources.size()), cos.data(), sin.data()}};
    pool_run(
        [](void* argument, Team* team, int tid) {
          const Job& j = *static_cast<Job*>(argument);
          j.table->shift_blocks(j.cache, j.shift, team, tid);
        },
        &job);
  }

  // The next segment of a memory, from blocks whose first token stands at the memory's first place.
  void remember_blocks(const PyKVCache& kv, PyMemory& memory, Ints blocks) {
    require(fits(kv.cache) && memory.fits(kv.cache), "remember_blocks: the cache or the memory belongs to another model");
    require(!kv.cache.pages, "remember_blocks: entries are not kept as factors");
    Memory m = memory.memory();
    require(int(blocks.size()) * kBlockTokens == m.tokens, "remember_blocks: a segment has another number of blocks");
    require(m.first + m.tokens <= model_.max_positions && -m.floor < model_.max_positions && m.floor < model_.max_positions,
            "remember_blocks: places beyond the rope table");
    for (size_t i = 0; i < blocks.size(); i++)
      require(blocks.data()[i] >= 0 && blocks.data()[i] < kv.cache.blocks, "remember_blocks: block outside the cache");
    uint8_t* segment = memory.extend();
    nb::gil_scoped_release released;
    const KernelTable* table = active_table;
    struct Job {
      const KernelTable* table;
      const KVCache& cache;
      Remember remember;
      Workspace workspace;
    } job = {table, kv.cache, {m, blocks.data(), segment, model_.cos, model_.sin},
             workspace_.reserve(table->remember_bytes(kv.cache, m, pool_threads()))};
    pool_run(
        [](void* argument, Team* team, int tid) {
          const Job& j = *static_cast<Job*>(argument);
          j.table->remember_blocks(j.cache, j.remember, j.workspace, team, tid);
        },
        &job);
  }

  size_t workspace_bytes() const { return workspace_.bytes(); }

  // Of each mixture: rows that each expert has seen, then how often the weights of any were read.
  std::vector<std::vector<uint64_t>> expert_loads() const {
    std::vector<std::vector<uint64_t>> loads;
    for (const PyMoe* moe : moe_layers_) loads.push_back(moe->loads());
    return loads;
  }

 private:
  // One adapter or None a sequence -> the distinct ones, and the choice of each row.
  void apply(nb::sequence adapters, Batch* b) {
    require(int(nb::len(adapters)) == b->seqs, "forward: one adapter or None a sequence is needed");
    adapters_.clear();
    adapter_of_.assign(b->rows, -1);
    for (int s = 0; s < b->seqs; s++) {
      nb::object item = adapters[s];
      if (item.is_none()) continue;
      const PyAdapter& chosen = nb::cast<const PyAdapter&>(item);
      require(chosen.model == &model_, "forward: the adapter belongs to another model");
      size_t slot = std::find(adapters_.begin(), adapters_.end(), &chosen.adapter) - adapters_.begin();
      if (slot == adapters_.size()) adapters_.push_back(&chosen.adapter);
      std::fill(adapter_of_.begin() + b->seq_starts[s], adapter_of_.begin() + b->seq_starts[s + 1], int32_t(slot));
    }
    if (adapters_.empty()) return;
    b->adapters = adapters_.data(), b->adapter_of = adapter_of_.data(), b->adapters_count = int(adapters_.size());
  }

  // One memory or None a sequence.
  void recall(nb::sequence memories, const KVCache& cache, Batch* b) {
    require(int(nb::len(memories)) == b->seqs, "forward: one memory or None a sequence is needed");
    memories_.assign(b->seqs, nullptr);
    for (int s = 0; s < b->seqs; s++) {
      nb::object item = memories[s];
      if (item.is_none()) continue;
      const PyMemory& one = nb::cast<const PyMemory&>(item);
      require(one.fits(cache), "forward: the memory belongs to another model");
      if (one.memory().count) memories_[s] = &one.memory(), b->memories = memories_.data();
    }
  }

  bool fits(const KVCache& cache) const {
    if (bool(cache.pages) == compressed_.empty()) return false;
    if (cache.pages) {
      if (cache.layers != attention_layers_) return false;
      for (int i = 0; i < attention_layers_; i++)
        if (!fits_page(*compressed_[i], cache.pages[i])) return false;
      return true;
    }
    return cache.layers == attention_layers_ && cache.kv_heads == kv_heads_ && cache.head_dim == head_dim_ &&
           cache.latent_rank == (latent_ ? latent_->rank : 0) && cache.latent_rope == (latent_ ? latent_->rope : 0) &&
           cache.index_dim == (latent_ && latent_->indexer ? latent_->indexer->head_dim : 0);
  }

  void check(const Batch& b, int positions, int tables, const KVCache& cache) const {
    require(b.rows > 0 && positions == b.rows, "forward: tokens and positions differ in length");
    require(b.seqs > 0 && tables == b.seqs, "forward: seq_starts and block_tables differ in length");
    require(fits(cache), "forward: the cache belongs to another model");
    require(b.seq_starts[0] == 0 && b.seq_starts[b.seqs] == b.rows, "forward: seq_starts do not cover the rows");
    for (int s = 0; s < b.seqs; s++) {
      require(b.seq_starts[s] < b.seq_starts[s + 1] && b.seq_starts[s + 1] <= b.rows, "forward: empty or unordered sequence");
      const int32_t* table = b.block_tables + size_t(s) * b.max_blocks;
      for (int row = b.seq_starts[s]; row < b.seq_starts[s + 1]; row++) {
        int position = b.positions[row];
        require(b.tokens[row] >= 0 && b.tokens[row] < model_.vocab, "forward: token outside the vocabulary");
        require(position >= 0 && position < model_.max_positions, "forward: position beyond the rope table");
        require(row == b.seq_starts[s] || position == b.positions[row - 1] + 1, "forward: positions must ascend by one");
      }
      int blocks = b.positions[b.seq_starts[s + 1] - 1] / kBlockTokens + 1;
      require(blocks <= b.max_blocks, "forward: block table too short");
      for (int i = 0; i < blocks; i++)
        require(table[i] >= 0 && table[i] < cache.blocks, "forward: block outside the cache");
      for (int i = max_of(0, b.positions[b.seq_starts[s]] - horizon_) / kBlockTokens; cache.pages && i < blocks; i++)
        require(cache.slots[table[i]] >= 0 && cache.slots[table[i]] < cache.num_slots, "forward: single tokens of a block are gone");
    }
    for (int i = 0; i < b.outputs; i++)
      require(b.output_rows[i] >= 0 && b.output_rows[i] < b.rows && (i == 0 || b.output_rows[i] > b.output_rows[i - 1]),
              "forward: output rows must ascend within the batch");
  }

  nb::list keep_layers_;
  Vector keep_norm_;
  Floats keep_cos_, keep_sin_;
  PyMatrix embed_, head_;
  std::vector<Layer> layers_;
  LoraTargets targets_;
  std::vector<const Adapter*> adapters_;  // of the step, as is adapter_of_
  std::vector<int32_t> adapter_of_;
  std::vector<const Memory*> memories_;  // of the step
  int attention_layers_ = 0, kv_heads_ = 0, head_dim_ = 0;
  const LatentLayer* latent_ = nullptr;
  std::vector<const CompressedLayer*> compressed_;
  int horizon_ = 0;  // tokens before a row that it reads one by one
  std::vector<const PyMoe*> moe_layers_;
  Model model_;
  Scratch workspace_;
};

nb::object matmul(Floats x, const PyMatrix& w) {
  require(int(x.shape(1)) == w.matrix.cols, "matmul: x has the wrong width");
  int m = int(x.shape(0));
  auto* y = new float[size_t(m) * w.matrix.rows];
  nb::capsule owner(y, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  {
    nb::gil_scoped_release released;
    struct Job {
      const KernelTable* table;
      const Matrix& matrix;
      const float* x;
      int m;
      float* y;
      Workspace workspace;
    };
    Scratch scratch;
    Job job = {active_table, w.matrix, x.data(), m, y, scratch.reserve(active_table->matmul_workspace_bytes(w.matrix, m))};
    pool_run(
        [](void* argument, Team* team, int tid) {
          const Job& j = *static_cast<Job*>(argument);
          j.table->matmul(j.matrix, j.x, j.m, j.y, j.workspace, team, tid);
        },
        &job);
  }
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(y, {size_t(m), size_t(w.matrix.rows)}, owner));
}

// GB/s (memory), GMAC/s (fp32, bf16, int8, int4) or GHz (clock) of the whole team, over at least `seconds`; 0: not known. Memory is
// `bytes` that are read again and again: what a cache holds of them counts, as it does for the weights of a step.
double roofline(const std::string& kind, int threads, double seconds, size_t bytes) {
  int k = kind == "memory" ? kRoofMemory : kind == "fp32" ? kRoofFp32 : kind == "int8" ? kRoofInt8 : kind == "int4" ? kRoofInt4 : kind == "bf16" ? kRoofBf16 : kind == "clock" ? kRoofClock : -1;
  require(threads >= 1 && threads <= kMaxThreads, "threads must be between 1 and 64");
  if (k < 0) fail("roofline: kind must be memory, fp32, bf16, int8, int4 or clock, not '" + kind + "'");
  nb::gil_scoped_release released;
  int before = pool_threads();
  pool_set_threads(threads);
  require(bytes >= size_t{4096} * threads, "roofline: the memory must hold a page for each thread");
  HugeBuffer memory(k == kRoofMemory ? bytes : 64);
  std::memset(memory.data(), 1, memory.bytes());
  struct Job {
    const KernelTable* table;
    int kind;
    Roofline roof;
    double done[kMaxThreads];
  } job = {active_table, k, {memory.data(), memory.bytes()}, {}};
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now();
  double total = 0, elapsed = 0;
  do {
    pool_run(
        [](void* argument, Team* team, int tid) {
          Job& j = *static_cast<Job*>(argument);
          j.done[tid] = j.table->roofline(j.kind, j.roof, tid, team->size);
        },
        &job);
    for (int t = 0; t < threads; t++) total += job.done[t];
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  pool_set_threads(before);
  return total / elapsed / 1e9;
}

// Restart the profile of steps, or stop it, while none runs. Returns what it held: steps and seconds of each phase, in the order of
// Phase, of decode steps and of others.
using KindProfile = std::pair<uint64_t, std::vector<double>>;
std::pair<KindProfile, KindProfile> switch_profile(bool on) {
  auto held = [](int kind) {
    KindProfile p = {profile.steps[kind], {}};
    for (uint64_t ns : profile.ns[kind]) p.second.push_back(double(ns) * 1e-9);
    return p;
  };
  std::pair<KindProfile, KindProfile> both = {held(1), held(0)};
  profile = {};
  profile.on = on;
  return both;
}

std::vector<std::string> available_isas() {
  const KernelTable* tables[kMaxTables];
  int n = available_tables(tables);
  std::vector<std::string> names;
  for (int i = 0; i < n; i++) names.emplace_back(tables[i]->name);
  return names;
}

void set_isa(const std::string& name) {
  const KernelTable* tables[kMaxTables];
  int n = available_tables(tables);
  for (int i = 0; i < n; i++)
    if (name == tables[i]->name) {
      active_table = tables[i];
      return;
    }
  fail("this processor has no kernel table '" + name + "'");
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Deepwell's compiled backend; see deepwell.engine.native.";
  using namespace nb::literals;
  nb::class_<PyMatrix>(m, "Matrix")
      .def(nb::init<Bytes, int, int, const std::string&>(), "data"_a, "rows"_a, "cols"_a, "scheme"_a)
      .def_prop_ro("rows", [](const PyMatrix& p) { return p.matrix.rows; })
      .def_prop_ro("cols", [](const PyMatrix& p) { return p.matrix.cols; })
      .def_prop_ro("scheme", &PyMatrix::scheme);
  nb::class_<PyAttention>(m, "Attention")
      .def(nb::init<Vector, const PyMatrix&, std::optional<Vector>, const PyMatrix&, int, int, int, float, std::optional<Vector>,
                    std::optional<Vector>>(),
           "norm"_a, "qkv"_a, "bias"_a.none(), "o"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "eps"_a,
           "q_norm"_a = nb::none(), "k_norm"_a = nb::none());
  nb::class_<PyMlp>(m, "Mlp").def(nb::init<Vector, const PyMatrix&, const PyMatrix&, float>(), "norm"_a, "gate_up"_a,
                                  "down"_a, "eps"_a);
  nb::class_<PyKVCache>(m, "KVCache")
      .def(nb::init<int, int, int, int, const std::string&>(), "num_layers"_a, "num_blocks"_a, "num_kv_heads"_a,
           "head_dim"_a, "dtype"_a)
      .def_prop_ro("num_blocks", [](const PyKVCache& c) { return c.cache.blocks; })
      .def_prop_ro("nbytes", [](const PyKVCache& c) { return c.memory.bytes(); });
  nb::class_<PyJoin>(m, "Join")
      .def(nb::init<Vector, Vector, const PyMatrix&, const PyMatrix*>(), "embed_norm"_a, "state_norm"_a, "proj"_a,
           "state_proj"_a.none() = nb::none());
  nb::class_<PyModel>(m, "Model")
      .def(nb::init<const PyMatrix&, nb::list, Vector, const PyMatrix&, Floats, Floats, float, nb::object, nb::object>(), "embed"_a,
           "layers"_a, "norm"_a, "head"_a, "cos"_a, "sin"_a, "eps"_a, "join"_a = nb::none(), "streams"_a = nb::none())
      .def_prop_ro("vocab_size", &PyModel::vocab)
      .def_prop_ro("hidden_size", &PyModel::hidden)
      .def_prop_ro("state_size", &PyModel::state)
      .def_prop_ro("workspace_bytes", &PyModel::workspace_bytes)
      .def_prop_ro("lora_targets", &PyModel::lora_targets)
      .def_prop_ro("expert_loads", &PyModel::expert_loads)
      .def("forward", &PyModel::forward, "tokens"_a, "positions"_a, "seq_starts"_a, "block_tables"_a, "output_rows"_a,
           "cache"_a, "logits"_a = nb::none(), "argmax"_a = nb::none(), "hidden"_a = nb::none(), "targets"_a = nb::none(),
           "target_logprobs"_a = nb::none(), "adapters"_a = nb::none(), "prompt_lengths"_a = nb::none(), "previous"_a = nb::none(),
           "states"_a = nb::none(), "memories"_a = nb::none(), "output_states"_a = nb::none())
      .def("shift_blocks", &PyModel::shift_blocks, "cache"_a, "sources"_a, "targets"_a, "positions"_a)
      .def("remember_blocks", &PyModel::remember_blocks, "cache"_a, "memory"_a, "blocks"_a)
      .def("adapter", &PyModel::adapter, "parts"_a, "dtype"_a, nb::rv_policy::take_ownership, nb::keep_alive<0, 1>());
  nb::class_<PyAdapter>(m, "Adapter").def_prop_ro("nbytes", [](const PyAdapter& a) { return a.memory.bytes(); });
  bind_memory(m);
  bind_latent(m);
  bind_compressed(m);
  bind_moe(m);
  bind_encoder(m);
  bind_text(m);
  m.def("matmul", &matmul, "x"_a, "matrix"_a);
  m.def("roofline", &roofline, "kind"_a, "threads"_a, "seconds"_a = 0.5, "bytes"_a = size_t{512} << 20);
  m.def("profile", &switch_profile, "on"_a);
  m.def("isa", [] { return std::string(active_table->name); });
  m.def("available_isas", &available_isas);
  m.def("set_isa", &set_isa, "name"_a);
  m.def("set_threads", [](int n) {
    require(n >= 1 && n <= kMaxThreads, "threads must be between 1 and 64");
    pool_set_threads(n);
  }, "threads"_a);
  m.def("threads", &pool_threads);
}
