// Several residual streams (manifold-constrained hyper-connections, DeepSeek-V4): a layer reads one mixture of them, its output goes to
// each by a weight, and the streams are mixed with each other by a matrix whose rows and columns sum to 1.
//
// The weights of a row come from the row alone, by sums in an order of its own, so its bits do not depend on the batch.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "common.h"
#include "integers.h"
#include "kernels/simd.h"
#include "kernels/step.h"
#include "pool.h"

namespace deepwell {
namespace DW_ISA {

// Sum of x[i] w[i].
DW_INLINE float dot_row(const float* x, const float* w, int n) {
  vf sums[4] = {};  // four chains hide the latency of the sum
  int i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; j++) sums[j] = fma(load(x + i + j * W), load(w + i + j * W), sums[j]);
  for (; i + W <= n; i += W) sums[0] = fma(load(x + i), load(w + i), sums[0]);
  float total = reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; i++) total = fma1(x[i], w[i], total);
  return total;
}

// What `outputs` rows of weights [streams][hidden] say of the normed streams of one row.
static void mix_streams(const float* weights, int outputs, int count, const float* streams, size_t stride, int hidden, float eps, float* mixes) {
  float squares = 0.0f;
  for (int s = 0; s < count; s++) squares += dot_row(streams + s * stride, streams + s * stride, hidden);
  const float scale = 1.0f / __builtin_sqrtf(squares / (float)(count * hidden) + eps);
  for (int o = 0; o < outputs; o++) {
    float sum = 0.0f;
    for (int s = 0; s < count; s++) sum += dot_row(streams + s * stride, weights + ((size_t)o * count + s) * hidden, hidden);
    mixes[o] = sum * scale;
  }
}

DW_INLINE float sigmoid1(float x) { return (float)(1.0 / (1.0 + __builtin_exp(-(double)x))); }

// to = sum over streams of weights[s] * stream.
static void join_streams(const float* weights, int count, const float* streams, size_t stride, int hidden, float* to) {
  int i = 0;
  for (; i + W <= hidden; i += W) {
    vf sum = vf{};
    for (int s = 0; s < count; s++) sum = fma(load(streams + s * stride + i), set1(weights[s]), sum);
    store(to + i, sum);
  }
  for (; i < hidden; i++) {
    float sum = 0.0f;
    for (int s = 0; s < count; s++) sum = fma1(streams[s * stride + i], weights[s], sum);
    to[i] = sum;
  }
}

// A layer's input -> `x`; the weights of its output, then those of the streams -> `kept`.
static void collapse_row(const HyperLayer& h, const float* streams, size_t stride, int hidden, float* kept, float* x) {
  const int n = h.streams;
  float mixes[kMaxMixes], pre[kMaxStreams];
  mix_streams(h.weights, (2 + n) * n, n, streams, stride, hidden, h.norm_eps, mixes);
  for (int s = 0; s < n; s++) {
    pre[s] = sigmoid1(mixes[s] * h.scale[0] + h.base[s]) + h.eps;
    kept[s] = 2.0f * sigmoid1(mixes[n + s] * h.scale[1] + h.base[n + s]);
  }
  float* comb = kept + n;
  for (int j = 0; j < n; j++) {
    float top = -__builtin_inff(), sum = 0.0f;
    for (int k = 0; k < n; k++) {
      const int at = 2 * n + j * n + k;
      comb[j * n + k] = mixes[at] * h.scale[2] + h.base[at];
      top = comb[j * n + k] > top ? comb[j * n + k] : top;
    }
    for (int k = 0; k < n; k++) comb[j * n + k] = (float)__builtin_exp((double)(comb[j * n + k] - top)), sum += comb[j * n + k];
    for (int k = 0; k < n; k++) comb[j * n + k] = comb[j * n + k] / sum + h.eps;
  }
  auto divide = [&](int step, int next) {  // by the sums along one side
    for (int j = 0; j < n; j++) {
      float sum = h.eps;
      for (int k = 0; k < n; k++) sum += comb[j * next + k * step];
      for (int k = 0; k < n; k++) comb[j * next + k * step] /= sum;
    }
  };
  divide(n, 1);
  for (int round = 1; round < h.rounds; round++) divide(1, n), divide(n, 1);
  join_streams(pre, n, streams, stride, hidden, x);
}

// The next streams of one row, from its layer's output.
static void expand_row(const HyperLayer& h, const float* kept, float* streams, size_t stride, int hidden, const float* output) {
  const int n = h.streams;
  const float* comb = kept + n;
  for (int i = 0; i < hidden; i += W) {  // rows are padded to whole vectors
    vf had[kMaxStreams];
    for (int s = 0; s < n; s++) had[s] = load(streams + s * stride + i);
    for (int k = 0; k < n; k++) {
      vf sum = load(output + i) * kept[k];
      for (int j = 0; j < n; j++) sum = fma(had[j], set1(comb[j * n + k]), sum);
      store(streams + k * stride + i, sum);
    }
  }
}

DW_INLINE float* streams_of(const Layout& l, const Model& m, int row) {
  return l.streams + (size_t)row * m.streams->streams * l.hidden_stride;
}

// Inputs of a layer for these rows -> `l.x`.
static void collapse_rows(const HyperLayer& h, const Model& m, const Rows& rows, const Layout& l, Team* team) {
  for (int i; (i = team_next(team, 1)) < rows.count;) {
    const int row = row_at(rows, i);
    float* x = l.x + (size_t)row * l.hidden_stride;
    collapse_row(h, streams_of(l, m, row), l.hidden_stride, m.hidden, l.kept_mixes + (size_t)row * kMaxMixes, x);
  }
  team_barrier(team);
}

// Outputs in `l.x` -> the streams of these rows.
static void expand_rows(const HyperLayer& h, const Model& m, const Rows& rows, const Layout& l, Team* team) {
  for (int i; (i = team_next(team, 1)) < rows.count;) {
    const int row = row_at(rows, i);
    const float* output = l.x + (size_t)row * l.hidden_stride;
    expand_row(h, l.kept_mixes + (size_t)row * kMaxMixes, streams_of(l, m, row), l.hidden_stride, m.hidden, output);
  }
  team_barrier(team);
}

// What the final norm reads of the output rows -> `l.x`.
static void final_streams(const Model& m, const Batch& b, const Layout& l, Team* team) {
  const HyperHead& h = *m.streams;
  for (int i; (i = team_next(team, 1)) < b.outputs;) {
    const int row = b.output_rows[i];
    float mixes[kMaxStreams];
    const float* streams = streams_of(l, m, row);
    mix_streams(h.weights, h.streams, h.streams, streams, l.hidden_stride, m.hidden, h.norm_eps, mixes);
    for (int s = 0; s < h.streams; s++) mixes[s] = sigmoid1(mixes[s] * h.scale[0] + h.base[s]) + h.eps;
    join_streams(mixes, h.streams, streams, l.hidden_stride, m.hidden, l.x + (size_t)row * l.hidden_stride);
  }
  team_barrier(team);
}

}  // namespace DW_ISA
}  // namespace deepwell
