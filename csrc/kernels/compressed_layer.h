// DeepSeek-V4's attention: one vector a token is key and value; a query meets those of a window of last tokens, and entries that each
// stand for several tokens further back. A sink takes part in the softmax alone.
//
// Keys of a row are one list, the window's tokens and then its entries, cut into pieces of 256 that are merged in order: its bits
// depend on its place alone. Work items are (row, group of heads), of the indexer (row, piece of entries).
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/attention.h"
#include "kernels/compressed_layout.h"
#include "kernels/gemm.h"
#include "kernels/hyper.h"
#include "kernels/lora.h"
#include "kernels/mla_index.h"
#include "kernels/mla_layer.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "kernels/step.h"
#include "pool.h"
#include "profile.h"

namespace deepwell {
namespace DW_ISA {

// ---- pages --------------------------------------------------------------------------------------------------------

DW_INLINE uint8_t* block_at(const KVCache& c, const CompressedPage& p, int block) { return c.data + p.at + (size_t)block * p.block_bytes; }
DW_INLINE uint8_t* slot_at(const KVCache& c, const CompressedPage& p, int block) {
  return c.data + p.recent_at + (size_t)c.slots[block] * p.recent_bytes;
}
DW_INLINE size_t element_bytes(const KVCache& c) { return c.type == kKvFp32 ? 4 : 2; }

// x: [n] -> a stored row of padded16(n), zeros behind.
static void store_padded(const KVCache& c, uint8_t* to, const float* x, int n) {
  const int wide = padded16(n);
  if (c.type == kKvFp32) {
    memcpy(to, x, n * sizeof(float));
    memset(to + n * sizeof(float), 0, (wide - n) * sizeof(float));
    return;
  }
  for (int i = 0; i < wide; i++) ((uint16_t*)to)[i] = i < n ? to_bf16(x[i]) : 0;
}

DW_INLINE int entry_slot(const CompressorPage& p, int last) { return p.rate < kBlockTokens ? last % kBlockTokens / p.rate : 0; }

DW_INLINE const uint8_t* vector_at(const KVCache& c, const CompressedPage& p, const int32_t* table, int position) {
  return slot_at(c, p, table[position / kBlockTokens]) + (position % kBlockTokens) * padded16(p.head_dim) * element_bytes(c);
}

DW_INLINE uint8_t* entry_at(const KVCache& c, const CompressedPage& p, int made, const int32_t* table, int number) {
  const CompressorPage& of = p.made[made];
  const int last = (number + 1) * of.rate - 1;
  return block_at(c, p, table[last / kBlockTokens]) + of.entries_at + (size_t)entry_slot(of, last) * padded16(of.width) * element_bytes(c);
}

// What the entries of a token are made of: values [parts_wide], then gates.
DW_INLINE float* parts_at(const KVCache& c, const CompressedPage& p, int made, const int32_t* table, int position) {
  const CompressorPage& of = p.made[made];
  uint8_t* page = slot_at(c, p, table[position / kBlockTokens]);
  return (float*)(page + of.parts_at) + (size_t)(position % kBlockTokens) * 2 * parts_wide(of);
}

// ---- front ----------------------------------------------------------------------------------------------------------

// Rotates pairs (2i, 2i + 1) of `rope` numbers; `back` turns the other way.
DW_INLINE void rope_pairs(float* x, const float* cos, const float* sin, int rope, bool back) {
  for (int i = 0; i < rope / 2; i++) {
    const float a = x[2 * i], b = x[2 * i + 1], s = back ? -sin[i] : sin[i];
    x[2 * i] = a * cos[i] - b * s;
    x[2 * i + 1] = b * cos[i] + a * s;
  }
}

DW_INLINE void unweighted_norm(float* x, int n, float eps, float factor) {
  const float scale = factor / __builtin_sqrtf(dot_row(x, x, n) / (float)n + eps);
  for (int i = 0; i < n; i++) x[i] *= scale;
}

// [heads][dim] -> [heads][padded16(dim)], zeros between; `from` may be the array itself.
static void pad_heads(const float* from, int heads, int dim, float* to) {
  const int wide = padded16(dim);
  for (int h = heads - 1; h >= 0; h--) {
    memmove(to + (size_t)h * wide, from + (size_t)h * dim, dim * sizeof(float));
    for (int i = dim; i < wide; i++) to[(size_t)h * wide + i] = 0.0f;
  }
}

static void write_row(const CompressedLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, int row, int seq, const Layout& l) {
  const CompressedLayout& t = l.compressed;
  const CompressedPage& page = cache.pages[index];
  const int position = b.positions[row];
  const int32_t* table = b.block_tables + (size_t)seq * b.max_blocks;
  const float *cos = a.cos + (size_t)position * (a.rope / 2), *sin = a.sin + (size_t)position * (a.rope / 2);
  const float* x = t.a + (size_t)row * t.a_stride + a.q_rank;
  rms_norm_row(x, a.kv_norm, a.head_dim, a.eps, t.row);
  rope_pairs(t.row + a.head_dim - a.rope, cos, sin, a.rope, false);
  store_padded(cache, (uint8_t*)vector_at(cache, page, table, position), t.row, a.head_dim);
  x += a.head_dim;
  for (int made = 0; made < page.count; made++) {
    const Compressor& c = made ? a.index : a.entries;
    const int halves = c.page.overlap ? 2 : 1, width = c.page.width, wide = padded16(width);
    const float* bias = c.bias + (size_t)(position % c.page.rate) * width * halves;
    float* to = parts_at(cache, page, made, table, position);
    for (int h = 0; h < halves; h++)
      for (int i = 0; i < wide; i++) {
        const int at = h * width + i;
        to[h * wide + i] = i < width ? x[at] : 0.0f;
        to[(halves + h) * wide + i] = i < width ? x[width * halves + at] + bias[at] : 0.0f;
      }
    x += 2 * width * halves;
  }
  float* q = t.q + (size_t)row * t.q_stride;
  const float scale = 1.0f / __builtin_sqrtf((float)a.head_dim);
  for (int h = 0; h < a.heads; h++) {
    float* head = q + (size_t)h * a.head_dim;
    unweighted_norm(head, a.head_dim, a.eps, scale);
    rope_pairs(head + a.head_dim - a.rope, cos, sin, a.rope, false);
  }
  pad_heads(q, a.heads, a.head_dim, q);
  if (!a.has_index) return;
  // By dimension, heads in the lanes.
  const int width = a.index.page.width, lanes = index_lanes(a.index_heads);
  float* index_q = t.index_q + (size_t)row * t.index_stride;
  memcpy(t.row, index_q, (size_t)a.index_heads * width * sizeof(float));
  memset(index_q, 0, (size_t)padded16(width) * lanes * sizeof(float));
  for (int h = 0; h < a.index_heads; h++) {
    float* head = t.row + (size_t)h * width;
    rope_pairs(head + width - a.rope, cos, sin, a.rope, false);
    for (int d = 0; d < width; d++) index_q[(size_t)d * lanes + h] = head[d];
  }
  rms_norm_row(l.x + (size_t)row * l.hidden_stride, a.norm, m.hidden, a.eps, t.row);
  const float factor = 1.0f / (__builtin_sqrtf((float)a.index_heads) * __builtin_sqrtf((float)a.index.page.width));
  for (int h = 0; h < lanes; h++)
    t.index_weights[(size_t)row * lanes + h] =
        h < a.index_heads ? factor * dot_row(t.row, a.index_weights + (size_t)h * m.hidden, m.hidden) : 0.0f;
}

static void write_rows(const CompressedLayer& a, const Model& m, const Batch& b, const KVCache& cache, int index, const Layout& l, Team* team) {
  for (int row; (row = team_next(team, 1)) < b.rows;) {
    int seq = 0;
    while (b.seq_starts[seq + 1] <= row) seq++;
    write_row(a, m, b, cache, index, row, seq, l);
  }
  team_barrier(team);
}

// ---- entries --------------------------------------------------------------------------------------------------------

// By dimension the mean of the values, weighted by a softmax of the gates, normed and rotated by the place of the first token.
static void make_entry(const CompressedLayer& a, const KVCache& cache, const CompressedPage& page, int made, const int32_t* table, int number,
                       float* scratch) {
  const Compressor& c = made ? a.index : a.entries;
  const int rate = c.page.rate, wide = padded16(c.page.width), all = parts_wide(c.page);
  const bool before = c.page.overlap && number > 0;
  // The tokens before give their first halves, the entry's own the last.
  const int first = (before ? number - 1 : number) * rate, end = (number + 1) * rate;
  auto part = [&](int token) {
    const bool own = token >= number * rate;
    return parts_at(cache, page, made, table, token) + (own ? all - wide : 0);
  };
  for (int i = 0; i < wide; i += W) {
    vf top = set1(-__builtin_inff());
    for (int token = first; token < end; token++) top = vmax(top, load(part(token) + all + i));
    vf sum = vf{}, total = vf{};
    for (int token = first; token < end; token++) {
      const float* at = part(token) + i;
      const vf weight = vexp(load(at + all) - top);
      total += weight;
      sum = fma(weight, load(at), sum);
    }
    store(scratch + i, sum / total);
  }
  rms_norm_row(scratch, c.norm, c.page.width, a.eps, scratch);
  const size_t at = (size_t)number * rate * (a.rope / 2);
  rope_pairs(scratch + c.page.width - a.rope, a.cos + at, a.sin + at, a.rope, false);
  store_padded(cache, entry_at(cache, page, made, table, number), scratch, c.page.width);
}

// The entries whose last token is in this step.
static void make_entries(const CompressedLayer& a, const Batch& b, const KVCache& cache, int index, const Layout& l, Team* team) {
  const CompressedPage& page = cache.pages[index];
  int next = team_next(team, 1), item = 0;
  for (int s = 0; s < b.seqs; s++) {
    const int32_t* table = b.block_tables + (size_t)s * b.max_blocks;
    const int begin = b.positions[b.seq_starts[s]], end = b.positions[b.seq_starts[s + 1] - 1] + 1;
    for (int made = 0; made < page.count; made++) {
      const int rate = page.made[made].rate;
      for (int number = begin / rate; number < end / rate; number++, item++)
        if (item == next) {
          make_entry(a, cache, page, made, table, number, l.compressed.row);
          next = team_next(team, 1);
        }
    }
  }
  team_barrier(team);
}

// ---- the indexer ----------------------------------------------------------------------------------------------------

DW_INLINE int entries_seen(const CompressedLayer& a, int position) { return a.has_entries ? (position + 1) / a.entries.page.rate : 0; }
DW_INLINE bool picks_entries(const CompressedLayer& a, int position) { return a.has_index && entries_seen(a, position) > a.top_k; }

template <class T>
DW_INLINE vf load_key(const T* p) {
  if constexpr (sizeof(T) == 2) return load_bf16(p);
  else return load(p);
}

// Products of up to kHeadGroup rows of q, `stride` apart, with one key: each a chain of its own.
template <int R, class T>
DW_INLINE void dots(const float* q, int stride, const T* key, int wide, float* out, int step) {
  vf sums[R] = {};
  for (int i = 0; i < wide; i += W) {
    const vf k = load_key(key + i);
    for (int r = 0; r < R; r++) sums[r] = fma(load(q + (size_t)r * stride + i), k, sums[r]);
  }
  for (int r = 0; r < R; r++) out[r * step] = reduce_add(sums[r]);
}

template <class T>
DW_INLINE void dots_of(int count, const float* q, int stride, const T* key, int wide, float* out, int step) {
  if (count == kHeadGroup) return dots<kHeadGroup>(q, stride, key, wide, out, step);
  for (int r = 0; r < count; r++) dots<1>(q + (size_t)r * stride, stride, key, wide, out + r * step, step);
}

// Scores of N entries that follow each other: heads in the lanes, so that a product is a chain over the dimensions and a score has one sum.
template <int N, class T>
static void score_entries_of(const T* const* keys, int width, int heads, const float* q, const float* weights, float* scores) {
  constexpr int V = 2;  // vectors of heads at a time
  alignas(64) float wide[N][kMaxHeadDim];
  for (int n = 0; n < N; n++)
    for (int i = 0; i < width; i += W) store(wide[n] + i, load_key(keys[n] + i));
  vf sums[N] = {};
  for (int h = 0; h < heads; h += V * W) {
    vf products[N][V] = {};
    for (int d = 0; d < width; d++) {
      const float* at = q + (size_t)d * heads + h;
      vf query[V];
      for (int v = 0; v < V; v++) query[v] = load(at + v * W);
      for (int n = 0; n < N; n++) {
        const vf key = set1(wide[n][d]);
        for (int v = 0; v < V; v++) products[n][v] = fma(query[v], key, products[n][v]);
      }
    }
    for (int n = 0; n < N; n++)
      for (int v = 0; v < V; v++) sums[n] = fma(vmax(products[n][v], vf{}), load(weights + h + v * W), sums[n]);
  }
  for (int n = 0; n < N; n++) scores[n] = reduce_add(sums[n]) + 0.0f;  // +0 of -0, which ranks below it
}

template <class T>
static void score_entries(const CompressedLayer& a, const KVCache& cache, const CompressedPage& page, const int32_t* table, const float* q,
                          const float* weights, int first, int end, float* scores) {
  constexpr int N = 4;
  const int width = padded16(a.index.page.width), heads = index_lanes(a.index_heads);
  const T* keys[N];
  for (int e = first; e < end;) {
    const int count = min_of(N, end - e);
    for (int n = 0; n < count; n++) keys[n] = (const T*)entry_at(cache, page, 1, table, e + n);
    for (int i = 0; i < N * 64 && e + N < end; i += 64) prefetch((const T*)entry_at(cache, page, 1, table, e + N) + i);
    if (count == N) score_entries_of<N>(keys, width, heads, q, weights, scores + e);
    else for (int n = 0; n < count; n++) score_entries_of<1>(keys + n, width, heads, q, weights, scores + e + n);
    e += count;
  }
}

// Which entries the rows attend to that see more than `top_k`.
static void pick_entries(const CompressedLayer& a, const Batch& b, const KVCache& cache, int index, const Rows& live, const Layout& l, Team* team) {
  const CompressedLayout& t = l.compressed;
  const CompressedPage& page = cache.pages[index];
  auto sequence_of = [&](int row) {
    int seq = 0;
    while (b.seq_starts[seq + 1] <= row) seq++;
    return b.block_tables + (size_t)seq * b.max_blocks;
  };
  const int pieces = ceil_div(t.scores_stride, kPieceTokens);
  for (int item; (item = team_next(team, 1)) < live.count * pieces;) {
    const int row = row_at(live, item / pieces), first = item % pieces * kPieceTokens;
    const int seen = entries_seen(a, b.positions[row]);
    if (!picks_entries(a, b.positions[row]) || first >= seen) continue;
    const float* q = t.index_q + (size_t)row * t.index_stride;
    const float* weights = t.index_weights + (size_t)row * index_lanes(a.index_heads);
    float* scores = t.index_scores + (size_t)row * t.scores_stride;
    const int end = min_of(first + kPieceTokens, seen);
    if (cache.type == kKvFp32) score_entries<float>(a, cache, page, sequence_of(row), q, weights, first, end, scores);
    else score_entries<uint16_t>(a, cache, page, sequence_of(row), q, weights, first, end, scores);
  }
  team_barrier(team);
  for (int i; (i = team_next(team, 1)) < live.count;) {
    const int row = row_at(live, i);
    if (picks_entries(a, b.positions[row]))
      choose_tokens(t.index_scores + (size_t)row * t.scores_stride, entries_seen(a, b.positions[row]), a.top_k, t.chosen + (size_t)row * a.top_k);
  }
  team_barrier(team);
}

// ---- attention ------------------------------------------------------------------------------------------------------

template <int R, class T>
static void weigh_keys(const float* weights, const uint8_t* const* keys, int count, int wide, float* out) {
  for (int i = 0; i < wide; i += W) {
    vf sums[R] = {};
    for (int k = 0; k < count; k++) {
      const vf value = load_key((const T*)keys[k] + i);
      for (int r = 0; r < R; r++) sums[r] = fma(set1(weights[r * kPieceTokens + k]), value, sums[r]);
    }
    for (int r = 0; r < R; r++) store(out + (size_t)r * wide + i, sums[r]);
  }
}

// Heads [first, first + count) of one row over up to 256 keys -> `t.part`, and `softmax` of each.
template <class T>
static void attend_keys(const float* q, int count, const uint8_t* const* keys, int n, int wide, const CompressedLayout& t, Softmax* softmax) {
  for (int k = 0; k < n; k++) dots_of(count, q, wide, (const T*)keys[k], wide, t.scores + k, kPieceTokens);
  for (int r = 0; r < count; r++) {
    float* s = t.scores + (size_t)r * kPieceTokens;
    const int padded = round_up(n, W);
    for (int k = n; k < padded; k++) s[k] = -__builtin_inff();
    vf top = load(s);
    for (int k = W; k < padded; k += W) top = vmax(top, load(s + k));
    const float max = reduce_max(top);
    vf total = vf{};
    for (int k = 0; k < padded; k += W) {
      const vf e = vexp(load(s + k) - max);
      total += e;
      store(s + k, e);
    }
    softmax[r] = {max, reduce_add(total)};
  }
  if (count == kHeadGroup) return weigh_keys<kHeadGroup, T>(t.scores, keys, n, wide, t.part);
  for (int r = 0; r < count; r++) weigh_keys<1, T>(t.scores + (size_t)r * kPieceTokens, keys, n, wide, t.part + (size_t)r * wide);
}

static void attend_heads(const CompressedLayer& a, const Batch& b, const KVCache& cache, int index, int row, int first, const Layout& l) {
  const CompressedLayout& t = l.compressed;
  const CompressedPage& page = cache.pages[index];
  int seq = 0;
  while (b.seq_starts[seq + 1] <= row) seq++;
  const int32_t* table = b.block_tables + (size_t)seq * b.max_blocks;
  const int position = b.positions[row], wide = padded16(a.head_dim), count = min_of(kHeadGroup, a.heads - first);
  const int near = max_of(0, position - a.window + 1), window = position + 1 - near;
  const bool picked = picks_entries(a, position);
  const int32_t* chosen = t.chosen + (size_t)row * a.top_k;
  const int keys = window + (picked ? a.top_k : entries_seen(a, position));
  const float* q = t.q + (size_t)row * t.q_stride + (size_t)first * wide;
  Softmax total[kHeadGroup], part[kHeadGroup];
  memset(t.total, 0, (size_t)count * wide * sizeof(float));
  for (int r = 0; r < count; r++) total[r] = {-__builtin_inff(), 0.0f};
  const uint8_t* at[kPieceTokens];
  for (int begin = 0; begin < keys; begin += kPieceTokens) {
    const int n = min_of(kPieceTokens, keys - begin);
    for (int k = 0; k < n; k++) {
      const int key = begin + k, entry = key - window;
      at[k] = entry < 0 ? vector_at(cache, page, table, near + key) : entry_at(cache, page, 0, table, picked ? chosen[entry] : entry);
    }
    if (cache.type == kKvFp32) attend_keys<float>(q, count, at, n, wide, t, part);
    else attend_keys<uint16_t>(q, count, at, n, wide, t, part);
    for (int r = 0; r < count; r++) merge_piece(t.total + (size_t)r * wide, total + r, t.part + (size_t)r * wide, part[r], wide);
  }
  const float *cos = a.cos + (size_t)position * (a.rope / 2), *sin = a.sin + (size_t)position * (a.rope / 2);
  for (int r = 0; r < count; r++) {
    const float sink = a.sinks[first + r], max = total[r].max > sink ? total[r].max : sink;
    const float keep = vexp(set1(total[r].max - max))[0], gone = vexp(set1(sink - max))[0];
    float* o = t.total + (size_t)r * wide;
    scale_row(o, keep / fma1(total[r].sum, keep, gone), a.head_dim);
    rope_pairs(o + a.head_dim - a.rope, cos, sin, a.rope, true);
    memcpy(l.attention + (size_t)row * l.attention_stride + (size_t)(first + r) * a.head_dim, o, a.head_dim * sizeof(float));
  }
}

// ---- the layer ------------------------------------------------------------------------------------------------------

// What each row attended to, through both halves of the output projection -> `l.x`.
static void project_heads(const CompressedLayer& a, const LoraPlaces& places, const Batch& b, const Rows& live, const Layout& l, Team* team) {
  const CompressedLayout& t = l.compressed;
  const int width = a.o_a.cols, low = a.o_b.cols / a.o_groups;
  const size_t bytes = round_up(activations_bytes(a.o_a, live.count), 64);
  for (int item; (item = team_next(team, 1)) < live.count * a.o_groups;) {
    const int i = item / a.o_groups, group = item % a.o_groups;
    const float* x = l.attention + (size_t)row_at(live, i) * l.attention_stride + (size_t)group * width;
    quantize_row(a.o_a, x, activations_at(t.grouped + group * bytes, a.o_a, live.count), i);
  }
  team_barrier(team);
  head_gemm(a.o_a, a.o_groups, t.grouped, bytes, live.count, team, l.tid, [&](int group, int i, int p, const float* y) {
    memcpy(t.low + (size_t)i * t.low_stride + group * low + p * kPanel, y, min_of(kPanel, low - p * kPanel) * sizeof(float));
  });
  LoraProduct lora = lora_product(b, places.o, live, l);
  Activations o = quantize_rows(a.o_b, live.count, lora, l, team, [&](int i, float*) { return t.low + (size_t)i * t.low_stride; });
  DW_PHASE_ENDS(kPhaseNorm);
  gemm(a.o_b, o, live.count, team, l.tid, [&](int i, int p, const float* y) {
    alignas(64) float sum[kPanel];
    memcpy(l.x + (size_t)row_at(live, i) * l.hidden_stride + p * kPanel, lora_add(lora, i, p, y, sum), kPanel * sizeof(float));
  });
}

// Vectors, parts and entries of every row are written; the streams of the `live` rows go on.
static void compressed_layer(const CompressedLayer& a, int index, const LoraPlaces& places, const Model& m, const Batch& b, const KVCache& cache,
                             const Rows& live, const Layout& l, Team* team) {
  const CompressedLayout& t = l.compressed;
  const Rows all = {b.rows, nullptr, l.groups};
  collapse_rows(a.hyper, m, all, l, team);
  LoraProduct lora = lora_product(b, places.a, all, l);
  Activations x = quantize_rows(a.a, b.rows, lora, l, team, [&](int row, float* scratch) {
    rms_norm_row(l.x + (size_t)row * l.hidden_stride, a.norm, m.hidden, a.eps, scratch);
    return scratch;
  });
  DW_PHASE_ENDS(kPhaseNorm);
  gemm(a.a, x, b.rows, team, l.tid, [&](int row, int p, const float* y) {
    alignas(64) float sum[kPanel];
    memcpy(t.a + (size_t)row * t.a_stride + p * kPanel, lora_add(lora, row, p, y, sum), kPanel * sizeof(float));
  });
  lora = lora_product(b, places.q_b, all, l);
  x = quantize_rows(a.q_b, b.rows, lora, l, team, [&](int row, float* scratch) {
    rms_norm_row(t.a + (size_t)row * t.a_stride, a.q_norm, a.q_rank, a.eps, scratch);
    return scratch;
  });
  auto put = [&](float* to, int stride, int rows_of, int row, int p, const float* y) {
    memcpy(to + (size_t)row * stride + p * kPanel, y, min_of(kPanel, rows_of - p * kPanel) * sizeof(float));
  };
  gemm(a.q_b, x, b.rows, team, l.tid, [&](int row, int p, const float* y) {
    alignas(64) float sum[kPanel];
    put(t.q, t.q_stride, a.q_b.rows, row, p, lora_add(lora, row, p, y, sum));
  });
  if (a.has_index)  // reads the same rows, quantised alike
    gemm(a.index_q, x, b.rows, team, l.tid, [&](int row, int p, const float* y) { put(t.index_q, t.index_stride, a.index_q.rows, row, p, y); });
  write_rows(a, m, b, cache, index, l, team);
  if (a.has_entries) make_entries(a, b, cache, index, l, team);
  DW_PHASE_ENDS(kPhaseQkv);
  if (a.has_index && t.scores_stride) pick_entries(a, b, cache, index, live, l, team);
  const int groups = ceil_div(a.heads, kHeadGroup);
  for (int item; (item = team_next(team, 1)) < live.count * groups;)
    attend_heads(a, b, cache, index, row_at(live, item / groups), item % groups * kHeadGroup, l);
  team_barrier(team);
  DW_PHASE_ENDS(kPhaseAttention);
  project_heads(a, places, b, live, l, team);
  expand_rows(a.hyper, m, live, l, team);
  DW_PHASE_ENDS(kPhaseO);
}

}  // namespace DW_ISA
}  // namespace deepwell
