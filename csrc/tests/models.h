// Small random models of every kind of layer, and how tests run them.
#pragma once
#include <cmath>
#include <cstdint>
#include <deque>
#include <vector>

#include "check.h"
#include "common.h"
#include "encoder_model.h"
#include "memory.h"
#include "plain.h"

namespace deepwell::tests {

constexpr float kEps = 1e-5f;

// Owns what the plain structs of a model point to; nothing moves once it is made.
class Parts {
 public:
  explicit Parts(uint64_t seed) : random(seed) {}

  const float* vector(size_t count, float mean = 0.0f) {
    return vectors_.emplace_back(random.normals(count, 0.25f, mean)).data();
  }
  const Weights& weights(int rows, int cols, Scheme scheme) {
    return weights_.emplace_back(
        quantize(random.normals(static_cast<size_t>(rows) * cols, 1 / std::sqrt(static_cast<float>(cols))),
                 scheme, rows, cols));
  }
  const Matrix& pack(const Weights& w) { return packed_.emplace_back(w).matrix; }
  const Matrix& matrix(int rows, int cols, Scheme scheme) { return pack(weights(rows, cols, scheme)); }

  Random random;

 private:
  std::deque<std::vector<float>> vectors_;
  std::deque<Weights> weights_;
  std::deque<Packed> packed_;
};

struct Shape {
  int hidden, heads, kv_heads, head_dim, intermediate, layers, vocab, max_positions;
};

// A Llama of two kinds of layer, with what the plain loops read: weights by name.
struct Llama {
  struct Block {
    const Weights *qkv, *o, *gate, *up, *down;
    const float *norm, *bias, *q_norm, *k_norm, *mlp_norm;
  };
  Llama(const Shape& s, Scheme scheme, uint64_t seed);

  Shape shape;
  Parts parts;
  const Weights* embed;
  const float* norm;
  std::vector<float> cos, sin;  // [max_positions, head_dim / 2]
  std::vector<Block> blocks;
  std::deque<AttentionLayer> attention;
  std::deque<MlpLayer> mlp;
  std::vector<Layer> layers;
  Model model{};
};

inline void turn(int positions, int dims, std::vector<float>* cos, std::vector<float>* sin) {
  for (int p = 0; p < positions; p++)
    for (int i = 0; i < dims / 2; i++) {
      double angle = p * std::pow(0.5, i);
      cos->push_back(static_cast<float>(std::cos(angle)));
      sin->push_back(static_cast<float>(std::sin(angle)));
    }
}

inline Llama::Llama(const Shape& s, Scheme scheme, uint64_t seed) : shape(s), parts(seed) {
  embed = &parts.weights(s.vocab, s.hidden, scheme);
  norm = parts.vector(s.hidden, 1);
  turn(s.max_positions, s.head_dim, &cos, &sin);
  const int qkv_rows = (s.heads + 2 * s.kv_heads) * s.head_dim, runs = ceil_div(s.intermediate, 16);
  for (int i = 0; i < s.layers; i++) {
    Block b{&parts.weights(qkv_rows, s.hidden, scheme),
            &parts.weights(s.hidden, s.heads * s.head_dim, scheme),
            &parts.weights(s.intermediate, s.hidden, scheme),
            &parts.weights(s.intermediate, s.hidden, scheme),
            &parts.weights(s.hidden, s.intermediate, scheme),
            parts.vector(s.hidden, 1),
            i % 2 ? parts.vector(qkv_rows) : nullptr,
            i % 2 ? parts.vector(s.head_dim, 1) : nullptr,
            i % 2 ? parts.vector(s.head_dim, 1) : nullptr,
            parts.vector(s.hidden, 1)};
    std::vector<float> both(static_cast<size_t>(runs) * 32 * s.hidden);  // 16 rows of gate, 16 of up
    for (int r = 0; r < s.intermediate; r++)
      for (int c = 0; c < s.hidden; c++) {
        both[static_cast<size_t>(r / 16 * 32 + r % 16) * s.hidden + c] = b.gate->value(r, c);
        both[static_cast<size_t>(r / 16 * 32 + 16 + r % 16) * s.hidden + c] = b.up->value(r, c);
      }
    attention.push_back({b.norm, parts.pack(*b.qkv), b.bias, parts.pack(*b.o), s.heads, s.kv_heads,
                         s.head_dim, kEps, b.q_norm, b.k_norm});
    mlp.push_back(
        {b.mlp_norm, parts.pack(quantize(both, scheme, runs * 32, s.hidden)), parts.pack(*b.down), kEps});
    blocks.push_back(b);
    layers.push_back({.attention = &attention.back()});
    layers.push_back({.mlp = &mlp.back()});
  }
  const Matrix& table = parts.pack(*embed);
  model = {table,   table,           layers.data(), static_cast<int>(layers.size()),
           norm,    cos.data(),      sin.data(),    s.hidden,
           s.vocab, s.max_positions, kEps,          nullptr,
           nullptr};
}

struct Cache {
  Cache(const KernelTable& table, KVCache shape, KvType type, int layers, int blocks) : kv(shape) {
    kv.layers = layers, kv.blocks = blocks, kv.type = type;
    if (kv.latent_rank) {
      kv.block_bytes = table.latent_block_bytes(kv);
    } else {
      size_t element_bytes = type == kKvFp32 ? 4 : type == kKvBf16 ? 2 : 1;
      kv.head_bytes = size_t{2} * kv.head_dim * kBlockTokens * element_bytes +
                      (type == kKvInt8 ? 2 * kBlockTokens * sizeof(float) : 0);
      kv.block_bytes = kv.head_bytes * kv.kv_heads;
    }
    kv.layer_bytes = kv.block_bytes * blocks;
    memory.reset(kv.layer_bytes * layers);
    kv.data = memory.data();
  }
  KVCache kv;
  HugeBuffer memory;
};

// Tokens [begin, end) of a sequence in a step; its blocks lie in descending order, so that a kernel which
// ignored the table would read others.
struct Span {
  const std::vector<int32_t>* tokens;
  int begin, end, last_block, prompt;
};

// Logits [rows][vocab] of every row of a step; `argmax`: of every row too.
inline std::vector<float> step(const KernelTable& table, const Model& model, const KVCache& cache,
                               const std::vector<Span>& spans, std::vector<int32_t>* argmax = nullptr) {
  std::vector<int32_t> tokens, positions, starts{0}, outputs, blocks, prompts;
  int most_blocks = 1;
  for (const Span& s : spans) most_blocks = max_of(most_blocks, ceil_div(s.end, kBlockTokens));
  for (const Span& s : spans) {
    for (int i = s.begin; i < s.end; i++) {
      outputs.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back((*s.tokens)[i]);
      positions.push_back(i);
    }
    starts.push_back(static_cast<int32_t>(tokens.size()));
    prompts.push_back(s.prompt);
    for (int b = 0; b < most_blocks; b++) blocks.push_back(max_of(s.last_block - b, 0));
  }
  const int rows = static_cast<int>(tokens.size());
  Batch b{tokens.data(),
          positions.data(),
          starts.data(),
          blocks.data(),
          outputs.data(),
          rows,
          static_cast<int>(spans.size()),
          most_blocks,
          rows,
          nullptr,
          nullptr,
          0,
          prompts.data(),
          nullptr,
          nullptr};
  std::vector<float> logits(static_cast<size_t>(rows) * model.vocab);
  std::vector<int32_t> best(rows);
  Outputs out{logits.data(), best.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
  Scratch scratch;
  Workspace workspace = scratch.reserve(table.workspace_bytes(model, b, cache, out, pool_threads()));
  on_every_thread([&](Team* team, int tid) { table.forward(model, b, cache, out, workspace, team, tid); });
  if (argmax) *argmax = best;
  return logits;
}

// Logits of every token of one sequence, `chunk` at a time; from `prompt` on one at a time.
inline std::vector<float> logits(const KernelTable& table, const Model& model, const KVCache& cache,
                                 const std::vector<int32_t>& tokens, int chunk, int prompt) {
  std::vector<float> all;
  const int count = static_cast<int>(tokens.size());
  for (int begin = 0; begin < count;) {
    int end = begin < prompt ? min_of(begin + chunk, prompt) : begin + 1;
    std::vector<float> part =
        step(table, model, cache, {{&tokens, begin, end, ceil_div(count, kBlockTokens), prompt}});
    all.insert(all.end(), part.begin(), part.end());
    begin = end;
  }
  return all;
}

}  // namespace deepwell::tests
