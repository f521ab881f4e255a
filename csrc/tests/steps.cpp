// Whole steps of small random models: against a plain Llama in double, against the generic table, and against
// themselves in other chunks, other company and other threads.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "models.h"
#include "plain.h"

namespace deepwell::tests {
namespace {

constexpr Scheme kEvery[] = {kFp32, kInt8, kInt4, kBf16, kFp16};
constexpr KvType kPages[] = {kKvFp32, kKvBf16, kKvInt8};
constexpr const char* kPageNames[] = {"fp32", "bf16", "int8"};
constexpr Shape kSmall = {72, 4, 2, 24, 80, 2, 90, 64};
constexpr Shape kLong = {32, 2, 1, 16, 32, 1, 40, 640};

// As in tests/engine/test_native.py: of the largest logit. An activation or a page may be rounded to the next
// step; few sequences have one.
constexpr double kLastBits = 4e-6, kStepError = 5e-2, kMostStepped = 0.3;

std::vector<int32_t> any_tokens(Random& random, int count, int vocab) {
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = random.integer(0, vocab - 1);
  return tokens;
}

// Largest difference as a fraction of the largest value.
template <class Expected>
double difference(const std::vector<float>& computed, const std::vector<Expected>& expected) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < computed.size(); i++) {
    error =
        std::max(error, std::isfinite(computed[i]) ? std::fabs(static_cast<double>(computed[i]) - expected[i])
                                                   : INFINITY);
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
  }
  return error / largest;
}

using Row = std::vector<double>;

Row normed(const Row& x, const float* weight) {
  double squares = 0;
  for (double v : x) squares += v * v;
  Row y(x.size());
  for (size_t i = 0; i < x.size(); i++)
    y[i] = x[i] / std::sqrt(squares / static_cast<double>(x.size()) + kEps) * weight[i];
  return y;
}

Row times(const Weights& w, const Row& x) {
  Row y(w.rows);
  for (int r = 0; r < w.rows; r++)
    for (int c = 0; c < w.cols; c++) y[r] += static_cast<double>(w.value(r, c)) * x[c];
  return y;
}

// Head `h` of a row of q, k and v; q and k normed and turned.
Row head_of(const Llama& m, const Llama::Block& b, const Row& qkv, int h, int position) {
  const int dim = m.shape.head_dim, half = dim / 2;
  Row x(qkv.begin() + h * dim, qkv.begin() + (h + 1) * dim);
  if (h >= m.shape.heads + m.shape.kv_heads) return x;
  if (b.q_norm) x = normed(x, h < m.shape.heads ? b.q_norm : b.k_norm);
  for (int i = 0; i < half; i++) {
    double c = m.cos[position * half + i], s = m.sin[position * half + i], low = x[i], high = x[half + i];
    x[i] = low * c - high * s, x[half + i] = high * c + low * s;
  }
  return x;
}

void attend(const Llama& m, const Llama::Block& b, std::vector<Row>* x) {
  const Shape& s = m.shape;
  std::vector<Row> qkv;
  for (const Row& row : *x) {
    qkv.push_back(times(*b.qkv, normed(row, b.norm)));
    for (size_t i = 0; b.bias && i < qkv.back().size(); i++) qkv.back()[i] += b.bias[i];
  }
  for (size_t t = 0; t < x->size(); t++) {
    Row joined;
    for (int h = 0; h < s.heads; h++) {
      const int kv = h / (s.heads / s.kv_heads);
      Row q = head_of(m, b, qkv[t], h, static_cast<int>(t)), out(s.head_dim);
      double sum = 0;
      for (size_t u = 0; u <= t; u++) {
        Row k = head_of(m, b, qkv[u], s.heads + kv, static_cast<int>(u)),
            v = head_of(m, b, qkv[u], s.heads + s.kv_heads + kv, static_cast<int>(u));
        double score = 0;
        for (int d = 0; d < s.head_dim; d++) score += q[d] * k[d];
        double weight = std::exp(score / std::sqrt(s.head_dim));
        sum += weight;
        for (int d = 0; d < s.head_dim; d++) out[d] += weight * v[d];
      }
      for (double v : out) joined.push_back(v / sum);
    }
    Row o = times(*b.o, joined);
    for (size_t i = 0; i < o.size(); i++) (*x)[t][i] += o[i];
  }
}

std::vector<double> plain_logits(const Llama& m, const std::vector<int32_t>& tokens) {
  std::vector<Row> x;
  for (int32_t t : tokens) {
    x.emplace_back();
    for (int c = 0; c < m.shape.hidden; c++) x.back().push_back(m.embed->value(t, c));
  }
  for (const Llama::Block& b : m.blocks) {
    attend(m, b, &x);
    for (Row& row : x) {
      Row in = normed(row, b.mlp_norm), gate = times(*b.gate, in), up = times(*b.up, in);
      for (size_t i = 0; i < gate.size(); i++) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
      Row down = times(*b.down, up);
      for (size_t i = 0; i < down.size(); i++) row[i] += down[i];
    }
  }
  std::vector<double> all;
  for (const Row& row : x)
    for (double v : times(*m.embed, normed(row, m.norm))) all.push_back(v);
  return all;
}

KVCache pages_of(const Shape& s) {
  KVCache shape{};
  shape.kv_heads = s.kv_heads, shape.head_dim = s.head_dim;
  return shape;
}

void test_llama(const KernelTable& table, const KernelTable& generic, Scheme scheme, KvType pages) {
  constexpr int kSequences = 8, kTokens = 20;
  const std::string name = std::string(kSchemes[scheme]) + " Llama, " + kPageNames[pages] + " pages: ";
  Llama m(kSmall, scheme, 11);
  const KVCache shape = pages_of(m.shape);
  int stepped = 0;
  for (int i = 0; i < kSequences; i++) {
    std::vector<int32_t> tokens = any_tokens(m.parts.random, kTokens, m.shape.vocab);
    auto run = [&](const KernelTable& by, int chunk, int prompt) {
      return logits(by, m.model, Cache(by, shape, pages, m.shape.layers, 4).kv, tokens, chunk, prompt);
    };
    std::vector<float> whole = run(table, kTokens, kTokens);
    for (int chunk : {1, 7, 16})
      check(run(table, chunk, kTokens) == whole, table,
            name + "other bits in chunks of " + std::to_string(chunk));
    check(run(table, kTokens, 5) == whole, table, name + "other bits in decode than in prefill");
    double from_generic = difference(whole, run(generic, kTokens, kTokens));
    stepped += from_generic > kLastBits;
    check(from_generic < kStepError, table,
          name + "far from the generic table: " + std::to_string(from_generic));
    if (pages == kKvFp32 && scheme != kInt8 && scheme != kInt4) {
      double error = difference(whole, plain_logits(m, tokens));
      check(error < kLastBits, table,
            name + "far from a plain Llama: " + std::to_string(error * 1e6) + " millionths");
    }
  }
  check(stepped <= kMostStepped * kSequences, table,
        name + std::to_string(stepped) + " sequences differ from the generic table");
}

// Contexts of several softmax pieces: in chunks, decoding beside a prefill, with one thread and two.
void test_company(const KernelTable& table, const KernelTable& generic, Scheme scheme, KvType pages) {
  const std::string name = std::string(kSchemes[scheme]) + " long context, " + kPageNames[pages] + " pages: ";
  Llama m(kLong, scheme, 13);
  const int vocab = m.shape.vocab;
  const KVCache shape = pages_of(m.shape);
  const std::vector<int32_t> prompts[] = {any_tokens(m.parts.random, 590, vocab),
                                          any_tokens(m.parts.random, 300, vocab),
                                          any_tokens(m.parts.random, 70, vocab)};
  std::vector<float> wholes[3];
  for (int i = 0; i < 3; i++) {
    int n = static_cast<int>(prompts[i].size());
    wholes[i] = logits(table, m.model, Cache(table, shape, pages, 1, 39).kv, prompts[i], n, n);
    double error = difference(
        wholes[i], logits(generic, m.model, Cache(generic, shape, pages, 1, 39).kv, prompts[i], n, n));
    check(error < (scheme == kFp32 && pages == kKvFp32 ? 1e-4 : kStepError), table,
          name + "far from the generic table: " + std::to_string(error));
  }
  check(logits(table, m.model, Cache(table, shape, pages, 1, 39).kv, prompts[0], 100, 590) == wholes[0],
        table, name + "other bits in chunks");
  for (int threads : {2, 1}) {
    pool_set_threads(threads);
    Cache cache(table, shape, pages, 1, 111);
    std::vector<float> computed[3];
    const int ends[4][3] = {{587, 297, 0}, {588, 298, 0}, {589, 299, 70}, {590, 300, 0}};
    int at[3] = {};
    for (const int (&to)[3] : ends) {
      std::vector<Span> spans;
      for (int i = 0; i < 3; i++)
        if (to[i] > at[i])
          spans.push_back({&prompts[i], at[i], to[i], 110 - 37 * i, static_cast<int>(prompts[i].size())});
      std::vector<float> rows = step(table, m.model, cache.kv, spans);
      auto from = rows.begin();
      for (int i = 0; i < 3; i++) {
        if (to[i] <= at[i]) continue;
        computed[i].insert(computed[i].end(), from, from + static_cast<long>(to[i] - at[i]) * vocab);
        from += static_cast<long>(to[i] - at[i]) * vocab;
        at[i] = to[i];
      }
    }
    for (int i = 0; i < 3; i++)
      check(computed[i] == wholes[i], table,
            name + "other bits in company, threads: " + std::to_string(threads));
  }
}

// Layers that the plain Llama lacks, in company of an MLP or attention: `kind` 0 latent attention, 1 a
// mixture.
void test_other_layers(const KernelTable& table, const KernelTable& generic, int kind, Scheme scheme,
                       KvType pages) {
  constexpr int kHidden = 96, kVocab = 80, kHeads = 3, kNope = 32, kRope = 8, kValue = 32, kRank = 64,
                kQRank = 40, kExperts = 8, kWidth = 48;
  constexpr int kSequences = 6, kTokens = 20;
  const std::string name = std::string(kSchemes[scheme]) + (kind ? " mixture, " : " latent attention, ") +
                           kPageNames[pages] + " pages: ";
  Llama m({kHidden, 4, 2, 24, 64, 1, kVocab, 64}, scheme, 17);
  Parts& p = m.parts;
  IndexerLayer* no_indexer = nullptr;
  LatentLayer latent{p.vector(kHidden, 1),
                     p.matrix(kQRank + kRank + kRope, kHidden, scheme),
                     p.vector(kQRank, 1),
                     p.matrix(kHeads * (kNope + kRope), kQRank, scheme),
                     p.vector(kRank, 1),
                     p.matrix(kHeads * kNope, kRank, scheme),
                     p.matrix(kHeads * kRank, kNope, scheme),
                     p.matrix(kHeads * kValue, kRank, scheme),
                     p.matrix(kHidden, kHeads * kValue, scheme),
                     kHeads,
                     kNope,
                     kRope,
                     kValue,
                     kRank,
                     kQRank,
                     1 / std::sqrt(static_cast<float>(kNope + kRope)),
                     kEps,
                     no_indexer};
  uint64_t reads[kExperts + 1] = {};
  const Matrix &router = p.matrix(kExperts, kHidden, kFp32),
               &gate_up = p.matrix(kExperts * 2 * kWidth, kHidden, scheme);
  MoeLayer moe{p.vector(kHidden, 1),
               router,
               p.vector(kExperts),
               gate_up,
               p.matrix(kExperts * kHidden, kWidth, scheme),
               true,
               p.matrix(64, kHidden, scheme),
               p.matrix(kHidden, 32, scheme),
               kExperts,
               3,
               kSigmoid,
               2,
               2,
               true,
               1.5f,
               kEps,
               reads,
               0.0f,
               nullptr,
               nullptr};
  Model model = m.model;
  Layer layers[] = {kind ? m.layers[0] : Layer{.latent = &latent}, kind ? Layer{.moe = &moe} : m.layers[1]};
  model.layers = layers, model.num_layers = 2;
  KVCache shape = pages_of(m.shape);
  std::vector<float> cos, sin;
  turn(64, kRope, &cos, &sin);
  if (!kind) {
    shape = {};
    shape.latent_rank = kRank, shape.latent_rope = kRope;
    model.cos = cos.data(), model.sin = sin.data();
  }
  for (int i = 0; i < kSequences; i++) {
    std::vector<int32_t> tokens = any_tokens(p.random, kTokens, kVocab);
    auto run = [&](const KernelTable& by, int chunk) {
      return logits(by, model, Cache(by, shape, pages, 1, 4).kv, tokens, chunk, 14);
    };
    std::vector<float> whole = run(table, 14);
    for (int chunk : {1, 5})
      check(run(table, chunk) == whole, table, name + "other bits in chunks of " + std::to_string(chunk));
    double error = difference(whole, run(generic, 14));
    check(error < (scheme == kFp32 && pages == kKvFp32 ? kLastBits : kStepError), table,
          name + "far from the generic table: " + std::to_string(error));
  }
}

// Embeddings of three sequences together, and of each alone.
void test_encoder(const KernelTable& table, const KernelTable& generic, Scheme scheme) {
  constexpr int kHidden = 64, kVocab = 70, kMost = 40, kWidth = 96;
  const std::string name = std::string(kSchemes[scheme]) + " encoder: ";
  Parts p(19);
  EncoderAttentionLayer attention{p.matrix(3 * kHidden, kHidden, scheme),
                                  p.matrix(kHidden, kHidden, scheme),
                                  p.vector(3 * kHidden),
                                  p.vector(kHidden),
                                  p.vector(kHidden, 1),
                                  p.vector(kHidden),
                                  2,
                                  32,
                                  kEps};
  EncoderMlpLayer mlp{p.matrix(kWidth, kHidden, scheme),
                      p.matrix(kHidden, kWidth, scheme),
                      p.vector(kWidth),
                      p.vector(kHidden),
                      p.vector(kHidden, 1),
                      p.vector(kHidden),
                      kEps};
  EncoderBlock blocks[] = {{&attention, &mlp}, {&attention, &mlp}};
  EncoderModel model{p.matrix(kVocab, kHidden, scheme),
                     p.vector(static_cast<size_t>(kMost) * kHidden),
                     p.vector(kHidden, 1),
                     p.vector(kHidden),
                     blocks,
                     2,
                     kHidden,
                     kMost,
                     kEps,
                     kMeanPooling};
  const std::vector<int32_t> tokens = any_tokens(p.random, 70, kVocab), starts = {0, 33, 34, 70};
  auto pooled = [&](const KernelTable& by, int from, int to) {
    std::vector<int32_t> own;
    for (int s = from; s <= to; s++) own.push_back(starts[s] - starts[from]);
    EncoderBatch b{tokens.data() + starts[from], own.data(), own.back(), to - from};
    std::vector<float> out(static_cast<size_t>(to - from) * kHidden);
    EncoderOutputs outputs{out.data(), nullptr};
    Scratch scratch;
    Workspace workspace = scratch.reserve(by.encoder_workspace_bytes(model, b, pool_threads()));
    on_every_thread([&](Team* team, int tid) { by.encode(model, b, outputs, workspace, team, tid); });
    return out;
  };
  std::vector<float> together = pooled(table, 0, 3);
  double error = difference(together, pooled(generic, 0, 3));
  check(error < (scheme == kFp32 ? 1e-5 : kStepError), table,
        name + "far from the generic table: " + std::to_string(error));
  for (int s = 0; s < 3; s++) {
    std::vector<float> alone = pooled(table, s, s + 1);
    check(std::equal(alone.begin(), alone.end(), together.begin() + s * kHidden), table,
          name + "other bits alone");
  }
}

}  // namespace

void test_steps(const KernelTable& table, const KernelTable& generic) {
  for (Scheme scheme : kEvery) {
    for (KvType pages : kPages) {
      test_llama(table, generic, scheme, pages);
      if (scheme == kFp32 || scheme == kInt8 || scheme == kInt4)
        for (int kind : {0, 1}) test_other_layers(table, generic, kind, scheme, pages);
    }
    if (scheme == kFp32 || scheme == kInt8 || scheme == kInt4) test_encoder(table, generic, scheme);
  }
  for (KvType pages : kPages)
    test_company(table, generic, pages == kKvBf16 ? kInt4 : pages == kKvInt8 ? kInt8 : kFp32, pages);
}

}  // namespace deepwell::tests
