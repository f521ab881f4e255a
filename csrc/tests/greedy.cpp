// Decodes a real model greedily on one table.
//
// The file: "DWMODEL1", int32 hidden, layers, heads, kv_heads, head_dim, vocab, max_positions, KvType of the
// pages; float eps; then arrays: cos, sin, embed, head, norm; of each layer norm, qkv, bias, q_norm, k_norm,
// o, norm, gate_up, down. An array is a head {int32 scheme
// (-1: floats), rows, cols, 0}, and its bytes from the next multiple of 64 on; where rows is 0 there is none.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "check.h"
#include "models.h"
#include "plain.h"

namespace deepwell::tests {
namespace {

struct Head {
  int32_t hidden, layers, heads, kv_heads, head_dim, vocab, max_positions, pages;
  float eps;
};

class Reader {
 public:
  explicit Reader(const char* path) {
    int file = open(path, O_RDONLY);
    struct stat about{};
    if (file < 0 || fstat(file, &about) != 0) return;
    bytes_ = static_cast<size_t>(about.st_size);
    void* p = mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (p != MAP_FAILED) base_ = static_cast<const uint8_t*>(p);
  }

  // The next `count` values; null where the file ends before.
  template <class T>
  const T* take(size_t count) {
    if (!base_ || bytes_ - at_ < count * sizeof(T)) {
      base_ = nullptr;
      return nullptr;
    }
    const T* p = reinterpret_cast<const T*>(base_ + at_);
    at_ += count * sizeof(T);
    return p;
  }

  Matrix matrix() {
    constexpr size_t block_bytes[] = {128, 2112, 640, 128, 64};  // by Scheme
    const int32_t* head = take<int32_t>(4);
    if (!head || head[1] == 0) return {};
    at_ = round_up(at_, 64);
    if (head[0] < 0)
      return {take<uint8_t>(static_cast<size_t>(head[1]) * head[2] * 4), head[1], head[2], kFp32, 0, 0, 0, 0};
    auto scheme = static_cast<Scheme>(head[0]);
    Matrix m{nullptr,
             head[1],
             head[2],
             scheme,
             ceil_div(head[1], kPanel),
             ceil_div(head[2], group_of(scheme)),
             group_of(scheme),
             block_bytes[scheme]};
    m.data = take<uint8_t>(static_cast<size_t>(m.panels) * m.groups * m.block_bytes);
    return m;
  }
  const float* floats() { return reinterpret_cast<const float*>(matrix().data); }
  bool whole() const { return base_ && at_ == bytes_; }

 private:
  const uint8_t* base_ = nullptr;
  size_t bytes_ = 0, at_ = 0;
};

}  // namespace

int decode_greedily(const KernelTable& table, const char* path, int count, std::vector<int32_t> tokens) {
  Reader file(path);
  const char* magic = file.take<char>(8);
  const Head* h = file.take<Head>(1);
  const int prompt = static_cast<int>(tokens.size()), length = prompt + count;
  if (!h || std::memcmp(magic, "DWMODEL1", 8) != 0 || prompt == 0 || length > h->max_positions) {
    std::fprintf(stderr, "%s is no model of this test, or has fewer than %d positions\n", path, length);
    return 2;
  }
  Model model{};
  model.cos = file.floats(), model.sin = file.floats();
  model.embed = file.matrix(), model.head = file.matrix();
  if (!model.head.data) model.head = model.embed;
  model.norm = file.floats();
  std::deque<AttentionLayer> attention;
  std::deque<MlpLayer> mlp;
  std::vector<Layer> layers;
  for (int i = 0; i < h->layers; i++) {
    AttentionLayer& a = attention.emplace_back();
    a.norm = file.floats(), a.qkv = file.matrix(), a.bias = file.floats(), a.q_norm = file.floats(),
    a.k_norm = file.floats(), a.o = file.matrix();
    a.heads = h->heads, a.kv_heads = h->kv_heads, a.head_dim = h->head_dim, a.eps = h->eps;
    MlpLayer& p = mlp.emplace_back();
    p.norm = file.floats(), p.gate_up = file.matrix(), p.down = file.matrix(), p.eps = h->eps;
    layers.push_back({.attention = &a});
    layers.push_back({.mlp = &p});
  }
  if (!file.whole()) {
    std::fprintf(stderr, "%s is cut short or too long\n", path);
    return 2;
  }
  model.layers = layers.data(), model.num_layers = static_cast<int>(layers.size());
  model.hidden = h->hidden, model.vocab = h->vocab, model.max_positions = h->max_positions,
  model.eps = h->eps;

  KVCache shape{};
  shape.kv_heads = h->kv_heads, shape.head_dim = h->head_dim;
  const int blocks = ceil_div(length, kBlockTokens);
  Cache cache(table, shape, static_cast<KvType>(h->pages), h->layers, blocks + 1);
  for (int begin = 0; static_cast<int>(tokens.size()) < length;) {
    std::vector<int32_t> best;
    const int end = static_cast<int>(tokens.size());
    step(table, model, cache.kv, {{&tokens, std::exchange(begin, end), end, blocks, prompt}}, &best);
    tokens.push_back(best.back());
  }
  std::printf("{\"table\": \"%s\", \"tokens\": [", table.name);
  for (int i = prompt; i < length; i++) std::printf("%s%d", i == prompt ? "" : ", ", tokens[i]);
  std::printf("]}\n");
  return 0;
}

}  // namespace deepwell::tests
