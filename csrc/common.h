// Plain structs shared by the bindings and every kernel table. No inline functions and no std types: a definition emitted by
// an AVX512 unit could otherwise be the copy the linker keeps for a machine without AVX512.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace deepwell {

constexpr int kPanel = 32;         // output rows of one packed panel
constexpr int kBlockTokens = 16;   // tokens of one cache block
constexpr int kPieceTokens = 256;  // softmax pieces, merged in order
constexpr int kMaxHeadDim = 256;

enum Scheme : int { kFp32 = 0, kInt8 = 1, kInt4 = 2 };

// W: [rows, cols], packed as [panels][groups][block]; see docs/design.md.
struct Matrix {
  const uint8_t* data;
  int rows, cols;
  Scheme scheme;
  int panels;          // ceil(rows / 32)
  int groups;          // ceil(cols / group)
  int group;           // columns that share a scale: 64 (int8), 32 (int4), 1 (fp32)
  size_t block_bytes;  // of one (panel, group)
};

struct AttentionLayer {
  const float* norm;  // [hidden]
  Matrix qkv;         // rows: q heads, k heads, v heads
  const float* bias;  // [qkv.rows] or null
  Matrix o;
  int heads, kv_heads, head_dim;
  float eps;
};

struct MlpLayer {
  const float* norm;  // [hidden]
  Matrix gate_up;     // rows alternate 16 of gate, 16 of up
  Matrix down;
  float eps;
};

struct Layer {  // exactly one is set
  const AttentionLayer* attention;
  const MlpLayer* mlp;
};

// [layers][blocks][kv_heads]{ keys [head_dim][16], values [16][head_dim] }
struct KVCache {
  uint8_t* data;
  int layers, blocks, kv_heads, head_dim;
  int bf16;
  size_t head_bytes, block_bytes, layer_bytes;
};

struct Batch {
  const int32_t *tokens, *positions, *seq_starts, *block_tables, *output_rows;
  int rows, seqs, max_blocks, outputs;
};

struct Outputs {  // each may be null
  float* logits;           // [outputs, vocab]
  int32_t* argmax;         // [outputs]
  float* hidden;           // [outputs, hidden]
  const int32_t* targets;  // [outputs]
  float* target_logprobs;  // [outputs]
};

struct Model {
  Matrix embed, head;
  const Layer* layers;
  int num_layers;
  const float *norm, *cos, *sin;  // cos, sin: [max_positions, head_dim / 2]
  int hidden, vocab, max_positions;
  float eps;
};

// Scratch for one step. Sized by `KernelTable::workspace_bytes`, 64-byte aligned.
struct Workspace {
  uint8_t* data;
  size_t bytes;
};

struct Team;  // pool.h
struct EncoderModel;  // encoder_model.h
struct EncoderBatch;
struct EncoderOutputs;

struct Roofline {
  const uint8_t* memory;  // read by the memory loop
  size_t memory_bytes;
};

// One per instruction set. Every function is called by all threads of the team with their own `tid`.
struct KernelTable {
  const char* name;
  size_t (*workspace_bytes)(const Model&, const Batch&, const KVCache&, const Outputs&, int threads);
  void (*forward)(const Model&, const Batch&, const KVCache&, const Outputs&, const Workspace&, Team*, int tid);
  size_t (*matmul_workspace_bytes)(const Matrix&, int m);
  void (*matmul)(const Matrix&, const float* x, int m, float* y, const Workspace&, Team*, int tid);
  // Runs one slice of a register- or memory-bound loop and returns the operations (MACs or bytes) it did.
  double (*roofline)(int kind, const Roofline&, int tid, int threads);
  size_t (*encoder_workspace_bytes)(const EncoderModel&, const EncoderBatch&, int threads);
  void (*encode)(const EncoderModel&, const EncoderBatch&, const EncoderOutputs&, const Workspace&, Team*, int tid);
};

enum RooflineKind : int { kRoofMemory = 0, kRoofFp32 = 1, kRoofInt8 = 2, kRoofInt4 = 3 };

}  // namespace deepwell
