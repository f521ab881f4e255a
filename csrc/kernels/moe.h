// Mixture of experts: x += sum over the chosen experts of weight * expert(h) + shared(h), h = rms_norm(x).
//
// (row, expert) pairs are sorted by expert; the rows of one expert are quantised side by side, and a work item is one panel of one
// expert, so an expert's panels are read front to back, once for all of its rows. The shared expert is the first of the jobs: its
// items fill the same phases. Results are kept by (row, rank) and added in order of rank, best first, so the bits of a row depend
// neither on its companions nor on which thread computed what.
//
// Router: float32 weights in panels, one chain of fused multiply-adds in column order for each expert. With one or two rows every
// thread normalises, quantises and routes for itself; what remains are the barriers behind the router, gate and up, the activated
// rows, down, and the sum.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/arena.h"
#include "kernels/gemm.h"
#include "kernels/lora.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"
#include "pool.h"
#include "profile.h"

namespace deepwell {
namespace DW_ISA {

constexpr int kMoePrivateRows = 2;   // up to here each thread prepares the rows for itself
constexpr int kMoeSumColumns = 512;  // columns of a work item of the last sum

// The rows of one expert. The shared expert (`expert` is the number of routed ones) has every row of the batch.
struct ExpertJob {
  int expert, rows;
  int first;                      // of its pairs, in the order of `MoePlan::order`; 0 for the shared one
  int gate_up_items, down_items;  // work items of the jobs before it
  size_t inputs, activated;       // where its quantised rows begin
};

// What the routing of a step comes to. Every thread makes the same one for itself.
struct MoePlan {
  int32_t* order;   // [pairs]: row * top_k + rank, sorted by expert, then row
  int32_t* starts;  // [experts + 1]
  ExpertJob* jobs;
  int count, gate_up_items, down_items;
};

struct MoeSpace {
  uint8_t* normed;            // float activations of the router: h; of all rows, or of this thread
  float* logits;              // [rows][router panels * 32]
  int32_t* ids;               // [rows][top_k], best first
  float* weights;             // [rows][top_k]
  uint8_t *inputs, *activated;  // quantised rows, expert after expert
  float *act, *shared_act;      // [pairs][act_stride], [rows][shared_stride]: silu(gate) * up
  float *out, *shared_out;      // [pairs][hidden_stride] by (row, rank), [rows][hidden_stride]
  int act_stride, shared_stride, hidden_stride;
  MoePlan plan;
};

// Bytes for `rows` rows in at most `jobs` runs.
DW_INLINE size_t run_bytes(const Matrix& w, size_t rows, size_t jobs) {
  size_t row = activation_row_bytes(w) + 2 * round_up(w.groups * sizeof(float), 64);
  return rows * row + jobs * 128;
}

static MoeSpace moe_space(const MoeLayer& e, int rows, int threads, int tid, Arena* arena) {
  MoeSpace s;
  const bool alone = rows <= kMoePrivateRows;
  const size_t pairs = (size_t)rows * e.top_k, jobs = min_of(e.experts, (int)pairs), shared = e.shared ? 1 : 0;
  s.act_stride = round_up(e.down.cols, 64);
  s.shared_stride = e.shared ? round_up(e.shared_gate_up.panels * kPanel / 2, 64) : 0;
  s.hidden_stride = round_up(e.router.cols, kPanel);
  s.logits = arena->take<float>((size_t)rows * e.router.panels * kPanel);
  s.act = arena->take<float>(pairs * s.act_stride);
  s.shared_act = arena->take<float>((size_t)rows * s.shared_stride);
  s.out = arena->take<float>(pairs * s.hidden_stride);
  s.shared_out = arena->take<float>(shared * rows * s.hidden_stride);
  size_t activated = run_bytes(e.down, pairs, jobs);
  if (e.shared) activated += run_bytes(e.shared_down, rows, 1);
  s.activated = arena->take<uint8_t>(activated);
  if (!alone) {
    s.normed = arena->take<uint8_t>(activations_bytes(e.router, rows));
    s.inputs = arena->take<uint8_t>(run_bytes(e.gate_up, pairs + shared * rows, jobs + shared));
    s.ids = arena->take<int32_t>(pairs);
    s.weights = arena->take<float>(pairs);
  }
  for (int t = 0; t < threads; t++) {
    MoeSpace of = s;
    of.plan.order = arena->take<int32_t>(pairs);
    of.plan.starts = arena->take<int32_t>(e.experts + 1);
    of.plan.jobs = arena->take<ExpertJob>(jobs + shared);
    if (alone) {
      of.normed = arena->take<uint8_t>(activations_bytes(e.router, rows));
      of.inputs = arena->take<uint8_t>(activations_bytes(e.gate_up, rows));
      of.ids = arena->take<int32_t>(pairs);
      of.weights = arena->take<float>(pairs);
    }
    if (t == tid) s = of;
  }
  return s;
}

// What the largest of a model's mixtures needs.
static size_t moe_bytes(const Model& m, int rows, int threads) {
  size_t most = 0;
  for (int i = 0; i < m.num_layers; i++) {
    if (!m.layers[i].moe) continue;
    Arena arena(nullptr);
    moe_space(*m.layers[i].moe, rows, threads, 0, &arena);
    most = max_of(most, arena.used());
  }
  return most;
}

// ---- routing ------------------------------------------------------------------------------------------------------

// The `k` largest of `values` that `allowed` lets in, ties to the lowest index; chosen ones are not allowed any more.
DW_INLINE void choose(const float* values, bool* allowed, int n, int k, int32_t* chosen) {
  for (int j = 0; j < k; j++) {
    int best = -1;
    for (int i = 0; i < n; i++)
      if (allowed[i] && (best < 0 || values[i] > values[best])) best = i;
    allowed[best] = false;
    chosen[j] = best;
  }
}

// Router logits of one row -> its experts, best first, and their weights. `logits` may be overwritten behind the last expert.
static void route_row(const MoeLayer& e, int token, float* logits, int32_t* ids, float* weights) {
  alignas(64) float scores[kMaxExperts];
  float corrected[kMaxExperts];
  bool allowed[kMaxExperts];
  const int n = e.experts, padded = round_up(n, W);
  if (e.scoring == kSqrtSoftplus) {
    for (int i = 0; i < n; i++) {
      const double x = logits[i], above = x > 0 ? x : 0, below = x > 0 ? -x : x;  // log(1 + e^x) without overflow
      scores[i] = (float)__builtin_sqrt(above + __builtin_log1p(__builtin_exp(below)));
    }
  } else if (e.scoring == kSigmoid) {
    for (int i = n; i < padded; i++) logits[i] = 0.0f;
    for (int i = 0; i < padded; i += W) store(scores + i, 1.0f / (vexp(-load(logits + i)) + 1.0f));
  } else {
    float top = logits[0];
    for (int i = 1; i < n; i++) top = logits[i] > top ? logits[i] : top;
    for (int i = n; i < padded; i++) logits[i] = -__builtin_inff();
    vf sum = vf{};
    for (int i = 0; i < padded; i += W) {
      vf p = vexp(load(logits + i) - top);
      store(scores + i, p);
      sum += p;
    }
    float total = reduce_add(sum);
    for (int i = 0; i < padded; i += W) store(scores + i, load(scores + i) / total);
  }
  for (int i = 0; i < n; i++) {
    corrected[i] = e.correction ? scores[i] + e.correction[i] : scores[i];
    allowed[i] = true;
  }
  if (e.topk_group < e.groups) {
    const int size = n / e.groups;
    float group_scores[kMaxExperts];
    bool open[kMaxExperts];
    int32_t kept[kMaxExperts];
    for (int g = 0; g < e.groups; g++) {
      float first = -__builtin_inff(), second = -__builtin_inff();
      for (int i = g * size; i < (g + 1) * size; i++) {
        float v = corrected[i];
        if (v > first) second = first, first = v;
        else if (v > second) second = v;
      }
      group_scores[g] = e.correction ? first + second : first;
      open[g] = true;
    }
    choose(group_scores, open, e.groups, e.topk_group, kept);
    for (int i = 0; i < n; i++) allowed[i] = !open[i / size];
  }
  if (e.token_experts) memcpy(ids, e.token_experts + (size_t)token * e.top_k, e.top_k * sizeof(int32_t));
  else choose(corrected, allowed, n, e.top_k, ids);
  float sum = 0.0f;
  for (int k = 0; k < e.top_k; k++) sum += scores[ids[k]];
  for (int k = 0; k < e.top_k; k++) {
    float w = scores[ids[k]];
    if (e.norm_topk_prob) w /= sum + 1e-20f;
    weights[k] = w * e.routed_scaling_factor;
  }
}

DW_INLINE int row_blocks(int rows) { return ceil_div(rows, kRowBlock); }

// Sort the pairs by expert and lay out the work.
static void make_plan(const MoeLayer& e, int rows, MoeSpace* s) {
  MoePlan* p = &s->plan;
  const int pairs = rows * e.top_k, expert_gate_up = e.gate_up.panels / e.experts, expert_down = e.down.panels / e.experts;
  memset(p->starts, 0, (e.experts + 1) * sizeof(int32_t));
  for (int i = 0; i < pairs; i++) p->starts[s->ids[i] + 1]++;
  for (int x = 0; x < e.experts; x++) p->starts[x + 1] += p->starts[x];
  int32_t next[kMaxExperts];
  memcpy(next, p->starts, e.experts * sizeof(int32_t));
  for (int i = 0; i < pairs; i++) p->order[next[s->ids[i]]++] = i;
  p->count = p->gate_up_items = p->down_items = 0;
  size_t inputs = 0, activated = 0;
  auto add = [&](int expert, int first, int n, const Matrix& gate_up, const Matrix& down, int gate_up_panels, int down_panels) {
    p->jobs[p->count++] = {expert, n, first, p->gate_up_items, p->down_items, inputs, activated};
    p->gate_up_items += row_blocks(n) * gate_up_panels;
    p->down_items += row_blocks(n) * down_panels;
    inputs += activations_bytes(gate_up, n);
    activated += activations_bytes(down, n);
  };
  if (e.shared)
    add(e.experts, 0, rows, e.shared_gate_up, e.shared_down, e.shared_gate_up.panels, e.shared_down.panels);
  for (int x = 0; x < e.experts; x++)
    if (int n = p->starts[x + 1] - p->starts[x]) add(x, p->starts[x], n, e.gate_up, e.down, expert_gate_up, expert_down);
}

// ---- products -----------------------------------------------------------------------------------------------------

// One expert's rows of a stacked matrix, or the shared expert's own one.
DW_INLINE Matrix matrix_of(const MoeLayer& e, const Matrix& stacked, const Matrix& shared, int expert) {
  if (expert == e.experts) return shared;
  Matrix w = stacked;
  w.panels = stacked.panels / e.experts;
  w.rows = w.panels * kPanel;
  w.data += (size_t)expert * w.panels * w.groups * w.block_bytes;
  return w;
}

// The job of `item`, where the search may begin: items ascend within a claim, so most steps find it at once.
DW_INLINE int job_of(const MoePlan& p, int job, int item, int ExpertJob::*start) {
  if (p.jobs[job].*start > item) job = 0;
  while (job + 1 < p.count && p.jobs[job + 1].*start <= item) job++;
  return job;
}

// Row `i` of a job's quantised inputs. Few rows are quantised once: an expert takes rows [base, base + rows) of them.
struct JobRows {
  Activations a;
  int base;
};

DW_INLINE JobRows job_inputs(const MoeLayer& e, const MoeSpace& s, const ExpertJob& job, const Matrix& w, int rows) {
  if (rows > kMoePrivateRows) return {activations_at(s.inputs + job.inputs, w, job.rows), 0};
  int base = job.expert == e.experts || job.rows == rows ? 0 : s.plan.order[job.first] / e.top_k;
  return {activations_at(s.inputs, w, rows), base};
}

// Pairs and shared rows in one sequence: the shared expert's rows first. Which job, and which row of it?
struct Place {
  int job, row;
};

DW_INLINE Place place_of(const MoeLayer& e, const MoePlan& p, int rows, int i, int job) {
  if (e.shared && i < rows) return {0, i};
  int pair = e.shared ? i - rows : i, first_job = e.shared ? 1 : 0;
  if (job < first_job || p.jobs[job].first > pair) job = first_job;
  while (job + 1 < p.count && p.jobs[job + 1].first <= pair) job++;
  return {job, pair - p.jobs[job].first};
}

// h of every row, and for few rows its quantised form.
static void moe_norm(const MoeLayer& e, const float* x, size_t stride, const int32_t* index, int rows, const MoeSpace& s,
                     const Activations& h, Team* team, int tid) {
  auto norm = [&](int i) {
    float* to = (float*)(h.bytes + (size_t)i * h.row_bytes);
    rms_norm_row(x + (size_t)(index ? index[i] : i) * stride, e.norm, e.router.cols, e.eps, to);
    return to;
  };
  if (rows <= kMoePrivateRows) {
    prefetch_first(e.router, rows, 1, team, tid);
    Activations a = activations_at(s.inputs, e.gate_up, rows);
    for (int i = 0; i < rows; i++) quantize_row(e.gate_up, norm(i), a, i);
    return;
  }
  for (int i; (i = team_next(team, 1)) < rows;) norm(i);
  team_barrier(team);
}

// What adapters add to gate_up (`down` false) or down of a job's rows.
DW_INLINE LoraProduct job_lora(const MoeLayer& e, const MoeLora& lora, const ExpertJob& job, int rows, bool down) {
  if (job.expert == e.experts) return lora_of_expert(lora, down ? lora.places.shared_down : lora.places.shared_gate_up, 0);
  const int first = down ? lora.places.experts_down : lora.places.experts_gate_up;
  return lora_of_expert(lora, first + job.expert, (e.shared ? rows : 0) + job.first);
}

// A h of every pair, behind a barrier: h is there in float. Neighbours of one job and adapter share a pass over A.
static void project_inputs(const MoeLayer& e, const MoeSpace& s, const MoeLora& lora, const Activations& h, const int32_t* index,
                           int rows, Team* team) {
  const MoePlan& plan = s.plan;
  const int places = rows * e.top_k + (e.shared ? rows : 0);
  auto token = [&](const ExpertJob& of, int row) { return of.expert == e.experts ? row : plan.order[of.first + row] / e.top_k; };
  int job = 0;
  for (int i = 0; i < places; i++) {
    Place at = place_of(e, plan, rows, i, job);
    job = at.job;
    int row = token(plan.jobs[job], at.row);
    lora.rows[i] = index ? index[row] : row;
  }
  job = 0;
  for (int first; (first = team_next(team, kLoraRows)) < places;)
    for (int i = first, n; i < min_of(first + kLoraRows, places); i += n) {
      Place at = place_of(e, plan, rows, i, job);
      job = at.job;
      const ExpertJob& of = plan.jobs[job];
      int32_t of_job[kLoraRows];
      const float* x[kLoraRows];
      const int most = min_of(min_of(first + kLoraRows, places) - i, of.rows - at.row);
      for (n = 0; n < most && lora.adapter_of[lora.rows[i + n]] == lora.adapter_of[lora.rows[i]]; n++) {
        of_job[n] = at.row + n;
        x[n] = (const float*)(h.bytes + (size_t)token(of, at.row + n) * h.row_bytes);
      }
      lora_project(job_lora(e, lora, of, rows, false), of_job, n, x, kFp32, nullptr);
    }
  team_barrier(team);
}

// silu(gate) * up, of gate and up within a limit.
DW_INLINE vf gated(vf gate, vf up, float limit) {
  if (limit != 0.0f) {
    const vf most = set1(limit);
    gate = -vmax(-gate, -most);
    up = vmax(-vmax(-up, -most), -most);
  }
  return silu(gate) * up;
}

DW_INLINE void count_up(uint64_t* count, uint64_t by) {
  __atomic_store_n(count, __atomic_load_n(count, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
}

// `x`: [batch rows][stride], residual stream of hidden columns padded with zeros; row i of `rows` is index[i], or i. With several
// streams `x` is what they are joined to, and gets the sum alone. `tokens`: [batch rows].
static void moe_layer(const MoeLayer& e, float* x, size_t stride, const int32_t* tokens, const int32_t* index, int rows, const MoeLora& lora,
                      uint8_t* memory, Team* team, int tid) {
  Arena arena(memory);
  MoeSpace s = moe_space(e, rows, team->size, tid, &arena);
  const Activations h = activations_at(s.normed, e.router, rows);
  moe_norm(e, x, stride, index, rows, s, h, team, tid);
  DW_PHASE_ENDS(kPhaseNorm);

  const int logits_stride = e.router.panels * kPanel;
  share_items(row_blocks(rows) * e.router.panels, team, tid, [&](int item) {
    int p = item % e.router.panels, row = item / e.router.panels * kRowBlock;
    panel_rows<kFp32>(e.router, p, h, row, min_of(row + kRowBlock, rows), [&](int i, int panel, const float* y) {
      memcpy(s.logits + (size_t)i * logits_stride + panel * kPanel, y, kPanel * sizeof(float));
    });
  });
  if (rows <= kMoePrivateRows) {
    // Every thread reads all logits: it routes on a copy, since routing pads the row it works on.
    for (int i = 0; i < rows; i++) {
      alignas(64) float logits[kMaxExperts];
      memcpy(logits, s.logits + (size_t)i * logits_stride, logits_stride * sizeof(float));
      route_row(e, tokens[index ? index[i] : i], logits, s.ids + i * e.top_k, s.weights + i * e.top_k);
    }
  } else {
    for (int i; (i = team_next(team, 1)) < rows;)
      route_row(e, tokens[index ? index[i] : i], s.logits + (size_t)i * logits_stride, s.ids + (size_t)i * e.top_k,
                s.weights + (size_t)i * e.top_k);
    team_barrier(team);
  }
  make_plan(e, rows, &s);
  const MoePlan& plan = s.plan;
  const int pairs = rows * e.top_k, places = pairs + (e.shared ? rows : 0), chunk = 4;
  if (tid == 0) {  // read at any time by other threads
    const int first = e.shared ? 1 : 0;
    for (int i = first; i < plan.count; i++) count_up(e.counts + plan.jobs[i].expert, plan.jobs[i].rows);
    count_up(e.counts + e.experts, plan.count - first);
  }
  if (lora.adapter_of) project_inputs(e, s, lora, h, index, rows, team);
  if (rows > kMoePrivateRows) {
    int job = 0;
    for (int first; (first = team_next(team, chunk)) < places;)
      for (int i = first; i < min_of(first + chunk, places); i++) {
        Place at = place_of(e, plan, rows, i, job);
        job = at.job;
        const ExpertJob& of = plan.jobs[job];
        const Matrix& w = of.expert == e.experts ? e.shared_gate_up : e.gate_up;
        int row = of.expert == e.experts ? at.row : plan.order[of.first + at.row] / e.top_k;
        quantize_row(w, (const float*)(h.bytes + (size_t)row * h.row_bytes), activations_at(s.inputs + of.inputs, w, of.rows),
                     at.row);
      }
    team_barrier(team);
  }
  DW_PHASE_ENDS(kPhaseNorm);

  int job = 0;
  share_items(plan.gate_up_items, team, tid, [&](int item) {
    job = job_of(plan, job, item, &ExpertJob::gate_up_items);
    const ExpertJob& of = plan.jobs[job];
    const Matrix w = matrix_of(e, e.gate_up, e.shared_gate_up, of.expert);
    int p = (item - of.gate_up_items) % w.panels, row = (item - of.gate_up_items) / w.panels * kRowBlock;
    const JobRows in = job_inputs(e, s, of, w, rows);
    const bool shared = of.expert == e.experts;
    float* act = shared ? s.shared_act : s.act + (size_t)of.first * s.act_stride;
    const int act_stride = shared ? s.shared_stride : s.act_stride;
    const LoraProduct adapters = job_lora(e, lora, of, rows, false);
    any_panel_rows(w, p, in.a, in.base + row, in.base + min_of(row + kRowBlock, of.rows), [&](int i, int panel, const float* y) {
      alignas(64) float sum[kPanel];
      y = lora_add(adapters, i - in.base, panel, y, sum);
      float* to = act + (size_t)(i - in.base) * act_stride + panel * (kPanel / 2);
      for (int c = 0; c < kPanel / 2; c += W) store(to + c, gated(load(y + c), load(y + kPanel / 2 + c), e.limit));
    });
  });
  DW_PHASE_ENDS(kPhaseGateUp);

  job = 0;
  for (int first; (first = team_next(team, chunk)) < places;)
    for (int i = first; i < min_of(first + chunk, places); i++) {
      Place at = place_of(e, plan, rows, i, job);
      job = at.job;
      const ExpertJob& of = plan.jobs[job];
      const bool shared = of.expert == e.experts;
      const Matrix& w = shared ? e.shared_down : e.down;
      const float* act = shared ? s.shared_act + (size_t)at.row * s.shared_stride : s.act + (size_t)(of.first + at.row) * s.act_stride;
      quantize_row(w, act, activations_at(s.activated + of.activated, w, of.rows), at.row);
      lora_project(job_lora(e, lora, of, rows, true), &at.row, 1, &act, kFp32, nullptr);
    }
  team_barrier(team);
  DW_PHASE_ENDS(kPhaseNorm);

  job = 0;
  share_items(plan.down_items, team, tid, [&](int item) {
    job = job_of(plan, job, item, &ExpertJob::down_items);
    const ExpertJob& of = plan.jobs[job];
    const Matrix w = matrix_of(e, e.down, e.shared_down, of.expert);
    int p = (item - of.down_items) % w.panels, row = (item - of.down_items) / w.panels * kRowBlock;
    const bool shared = of.expert == e.experts;
    const Activations a = activations_at(s.activated + of.activated, w, of.rows);
    const LoraProduct adapters = job_lora(e, lora, of, rows, true);
    any_panel_rows(w, p, a, row, min_of(row + kRowBlock, of.rows), [&](int i, int panel, const float* y) {
      alignas(64) float sum[kPanel];
      y = lora_add(adapters, i, panel, y, sum);
      float* to = shared ? s.shared_out + (size_t)i * s.hidden_stride : s.out + (size_t)plan.order[of.first + i] * s.hidden_stride;
      memcpy(to + panel * kPanel, y, kPanel * sizeof(float));
    });
  });

  const int chunks = ceil_div(s.hidden_stride, kMoeSumColumns);
  for (int item; (item = team_next(team, 1)) < rows * chunks;) {
    int i = item / chunks, first = item % chunks * kMoeSumColumns;
    float* to = x + (size_t)(index ? index[i] : i) * stride;
    for (int c = first; c < min_of(first + kMoeSumColumns, s.hidden_stride); c += W) {
      vf sum = vf{};
      for (int k = 0; k < e.top_k; k++) {
        size_t pair = (size_t)i * e.top_k + k;
        sum = fma(load(s.out + pair * s.hidden_stride + c), set1(s.weights[pair]), sum);
      }
      if (e.shared) sum += load(s.shared_out + (size_t)i * s.hidden_stride + c);
      store(to + c, e.hyper ? sum : load(to + c) + sum);
    }
  }
  team_barrier(team);
  DW_PHASE_ENDS(kPhaseDown);
}

}  // namespace DW_ISA
}  // namespace deepwell
